"""Messages as one sequence of token ids, by the model's own chat template: for logs that hold messages and no tokens.

The server renders the conversation up to each of the policy's turns, and with it: what the turn adds is what the policy
wrote. A template that writes earlier turns otherwise once others follow gives no one sequence, and is refused.
"""

from collections.abc import Iterator

from gapscope.rollouts import Json, Rollout, Tokens
from gapscope.rows import RowError
from gapscope.serving.transport import RequestRefused
from gapscope.serving.vllm import Endpoint
from gapscope.shapes.conversations import json_text, messages_of, prompt_text

UNTOLD = "the messages of their prompt are not logged"
UNREADABLE = "a call of theirs has no name, so that no template can write it"
REWRITTEN = "the template writes their earlier turns otherwise once others follow"


async def rendered(rollout: Rollout, endpoint: Endpoint) -> Tokens:
    """The tokens of a rollout whose log held messages, as the server's template writes and tokenises them.

    Raises:
        EndpointError: the server is gone, or has no template.
        RequestRefused: the conversation cannot be written as one sequence, with the reason.

    """
    messages: list[Json] = list(_asked(rollout))
    ids: list[int] = []
    sampled: list[bool] = []
    n_prompt = None
    for message in said(rollout):
        if message["role"] != "assistant":
            messages.append(message)
            continue
        before = await endpoint.tokenize(messages=messages)
        messages.append(message)
        whole = await endpoint.tokenize(messages=messages, answered=True)
        if before[: len(ids)] != ids or whole[: len(before)] != before:
            raise RequestRefused(REWRITTEN)
        sampled += [False] * (len(before) - len(ids)) + [True] * (len(whole) - len(before))
        n_prompt = len(before) if n_prompt is None else n_prompt
        ids = whole
    return Tokens(ids, n_prompt, sampled=sampled, retokenised=True)


def _asked(rollout: Rollout) -> list[Json]:
    """The messages of the prompt, if those that were logged are these and no others."""
    messages = rollout.messages
    try:
        if isinstance(messages, list) and prompt_text(messages_of(messages)) == rollout.prompt:
            return messages
    except RowError:
        pass
    raise RequestRefused(UNTOLD)


def said(rollout: Rollout) -> Iterator[dict[str, Json]]:
    """The messages after the prompt, out of the text that they were joined into.

    Raises:
        RequestRefused: a call has no name.

    """
    structured = {call.span: call for call in rollout.calls if call.span is not None}
    answered = {call.result_span: call.index for call in rollout.calls if call.result_span is not None}
    answer: dict[str, Json] = {}
    turn = None
    for index, span in enumerate(rollout.spans):
        text = rollout.output[span.start : span.end]
        if not span.sampled or span.turn != turn:
            if answer:
                yield _closed(answer)
            answer, turn = {}, span.turn
        if not span.sampled:
            # Each was joined with a line end behind it.
            said: dict[str, Json] = {"role": "user", "content": text.removesuffix("\n")}
            if span.kind == "tool_result":
                said |= {"role": "tool", "tool_call_id": _id(answered.get(index, 0))}
            yield said
            turn = None
            continue
        answer = answer or {"role": "assistant", "content": ""}
        call = structured.get(index)
        if span.kind == "think" and not answer["content"] and not text.lstrip().startswith("<"):
            # The name that /tokenize knows; it drops `reasoning_content`.
            answer["reasoning"] = text.removesuffix("\n")
        elif call is not None and text.removesuffix("\n") == call.raw:
            if call.name is None:
                raise RequestRefused(UNREADABLE)
            function = {"name": call.name, "arguments": json_text(call.arguments)}
            listed = {"id": _id(call.index), "type": "function", "function": function}
            answer.setdefault("tool_calls", []).append(listed)
        else:
            answer["content"] += text
    if answer:
        yield _closed(answer)


def _id(call: int) -> str:
    """A name for a call, which the API wants and templates leave out."""
    return f"call_{call}"


def _closed(answer: dict[str, Json]) -> dict[str, Json]:
    return answer | {"content": answer["content"].removesuffix("\n")}
