"""Items of OpenAI's Responses API as messages: what one generation wrote is one message, its calls among it.

The items of one generation (reasoning, text, calls) stand beside one another, and nothing in them says where the next
generation begins: a text or reasoning after a text or a call begins one, unless an answer to a call is still to come.
"""

from collections.abc import Mapping, Sequence

from gapscope.rollouts import Image, Json
from gapscope.rows import RowError
from gapscope.shapes.conversations import Call, Message, json_text, message_of, structured_call

LAST_OF_A_GENERATION = "generation_token_ids"
"""A key that trainers add to the last item of each generation."""

_ARGUMENTS = ("input", "action", "code", "query", "queries", "operation", "actions")
_INLINE_RESULTS = ("output", "outputs", "result", "results")


def messages_of_items(items: Json, *, name: str) -> list[Message]:
    """The messages in a list of items; a string is one message of the user.

    Raises:
        RowError: it is neither, or one of the items is no object.

    """
    if isinstance(items, str):
        return [Message("user", items)]
    if not isinstance(items, list):
        fault = f"`{name}` is {type(items).__name__}, expected a list of items"
        raise RowError(fault)
    for item in items:
        if not isinstance(item, dict):
            fault = f"an item of `{name}` is {item!r:.60}, expected an object"
            raise RowError(fault)
    return _Telling(items).messages


def asked_in(instructions: Json, items: Json) -> list[Json]:
    """What was asked: the instructions as the system's message, and behind it the items as they were logged."""
    told = [{"role": "user", "content": items}] if isinstance(items, str) else items if isinstance(items, list) else []
    return [{"role": "system", "content": instructions}, *told] if isinstance(instructions, str) else told


class _Telling:
    """The items of a conversation, taken one after another; `messages` are those that are complete."""

    def __init__(self, items: Sequence[Mapping[str, Json]]) -> None:
        self.messages: list[Message] = []
        self._answered_at = {_call_id(item): index for index, item in enumerate(items) if _is_answer(item)}
        self._begin()
        for index, item in enumerate(items):
            self._take(item, index)
            if LAST_OF_A_GENERATION in item:
                self._finish()
        self._finish()

    def _begin(self) -> None:
        self._thoughts: list[str] = []
        self._texts: list[str] = []
        self._calls: list[Call] = []
        self._images: list[Image] = []

    def _finish(self) -> None:
        if self._thoughts or self._texts or self._calls:
            self.messages.append(
                Message(
                    "assistant",
                    "\n".join(text for text in self._texts if text),
                    "\n".join(thought for thought in self._thoughts if thought),
                    tuple(self._calls),
                    images=tuple(self._images),
                ),
            )
            self._begin()

    def _take(self, item: Mapping[str, Json], index: int) -> None:
        kind = _kind(item)
        own = kind == "message" and item.get("role") == "assistant"
        if own or kind == "reasoning":
            if (self._texts or self._calls) and not self._waits(index):
                self._finish()
            if own:
                self._say(message_of(item))
            else:
                self._thoughts.append(_reasoning(item))
        elif kind.endswith("_call"):
            self._calls.append(_call(item, kind))
            if inline := _inline_result(item):
                self._finish()
                self.messages.append(inline)
        else:
            self._finish()
            self.messages.append(_answer(item) if _is_answer(item) else _said_by_others(item, kind))

    def _waits(self, index: int) -> bool:
        """Whether a call of this generation is answered after the item at `index`."""
        return any(self._answered_at.get(call.id, -1) > index for call in self._calls if call.id is not None)

    def _say(self, message: Message) -> None:
        if message.reasoning:
            self._thoughts.append(message.reasoning)
        self._texts.append(message.content)
        self._calls += message.calls
        self._images += message.images


def _call(item: Mapping[str, Json], kind: str) -> Call:
    """A call of a function, or of a tool that the model's maker hosts, which is named after its type."""
    name = item.get("name")
    if "arguments" in item:
        arguments = item["arguments"]
    else:
        arguments = {key: item[key] for key in _ARGUMENTS if item.get(key) is not None}
    failed = item.get("status") == "failed" or bool(item.get("error"))
    named = name if kind in _NAMED_CALLS or isinstance(name, str) else kind.removesuffix("_call")
    return structured_call(named, arguments, id=_call_id(item), fault="executed_error" if failed else None)


_NAMED_CALLS = frozenset({"function_call", "custom_tool_call", "mcp_call"})


def _kind(item: Mapping[str, Json]) -> str:
    """The item's type, which messages may leave out."""
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    return "message" if "role" in item else ""


def _call_id(item: Mapping[str, Json]) -> str | None:
    name = item.get("call_id") or item.get("id")
    return name if isinstance(name, str) else None


def _is_answer(item: Mapping[str, Json]) -> bool:
    return _kind(item).endswith(("_call_output", "_search_output"))


def _answer(item: Mapping[str, Json]) -> Message:
    text, images = _text(item.get("output"))
    return Message("tool", text, call_id=_call_id(item), images=images)


def _inline_result(item: Mapping[str, Json]) -> Message | None:
    """The answer that a call of a hosted tool carries itself."""
    content = next((item[key] for key in _INLINE_RESULTS if item.get(key) is not None), item.get("error"))
    if content is None:
        return None
    text, images = _text(content)
    return Message("tool", text, call_id=_call_id(item), images=images)


def _text(content: Json) -> tuple[str, tuple[Image, ...]]:
    message = message_of({"role": "tool", "content": content})
    return message.content, message.images


def _reasoning(item: Mapping[str, Json]) -> str:
    """The reasoning itself, or the summary of it where the model's maker keeps it back."""
    for key in ("content", "summary"):
        parts = item.get(key)
        if isinstance(parts, str):
            return parts
        if isinstance(parts, list):
            texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
            if any(texts):
                return "\n".join(texts)
    return ""


def _said_by_others(item: Mapping[str, Json], kind: str) -> Message:
    """A message of the user or the system, or an item that is none of the policy's words, as JSON."""
    return message_of(item) if kind == "message" else Message("environment", json_text(item))
