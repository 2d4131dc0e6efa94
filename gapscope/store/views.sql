-- From rows to what is measured. Made anew, as temporary tables, each time a store is audited, because
-- duplicates, sizes and correctness are properties of the whole. `verdicts (id, correct)` is made before,
-- by the rule in force.

-- Rows that are there twice: files with the same bytes, the same rollout id, or the same place in the same
-- group. The latest file wins, and in one file the last line, because that is what a resumed run wrote.
CREATE OR REPLACE TEMP TABLE duplicates AS
WITH candidates AS (
    SELECT
        r.id, r.file, r.line, f.mtime_ns, r.rollout_id, r.run, r.split, r.step, r.group_id, r.sample_index,
        coalesce(r.output_index, 0) AS output_index, f.copy_of IS NOT NULL AS copied, r.parent_id
    FROM rollouts AS r JOIN files AS f USING (file)
    WHERE coalesce(r.status, 'ok') NOT IN ('padding', 'excluded')
),
twice_by_id AS (
    SELECT rollout_id, output_index
    FROM candidates
    WHERE rollout_id IS NOT NULL AND NOT copied
    GROUP BY ALL HAVING count(*) > 1
),
twice_by_place AS (
    SELECT run, split, step, group_id, sample_index, output_index
    FROM candidates
    WHERE group_id IS NOT NULL AND sample_index IS NOT NULL AND parent_id IS NULL AND NOT copied
    GROUP BY ALL HAVING count(*) > 1
)
SELECT id FROM candidates WHERE copied
UNION
SELECT id FROM (
    SELECT id, row_number() OVER (
        PARTITION BY rollout_id, output_index ORDER BY mtime_ns DESC, file DESC, line DESC
    ) AS place
    FROM candidates SEMI JOIN twice_by_id USING (rollout_id, output_index)
    WHERE NOT copied
) WHERE place > 1
UNION
SELECT id FROM (
    SELECT c.id, row_number() OVER (
        PARTITION BY c.run, c.split, c.step, c.group_id, c.sample_index, c.output_index
        ORDER BY c.mtime_ns DESC, c.file DESC, c.line DESC
    ) AS place
    FROM candidates AS c JOIN twice_by_place AS t ON
        c.group_id = t.group_id AND c.sample_index = t.sample_index AND c.output_index = t.output_index
        AND c.run IS NOT DISTINCT FROM t.run AND c.split IS NOT DISTINCT FROM t.split
        AND c.step IS NOT DISTINCT FROM t.step
    WHERE NOT c.copied AND c.parent_id IS NULL
) WHERE place > 1;

-- What is neither padding, excluded nor a duplicate. `in_scope`: training and validation are never pooled; what is not
-- validation is the scope, if there is any. Continuations, which were made to call a tool, are pooled with nothing else:
-- they are kept only where a log holds nothing but them.
CREATE OR REPLACE TEMP VIEW kept AS
    SELECT
        r.id, r.rollout_id, coalesce(r.split, 'unlabelled') AS split,
        r.split IS DISTINCT FROM 'validation' OR NOT EXISTS (
            SELECT 1 FROM rollouts AS o
            WHERE o.split IS DISTINCT FROM 'validation' AND coalesce(o.status, 'ok') NOT IN ('padding', 'excluded')
        ) AS in_scope,
        r.run, r.step, r.data_source,
        r.group_id, coalesce(r.group_origin, CASE WHEN r.prompt_hash IS NULL THEN 'none' ELSE 'prompt' END)
            AS group_origin,
        CASE
            WHEN r.group_id IS NOT NULL THEN hash(r.group_id)
            WHEN r.prompt_hash IS NOT NULL THEN hash(r.prompt_hash, r.truth_hash, r.image_hash)
            ELSE hash(r.id)
        END AS group_key,
        r.prompt_hash, r.truth_hash, r.image_hash, r.status, r.finish_reason, r.reward, r.advantage, v.correct,
        r.turns, r.sampled_chars, r.sampled_tokens, r.output_tokens, r.text_hash, r.calls, r.closed_calls,
        r.parsed_calls, r.executed_calls, r.in_think_calls, r.output_index
    FROM rollouts AS r ANTI JOIN duplicates USING (id) LEFT JOIN verdicts AS v USING (id)
    WHERE coalesce(r.status, 'ok') NOT IN ('padding', 'excluded') AND (
        r.parent_id IS NULL OR NOT EXISTS (
            SELECT 1 FROM rollouts AS o
            WHERE o.parent_id IS NULL AND coalesce(o.status, 'ok') NOT IN ('padding', 'excluded')
        )
    );

