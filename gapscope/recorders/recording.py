"""A rollout from what any training loop has at hand: texts or messages, token ids, log-probs, a reward, a group."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite, isnan
from operator import index
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import uuid4

from gapscope.alignment import ALIGNED, Aligner
from gapscope.dialects import DIALECTS, Dialect, dialect_named
from gapscope.errors import RecordError, TokenizerError, UnknownName
from gapscope.outcomes import ErrorMarkers, judge_calls
from gapscope.rollouts import EntropyKind, Json, RewardPart, Rollout, Source, Split, Status, Tokens, Turn
from gapscope.rows import Reading, RowError
from gapscope.shapes.conversations import Conversation, messages_of, prompt_text, tool_definitions, tool_names
from gapscope.syntax import recognise
from gapscope.token_numbers import ROUNDING
from gapscope.tokenizer import Vocabulary, load_vocabulary

Values: TypeAlias = Iterable[Any]
"""Numbers, one for each token: a list, a tuple, an array of NumPy, a tensor of PyTorch."""

Said: TypeAlias = str | Sequence[Mapping[str, Json]]
"""A text as the model read or wrote it, or messages in the shape of OpenAI's chat API."""

_MARKERS = ErrorMarkers()


def recorded(
    prompt: Said | None = None,
    completion: Said | None = None,
    *,
    step: int | None = None,
    group: str | int | None = None,
    sample_index: int | None = None,
    prompt_ids: Values | None = None,
    completion_ids: Values | None = None,
    mask: Values | None = None,
    logprobs: Values | None = None,
    logprob_source: Literal["rollout", "trainer"] = "rollout",
    trainer_logprobs: Values | None = None,
    entropies: Values | None = None,
    entropy_kind: EntropyKind = "full",
    reward: float | None = None,
    reward_parts: Mapping[str, float | None] | None = None,
    reward_weights: Mapping[str, float] | None = None,
    advantage: float | None = None,
    correct: bool | None = None,
    correct_rule: str = "as recorded",
    ground_truth: Json = None,
    data_source: str | None = None,
    finish_reason: str | None = None,
    tools: Sequence[str | Mapping[str, Json]] | None = None,
    tokenizer: Vocabulary | str | Path | None = None,
    dialect: str | None = None,
    policy_version: str | int | None = None,
    run: str | None = None,
    split: Split | None = None,
    status: Status | None = None,
    rollout_id: str | None = None,
    extra: Mapping[str, Json] | None = None,
) -> Rollout:
    """One rollout, cut into thinking, calls and results as a reader of logs cuts it.

    `completion` is all that came after the prompt, tool results included; without it the text is made from
    `completion_ids`, which takes a `tokenizer`. `mask`, `logprobs`, `trainer_logprobs` (natural logs) and `entropies`
    (nats) have one value for each completion id. `mask` is 1 where the policy wrote the token, 0 where a tool did; it
    is needed where there are results. The other values count only where it is 1; None there is a value that is missing.
    `logprobs` are those of the policy that sampled: `logprob_source` says whether the engine that sampled gave them
    (`rollout`) or the trainer computed them with the same weights (`trainer`).

    With a `tokenizer`, a `tokenizer.json` or its folder, the record says which tokens each span and each call is made
    of. `tools` are names or definitions; a list of definitions is kept. `dialect` is the name of a tool-call syntax, by
    default the one that the completion shows. `group` names the rollouts that are compared with one another within a
    step. A reward that is NaN is none.

    Raises:
        RecordError: lengths differ, a log-prob is above 0 or NaN, an id or a message is none, results have no mask.
        TokenizerError: there is no such tokenizer, or it lacks one of the ids.
        UnknownName: there is no such dialect.

    """
    vocabulary = tokenizer if isinstance(tokenizer, Vocabulary) else load_vocabulary(tokenizer) if tokenizer else None
    tokens = _tokens(
        _ids("prompt_ids", prompt_ids),
        _ids("completion_ids", completion_ids),
        _listed(mask),
        {"logprobs": logprobs, "trainer_logprobs": trainer_logprobs, "entropies": entropies},
        logprob_source,
        entropy_kind,
    )
    if completion is None and tokens is None:
        message = "a rollout without a completion"
        raise RecordError(message, hint="Pass the completion as a text or as messages, or its `completion_ids`.")
    rollout = Rollout(
        format="gapscope-rollout",
        source=Source("", 0),
        rollout_id=rollout_id or uuid4().hex,
        run=run,
        step=_integer("step", step),
        split=split,
        group_id=None if group is None else str(group),
        group_origin=None if group is None else "logged",
        sample_index=_integer("sample_index", sample_index),
        status=status,
        finish_reason=finish_reason,
        reward=_number("reward", reward),
        reward_parts=_parts(reward_parts or {}, reward_weights or {}),
        advantage=_number("advantage", advantage),
        correct=None if correct is None else bool(correct),
        correct_rule=None if correct is None else correct_rule,
        ground_truth=ground_truth,
        data_source=data_source,
        declared_tools=None if tools is None else _names(tools),
        tools=None if tools is None else tool_definitions(tools if isinstance(tools, list) else list(tools)),
        tokens=tokens,
        extra=dict(extra or {}),
    )
    _read(rollout, prompt, completion, vocabulary, dialect, policy_version)
    if tokens is not None and mask is None and any(not span.sampled for span in rollout.spans):
        message = "the completion holds what the policy did not write, and no mask says which tokens that is"
        raise RecordError(message, hint="Pass `mask`: 1 for each token that the policy wrote, 0 for the others.")
    return rollout


