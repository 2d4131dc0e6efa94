"""OpenTelemetry spans with the GenAI conventions, or the older ones of Traceloop and OpenInference.

Files are lines of OTLP's JSON, as the collector's file exporter writes them, or spans as the SDK's console exporter
does. A rollout is what happened under one `gen_ai.conversation.id`, else in one trace; its spans may come in any order
and from several lines, so that all of a file is gone through before the first rollout. What is kept meanwhile are the
attributes about models, tools and scores, undecoded; a file as large as that is better rotated by the collector, whose
cut leaves of a trace two halves of one id.

Each call repeats the conversation so far: the last one tells it, and the earlier ones which messages were sampled. A
call that continues none of the earlier ones begins an output of its own. Answers that no later call repeats are taken
from the spans of the tools. The conventions have no word for rewards, only for evaluations.
"""

from collections.abc import Iterable, Iterator, Mapping

from gapscope.parsers.base import JSON, Parser, source_of
from gapscope.rollouts import Json, Refused, RewardPart, Rollout, Status, refuse
from gapscope.rows import Reading, Row, RowError
from gapscope.shapes.span_calls import (
    Conversed,
    conversed,
    model_call,
    offered_tools,
    rewards_of,
    scores_of,
    tool_runs,
)
from gapscope.shapes.spans import Span, either, spans_in

_ABOUT_MODELS = ("gen_ai.", "llm.", "agentlightning.", "agentops.", "openinference.", "tool_call.", "logprobs.")
_ALSO_KEPT = frozenset({"output.value", "error.type", "prompt_token_ids", "response_token_ids", "reward"})
_CONTENT = ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "llm.request.type")
_KNOWN = frozenset(
    {
        *("resourceSpans", "resource_spans", "name", "context", "kind", "parent_id", "start_time", "end_time"),
        *("status", "attributes", "events", "links", "resource", "traceId", "spanId"),
    },
)


def claims(row: Mapping[str, Json]) -> bool:
    """A batch in OTLP's JSON, or a span of the SDK."""
    if isinstance(either(row, "resourceSpans", "resource_spans"), list):
        return True
    context = row.get("context")
    return isinstance(context, dict) and "trace_id" in context and "attributes" in row and "rollout_id" not in row


