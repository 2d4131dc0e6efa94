"""The tokens and the chat templates of the vLLM double: ids for text, text for ids, messages as one text.

Ids below 256 are bytes, so ASCII is itself. `MARKED` has on top the markers of Qwen's chats as one token each, three
merges, which make that text can be spelled in several ways, and padded ids, which have no text at all.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Message = dict[str, Any]

BEGIN = 1
"""The token that the template of ASCII writes before a message."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
KEPT = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""One token each like the special ones, and text like any other."""
MERGES = ("\n\n", "ab", ">\n")
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"

_TAG = "HERE THE FINAL MESSAGE GOES ON"


class Tokens:
    """A vocabulary: the bytes, then `words`, then ids without a text up to `size`."""

    def __init__(self, words: Sequence[str] = (), special: Iterable[str] = (), size: int = 256) -> None:
        self.size = size
        self.spellings = [bytes([byte]) for byte in range(256)] + [word.encode() for word in words]
        self.known = len(self.spellings)
        self.spellings += [b""] * (size - self.known)
        self.ids = {word: 256 + number for number, word in enumerate(words)}
        self.special = frozenset(self.ids[word] for word in special)
        self.end = self.ids.get("<|im_end|>", 0)
        self.strings = [spelling.decode("utf-8", "replace") for spelling in self.spellings]
        self._words = re.compile(f"({'|'.join(map(re.escape, words))})") if words else None

    @property
    def padded(self) -> range:
        """Ids that the model can sample, and that spell nothing."""
        return range(self.known, self.size)

    def encode(self, text: str) -> list[int]:
        """The ids of a text: words are taken from the left, before bytes."""
        if self._words is None:
            return list(text.encode())
        ids: list[int] = []
        for piece in self._words.split(text):
            word = self.ids.get(piece)
            if word is None:
                ids += piece.encode()
            else:
                ids.append(word)
        return ids

    def spelled(self, ids: Iterable[int], *, skip_special: bool = False) -> list[bytes]:
        """What each token adds to the text."""
        if not skip_special:
            return [self.spellings[token] for token in ids]
        return [b"" if token in self.special else self.spellings[token] for token in ids]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        return b"".join(self.spelled(ids, skip_special=skip_special)).decode("utf-8", "replace")

    def string(self, token: int) -> str:
        """One token as log-probs show it."""
        return self.strings[token]


class Cannot(Exception):
    """The template cannot write these messages, with the server's words."""