CREATE OR REPLACE TEMP VIEW left_out_continuations AS
SELECT id FROM rollouts ANTI JOIN kept USING (id) ANTI JOIN duplicates USING (id)
WHERE parent_id IS NOT NULL AND coalesce(status, 'ok') NOT IN ('padding', 'excluded');

CREATE OR REPLACE TEMP TABLE sessions AS
SELECT rollout_id FROM kept
WHERE rollout_id IS NOT NULL AND output_index > 0
GROUP BY rollout_id;

-- One row per rollout, the sub-outputs of one session put together. `cluster` is one number for run, split, step and
-- group.
CREATE OR REPLACE TEMP VIEW whole_attempts AS
-- Materialised, so that its joins have let go of their memory before groups are counted.
WITH each AS MATERIALIZED (SELECT * FROM kept)
SELECT id, 1 AS outputs, hash(split, run, step, group_key) AS cluster, * EXCLUDE (id, rollout_id, output_index)
FROM each ANTI JOIN sessions USING (rollout_id)
UNION ALL BY NAME
SELECT
    hash(split, run, step, arg_min(group_key, output_index)) AS cluster,
    min(id) AS id, count(*) AS outputs, split, bool_and(in_scope) AS in_scope, run, step,
    arg_min(data_source, output_index) AS data_source,
    arg_min(group_id, output_index) AS group_id, arg_min(group_origin, output_index) AS group_origin,
    arg_min(group_key, output_index) AS group_key, arg_min(prompt_hash, output_index) AS prompt_hash,
    arg_min(truth_hash, output_index) AS truth_hash, arg_min(image_hash, output_index) AS image_hash,
    arg_max(status, output_index) AS status, arg_max(finish_reason, output_index) AS finish_reason,
    arg_max(reward, output_index) AS reward, arg_max(advantage, output_index) AS advantage,
    arg_max(correct, output_index) AS correct, sum(turns)::INTEGER AS turns,
    sum(sampled_chars)::BIGINT AS sampled_chars, sum(sampled_tokens)::BIGINT AS sampled_tokens,
    sum(output_tokens)::BIGINT AS output_tokens, bit_xor(text_hash) AS text_hash, sum(calls)::INTEGER AS calls,
    sum(closed_calls)::INTEGER AS closed_calls, sum(parsed_calls)::INTEGER AS parsed_calls,
    sum(executed_calls)::INTEGER AS executed_calls, sum(in_think_calls)::INTEGER AS in_think_calls
FROM each SEMI JOIN sessions USING (rollout_id)
GROUP BY rollout_id, split, run, step;

-- What stays of them: numbers alone, because there may be millions.
CREATE OR REPLACE TEMP TABLE attempts AS
SELECT id, cluster, in_scope, correct, turns, sampled_chars, sampled_tokens, output_tokens FROM whole_attempts;

-- Which rows of the log each rollout is made of: its own, and those of a session's other sub-outputs.
CREATE OR REPLACE TEMP TABLE other_outputs AS
SELECT id, attempt, output_index
FROM (
    SELECT id, min(id) OVER (PARTITION BY rollout_id, split, run, step) AS attempt, coalesce(output_index, 0)
        AS output_index
    FROM kept SEMI JOIN sessions USING (rollout_id)
)
WHERE id <> attempt;
CREATE OR REPLACE TEMP VIEW outputs AS
SELECT id, id AS attempt, 0 AS output_index FROM attempts UNION ALL BY NAME SELECT * FROM other_outputs;

