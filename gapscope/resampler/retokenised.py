"""A prefix that the log has as text or messages, as token ids: the server's template and tokenizer write them again.

A prompt that was logged as the model read it is tokenised as it is. Of messages the template writes everything up to
where the assistant's turn begins, and the turn's text follows verbatim: to have the template write the begun turn
itself would be another text wherever it rewrites thinking or blanks. A turn that was logged as messages with calls
apart from the text is written by the template up to where the body of the call begins.
"""

import re
from collections.abc import Sequence

from gapscope.dialects import DIALECTS, dialect_named
from gapscope.plans import PlannedPrefix, PrefixContent
from gapscope.resampler.chat_messages import chat_messages, chat_tools
from gapscope.resampler.spelling import SPECIAL
from gapscope.resampler.template import opening_delimiter, prompt_ids
from gapscope.resampler.wording import own_wording
from gapscope.rollouts import Json
from gapscope.rows import RowError
from gapscope.serving.transport import RequestRefused
from gapscope.serving.vllm import Endpoint
from gapscope.shapes.conversations import messages_of, prompt_text

UNTOLD = "the plan has neither messages nor a prompt of this prefix"
ROLES_LOST = "the prompt has lost the special tokens that part its messages, and they cannot be told apart"
TURNS_LOST = "the text before the call has other turns, and no special tokens that part them"
OTHER_THINKING = "the server's template opens the assistant's turn otherwise than the trainer's: the thinking differs"
NO_TEXT = "the server takes text alone, and the plan has no text of its prompt as the model read it"

_THINK, _THOUGHT = "<think>", "</think>"
_ROLE = re.compile(r"(?:^|(?<=\n))(system|user|assistant|tool)(?:\n|\Z)")
_ORDER = re.compile(r"s?u(?:a(?:u|t+))*a")
"""A conversation up to the assistant's turn, by the first letters of its roles."""
_HEADERS = re.compile(r"\A(?:system|user)\n|assistant\s*\Z")


async def text_ids(endpoint: Endpoint, prefix: PlannedPrefix, images: Sequence[bytes] = ()) -> list[int]:
    """The ids of a prefix that has none, as the server tokenises it; the `images` stand in its messages.

    Raises:
        EndpointError: the server is gone.
        RequestRefused: it cannot be written as one sequence, with the reason.

    """
    frozen = prefix.prefix
    messages = _messages(frozen)
    if not frozen.delimited:
        if messages is None:
            raise RequestRefused(UNTOLD)
        asked = chat_messages(messages, images)
        return await opening_delimiter(endpoint, asked, DIALECTS, tools=chat_tools(prefix.tools))
    _require_whole(prefix)
    prompt, tools = _read_prompt(frozen), None
    if prompt is not None:
        ids = await endpoint.tokenize(prompt, begins=SPECIAL.search(prompt) is None)
        return ids + await endpoint.tokenize(frozen.text)
    if messages is not None:
        tools = chat_tools(prefix.tools)
    else:
        messages = _roles_of(frozen.prompt or "")
        if messages is None:
            raise RequestRefused(ROLES_LOST if frozen.prompt else UNTOLD)
    asked, begun = chat_messages(messages, images), ""
    if asked[-1]["role"] == "assistant" and isinstance(asked[-1]["content"], str):
        begun = asked.pop()["content"]
    before = await prompt_ids(endpoint, asked, tools=tools)
    opened = (await endpoint.detokenize(before[-8:])).rstrip().endswith(_THINK)
    return before + await endpoint.tokenize(_behind(begun + frozen.text, opened=opened))


def text_of(prefix: PlannedPrefix) -> str:
    """The prefix as one text, for servers that take no ids and write no messages.

    Raises:
        RequestRefused: it is not in the log.

    """
    frozen = prefix.prefix
    prompt = _read_prompt(frozen) if frozen.delimited else None
    if prompt is None:
        raise RequestRefused(NO_TEXT)
    _require_whole(prefix)
    return prompt + frozen.text


def is_made_of_messages(frozen: PrefixContent) -> bool:
    """Whether the prompt's text was put together from messages when the log was read, and no model has read it."""
    messages = _messages(frozen)
    if messages is None or frozen.prompt is None:
        return False
    try:
        return prompt_text(messages_of(messages)).startswith(frozen.prompt)
    except RowError:
        return False


def _messages(frozen: PrefixContent) -> list[Json] | None:
    return frozen.messages if isinstance(frozen.messages, list) and frozen.messages else None


def _read_prompt(frozen: PrefixContent) -> str | None:
    """The prompt as the model has read it: with its special tokens, or a base model's; None where it is neither."""
    prompt = frozen.prompt
    if not prompt or is_made_of_messages(frozen):
        return None
    if SPECIAL.search(prompt):
        return prompt
    return None if _messages(frozen) is not None or _HEADERS.search(prompt) else prompt


def _require_whole(prefix: PlannedPrefix) -> None:
    """The text may have several turns only with what stands between them.

    Raises:
        RequestRefused: it has them without.

    """
    text = prefix.prefix.text
    if prefix.dialect is None or SPECIAL.search(text):
        return
    dialect = dialect_named(prefix.dialect)
    own = own_wording(dialect)
    if own is not None and own.ended_by == "call":
        return
    told = not all(span.sampled for span in dialect.segment(text).spans)
    if told or prefix.call > 1:
        raise RequestRefused(TURNS_LOST)


def _roles_of(prompt: str) -> list[Json] | None:
    """The messages of a prompt that was decoded without its special tokens; None where it is no such prompt."""
    marks = list(_ROLE.finditer(prompt))
    if not marks or marks[0].start() or not _ORDER.fullmatch("".join(mark[1][0] for mark in marks)):
        return None
    ends = [mark.start() for mark in marks[1:]]
    messages: list[Json] = [
        {"role": mark[1], "content": prompt[mark.end() : end].removesuffix("\n")}
        for mark, end in zip(marks, ends, strict=False)
    ]
    begun = prompt[marks[-1].end() :]
    return messages if not begun.strip() else [*messages, {"role": "assistant", "content": begun}]


def _behind(text: str, *, opened: bool) -> str:
    """The turn's text behind what the template writes, which may have `opened` its thinking.

    Raises:
        RequestRefused: the one is within thinking, and the other is not.

    """
    if text.lstrip().startswith(_THINK):
        return text.lstrip().removeprefix(_THINK).lstrip("\n") if opened else text
    head, closed, _ = text.partition(_THOUGHT)
    if (bool(closed) and _THINK not in head) != opened:
        raise RequestRefused(OTHER_THINKING)
    return text
