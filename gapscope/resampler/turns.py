"""One continuation: turn by turn from the frozen prefix to the answer, with its calls executed in between.

It goes as the trainer's own rollouts went: where generation stops, how results are written and what becomes of a call
that cannot be read are given (`Manner`), and the limits of turns and tokens are those of the plan.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from gapscope.dialects.base import Dialect
from gapscope.outcomes import FoundCall
from gapscope.plans import PlannedPrefix
from gapscope.resampler.left_out import ended_with, require_delimiters, stopped_at
from gapscope.resampler.sampling import IMAGE, Ask, Context, Guarantee, NotSampled, Sampled, Sampler
from gapscope.resampler.wording import Wording, turn_ends, written
from gapscope.tools.base import Call, Session, ToolResult, failed

Finish = Literal["stop", "length", "turn_limit"]
"""Why a continuation ended: the policy had said all, or the limit of tokens or of turns was reached."""

NO_GRAMMAR_KEPT = "the server does not keep to the grammar that the plan asks for"

_SEEDS = 2**31


class Manner(NamedTuple):
    """How the trainer's environment behaves, as far as a continuation depends on it.

    `wording` is how results are written. `stop` are texts at which generation stops, none where the policy ends its
    turns itself. Of the calls of a turn the first `most_calls` are executed, all where it is None. A malformed call
    `ends` the rollout or it `continues`: a turn with no other one is answered with `complaint`, or where nothing shows
    what a trainer says then, with a result that says so. `grammar` binds the resampled call.
    """

    dialect: Dialect
    wording: Wording
    stop: tuple[str, ...] = ()
    malformed: Literal["ends", "continues"] = "ends"
    complaint: str | None = None
    most_calls: int | None = None
    grammar: str | None = None


class Continued(msgspec.Struct, kw_only=True):
    """A continuation that came to its end.

    `text` is all that follows the prefix, and `ids` its tokens; `mask` is true where the policy wrote the token, and
    there natural `logprobs` are. `prefix_ids` are those that were continued. `calls` were executed, `failures` of them
    with an error for an answer. `images` are all that the policy has seen, encoded.
    """

    text: str
    ids: list[int] | None
    mask: list[bool] | None
    logprobs: list[float | None] | None
    prefix_ids: list[int] | None
    finish: Finish
    guarantee: Guarantee
    turns: int
    sampled: int
    calls: int
    failures: int
    images: tuple[bytes, ...]


async def continued(prefix: PlannedPrefix, index: int, sampler: Sampler, tools: Session, manner: Manner) -> Continued:
    """Continuation number `index` (from 0) of a prefix.

    Raises:
        NotSampled: a turn is no sample, or the prefix cannot be continued here.
        ToolFailure: a tool can answer no call any more.

    """
    start = await sampler.begin(prefix)
    return await _Continuation(prefix, index, sampler, tools, manner, start).run()


def seed_of_turn(seed: int, turn: int) -> int:
    """The seed of a turn: the plan's own in the first, and one made of it in each later one, below 2³¹."""
    if turn == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{turn}".encode()).digest()[:8]) % _SEEDS