-- One row per group, all of them: n rollouts, `known` with a verdict, c correct, t tool-using, a correct
-- tool-using. A rollout is tool-using when it has at least one attempted call (axpo, section 1).
CREATE OR REPLACE TEMP TABLE all_groups AS
WITH counted AS (
    SELECT
        cluster, min(split) AS split, min(run) AS run, min(step) AS step, bool_and(in_scope) AS in_scope,
        min(group_id) AS group_id, min(group_origin) AS origin, min(data_source) AS data_source,
        min(id) AS first_id,
        count(*)::INTEGER AS n,
        count(correct)::INTEGER AS known,
        count(*) FILTER (correct)::INTEGER AS c,
        count(*) FILTER (calls > 0)::INTEGER AS t,
        count(*) FILTER (calls > 0 AND correct)::INTEGER AS a,
        count(*) FILTER (calls > 0 AND correct IS NOT NULL)::INTEGER AS t_known,
        count(*) FILTER (closed_calls > 0)::INTEGER AS closed,
        count(*) FILTER (parsed_calls > 0)::INTEGER AS parsed,
        count(*) FILTER (executed_calls > 0)::INTEGER AS executed,
        count(*) FILTER (in_think_calls > 0)::INTEGER AS in_think,
        sum(calls)::BIGINT AS calls,
        sum(turns)::BIGINT AS turns,
        sum(sampled_chars)::BIGINT AS sampled_chars,
        count(sampled_tokens)::INTEGER AS sampled_token_rows,
        sum(sampled_tokens)::BIGINT AS sampled_tokens,
        count(output_tokens)::INTEGER AS output_token_rows,
        sum(output_tokens)::BIGINT AS output_tokens,
        count(reward)::INTEGER AS rewarded,
        max(reward) - min(reward) AS reward_range,
        count(advantage) FILTER (calls > 0)::INTEGER AS tool_advantages,
        count(*) FILTER (calls > 0 AND advantage < 0)::INTEGER AS tool_advantage_negative,
        count(*) FILTER (calls > 0 AND advantage = 0)::INTEGER AS tool_advantage_zero,
        count(*) FILTER (calls > 0 AND advantage > 0)::INTEGER AS tool_advantage_positive,
        count(finish_reason)::INTEGER AS finished,
        count(finish_reason) FILTER (calls > 0)::INTEGER AS finished_tool,
        count(*) FILTER (finish_reason = 'length')::INTEGER AS truncated,
        count(*) FILTER (finish_reason = 'length' AND calls > 0)::INTEGER AS truncated_tool,
        count(*) FILTER (finish_reason = 'turn_limit')::INTEGER AS turn_limited,
        count(*) FILTER (finish_reason = 'abort' OR status = 'error')::INTEGER AS aborted,
        count(coalesce(finish_reason, status))::INTEGER AS ended,
        min(prompt_hash) <> max(prompt_hash) OR min(truth_hash) <> max(truth_hash) AS mixed,
        coalesce(min(image_hash) <> max(image_hash), false) AS several_images,
        sum(outputs - 1)::INTEGER AS sub_outputs
    FROM whole_attempts
    GROUP BY cluster
),
-- The commonest size; of several the smallest, so that it does not hang on the order of the rows.
usual AS (
    SELECT split, arg_max(n, (times, -n)) AS expected_size
    FROM (SELECT split, n, count(*) AS times FROM counted WHERE n >= 2 AND NOT coalesce(mixed, false) GROUP BY split, n)
    GROUP BY split
),
-- Not `count(DISTINCT …)` per group, which would hold every text of every group at once.
repeated AS (
    SELECT cluster, sum(times - 1)::BIGINT AS same_text
    FROM (SELECT cluster, count(*) AS times FROM whole_attempts GROUP BY cluster, text_hash HAVING times > 1)
    GROUP BY cluster
),
sized AS (
    SELECT counted.*, expected_size, coalesce(same_text, 0) AS same_text
    FROM counted LEFT JOIN usual USING (split) LEFT JOIN repeated USING (cluster)
)
SELECT
    *,
    CASE
        WHEN origin = 'none' THEN 'no_group_key'
        WHEN n = 1 THEN 'singleton'
        WHEN coalesce(mixed, false) THEN 'mixed_prompt'
        WHEN several_images OR (origin = 'prompt' AND n > expected_size AND n % expected_size = 0) THEN 'merged'
        WHEN known = 0 THEN 'correctness_undefined'
        WHEN known < n THEN 'partial_correctness'
        ELSE 'eligible'
    END AS standing