def _read(
    rollout: Rollout,
    prompt: Said | None,
    completion: Said | None,
    vocabulary: Vocabulary | None,
    dialect_name: str | None,
    policy_version: str | int | None,
) -> None:
    """Fill in the texts and what is in them, and which tokens that is made of."""
    tokens, version = rollout.tokens, None if policy_version is None else str(policy_version)
    n_prompt = tokens.n_prompt or 0 if tokens else 0
    if vocabulary is not None and tokens is not None and tokens.ids is not None:
        completion = _spelled(vocabulary, tokens.ids[n_prompt:]) if completion is None else completion
        seen = _spelled(vocabulary, tokens.ids[:n_prompt]) if n_prompt else None
    else:
        seen = None
    try:
        said = None if completion is None or isinstance(completion, str) else messages_of(list(completion))
        asked = None if prompt is None or isinstance(prompt, str) else messages_of(list(prompt), name="prompt")
        rollout.messages = None if asked is None else prompt
        rollout.prompt = prompt if isinstance(prompt, str) else seen or (prompt_text(asked) if asked else None)
        texts = [completion or ""] if said is None else [m.content for m in said if m.role == "assistant"]
        dialect = _dialect(dialect_name, [text for text in texts if isinstance(text, str)])
        rollout.dialect = dialect.name
        if rollout.declared_tools is None and rollout.prompt:
            rollout.declared_tools = dialect.declared_tools(rollout.prompt)
        if said is not None:
            conversation = Conversation(Reading("", dialect))
            for message in said:
                conversation.add(message)
            rollout.output, rollout.turns, rollout.spans, rollout.calls = conversation.joined(
                declared_tools=rollout.declared_tools,
                finish_reason=rollout.finish_reason,
                policy_version=version,
            )
            rollout.output_origin = "joined"
        elif isinstance(completion, str):
            _cut(rollout, completion, dialect, version)
    except RowError as error:
        raise RecordError(str(error)) from error
    if tokens is not None and vocabulary is not None:
        alignment = Aligner(dialect, _MARKERS, vocabulary).align(rollout)
        if alignment not in ALIGNED:
            rollout.notes.append(f"tokens_{alignment}")


def _cut(rollout: Rollout, completion: str, dialect: Dialect, policy_version: str | None) -> None:
    segments = dialect.segment(completion, opens_in_thinking=dialect.opens_thinking(rollout.prompt or ""))
    last = segments.turns - 1
    rollout.output = completion
    rollout.spans = segments.spans
    rollout.turns = [
        Turn(turn, rollout.finish_reason if turn == last else None, policy_version) for turn in range(segments.turns)
    ]
    rollout.calls = judge_calls(
        segments.calls,
        declared_tools=rollout.declared_tools,
        markers=_MARKERS,
        finish_reason=rollout.finish_reason,
    )


def _dialect(name: str | None, texts: list[str]) -> Dialect:
    if name is None:
        return recognise(texts).dialect
    try:
        return dialect_named(name)
    except KeyError:
        raise UnknownName("dialect", name, [dialect.name for dialect in DIALECTS]) from None


def _spelled(vocabulary: Vocabulary, ids: list[int]) -> str:
    pieces = vocabulary.pieces(ids)
    if pieces is None:
        unknown = next(token for token in ids if vocabulary.pieces([token]) is None)
        message = f"the token id {unknown} is not in {vocabulary.path}"
        raise TokenizerError(message, hint="Pass the tokenizer of the model that sampled.")
    return b"".join(pieces).decode("utf-8", "replace")