class _Continuation:
    """The state of one continuation: what the policy has read so far, and which tokens of that are its own."""

    def __init__(
        self,
        prefix: PlannedPrefix,
        index: int,
        sampler: Sampler,
        tools: Session,
        manner: Manner,
        start: Context,
    ) -> None:
        self.prefix = prefix
        self.seed = prefix.seeds[index]
        self.sampler = sampler
        self.tools = tools
        self.manner = manner
        self.start = self.context = start
        self.begins = self._beginning()
        self.mask: list[bool] = []
        self.logprobs: list[float | None] = []
        self.turn = 0
        self.sampled = 0
        self.calls = 0
        self.failures = 0

    async def run(self) -> Continued:
        """All turns."""
        while True:
            began = len(self.context.text)
            said = await self._say()
            if not said.ended:
                return self._ended("length")
            calls = self._calls(began)
            if self.turn == 0 and self.manner.grammar is not None and not any(map(_is_read, calls)):
                raise NotSampled(NO_GRAMMAR_KEPT)
            if not any(map(_is_read, calls)) and not (calls and self.manner.malformed == "continues"):
                return self._ended("stop")
            if self.turn + 1 == self.prefix.remaining_turns:
                return self._ended("turn_limit")
            if not said.whole:
                await self._restore(ended_with(self.context.text, self.manner.dialect, self.manner.wording))
            told = await self._tell(calls)
            if self._is_over_limit(told):
                return self._ended("length")
            self.context = told
            self.turn += 1

    def _beginning(self) -> int:
        """Where in the context the text begins that follows the plan's: what is frozen may end with more than that.

        Blanks may share the delimiter's last token. Where the log shows no delimiter, the template has written one.
        """
        text = self.start.text
        if self.prefix.prefix.delimited:
            return len(text) - _blanks(text) + _blanks(self.prefix.prefix.text)
        segments = self.manner.dialect.segment(text)
        call = segments.calls[-1] if segments.calls else None
        # A syntax without opening delimiters has nothing there yet.
        return len(text) if call is None or call.closed or call.span is None else segments.spans[call.span].start

    async def _say(self) -> Sampled:
        """Sample a turn, and note which tokens are the policy's."""
        ask = Ask(
            seed=seed_of_turn(self.seed, self.turn),
            max_tokens=self._room(self.context),
            stop=self.manner.stop,
            sampling=self.prefix.sampling,
            grammar=self.manner.grammar if self.turn == 0 else None,
        )
        said, self.context = await self.sampler.sample(self.context, ask)
        if said.ids is not None and self.context.ids is not None:
            told = len(self.context.ids) - len(said.ids) - self._n_start - len(self.mask)
            self.mask += [False] * told + [True] * len(said.ids)
            self.logprobs += [None] * told + (said.logprobs or [None] * len(said.ids))
            self.sampled += len(said.ids)
        if said.ended and not said.whole:
            require_delimiters(said.text, self.manner.dialect)
            output = self.prefix.prefix.text + self.context.text[self.begins :]
            await self._restore(stopped_at(output, self.manner.dialect, self.manner.stop))
        return said

    async def _restore(self, text: str) -> None:
        """Put back what the server has left out: it was the policy's, in tokens that nobody knows."""
        if text:
            self.context = await self.sampler.tell(self.context, text, [])

    @property
    def _n_start(self) -> int:
        return len(self.start.ids or ())

    def _room(self, context: Context) -> int | None:
        """Tokens that the output may still have; None where there is no limit, or they cannot be counted."""
        limit = self.prefix.remaining_tokens
        if limit is None or context.ids is None:
            return limit
        return limit - (len(context.ids) - self._n_start)

    def _is_over_limit(self, told: Context) -> bool:
        """Whether the results leave no token to the policy: trainers then end the rollout before them."""
        room = self._room(told)
        return room is not None and room < 1

    def _calls(self, began: int) -> list[FoundCall]:
        """The calls of the turn that begins at a character of the context: outside thinking, in order."""
        output = self.prefix.prefix.text + self.context.text[self.begins :]
        before = len(output) - len(self.context.text)
        first = self.prefix.prefix.branch_char if self.turn == 0 else began + before
        dialect = self.manner.dialect
        thinking = dialect.opens_thinking(self.prefix.prefix.prompt or "")
        found = dialect.segment(output, opens_in_thinking=thinking).calls
        return [
            call for call in found if not call.in_think and call.body_start is not None and call.body_start >= first
        ]

    async def _tell(self, calls: Sequence[FoundCall]) -> Context:
        """Execute the calls, and give the context with what comes of it."""
        manner = self.manner
        if manner.complaint is not None and not any(map(_is_read, calls)):
            return await self.sampler.tell(self.context, self._behind_turn(manner.complaint), [])
        due = calls if manner.malformed == "continues" else list(filter(_is_read, calls))
        due = due[: manner.most_calls]
        results = [await self._answer(call) for call in due]
        # A tool may give a text with a place for an image of its own, which is none of these.
        texts = [result.text.replace(IMAGE, "") + IMAGE * len(result.images) for result in results]
        names = [call.body.name if call.body is not None else "" for call in due]
        return await self.sampler.tell(self.context, self._behind_turn(written(manner.wording, texts, names)), results)

    async def _answer(self, call: FoundCall) -> ToolResult:
        if call.body is None or not call.closed:
            result = failed("the call could not be read")
        elif not isinstance(call.body.arguments, dict):
            result = failed(f"invalid arguments: expected an object, got {call.raw.strip()!r:.200}")
        else:
            result = await self.tools.call(Call(call.body.name, call.body.arguments, self.context.images))
            self.calls += 1
        self.failures += result.error
        return result

    def _behind_turn(self, text: str) -> str:
        """The text without the end of the turn, where the policy has sampled that: trainers differ in whose it is."""
        ends = turn_ends(self.manner.dialect)
        end = next((end for end in ends if self.context.text.endswith(end) and text.startswith(end)), "")
        return text.removeprefix(end)

    def _ended(self, finish: Finish) -> Continued:
        ids = self.context.ids
        known = ids is not None and self.start.ids is not None
        return Continued(
            text=self.context.text[self.begins :],
            ids=ids[self._n_start :] if ids is not None and known else None,
            mask=self.mask if known else None,
            logprobs=self.logprobs if known and any(value is not None for value in self.logprobs) else None,
            prefix_ids=self.start.ids if known else None,
            finish=finish,
            guarantee=self.context.guarantee,
            turns=self.turn + 1,
            sampled=self.sampled,
            calls=self.calls,
            failures=self.failures,
            images=self.context.images,
        )


def _is_read(call: FoundCall) -> bool:
    return call.closed and call.body is not None


def _blanks(text: str) -> int:
    """Blank characters at the end."""
    return len(text) - len(text.rstrip())
