"""Calls of a model in the order in which they were made, put together as conversations: for logs that hold requests.

An agent's next request usually repeats everything before it, so the last one tells the whole conversation; but which
messages the policy wrote, and which tokens, is known from each call alone. A call that does not
begin with the prompt of an earlier one begins a conversation of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gapscope.rollouts import Json, Tokens
from gapscope.rows import RowError
from gapscope.shapes.conversations import Message, message_of
from gapscope.shapes.token_logprobs import said_tokens

_MOST_OPEN = 64
"""Conversations of one session that a call is compared with, the latest first."""

_MOST_TOKENS = 2**31

BROKEN_TOKENS = "tokens_are_not_one_sequence"
"""The note on a conversation whose prompts do not repeat the earlier tokens, so that there is no one sequence."""


class ModelCall(NamedTuple):
    """One call: the messages and tokens that the model was given, and those that it wrote.

    `strings` are the texts of the tokens that it wrote, where their ids are not logged; `entropies` are lower bounds.
    """

    messages: Sequence[Json]
    said: Json
    prompt_ids: Sequence[int] = ()
    ids: Sequence[int] = ()
    logprobs: Sequence[float | None] | None = None
    finish_reason: str | None = None
    policy_version: str | None = None
    strings: Sequence[str] | None = None
    entropies: Sequence[float | None] | None = None

    def with_said(self, content: Json) -> "ModelCall":
        """The call with the log-probs of its tokens, from a `logprobs.content`.

        Raises:
            RowError: it lists something else.

        """
        said = said_tokens(content)
        if said is None:
            return self
        known = said.logprobs if said.logprobs.count(None) < len(said.logprobs) else None
        return self._replace(
            ids=self.ids or said.ids or (), logprobs=known, strings=said.strings, entropies=said.entropies
        )


def conversations_in(calls: Sequence[ModelCall]) -> list[list[ModelCall]]:
    """The calls by conversation: each continues the latest one whose prompt, and an answer, it begins with."""
    found: list[list[ModelCall]] = []
    for call in calls:
        open_ones = reversed(found[-_MOST_OPEN:])
        continued = next((each for each in open_ones if _continues(call, each[-1])), None)
        if continued is None:
            found.append([call])
        else:
            continued.append(call)
    return found


def _continues(call: ModelCall, earlier: ModelCall) -> bool:
    before = len(earlier.messages)
    if len(call.messages) <= before or call.messages[:before] != earlier.messages:
        return False
    # Clients send the answer back with fields left out, so that its words are not compared.
    answer = call.messages[before]
    return isinstance(answer, dict) and answer.get("role") == "assistant"


class Transcript(NamedTuple):
    """The messages of one conversation, and which of them the policy wrote."""

    messages: list[Message]
    sampled: list[bool]


def transcript_of(calls: Sequence[ModelCall]) -> Transcript:
    """What was said in one conversation, each answer as the model gave it.

    Raises:
        RowError: something is no message.

    """
    messages: list[Message] = []
    sampled: list[bool] = []
    before = 0
    for call in calls:
        new = [message_of(item) for item in call.messages[before:]]
        messages += [*new, message_of(call.said)]
        sampled += [*(False for _ in new), True]
        before = len(call.messages) + 1
    return Transcript(messages, sampled)


def tokens_of(calls: Sequence[ModelCall], *, source: str) -> Tokens | None:
    """The tokens of one conversation as one sequence; None where there is none, or where it is not one.

    Without the tokens of its prompts a conversation is one sequence only if it is one call.

    Raises:
        RowError: a call has more or fewer log-probs than tokens, or its answer is no message.

    """
    by_ids = all(call.ids and call.prompt_ids for call in calls)
    if not by_ids and (len(calls) != 1 or _is_content_alone(calls[0])):
        return None
    ids: list[int] = []
    strings: list[str] = []
    logprobs: list[float | None] = []
    entropies: list[float | None] = []
    sampled: list[bool] = []
    for call in calls:
        written = call.ids if by_ids else call.strings or ()
        for name, values in (("log-probs", call.logprobs), ("entropies", call.entropies)):
            if written and values and len(values) != len(written):
                message = f"{len(values)} {name} for {len(written)} tokens of a completion"
                raise RowError(message)
        if list(call.prompt_ids[: len(ids)]) != ids:
            return None
        given = call.prompt_ids[len(ids) :] if by_ids else ()
        ids += [*given, *call.ids] if by_ids else ()
        strings += () if by_ids else call.strings or ()
        logprobs += [*[None] * len(given), *(call.logprobs or [None] * len(written))]
        entropies += [*[None] * len(given), *(call.entropies or [None] * len(written))]
        sampled += [False] * len(given) + [True] * len(written)
    if not sampled:
        return None
    known, bounded = (values.count(None) < len(values) for values in (logprobs, entropies))
    return Tokens(
        ids or None,
        n_prompt=len(calls[0].prompt_ids) if by_ids else 0,
        logprobs=logprobs if known else None,
        logprob_source=source if known else None,
        entropies=entropies if bounded else None,
        entropy_kind="topk" if bounded else None,
        sampled=sampled,
        strings=strings or None,
    )


def _is_content_alone(call: ModelCall) -> bool:
    """Whether the texts of the tokens are the content, and leave out a reasoning or calls, as OpenAI's own API does."""
    message = None if call.said is None or call.strings is None else message_of(call.said)
    if message is None or not (message.reasoning or message.calls):
        return False
    return "".join(call.strings or ()).strip() == message.content.strip()


def has_tokens(call: ModelCall) -> bool:
    """Whether the log has the tokens that the model wrote, by their ids or texts."""
    return bool(call.ids or call.strings)


def whole_numbers(item: Json) -> list[int]:
    """A list of token ids; empty for anything else."""
    is_one = isinstance(item, list) and all(type(token) is int and 0 <= token < _MOST_TOKENS for token in item)
    return item if is_one else []


def logprobs_in(item: Json) -> list[float | None] | None:
    """A list of log-probs, which may have gaps; None for anything else and for an empty one."""
    if not isinstance(item, list) or not item:
        return None
    if not all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in item):
        return None
    try:
        return [None if value is None else float(value) for value in item]
    except OverflowError:
        return None