class _Gathered:
    """The spans of one rollout, and the row that the first of them is from."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.spans: list[Span] = []
        self.extra: dict[str, Json] = {}
        self.repairs: dict[str, None] = {}


def parse(rows: Iterable[Row], reading: Reading) -> Iterator[Rollout | Refused]:
    """The rollouts of a file, in the order in which their first spans come."""
    spans: list[tuple[Span, Row]] = []
    first: Row | None = None
    for row in rows:
        slim = row._replace(value={key: item for key, item in row.value.items() if key not in _KNOWN})
        first = first or slim
        found = [_kept(span) for span in spans_in(row.value)]
        if not found:
            yield refuse(row.line, row.offset, "no span with a trace and a name, in OTLP's JSON or the SDK's")
        spans += [(span, slim) for span in found]
    some = False
    for key, gathered in _by_rollout(spans).items():
        if any(_is_about_models(span) for span in gathered.spans):
            some = True
            yield from _rollouts(key, gathered, reading)
    if spans and not some and first is not None:
        yield refuse(first.line, first.offset, "none of the spans is about a language model")


def _kept(span: Span) -> Span:
    attributes = {k: v for k, v in span.attributes.items() if k.startswith(_ABOUT_MODELS) or k in _ALSO_KEPT}
    return span._replace(attributes=attributes)


def _is_about_models(span: Span) -> bool:
    return any(key.startswith(("gen_ai.", "llm.", "agentlightning.")) for key in span.attributes)


def _by_rollout(spans: Iterable[tuple[Span, Row]]) -> dict[str, _Gathered]:
    """The spans by conversation; those that name none belong to the one of their trace, if it has just one."""
    named: dict[str, set[str]] = {}
    listed = list(spans)
    for span, _ in listed:
        if identity := _identity(span):
            named.setdefault(span.trace_id, set()).add(identity)
    gathered: dict[str, _Gathered] = {}
    for span, row in listed:
        others = named.get(span.trace_id, set())
        key = _identity(span) or (next(iter(others)) if len(others) == 1 else span.trace_id)
        group = gathered.setdefault(key, _Gathered(row))
        group.spans.append(span)
        group.extra |= row.value
        group.repairs |= dict.fromkeys(row.repairs)
    for group in gathered.values():
        group.spans.sort(key=lambda span: span.order)
    return gathered


def _identity(span: Span) -> str | None:
    found = either(span.attributes, "gen_ai.conversation.id") or span.resource.get("agentlightning.rollout_id")
    return found if isinstance(found, str) and found else None


def _rollouts(key: str, gathered: _Gathered, reading: Reading) -> Iterator[Rollout | Refused]:
    row, spans = gathered.row, gathered.spans
    try:
        calls = [call for span in spans if (call := model_call(span)) is not None]
        tools = offered_tools(spans)
        conversations = conversed(calls, reading, declared=list(tools) or None, runs=tool_runs(spans))
    except RowError as error:
        yield refuse(row.line, row.offset, f"{key[:80]}: {error}")
        return
    if not conversations:
        reason = "its spans hold no messages; content is only captured where the instrumentation is told to"
        yield refuse(row.line, row.offset, f"{key[:80]}: {reason}")
    definitions = list(tools.values()) or None
    for index, conversation in enumerate(conversations):
        rollout = _rollout(conversation, gathered, reading)
        rollout.rollout_id = key
        rollout.declared_tools, rollout.tools = list(tools) or None, definitions
        rollout.output_index = index if len(conversations) > 1 else None
        yield rollout


def _rollout(conversation: Conversed, gathered: _Gathered, reading: Reading) -> Rollout:
    spans, told = gathered.spans, conversation.told
    rewards = next((found for span in reversed(spans) if (found := rewards_of(span))), [])
    parts = [*(score for span in spans for score in scores_of(span)), *rewards]
    failed = any(span.failed for span in spans if span.parent_id is None)
    length = conversation.finish_reason == "length"
    status: Status = "error" if failed else "truncated" if length else "ok"
    return Rollout(
        format=PARSER.name,
        source=source_of(gathered.row, reading),
        run=reading.run,
        step=reading.step,
        split=reading.split,
        status=status,
        finish_reason=conversation.finish_reason or ("error" if failed else None),
        reward=rewards[0].value if rewards else None,
        reward_parts=_unique(parts),
        prompt=told.prompt,
        messages=conversation.messages,
        output=told.output,
        output_origin="joined",
        dialect=reading.dialect.name,
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        tokens=conversation.tokens,
        images=told.images,
        extra={**gathered.extra, **_about(spans)},
        notes=[*gathered.repairs, *conversation.notes],
    )


def _unique(parts: Iterable[RewardPart]) -> list[RewardPart]:
    """The last of the scores of each name: an evaluation that is repeated corrects itself."""
    return list({part.name: part for part in parts}.values())


def _about(spans: Iterable[Span]) -> dict[str, Json]:
    """The models that were called, the labels of scores, and what is known of the process."""
    about: dict[str, Json] = {}
    labels: dict[str, Json] = {}
    for span in spans:
        if span.resource:
            about["resource"] = dict(span.resource)
        about |= {key: span.attributes[key] for key in _CONTENT if key in span.attributes}
        for score in (span.attributes, *span.scores):
            name, label = score.get("gen_ai.evaluation.name"), score.get("gen_ai.evaluation.score.label")
            if isinstance(name, str) and label is not None:
                labels[name] = label
    return {**about, "labels": labels} if labels else about


PARSER = Parser(
    name="otel-genai",
    trainer="OpenTelemetry",
    producer="instrumentations with GenAI, Traceloop or OpenInference attributes; seen: semantic conventions 0.66b2",
    containers=JSON,
    claims=claims,
    parse=parse,
    carries=("turns",),
    optional={
        "declared_tools": "let the instrumentation capture content, `gen_ai.tool.definitions` included",
        "entropies": "none of the conventions has them; Agent Lightning's `logprobs.content` may bound them",
        "finish_reason": "most instrumentations set `gen_ai.response.finish_reasons`",
        "images": "let the instrumentation capture images as blobs and not as links",
        "logprobs": "none of the conventions has them; Agent Lightning adds `logprobs.content`",
        "reward": "none of the conventions has one; Agent Lightning's `emit_reward` adds it",
        "reward_parts": "add a `gen_ai.evaluation.result` event or span for each score",
        "token_ids": "none of the conventions has them; Agent Lightning adds `response_token_ids` and its prompt",
        "tool_calls": "set OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true, or what your library has for it",
        "tool_results": "let the instrumentation capture content, or `gen_ai.tool.call.result` on the spans of tools",
    },
    lacks={
        "advantage": "the conventions have no attribute for it",
        "correctness": "name the evaluation that means correct",
        "data_source": "the conventions have no attribute for it",
        "ground_truth": "the conventions have no attribute for it",
        "group_id": "the conventions have no attribute for it: rollouts are grouped by their prompts",
        "step": "the conventions have no attribute for it; name each file after its step",
    },
    whole_file=True,
)