def parts(content: Any) -> list[Message]:
    """A message's content as a list of parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content or []


def _body(content: Any) -> str:
    return "".join(IMAGE if part["type"] == "image_url" else part["text"] for part in parts(content))


def _assistant(message: Message, *, after_user: bool, last: bool) -> str:
    text: str = _body(message.get("content"))
    thought: str | None = message.get("reasoning", message.get("reasoning_content"))
    if thought is None:
        thought, closed, _ = text.partition("</think>")
        thought = thought.rstrip("\n").rpartition("<think>")[2].lstrip("\n") if closed else ""
        text = text.rpartition("</think>")[2].lstrip("\n") if closed else text
    if after_user and (last or thought):
        stripped, rest = thought.strip("\n"), text.lstrip("\n")
        text = f"<think>\n{stripped}\n</think>\n\n{rest}"
    calls = []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = json.dumps(json.loads(function["arguments"]))
        calls.append(f'\n<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>')
    return text + "".join(calls)


def _system(messages: list[Message], tools: Sequence[Message]) -> str:
    own = _body(messages[0].get("content")) if messages[0]["role"] == "system" else ""
    if not tools:
        return f"<|im_start|>system\n{own}<|im_end|>\n" if own else ""
    listed = "".join(f"\n{json.dumps(tool)}" for tool in tools)
    own = f"{own}\n\n" if own else ""
    asked = 'Call a tool with <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>.'
    return f"<|im_start|>system\n{own}# Tools\n\n<tools>{listed}\n</tools>\n\n{asked}<|im_end|>\n"


def qwen(messages: list[Message], tools: Sequence[Message] = ()) -> str:
    """Messages as a template in Qwen's manner writes them, thoughts of earlier answers left out.

    The last answer always begins with a think block, which is empty where its text has no `</think>`: a thought that
    is not finished yet is put behind an empty one.
    """
    asked = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=-1)
    roles = [None, *(message["role"] for message in messages), None]
    written = [_system(messages, tools)]
    for number, message in enumerate(messages):
        before, role, behind = roles[number : number + 3]
        if role == "user" or (role == "system" and number):
            written.append(f"<|im_start|>{role}\n{_body(message.get('content'))}<|im_end|>\n")
        elif role == "assistant":
            text = _assistant(message, after_user=number > asked, last=behind is None)
            written.append(f"<|im_start|>assistant\n{text}<|im_end|>\n")
        elif role == "tool":
            opened = "<|im_start|>user" if before != "tool" else ""
            closed = "<|im_end|>\n" if behind != "tool" else ""
            written.append(f"{opened}\n<tool_response>\n{_body(message.get('content'))}\n</tool_response>{closed}")
    return "".join(written)


def continued(messages: list[Message], tools: Sequence[Message] = ()) -> str:
    """The same up to the end of the last message's content.

    Raises:
        Cannot: there is no content, or the template does not write it as it is.

    """
    *earlier, last = messages
    content = last.get("content")
    if content is None:
        said = 'continue_final_message is set but the final message has no "content" to continue!'
        raise Cannot(said)
    texts = [part["text"] for part in parts(content) if part["type"] == "text"]
    if not texts:
        said = "continue_final_message is set but we could not find any text to continue in the final message!"
        raise Cannot(said)
    images = [part for part in parts(content) if part["type"] != "text"]
    marked = {**last, "content": [*images, {"type": "text", "text": texts[-1] + _TAG}]}
    written = qwen([*earlier, marked], tools)
    if texts[-1].strip() not in written or _TAG not in written:
        said = (
            "continue_final_message is set but the final message does not appear in the chat after applying the "
            "chat template! This can happen if the chat template deletes portions of the final message."
        )
        raise Cannot(said)
    return written[: written.rindex(_TAG)]


def chat(
    messages: list[Message],
    tools: Sequence[Message] = (),
    *,
    generation_prompt: bool,
    go_on: bool,
    thinking: bool = True,
) -> str:
    """Qwen's chat as one text.

    Raises:
        Cannot: these messages cannot be written so.

    """
    if go_on:
        return continued(messages, tools)
    empty = "" if thinking else "<think>\n\n</think>\n\n"
    return qwen(messages, tools) + (f"<|im_start|>assistant\n{empty}" if generation_prompt else "")


def begun(
    messages: list[Message],
    tools: Sequence[Message] = (),
    *,
    generation_prompt: bool,
    go_on: bool,
    thinking: bool = True,
) -> str:
    """The template of ASCII: every message behind a BEGIN, and one more before an answer."""
    return "".join(f"{chr(BEGIN)}{_spoken(message)}" for message in messages) + chr(BEGIN) * generation_prompt


def _spoken(message: Message) -> str:
    thought = f"<think>{message['reasoning']}</think>" if "reasoning" in message else ""
    functions = [call["function"] for call in message.get("tool_calls", ()) if call["id"]]
    calls = (json.dumps(each | {"arguments": json.loads(each["arguments"])}) for each in functions)
    content: str = message["content"]
    return thought + content + "".join(f"<tool_call>{call}</tool_call>" for call in calls)


class Language(NamedTuple):
    """What a model reads: its tokens, and how messages become one text."""

    tokens: Tokens
    template: Callable[..., str]


MARKED = Tokens([*SPECIAL, *KEPT, *MERGES], SPECIAL, 320)
ASCII = Language(Tokens(), begun)
QWEN = Language(MARKED, chat)
