-- The tables of a gapscope store. One row of a log is one row here; nothing is decided yet about
-- duplicates, correctness or groups: views.sql does that each time a store is audited.
-- Absent is NULL, never NaN and never 0.

-- What this database is: format ('gapscope.store/1') and the options that the rows depend on.
CREATE TABLE about (key VARCHAR, value VARCHAR);

-- One row per file that was read. `whole_until` is the byte (decompressed) up to which complete lines were
-- read: a file that has grown is read on from there. `checksum` is over the first and last 64 kB before
-- that byte. `copy_of` names an earlier file with the same bytes. `claimed` of the `sampled` first rows are of the
-- format; `syntax` (JSON) says
-- in how many of the first rows of the run each dialect was found.
CREATE TABLE files (
    file INTEGER, path VARCHAR, size BIGINT, mtime_ns BIGINT, format VARCHAR, dialect VARCHAR,
    step INTEGER, evidence VARCHAR, claimed INTEGER, sampled INTEGER, syntax VARCHAR, whole_until BIGINT, lines BIGINT,
    checksum VARCHAR, copy_of VARCHAR
);

-- Files that were found and not read, with the reason.
CREATE TABLE passed_over (path VARCHAR, reason VARCHAR, explicit BOOLEAN);

-- Rows that could not be read. `line` counts from 1, `byte_offset` is the row's first byte (decompressed).
CREATE TABLE refused (file INTEGER, line BIGINT, byte_offset BIGINT, reason VARCHAR, excerpt VARCHAR);

-- One row per rollout row. Hashes are 64 bits; that of images is of the first, since later ones may be a tool's. Counts of calls leave those inside thinking out, except
-- `in_think_calls`. `sampled_chars` and `sampled_tokens` count what the policy wrote, `output_tokens` all,
-- `logprob_tokens` and `entropy_tokens` those that have such a number, `reward_parts` the parts with a value.
-- `alignment` says how spans and tokens were brought together, or why they could not be; `scored_by` names the model
-- that gave the log-probs afterwards, `retokenised` that the ids were made from text, and `has_ids` that there are any.
-- A continuation names the rollout that it was resampled from, the character of it behind which it is another
-- (`parent_branch`), and the prefix of a plan; `branched_tokens` are those that the policy wrote behind it.
CREATE TABLE rollouts (
    id BIGINT, file INTEGER, line BIGINT, byte_offset BIGINT, rollout_id VARCHAR, run VARCHAR, split VARCHAR,
    step BIGINT, group_id VARCHAR, group_origin VARCHAR, prompt_hash BIGINT, truth_hash BIGINT,
    image_hash BIGINT, sample_index BIGINT, output_index BIGINT, data_source VARCHAR, status VARCHAR,
    finish_reason VARCHAR, reward DOUBLE, reward_parts INTEGER, advantage DOUBLE, correct BOOLEAN, turns INTEGER,
    sampled_chars BIGINT, sampled_tokens BIGINT, output_tokens BIGINT,
    logprob_tokens BIGINT, entropy_tokens BIGINT, text_hash BIGINT, calls INTEGER,
    closed_calls INTEGER, parsed_calls INTEGER, executed_calls INTEGER, in_think_calls INTEGER,
    parent_id VARCHAR, parent_branch BIGINT, prefix_id VARCHAR, branched_tokens BIGINT, alignment VARCHAR, logprob_source VARCHAR,
    scored_by VARCHAR, entropy_kind VARCHAR, retokenised BOOLEAN, has_ids BOOLEAN
);

-- One row per opened call delimiter; `outcome` is one class of metrics section 3. `raw_hash` is over its body as it was
-- written, `call_hash` over tool and arguments made alike, `text_prefix_hash` over everything up to its body, which
-- begins at character `body_start` of the output.
CREATE TABLE calls (
    id BIGINT, call INTEGER, turn INTEGER, name VARCHAR, outcome VARCHAR, in_think BOOLEAN, truncated BOOLEAN,
    empty_result BOOLEAN, repeated BOOLEAN, closed BOOLEAN, raw_hash BIGINT, call_hash BIGINT, text_prefix_hash BIGINT,
    body_start BIGINT
);