FROM sized;

-- What the metrics read: `clusters` for rollout-level ratios (every rollout, singletons included), `valid`
-- for what needs a group, `eligible` for what needs a verdict on every member of it as well.
CREATE OR REPLACE TEMP VIEW clusters AS SELECT * FROM all_groups;
CREATE OR REPLACE TEMP VIEW valid AS
SELECT * FROM all_groups WHERE standing IN ('eligible', 'correctness_undefined', 'partial_correctness');
CREATE OR REPLACE TEMP VIEW eligible AS
SELECT *, n - t AS u, c - a AS b FROM all_groups WHERE standing = 'eligible';

-- One row per tool-using rollout: its first attempted call, and the numbers of its tokens where those are known. `id` is
-- the rollout, and `output` the row of the log that the call is in.
CREATE OR REPLACE TEMP VIEW first_calls AS
WITH firsts AS (
    SELECT attempt, min(output_index::BIGINT << 32 | call) AS place
    FROM calls JOIN outputs USING (id)
    WHERE NOT in_think
    GROUP BY attempt
)
SELECT
    a.id, c.id AS output, g.cluster, g.split, g.run, g.step, g.data_source, g.in_scope, g.standing, a.correct,
    c.call, c.name, c.outcome, c.closed, c.raw_hash, c.call_hash, c.text_prefix_hash, r.entropy_kind, r.retokenised,
    r.alignment, r.logprob_tokens, r.entropy_tokens,
    t.* EXCLUDE (id, call)
FROM calls AS c JOIN outputs AS o USING (id)
    SEMI JOIN firsts ON firsts.attempt = o.attempt AND firsts.place = (o.output_index::BIGINT << 32 | c.call)
    JOIN attempts AS a ON a.id = o.attempt JOIN all_groups AS g USING (cluster) JOIN rollouts AS r ON r.id = c.id
    LEFT JOIN call_tokens AS t ON t.id = c.id AND t.call = c.call;

