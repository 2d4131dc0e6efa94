"""What the server's own chat template writes around results and calls, found out with conversations made up for it."""

from collections.abc import Iterator, Sequence

from gapscope.dialects.base import Dialect
from gapscope.resampler.wording import BLANKS, NAME, Wording, as_written
from gapscope.rollouts import Json
from gapscope.serving.transport import RequestRefused
from gapscope.serving.vllm import Endpoint

NO_RESULTS = "the chat template writes no results of tools"
NO_CALLS = "the chat template writes calls in no syntax that is known"
NO_END = "the chat template shows no token that ends a turn with a call"
CALL_IDS = "the chat template writes the ids of calls beside their results"

_TOOL = "gapscope_probe"
_KEY = "probe_key"
_QUESTION = {"role": "user", "content": "Probe?"}
_SAID = "Probe said."
_ASKED = "ProbeAsked"
_IDS = ("Probe0id1", "Probe0id2")
_ANSWERS = ("ProbeAnswerOne", "ProbeAnswerTwo")
# No template writes as many line ends by itself; the quotation mark is written otherwise where a result is JSON.
_SET_OFF = "\n\n\n\n"
_MARK = '"'


async def prompt_ids(endpoint: Endpoint, messages: Sequence[Json], *, tools: Json = None) -> list[int]:
    """The ids of a conversation up to where the assistant's next answer begins.

    Raises:
        EndpointError: the server is gone, or has no template.
        RequestRefused: the template refuses the conversation.

    """
    return await endpoint.tokenize(messages=list(messages), tools=tools)


async def opening_delimiter(
    endpoint: Endpoint, messages: Sequence[Json], dialects: Sequence[Dialect], *, tools: Json = None
) -> list[int]:
    """The ids of a conversation that ends with the assistant's begun turn, up to where the body of a call begins.

    Whatever the template writes between the turn's text and the body is part of them, the opening delimiter at last.

    Raises:
        EndpointError: the server is gone, or has no template.
        RequestRefused: the template writes no calls, or in none of these dialects.

    """
    before, turn, _, body = await _called(endpoint, messages, dialects, tools)
    return before + await endpoint.tokenize(turn[:body])


async def calling_dialect(endpoint: Endpoint, dialects: Sequence[Dialect]) -> Dialect:
    """The first of these dialects that reads the calls of the template.

    Raises:
        EndpointError: the server is gone, or has no template.
        RequestRefused: the template writes no calls, or in none of these dialects.

    """
    messages = [_QUESTION, {"role": "assistant", "content": ""}]
    return (await _called(endpoint, messages, dialects, None))[2]


async def _called(
    endpoint: Endpoint, messages: Sequence[Json], dialects: Sequence[Dialect], tools: Json
) -> tuple[list[int], str, Dialect, int]:
    """The ids before the last turn, its text with a made-up call, the dialect of that, and where the body begins."""
    *before, begun = messages
    turn = {**begun, "tool_calls": [*(begun.get("tool_calls") or ()), _call(_IDS[0])]}
    asked = await endpoint.tokenize(messages=before, tools=tools)
    whole = await endpoint.tokenize(messages=[*before, turn], answered=True, tools=tools)
    # A template may open thinking where an answer begins, and not in one that is complete.
    same = next((at for at, pair in enumerate(zip(asked, whole, strict=False)) if pair[0] != pair[1]), len(asked))
    text = await endpoint.detokenize(whole[same:])
    found = next(((dialect, body) for dialect in dialects for body in _bodies(dialect, text)), None)
    if found is None:
        raise RequestRefused(NO_CALLS, text[-200:])
    return whole[:same], text, *found


def _bodies(dialect: Dialect, text: str) -> Iterator[int]:
    """Where the body of the made-up call begins, if the dialect reads it."""
    for call in dialect.segment(text).calls:
        read = call.body
        if read and read.name == _TOOL and read.arguments == {_KEY: _ASKED} and call.body_start is not None:
            yield call.body_start


async def template_wording(endpoint: Endpoint, *, ends: Sequence[str]) -> Wording:
    """How the template writes results behind a turn that ends with the first of these tokens that stands there.

    Raises:
        EndpointError: the server is gone, or has no template.
        RequestRefused: the template writes no results, or not so that it can be said again.

    """
    content = _SET_OFF + _MARK + _ANSWERS[0] + _MARK + _SET_OFF
    text = await _answered(endpoint, content)
    trims, quoted, result = _form(text, content)
    before, _, tail = text.rpartition(result)
    mark = _ASKED if _ASKED in before else _SAID
    start = before.rfind(mark) + len(mark)
    found = [(before.find(end, start), -len(end)) for end in ends if end and before.find(end, start) >= 0]
    if not found:
        raise RequestRefused(NO_END, before[start:])
    place, size = min(found)
    head = before[place - size :].replace(_TOOL, NAME)
    if any(each in head + tail for each in _IDS):
        raise RequestRefused(CALL_IDS, head)
    between = await _between(endpoint, trims=trims, quoted=quoted)
    return Wording(head, between, tail, "turn", "template", trims, quoted)


async def _answered(endpoint: Endpoint, content: str) -> str:
    """A conversation with a result: of a call, or where the template leaves calls out, of a turn without one."""
    why = ""
    for mark, said in ((_ASKED, _calling(1)), (_SAID, {"role": "assistant", "content": _SAID})):
        try:
            text = await _rendered(endpoint, [said, _result(0, content)])
        except RequestRefused as refusal:
            why = refusal.detail or refusal.reason
        else:
            if mark in text and _ANSWERS[0] in text:
                return text
    raise RequestRefused(NO_RESULTS, why)


def _form(text: str, content: str) -> tuple[str, bool, str]:
    """How a result is written: what it loses at its ends, whether it is quoted, and that text."""
    for trims in ("", BLANKS):
        for quoted in (True, False):
            result = as_written(content, trims=trims, quoted=quoted)
            if text.count(result) == 1:
                return trims, quoted, result
    raise RequestRefused(NO_RESULTS, text[-200:])


async def _between(endpoint: Endpoint, *, trims: str, quoted: bool) -> str | None:
    """What the template writes between two results; None where it refuses so many, or gives no names beside them."""
    try:
        text = await _rendered(endpoint, [_calling(2), *(_result(index, _ANSWERS[index]) for index in (0, 1))])
    except RequestRefused:
        return None
    first, second = (as_written(answer, trims=trims, quoted=quoted) for answer in _ANSWERS)
    behind = text.partition(first)[2]
    between, found, _ = behind.partition(second)
    return between.replace(_TOOL, NAME) if found and not any(each in between for each in _IDS) else None


async def _rendered(endpoint: Endpoint, said: Sequence[Json]) -> str:
    return await endpoint.detokenize(await endpoint.tokenize(messages=[_QUESTION, *said]))


def _call(name: str) -> Json:
    return {"id": name, "type": "function", "function": {"name": _TOOL, "arguments": f'{{"{_KEY}": "{_ASKED}"}}'}}


def _calling(calls: int) -> Json:
    return {"role": "assistant", "content": "", "tool_calls": [_call(name) for name in _IDS[:calls]]}


def _result(index: int, content: str) -> Json:
    return {"role": "tool", "tool_call_id": _IDS[index], "name": _TOOL, "content": content}