-- One row per span that the policy wrote and of which it is known which tokens it is made of. `scored` of them have a
-- log-prob (natural, of the sampling policy), `entropies` have an entropy (nats).
CREATE TABLE span_tokens (
    id BIGINT, span INTEGER, kind VARCHAR, turn INTEGER, token_start BIGINT, token_end BIGINT,
    tokens BIGINT, scored BIGINT, prob_sum DOUBLE, logprob_sum DOUBLE, logprob_min DOUBLE,
    entropies BIGINT, entropy_sum DOUBLE,
    prob_mean DOUBLE AS (prob_sum / nullif(scored, 0)),
    logprob_mean DOUBLE AS (logprob_sum / nullif(scored, 0)),
    prob_geometric_mean DOUBLE AS (exp(logprob_sum / nullif(scored, 0))),
    surprisal_mean DOUBLE AS (-logprob_sum / nullif(scored, 0)),
    entropy_mean DOUBLE AS (entropy_sum / nullif(entropies, 0))
);

-- One row per attempted call of which it is known which tokens it is made of: [token_start, token_end) with its
-- delimiters, [branch, body_end) without (`body_…`). `branch` tokens are the prefix that AXPO freezes, and
-- `prefix_hash` stands for their ids. `tag_…` is at the first token of the opening delimiter, `after_…` at the first
-- one behind it; an entropy of kind `topk` lies between `…_entropy` and `…_upper`.
CREATE TABLE call_tokens (
    id BIGINT, call INTEGER, token_start BIGINT, branch BIGINT, body_end BIGINT, token_end BIGINT, mixed BOOLEAN,
    prefix_hash BIGINT, tokens BIGINT, scored BIGINT, prob_sum DOUBLE, logprob_sum DOUBLE, logprob_min DOUBLE,
    body_tokens BIGINT, body_scored BIGINT, body_prob_sum DOUBLE, body_logprob_sum DOUBLE, body_logprob_min DOUBLE,
    tag_entropy DOUBLE, tag_upper DOUBLE, tag_logprob DOUBLE,
    after_entropy DOUBLE, after_upper DOUBLE, after_logprob DOUBLE,
    entropies BIGINT, entropy_sum DOUBLE
);

-- One row per rollout whose sampled tokens have a log-prob of the engine and one of the trainer: in how many of them
-- the two are more than 0.01, 0.1 and 1 nat apart, and the largest difference.
CREATE TABLE logprob_mismatch (
    id BIGINT, tokens BIGINT, over_0_01 BIGINT, over_0_1 BIGINT, over_1 BIGINT, largest DOUBLE
);

-- Reward parts and numeric extras in long form.
CREATE TABLE fields (id BIGINT, name VARCHAR, value DOUBLE);

-- Fields that hold something else than numbers, repairs made while reading, tools that prompts offered.
CREATE TABLE other_fields (file INTEGER, name VARCHAR, rows BIGINT);
CREATE TABLE notes (file INTEGER, note VARCHAR, rows BIGINT);
CREATE TABLE declared_tools (file INTEGER, name VARCHAR);

-- Only in stores on disk: prompts once per text, calls with their texts, spans, ground truth, answers and
-- unknown keys. Thinking is not stored; it is read back from (file, byte_offset).
CREATE TABLE prompts (prompt_hash BIGINT, prompt VARCHAR);
CREATE TABLE call_texts (
    id BIGINT, call INTEGER, raw VARCHAR, arguments VARCHAR, result VARCHAR, char_start BIGINT, char_end BIGINT
);
CREATE TABLE spans (
    id BIGINT, span INTEGER, kind VARCHAR, turn INTEGER, char_start BIGINT, char_end BIGINT, sampled BOOLEAN,
    token_start BIGINT, token_end BIGINT
);
CREATE TABLE kept_texts (id BIGINT, ground_truth VARCHAR, answer VARCHAR, extra VARCHAR);

-- The tokens themselves, of the rollouts that `--tokens` says; parallel arrays over prompt and output.
CREATE TABLE token_arrays (
    id BIGINT, n_prompt BIGINT, ids BIGINT[], strings VARCHAR[], sampled BOOLEAN[], logprobs DOUBLE[],
    trainer_logprobs DOUBLE[], entropies DOUBLE[], entropy_uppers DOUBLE[]
);
