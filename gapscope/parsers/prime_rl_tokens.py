"""prime-rl's token export alone: `token_exports/step_{S}/rank_{R}.jsonl`, one line per trained sequence.

`trainer.enable_token_export=true` writes it. There is no text in it, no reward, and no id of a trace or a group:
where the episodes of the run are at hand they are read instead, with these numbers joined in by token ids. A
sequence is one branch of a rollout, cut at the trainer's `seq_len`; branches that nobody was trained on are missing.
"""

import re
from collections.abc import Mapping

from gapscope.parsers.base import JSON, Parser, agreed_step, row_by_row, source_of
from gapscope.rollouts import Json, Rollout, Tokens
from gapscope.rows import Reading, Row
from gapscope.shapes.token_exports import Values, exported_sequence, trained_advantage

_KNOWN = frozenset({
    "schema_version", "step", "export_step", "rank", "micro_step", "micro_sequence_idx", "export_sequence_idx",
    "run_id", "env_name", "token_ids", "position_ids", "loss_mask", "advantages", "inference_logprobs",
    "trainer_logprobs", "entropy", "mismatch_kl", "log_importance_ratio", "importance_ratio", "prob_delta",
    "is_masked", "is_masked_high", "is_masked_low", "rl_weights", "ce_weights", "ref_kl_weights",
})  # fmt: skip


def claims(row: Mapping[str, Json]) -> bool:
    """The trainer's own log-probs beside those of inference, for the same ids."""
    return row.keys() >= {"token_ids", "loss_mask", "inference_logprobs", "trainer_logprobs", "micro_sequence_idx"}


def translate(row: Row, reading: Reading) -> Rollout:
    """One sequence.

    Raises:
        RowError: an array is missing, holds something else, or is not parallel to the ids.

    """
    sequence = exported_sequence(row.value)
    mask = sequence.loss_mask
    engine, trainer = (_sampled(stream, mask) for stream in (sequence.inference_logprobs, sequence.trainer_logprobs))
    logprobs, source = (trainer, "trainer") if engine is None else (engine, "rollout")
    entropies = _sampled(sequence.entropy, mask)
    notes = list(row.repairs)
    step = agreed_step(sequence.step, reading, notes)
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        step=step,
        split="train",
        advantage=trained_advantage(sequence),
        data_source=sequence.env_name,
        tokens=Tokens(
            ids=sequence.token_ids,
            n_prompt=mask.index(True) if True in mask else len(mask),
            logprobs=logprobs,
            logprob_source=None if logprobs is None else source,
            entropies=entropies,
            entropy_kind=None if entropies is None else "full",
            sampled=mask,
            trainer_logprobs=None if engine is None else trainer,
        ),
        extra={key: item for key, item in row.value.items() if key not in _KNOWN},
        notes=notes,
    )


def _sampled(values: Values | None, mask: list[bool]) -> Values | None:
    """The numbers of sampled tokens alone; None where there is none."""
    kept = [value if own else None for value, own in zip(values or (), mask, strict=False)]
    return kept if kept.count(None) < len(kept) else None


_NO_TEXT = "the export holds token ids alone; read `rollouts/` of the same run, which these numbers are joined to"

PARSER = Parser(
    name="prime-rl-tokens",
    trainer="prime-rl",
    producer="prime-rl with `trainer.enable_token_export=true`; seen: PrimeIntellect-ai/prime-rl@559b4477 (schema 1)",
    containers=JSON,
    claims=claims,
    parse=row_by_row(translate),
    carries=("data_source", "step", "token_ids"),
    optional={
        "advantage": "the tokens of a sequence have several advantages; read `rollouts/` of the same run",
        "entropies": "the export holds no entropies; check that the trainer's loss computes them",
        "logprobs": "the export holds no log-probs; check that the batch was sampled by the policy",
    },
    lacks={
        "correctness": _NO_TEXT,
        "declared_tools": _NO_TEXT,
        "finish_reason": _NO_TEXT,
        "ground_truth": _NO_TEXT,
        "group_id": _NO_TEXT,
        "images": _NO_TEXT,
        "reward": _NO_TEXT,
        "reward_parts": _NO_TEXT,
        "tool_calls": _NO_TEXT,
        "tool_results": _NO_TEXT,
        "turns": _NO_TEXT,
    },
    drops_uniform_groups="train.filter_zero_advantages",
    layout=re.compile(r"(?:^|/)token_exports/step_(?P<step>\d+)/rank_\d+\.jsonl"),
    part_of=("../../rollouts/step_*/train/*/traces.jsonl",),
)