def _tokens(
    prompt: list[int] | None,
    completion: list[int] | None,
    mask: list[Any] | None,
    values: Mapping[str, Values | None],
    logprob_source: str,
    entropy_kind: EntropyKind,
) -> Tokens | None:
    listed = {name: _listed(several) for name, several in values.items()}
    if completion is None:
        given = [name for name, several in {"mask": mask, **listed}.items() if several is not None]
        if given or prompt is not None:
            message = f"`{(given or ['prompt_ids'])[0]}` without `completion_ids`"
            raise RecordError(message, hint="Pass the token ids of the completion as well.")
        return None
    own = _mask(mask, len(completion))
    n_prompt = len(prompt or ())
    before: list[float | None] = [None] * n_prompt
    checked = {
        name: None if several is None else before + _VALUES[name](name, several, own)
        for name, several in listed.items()
    }
    return Tokens(
        (prompt or []) + completion,
        n_prompt=None if prompt is None else n_prompt,
        logprobs=checked["logprobs"],
        logprob_source=None if checked["logprobs"] is None else logprob_source,
        entropies=checked["entropies"],
        entropy_kind=None if checked["entropies"] is None else entropy_kind,
        sampled=[False] * n_prompt + own,
        trainer_logprobs=checked["trainer_logprobs"],
    )


def _listed(values: Values | None) -> list[Any] | None:
    """As a list of Python's own numbers, which arrays and tensors can make of themselves."""
    if values is None:
        return None
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if not isinstance(listed, list):
        message = f"a single number {listed!r}, expected one for each token"
        raise RecordError(message)
    return listed


def _ids(name: str, values: Values | None) -> list[int] | None:
    listed = _listed(values)
    if listed is None:
        return None
    for place, token in enumerate(listed):
        if type(token) is not int or token < 0:
            try:
                listed[place] = index(token)
            except TypeError:
                listed[place] = -1
            if listed[place] < 0:
                message = f"`{name}[{place}]` is {token!r:.60}, which is no token id"
                raise RecordError(message)
    return listed


def _mask(mask: list[Any] | None, size: int) -> list[bool]:
    if mask is None:
        return [True] * size
    _check_length("mask", mask, size)
    for place, value in enumerate(mask):
        if value not in {0, 1}:
            message = f"`mask[{place}]` is {value!r:.60}, expected 0 or 1"
            raise RecordError(message)
    return [bool(value) for value in mask]


def _check_length(name: str, values: list[Any], size: int) -> None:
    if len(values) != size:
        message = f"`{name}` has {len(values):,} values, and there are {size:,} completion ids"
        raise RecordError(message)


def _logprobs(name: str, values: list[Any], mask: list[bool]) -> list[float | None]:
    """Log-probs of the sampled tokens, those above 0 by rounding alone put right."""
    return [None if value is None else min(value, 0.0) for value in _numbers(name, values, mask, sign=-1)]


def _entropies(name: str, values: list[Any], mask: list[bool]) -> list[float | None]:
    return [None if value is None else max(value, 0.0) for value in _numbers(name, values, mask, sign=1)]


def _numbers(name: str, values: list[Any], mask: list[bool], *, sign: int) -> list[float | None]:
    """The numbers at sampled tokens, of one sign; what stands at the others is a filler."""
    _check_length(name, values, len(mask))
    found: list[float | None] = []
    for place, (value, own) in enumerate(zip(values, mask, strict=True)):
        number = None
        if own and value is not None:
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = float("nan")
            if not isfinite(number) or number * sign < -ROUNDING:
                message = f"`{name}[{place}]` is {value!r:.60}, expected a number of {_RANGE[sign]}"
                raise RecordError(message, hint="Pass None where there is no value.")
        found.append(number)
    return found


_RANGE = {-1: "0 or less, a natural log", 1: "0 or more, in nats"}
_VALUES: Mapping[str, Callable[[str, list[Any], list[bool]], list[float | None]]] = {
    "logprobs": _logprobs,
    "trainer_logprobs": _logprobs,
    "entropies": _entropies,
}


def _parts(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> list[RewardPart]:
    unknown = [name for name in weights if name not in parts]
    if unknown:
        message = f"a weight for {unknown[0]!r}, which is no part of the reward"
        raise RecordError(message)
    return [RewardPart(name, _number(name, value), _number(name, weights.get(name))) for name, value in parts.items()]


def _number(name: str, value: Any) -> float | None:  # noqa: ANN401 (a float, or what can be made one)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        message = f"`{name}` is {value!r:.60}, expected a number"
        raise RecordError(message) from error
    return None if isnan(number) else number


def _integer(name: str, value: Any) -> int | None:  # noqa: ANN401 (an int, or what can be made one)
    try:
        return None if value is None else index(value)
    except TypeError as error:
        message = f"`{name}` is {value!r:.60}, expected a whole number"
        raise RecordError(message) from error


def _names(tools: Sequence[str | Mapping[str, Json]]) -> list[str]:
    return [name for tool in tools for name in ([tool] if isinstance(tool, str) else tool_names([tool]) or [])]
