r"""Inspect's evaluation logs: `.eval` zips (the default) and, with `--log-format json`, one JSON document.

A zip holds one member per sample and epoch, in the order in which they ended, with what the evaluation was about in
`_journal/start.json` before them and in `header.json` after them; the document holds the same under `eval` and
`samples`. An evaluation is a run, a sample of it a group, an epoch a rollout.

A sample that is large may be cut into members of its own (`samples/{id}_epoch_{n}/messages/0.json`).

A call whose arguments Inspect could not parse is there with empty arguments and a `parse_error`. A tool that failed
has an `error` with a type, mostly beside an empty content. Images are `attachment://` references into the sample.
A score is a letter (C, I, P, N), a number, a boolean, or several of these by name; it says what is correct only
where there is one scorer and it says C or I.

Log-probs are of token texts, and stand in `output` for the last generation: they are all of the tokens only where that
is the one that there was.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gapscope.parsers.base import Parser, number, source_of, whole_number
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Status, Tokens, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.conversations import messages_of, prompt_text, tell
from gapscope.shapes.eval_messages import asked_messages, is_generated, told_messages
from gapscope.shapes.model_calls import BROKEN_TOKENS, ModelCall, has_tokens, tokens_of
from gapscope.shapes.sample_chunks import ChunkedSample, place_of_member

_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_FINISH = {"max_tokens": "length", "model_length": "length", "unknown": None}
_LIMITS = {"message": "turn_limit", "turn": "turn_limit", "token": "length", "context": "length", "operator": "abort"}
_CANCELLED = ("CancelledError(", "Cancelled(")
_LISTS = ("summaries.json", "reductions.json")

# What the record has fields for, what repeats it, and bookkeeping.
_KNOWN = frozenset(
    {
        *("id", "epoch", "uuid", "input", "target", "messages", "output", "scores", "score", "error", "limit"),
        *("events", "events_data", "attachments", "timelines", "started_at", "completed_at"),
        *("message_limit", "time_limit", "token_limit", "token_limit_type", "token_limit_usage"),
    },
)
_KNOWN_OUTSIDE = frozenset(
    {
        *("member", "content", "version", "status", "eval", "plan", "results", "stats", "error", "samples"),
        *("reductions", "invalidated", "log_updates", "config_updates", "location", "etag", "tags", "metadata"),
    },
)


class _About(NamedTuple):
    """What the evaluation is about."""

    task: str | None = None
    model: str | None = None


def claims(row: Mapping[str, Json]) -> bool:
    """A document with an `eval` of a task and a model, or a member of an archive of one."""
    if "member" not in row:
        return _is_spec(row.get("eval")) and "status" in row
    member, content = row["member"], row.get("content")
    if not isinstance(member, str):
        return False
    if isinstance(content, dict):
        return _is_spec(content.get("eval")) or (
            member.startswith("samples/")
            and (("id" in content and "epoch" in content) or place_of_member(member) is not None)
        )
    if not isinstance(content, list):
        return False
    return member.startswith("_journal/summaries/") or member in _LISTS or place_of_member(member) is not None


def _is_spec(value: Json) -> bool:
    return isinstance(value, dict) and "task" in value and "model" in value


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """The samples of a document, or of an archive, whose other members tell nothing that is not in the first one."""
    about = _About()
    chunked: ChunkedSample | None = None
    for row in rows:
        member, content = row.value.get("member"), row.value.get("content")
        place = place_of_member(member) if isinstance(member, str) else None
        if chunked is not None and (place is None or place.sample != chunked.name):
            yield _put_together(chunked, reading, about)
            chunked = None
        if place is not None:
            chunked = chunked or ChunkedSample(place.sample, row)
            chunked.take(place, content)
        elif "member" not in row.value:
            yield from _document(row, reading)
        elif isinstance(member, str) and member.startswith("samples/"):
            yield _tried(content, row, reading, about, member)
        elif isinstance(content, dict) and _is_spec(content.get("eval")):
            about = _about(content["eval"])
        elif not _is_known(member, content):
            yield refuse(row.line, row.offset, f"`member` is {member!r:.80}, expected samples/… of an Inspect log")
    if chunked is not None:
        yield _put_together(chunked, reading, about)


def _put_together(chunked: ChunkedSample, reading: Reading, about: _About) -> Rollout | Refused:
    """A sample whose members lie beside one another, as Inspect writes them."""
    try:
        sample = chunked.whole()
    except RowError as error:
        return refuse(chunked.row.line, chunked.row.offset, f"{chunked.name}: {error}")
    return _tried(sample, chunked.row, reading, about, chunked.name)


def _is_known(member: Json, content: Json) -> bool:
    return (
        isinstance(member, str)
        and isinstance(content, (dict, list))
        and (member.startswith("_journal/") or member in _LISTS)
    )


def _document(row: Row, reading: Reading) -> Iterator[Rollout | Refused]:
    samples, spec = row.value.get("samples"), row.value.get("eval")
    if not isinstance(samples, list) or not samples:
        reason = "`samples` is missing" if samples is None else f"`samples` is {samples!r:.60}, expected a list of them"
        yield refuse(row.line, row.offset, f"{reason}; samples are logged unless `--no-log-samples` is given")
        return
    about = _about(spec) if isinstance(spec, dict) else _About()
    for index, sample in enumerate(samples):
        yield _tried(sample, row, reading, about, f"samples[{index}]")


def _about(spec: Mapping[str, Json]) -> _About:
    task, model = spec.get("task"), spec.get("model")
    return _About(task if isinstance(task, str) else None, model if isinstance(model, str) else None)


def _tried(sample: Json, row: Row, reading: Reading, about: _About, name: str) -> Rollout | Refused:
    try:
        if not isinstance(sample, dict):
            message = f"{type(sample).__name__}, expected an object"
            raise RowError(message)  # noqa: TRY301 (refused like all that is wrong with a sample)
        return _translate(sample, row, reading, about)
    except RowError as error:
        return refuse(row.line, row.offset, f"{name}: {error}")


def _translate(sample: Mapping[str, Json], row: Row, reading: Reading, about: _About) -> Rollout:
    group, epoch = _id(sample.get("id")), whole_number(sample.get("epoch"))
    if group is None or epoch is None:
        key = "id" if group is None else "epoch"
        message = f"`{key}` is {sample.get(key)!r:.60}, expected the {key} of a sample"
        raise RowError(message)
    attachments = sample.get("attachments")
    resolved = attachments if isinstance(attachments, dict) else {}
    messages, own = told_messages(sample.get("messages"), resolved)
    events = sample.get("events")
    notes = list(row.repairs)
    if _events(events, "compaction"):
        notes.append("messages_were_compacted")
    offered = _offered(events)
    declared = list(offered) or None
    tokens, lost = _tokens(sample)
    notes += lost
    status, finish_reason = _ending(sample)
    told = tell(messages, reading, sampled=own, declared_tools=declared, finish_reason=finish_reason)
    parts, whole = _scores(sample.get("scores") or _older_score(sample))
    letter = whole if isinstance(whole, str) and whole in {"C", "I"} else None
    uuid, target = sample.get("uuid"), sample.get("target")
    return Rollout(
        format=PARSER.name,
        source=source_of(row, reading),
        rollout_id=uuid if isinstance(uuid, str) and uuid else f"{group}_epoch_{epoch}",
        run=reading.run,
        step=reading.step,
        split=reading.split,
        group_id=group,
        group_origin="logged",
        sample_index=epoch,
        status=status,
        finish_reason=finish_reason,
        reward=_value(whole),
        reward_parts=parts,
        correct=None if letter is None else letter == "C",
        correct_rule=None if letter is None else f"`{parts[0].name}` is C, as the scorer says",
        ground_truth=target,
        data_source=about.task,
        prompt=told.prompt or _input(sample.get("input")),
        messages=asked_messages(sample.get("messages") or sample.get("input"), resolved),
        output=told.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        declared_tools=declared,
        tools=list(offered.values()) or None,
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        tokens=tokens,
        images=told.images,
        extra=_extra(sample, row.value, about),
        notes=notes,
    )


def _id(value: Json) -> str | None:
    """The id of a sample, which is a text or a whole number."""
    return value if isinstance(value, str) else str(value) if type(value) is int and -(2**63) <= value < 2**63 else None


def _input(value: Json) -> str:
    """The question of a sample that ended before there was a conversation."""
    return value if isinstance(value, str) else prompt_text(messages_of(value or [], name="input"))


def _events(events: Json, kind: str) -> list[Mapping[str, Json]]:
    found = events if isinstance(events, list) else []
    return [event for event in found if isinstance(event, dict) and event.get("event") == kind]


def _offered(events: Json) -> dict[str, Json]:
    """The definitions of the tools that the model was offered, in any of its generations, by their names."""
    offered: dict[str, Json] = {}
    for event in _events(events, "model"):
        tools = event.get("tools")
        for tool in tools if isinstance(tools, list) else []:
            name = tool.get("name") if isinstance(tool, dict) else None
            if isinstance(name, str):
                offered.setdefault(name, tool)
    return offered


def _ending(sample: Mapping[str, Json]) -> tuple[Status, str | None]:
    """How it ended: by an error, at a limit, or as the last generation says."""
    error = sample.get("error")
    if error:
        said = error.get("message") if isinstance(error, dict) else error
        return "error", "abort" if isinstance(said, str) and said.startswith(_CANCELLED) else "error"
    limit = sample.get("limit")
    if isinstance(limit, dict):
        kind = limit.get("type")
        return "truncated", _LIMITS.get(kind, kind) if isinstance(kind, str) else None
    status: Status = "excluded" if sample.get("invalidation") else "ok"
    reason = _choice(sample).get("stop_reason")
    if not isinstance(reason, str):
        return status, None
    return "truncated" if reason in {"max_tokens", "model_length"} else status, _FINISH.get(reason, reason)


def _choice(sample: Mapping[str, Json]) -> Mapping[str, Json]:
    """What the last generation gave; nothing where it failed."""
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _tokens(sample: Mapping[str, Json]) -> tuple[Tokens | None, list[str]]:
    """The tokens of the one generation, and a note where there were several."""
    choice, said = _choice(sample), sample.get("messages")
    logprobs, last = choice.get("logprobs"), choice.get("message")
    call = ModelCall((), last).with_said(logprobs.get("content") if isinstance(logprobs, dict) else None)
    if not has_tokens(call):
        return None, []
    generated = [item for item in said if is_generated(item)] if isinstance(said, list) else []
    alone = len(generated) == 1 and isinstance(last, dict) and generated[0].get("content") == last.get("content")
    tokens = tokens_of([call], source="rollout") if alone else None
    return tokens, [BROKEN_TOKENS] if tokens is None else []


def _older_score(sample: Mapping[str, Json]) -> Json:
    """The one score that a sample had before there could be several."""
    score = sample.get("score")
    return {"score": score} if isinstance(score, dict) else None


def _scores(scores: Json) -> tuple[list[RewardPart], Json]:
    """Every score by the name of its scorer, and the value of the one scorer, if there is one with one value."""
    parts: list[RewardPart] = []
    if not isinstance(scores, dict):
        return parts, None
    whole: Json = None
    for name, score in scores.items():
        value = score.get("value") if isinstance(score, dict) else None
        if isinstance(value, dict):
            parts += [RewardPart(f"{name}.{key}", _value(item)) for key, item in value.items()]
        elif not isinstance(value, list):
            parts.append(RewardPart(name, _value(value)))
            whole = value
    return parts, whole if len(scores) == 1 else None


def _value(value: Json) -> float | None:
    """A score as a number, letters as Inspect counts them."""
    return _LETTERS[value] if isinstance(value, str) and value in _LETTERS else number(value)


def _extra(sample: Mapping[str, Json], outside: Mapping[str, Json], about: _About) -> dict[str, Json]:
    """The rest, without what is empty, and why it ended."""
    extra: dict[str, Json] = {
        key: value for key, value in sample.items() if key not in _KNOWN and value not in ({}, [])
    }
    if about.model is not None:
        extra["model"] = about.model
    extra |= {key: value for key, value in outside.items() if key not in _KNOWN_OUTSIDE}
    error, limit = sample.get("error"), sample.get("limit")
    if error:
        extra["error"] = error.get("message") if isinstance(error, dict) else error
    if limit:
        extra["limit"] = limit
    scores = sample.get("scores")
    answers = {
        name: score["answer"]
        for name, score in (scores.items() if isinstance(scores, dict) else ())
        if isinstance(score, dict) and isinstance(score.get("answer"), str)
    }
    if answers:
        extra["answers"] = answers
    return extra


PARSER = Parser(
    name="inspect",
    trainer="Inspect",
    producer="inspect_ai `eval` (`--log-format eval` or `json`); seen: 0.3.285",
    containers=("zip", "json"),
    claims=claims,
    parse=parse,
    carries=("data_source", "finish_reason", "ground_truth", "group_id", "tool_calls", "tool_results", "turns"),
    optional={
        "correctness": "use one scorer that answers C or I, or name the score that means correct",
        "declared_tools": "the tools stand in the model events of a sample; check that these are in the log",
        "entropies": "give the model `top_logprobs`, which bound them for samples of one generation",
        "images": "give images as files or data: URIs, and leave `--log-images` on",
        "logprobs": "give the model `logprobs=True`, which tells those of samples of one generation; re-score others "
        "with a model",
        "reward": "use one scorer with one value; with several, name the one that means correct",
        "reward_parts": "give the task a scorer, and do not run with `--no-score`",
    },
    lacks={
        "advantage": "an evaluation computes none",
        "step": "Inspect does not know the training step; name the log after it, as in `task_200.eval`",
        "token_ids": "Inspect writes text only; re-tokenise it with the model's chat template",
    },
    whole_file=True,
    layout=re.compile(r"\.shards/[^/]+/[^/]+\.eval$|\.(?:eval|json)(?:\.gz|\.zst)?$"),
    own_names={"target": "ground_truth", "id": "group_id", "epoch": "sample_index"},
)
