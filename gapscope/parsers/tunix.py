"""Tunix' trajectories: `{log_dir}/trajectory_log_{unix time}.csv`, whose cells are what Python prints.

The agentic GRPO learner writes them when `metrics_logging_options.log_dir` is set, before it computes advantages, and
those of evaluation as well, without a word of which is which. The rollouts of a group stand together. No step is
logged: `policy_version` counts the updates of the weights, and the smallest of a group stands for its step, which it
is in a synchronous run. The calls of the policy stand in the text; Tunix puts words of its own before what a tool
answers, and these are taken away again. A missing value is the text `None` or an empty cell.

Trajectories that ended for a reason that is filtered out (`overlong_filter`) have a mask of zeros, and no final
reward was asked for: they are masked.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from gapscope.parsers.base import Parser, number, source_of, whole_number
from gapscope.rollouts import Json, Refused, Rollout, Status, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import Message, asked_of, messages_of, tell
from gapscope.shapes.python_literals import literal

_KEYS = frozenset({"conversation_text", "conversation_tokens", "conversation_masks", "trajectory_reward"})
_KNOWN = _KEYS | {"env_time", "group_id", "old_logprobs", "policy_version", "prompt_tokens", "reward_time", "status"}
_ABSENT = ("", "None", "nan")
_ANSWER = "Tool returned result: "
_STATUS: Mapping[str, tuple[Status | None, str | None]] = {
    "SUCCEEDED": ("ok", "stop"),
    "RUNNING": (None, None),
    "MAX_STEPS_REACHED": (None, "turn_limit"),
    "MAX_CONTEXT_LIMIT_REACHED": ("truncated", "length"),
    "TIMEOUT": ("error", "timeout"),
    "ENV_TIMEOUT": ("error", "timeout"),
    "FAILED": ("error", "error"),
}


def claims(row: Mapping[str, Json]) -> bool:
    """A conversation with its tokens and masks, all of them in text."""
    return all(isinstance(row.get(key), str) for key in _KEYS)


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """All rows, group by group: the step is one of the whole group."""
    for _, group in groupby(rows, key=lambda row: _cell(row.value, "group_id") or (row.line,)):
        read: list[Rollout | Refused] = []
        for row in group:
            try:
                read.append(_translate(row, reading))
            except RowError as error:
                read.append(refuse(row.line, row.offset, str(error)))
        rollouts = [item for item in read if isinstance(item, Rollout)]
        step = min((item.step for item in rollouts if item.step is not None), default=None)
        for rollout in rollouts:
            rollout.step = step
            if step is not None:
                rollout.notes.append("step_is_weight_version")
        yield from read


def _cell(value: Mapping[str, Json], key: str) -> str | None:
    """A cell that holds something."""
    cell = value.get(key)
    return None if not isinstance(cell, str) or cell in _ABSENT else cell


def _printed(value: Mapping[str, Json], key: str) -> Json:
    """What was printed into a cell; None where nothing was.

    Raises:
        RowError: it is no printed value.

    """
    cell = _cell(value, key)
    try:
        return None if cell is None else literal(cell)
    except RowError as error:
        message = f"`{key}` is {error}"
        raise RowError(message) from error


def _translate(row: Row, reading: Reading) -> Rollout:
    value, notes = row.value, list(row.repairs)
    said = _printed(value, "conversation_text")
    messages = [_message(message) for message in messages_of(said, name="conversation_text")]
    reward = _cell(value, "trajectory_reward")
    if reward is not None and number(reward) is None:
        message = f"`trajectory_reward` is {reward[:60]!r}, expected a number"
        raise RowError(message)
    status, finish_reason = _ending(_cell(value, "status"))
    tokens = _tokens(value, notes)
    if tokens is not None and tokens.sampled is None:
        status = "masked"
    version = _cell(value, "policy_version")
    # The tools are a part of the system prompt.
    declared = reading.dialect.declared_tools("\n".join(m.content for m in messages if m.role == "system"))
    told = tell(messages, reading, declared_tools=declared, finish_reason=finish_reason, policy_version=version)
    group = _cell(value, "group_id")
    extra = {key: item for key, item in value.items() if key not in _KNOWN and _cell(value, key) is not None}
    if "original_input" in extra:
        extra["original_input"] = _as_printed(extra["original_input"])
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        run=reading.run,
        step=whole_number(version),
        split=reading.split,
        group_id=group,
        group_origin=None if group is None else "logged",
        status=status,
        finish_reason=finish_reason,
        reward=number(reward),
        prompt=told.prompt,
        messages=asked_of(said, [message.role == "assistant" for message in messages]),
        output=told.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        declared_tools=declared,
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        tokens=tokens,
        images=told.images,
        extra=extra,
        notes=notes,
    )


def _message(message: Message) -> Message:
    """What a tool answered, without what Tunix says about it."""
    if message.role != "tool" or not message.content.startswith(_ANSWER):
        return message
    return message._replace(content=message.content.removeprefix(_ANSWER))


def _ending(status: str | None) -> tuple[Status | None, str | None]:
    """How a trajectory ended; words that are not known are kept."""
    return (None, None) if status is None else _STATUS.get(status, (None, status))


def _as_printed(cell: Json) -> Json:
    """What was printed, or the text if it is one."""
    try:
        return literal(cell)
    except RowError:
        return cell


def _tokens(value: Mapping[str, Json], notes: list[str]) -> Tokens | None:
    """Prompt and conversation, with who wrote what; nothing where they were printed with gaps, as arrays can be."""
    try:
        prompt, said, mask, logprobs = (
            _printed(value, key)
            for key in ("prompt_tokens", "conversation_tokens", "conversation_masks", "old_logprobs")
        )
    except RowError:
        notes.append("tokens_cannot_be_read")
        return None
    if not said or not _all(said, int) or not _all(mask, int, float):
        if said or not isinstance(said, (list, type(None))):
            notes.append("tokens_cannot_be_read")
        return None
    _of_length("conversation_masks", mask, len(said))
    before = prompt if prompt and _all(prompt, int) else []
    # Zeros alone are those of a trajectory that was filtered out: who wrote it is not known.
    own = mask if any(mask) else None
    values = None
    # Zeros alone stand for log-probs that the sampler did not return.
    if logprobs is not None and _all(logprobs, int, float, type(None)) and any(logprobs):
        _of_length("old_logprobs", logprobs, len(said))
        values = [None] * len(before) + [
            None if p is None or (not p and not of_policy) else float(p)
            for p, of_policy in zip(logprobs, mask, strict=True)
        ]
    return Tokens(
        before + said,
        len(before),
        logprobs=values,
        logprob_source=None if values is None else "rollout",
        sampled=None if own is None else [False] * len(before) + [bool(item) for item in own],
    )


def _all(items: Json, *types: type) -> bool:
    """Whether it is a list of nothing else."""
    return isinstance(items, list) and all(type(item) in types for item in items)


def _of_length(key: str, items: list[Json], length: int) -> None:
    if len(items) != length:
        message = f"`{key}` has {len(items):,} items, and `conversation_tokens` has {length:,}"
        raise RowError(message)


PARSER = Parser(
    name="tunix",
    trainer="Tunix",
    producer="google-tunix' agentic GRPO learner with `metrics_logging_options.log_dir`; seen: google/tunix@c7d8950f",
    containers=("csv",),
    claims=claims,
    parse=parse,
    carries=("finish_reason", "group_id", "reward", "tool_calls", "tool_results", "turns"),
    optional={
        "declared_tools": "the system prompt shows no <tools> list; use a tool parser that writes one",
        "logprobs": "the sampler has to return log-probs, as vLLM does with `return_logprobs`",
        "step": "Tunix logs none; `policy_version` stands for it",
        "token_ids": "tokens have to be lists or numpy arrays; other arrays are printed with gaps",
    },
    lacks={
        "advantage": "Tunix logs its trajectories before it computes advantages",
        "correctness": "name a threshold of the reward that means correct",
        "data_source": "Tunix names none; what the task holds is kept whole in `original_input`",
        "entropies": "Tunix writes none; re-score the log with a model",
        "ground_truth": "Tunix has no field for it; what the task holds is kept whole in `original_input`",
        "images": "Tunix logs text only",
        "reward_parts": "Tunix logs one reward",
    },
)
