"""Prefixes continued on a server: token ids in and out wherever it can do that, and else the best that it can.

What the server says about the tokens that it read is checked in every answer, and what cannot be checked is said.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from gapscope.plans import PlannedPrefix
from gapscope.resampler.retokenised import is_made_of_messages, text_ids, text_of
from gapscope.resampler.sampling import Ask, Context, Guarantee, NotSampled, Sampled
from gapscope.resampler.spelling import first_difference, shares_words
from gapscope.resampler.vision import NO_VISION, Vision, require_no_images, without_images
from gapscope.serving.served import Generated
from gapscope.serving.transport import OTHER_TOKENS, TOO_LONG, RequestRefused, RouteMissing
from gapscope.serving.vllm import Endpoint
from gapscope.tools.base import ToolResult

ABORTED = "aborted by the server"
CUT_OFF = "cut off at the end of the model's context"
PADDING = "a token that only pads the vocabulary was sampled"
OTHER_TOKENIZER = "the model's tokenizer spells the prefix otherwise than the log"
NO_END = "the server does not say that the policy, or the limit of tokens, has ended the turn"
NO_LIMIT = "neither the plan nor the server limits the tokens of an output: plan with --max-tokens"
NO_TOKENIZER = "the server cannot tokenise what a tool answers"

_ABORTS = 3
_PREFIXES_KEPT = 512


class ServerSampler:
    """Continues prefixes on a server; an asynchronous context manager.

    `images` is a folder with the images of plans whose log has none, found there by their SHA-256.

    Raises:
        EndpointError: the server cannot be reached, or lets nobody in.
        UnknownName: it has no such model.

    """

    def __init__(self, endpoint: Endpoint, *, images: Path | None = None) -> None:
        self.endpoint = endpoint
        self._vision = Vision(endpoint, images)
        self._longest: int | None = None
        self._known_ids: int | None = None
        self._tokenizes = True
        self._begun: OrderedDict[str, asyncio.Task[Context]] = OrderedDict()

    async def __aenter__(self) -> Self:
        self._longest = (await self.endpoint.card()).max_model_len
        self._tokenizes = await self.endpoint.tokenizes()
        if self._tokenizes:
            self._known_ids = await self.endpoint.tokenizer_size()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._begun.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def begin(self, prefix: PlannedPrefix) -> Context:
        """What is frozen of a prefix, checked; all its continuations share the work.

        Raises:
            NotSampled: it cannot be continued here, with the reason.

        """
        task = self._begun.get(prefix.id)
        if task is None:
            task = self._begun[prefix.id] = asyncio.create_task(self._begin(prefix))
            if len(self._begun) > _PREFIXES_KEPT:
                self._begun.popitem(last=False)
        return await asyncio.shield(task)

    async def _begin(self, prefix: PlannedPrefix) -> Context:
        frozen = prefix.prefix
        try:
            if not self._tokenizes:
                if prefix.images:
                    raise NotSampled(NO_VISION, "it takes text alone")
                context = Context(text=text_of(prefix), ids=None, guarantee="text")
            elif prefix.images:
                context = await self._vision.begin(prefix)
            else:
                ids = frozen.token_ids if frozen.token_ids is not None else await text_ids(self.endpoint, prefix)
                guarantee: Guarantee = "token_exact" if frozen.exact else "text_retokenised"
                context = Context(text=await self.endpoint.detokenize(ids), ids=ids, guarantee=guarantee)
        except RequestRefused as refusal:
            raise NotSampled(refusal.reason, refusal.detail) from None
        if not prefix.images:
            require_no_images(context.text)
        if frozen.exact and context.ids is not None:
            _require_same_spelling(prefix, context.text)
        return context

    async def sample(self, context: Context, ask: Ask) -> tuple[Sampled, Context]:
        """One turn, and the context with it.

        Raises:
            EndpointError: the server is gone.
            NotSampled: what came back is no sample.

        """
        room = self._room(context)
        limits = [each for each in (ask.max_tokens, room) if each is not None]
        if not limits:
            raise NotSampled(NO_LIMIT)
        limit = min(limits)
        try:
            answer, read = await self._answer(context, ask, limit)
            if answer.finish_reason == "length" and limit != ask.max_tokens:
                raise NotSampled(CUT_OFF, f"{len(context.ids or ()):,} tokens before it, of {self._longest:,}")
            if answer.finish_reason not in {"stop", "length"}:
                raise NotSampled(NO_END, f"finish_reason: {answer.finish_reason}")
            self._require_tokens(answer)
            return await self._with(read, answer)
        except RequestRefused as refusal:
            raise NotSampled(refusal.reason, refusal.detail) from None

    def _room(self, context: Context) -> int | None:
        """Tokens that the model's context has left; None where that is not known."""
        if self._longest is None or context.ids is None:
            return None
        room = self._longest - len(context.ids)
        if room < 1:
            raise NotSampled(TOO_LONG, f"{len(context.ids):,} tokens, and {self._longest:,} is its context")
        return room

    async def _answer(self, context: Context, ask: Ask, limit: int) -> tuple[Generated, Context]:
        """The server's answer, which is about the tokens that were sent, and the context as the server has read it."""
        for _ in range(_ABORTS):
            if context.images:
                answer, read = await self._vision.sample(context, ask, limit)
            else:
                answer = await self.endpoint.complete(
                    context.text if context.ids is None else context.ids,
                    sampling=ask.sampling,
                    seed=ask.seed,
                    max_tokens=limit,
                    stop=ask.stop,
                    grammar=ask.grammar,
                )
                read = _as_read(context, answer)
            if answer.finish_reason != "abort":
                return answer, read
        raise NotSampled(ABORTED, f"{_ABORTS} times in a row")

    def _require_tokens(self, answer: Generated) -> None:
        if answer.ids is None or self._known_ids is None:
            return
        padding = next((token for token in answer.ids if token >= self._known_ids), None)
        if padding is not None:
            raise NotSampled(PADDING, f"id {padding}, and the tokenizer has {self._known_ids:,}")

    async def _with(self, read: Context, answer: Generated) -> tuple[Sampled, Context]:
        """What was said, and the context with it."""
        text, ids, logprobs, guarantee = answer.text, answer.ids, answer.logprobs, read.guarantee
        if isinstance(answer.stop_reason, str) and ids is not None and self._tokenizes:
            text = _whole(text, await self.endpoint.detokenize(ids))
        if ids is None and read.ids is not None:
            # Log-probs would be those of the tokens that were sampled, and these need not be the same.
            ids, logprobs, guarantee = await self.endpoint.tokenize(text), None, "text_retokenised"
        said = Sampled(text, ids, logprobs, answer.finish_reason == "stop", whole=answer.ids is not None)
        known = None if read.ids is None or ids is None else read.ids + ids
        return said, replace(read, text=read.text + text, ids=known, guarantee=guarantee)

    async def tell(self, context: Context, text: str, results: Sequence[ToolResult]) -> Context:
        """The context with what the environment says behind it.

        Raises:
            EndpointError: the server is gone.
            NotSampled: the server cannot read this.

        """
        try:
            if context.images or any(result.images for result in results):
                return await self._vision.tell(context, text, results)
            if context.ids is None:
                return replace(context, text=context.text + text)
            ids = context.ids + await self.endpoint.tokenize(text)
        except RouteMissing as refusal:
            raise NotSampled(NO_TOKENIZER, refusal.detail) from None
        except RequestRefused as refusal:
            raise NotSampled(refusal.reason, refusal.detail) from None
        return replace(context, text=context.text + text, ids=ids)