-- One row per continuation of a rollout that is in the log as well. `source` is that rollout, `branched` its row of the
-- log and `branched_call` the call that the prefix ends in; `failed` says that the source is wrong, and so are all
-- tool-using rollouts of its group. `tool` to `call_hash` are of the call that was sampled instead. `new_tokens` and
-- `new_chars` count what was sampled behind the prefix. Where the log does not say which token that begins at, they are
-- known for prefixes that end in the first turn, all of which the policy wrote.
CREATE OR REPLACE TEMP TABLE continuations AS
WITH resampled AS (
    SELECT
        id, run, coalesce(split, 'unlabelled') AS split, step, parent_id, parent_branch,
        coalesce(prefix_id, concat_ws('@', parent_id, parent_branch)) AS prefix, sampled_chars, sampled_tokens,
        branched_tokens
    FROM rollouts ANTI JOIN duplicates USING (id)
    WHERE parent_id IS NOT NULL AND coalesce(status, 'ok') NOT IN ('padding', 'excluded')
),
parents AS (
    SELECT r.rollout_id AS parent_id, r.run, coalesce(r.split, 'unlabelled') AS split, r.step, min(o.attempt) AS source
    FROM rollouts AS r SEMI JOIN resampled AS c ON c.parent_id = r.rollout_id JOIN outputs AS o USING (id)
    WHERE r.parent_id IS NULL
    GROUP BY ALL
),
known AS (
    SELECT c.*, p.source
    FROM resampled AS c JOIN parents AS p ON p.parent_id = c.parent_id AND p.split = c.split
        AND p.run IS NOT DISTINCT FROM c.run AND p.step IS NOT DISTINCT FROM c.step
),
branched AS (
    SELECT p.source, p.parent_branch, c.id AS branched, c.call AS branched_call, c.name AS branched_tool
    FROM (SELECT DISTINCT source, parent_branch FROM known) AS p
        JOIN outputs AS o ON o.attempt = p.source JOIN calls AS c ON c.id = o.id
    WHERE NOT c.in_think
    QUALIFY row_number() OVER (
        PARTITION BY p.source, p.parent_branch
        ORDER BY c.body_start IS NOT DISTINCT FROM p.parent_branch DESC, o.output_index, c.call
    ) = 1
),
called AS (
    SELECT c.id, c.call, c.turn, c.name AS tool, c.outcome, c.closed, c.raw_hash, c.call_hash, c.body_start
    FROM known AS k JOIN calls AS c USING (id)
    WHERE NOT c.in_think
    QUALIFY row_number() OVER (
        PARTITION BY k.id ORDER BY c.body_start IS NOT DISTINCT FROM k.parent_branch DESC, c.call
    ) = 1
)
SELECT
    k.id, k.source, k.prefix, g.cluster, g.split, g.run, g.step, g.data_source, g.in_scope,
    coalesce(NOT a.correct, false) AND g.a = 0 AND g.t_known = g.t AS failed, v.correct,
    b.branched, b.branched_call, b.branched_tool, c.tool, c.outcome,
    coalesce(c.outcome IN ('executed_ok', 'executed_error', 'executed_unknown', 'timeout'), false) AS executed,
    c.closed, c.raw_hash, c.call_hash,
    coalesce(k.branched_tokens, CASE
        WHEN c.turn = 0 AND k.sampled_tokens >= t.branch - s.token_start
        THEN k.sampled_tokens - (t.branch - s.token_start)
    END) AS new_tokens,
    CASE
        WHEN c.turn = 0 AND k.sampled_chars >= coalesce(k.parent_branch, c.body_start)
        THEN k.sampled_chars - coalesce(k.parent_branch, c.body_start)
    END AS new_chars
FROM known AS k JOIN attempts AS a ON a.id = k.source JOIN all_groups AS g USING (cluster)
    LEFT JOIN verdicts AS v ON v.id = k.id LEFT JOIN called AS c ON c.id = k.id
    LEFT JOIN call_tokens AS t ON t.id = c.id AND t.call = c.call
    LEFT JOIN span_tokens AS s ON s.id = c.id AND s.span = 0
    LEFT JOIN branched AS b ON b.source = k.source AND b.parent_branch IS NOT DISTINCT FROM k.parent_branch;

-- One row per prefix that was resampled: `k` continuations with a verdict, `wins` of them correct, `executed_wins` with
-- their first call executed as well. `confidence` is the mean probability of the call that was sampled at first.
CREATE OR REPLACE TEMP VIEW resampled_prefixes AS
SELECT
    c.prefix, c.source, c.cluster, c.split, c.run, c.step, c.data_source, c.in_scope, c.failed,
    min(c.branched_tool) AS tool, min(t.prob_sum / nullif(t.scored, 0)) AS confidence,
    count(c.correct)::INTEGER AS k, count(*) FILTER (c.correct)::INTEGER AS wins,
    count(*) FILTER (c.correct AND c.executed)::INTEGER AS executed_wins
FROM continuations AS c LEFT JOIN call_tokens AS t ON t.id = c.branched AND t.call = c.branched_call
GROUP BY c.prefix, c.source, c.cluster, c.split, c.run, c.step, c.data_source, c.in_scope, c.failed;