def _as_read(context: Context, answer: Generated) -> Context:
    """The context, less sure where the server does not say which tokens it has read."""
    if context.ids is None:
        return context
    if answer.prompt_ids is None:
        return replace(context, guarantee="ids_unverified") if context.guarantee == "token_exact" else context
    if answer.prompt_ids != context.ids:
        raise NotSampled(OTHER_TOKENS, "other `prompt_token_ids`")
    return context


def _whole(text: str, spelled: str) -> str:
    """The text with the rest of the token that completed a stop string, which a server cuts off where that ends.

    Spelled by themselves, tokens may lack the blank that they begin with.
    """
    bare = text.lstrip(" ")
    at = spelled.find(bare)
    return text + spelled[at + len(bare) :] if 0 <= at <= len(text) - len(bare) else spelled


def _require_same_spelling(prefix: PlannedPrefix, spelled: str) -> None:
    """The prefix's own text is what the model's tokenizer makes of its ids.

    Raises:
        NotSampled: it is not.

    """
    frozen = prefix.prefix
    logged, spelled = without_images(frozen.text), without_images(spelled)
    if not frozen.delimited or (frozen.masked and isinstance(frozen.messages, list)):
        if not shares_words(logged, spelled):
            raise NotSampled(OTHER_TOKENIZER, f"hardly a word of {logged[-40:]!r} is in {spelled[-40:]!r}")
        return
    prompt = None if frozen.prompt is None or is_made_of_messages(frozen) else without_images(frozen.prompt)
    found = first_difference((prompt or "") + logged, spelled, whole=prompt is not None)
    if found is not None:
        detail = f"at character {found.place:,} the log has {found.logged!r}, and the model {found.spelled!r}"
        raise NotSampled(OTHER_TOKENIZER, detail)
