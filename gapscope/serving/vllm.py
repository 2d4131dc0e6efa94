"""The routes of a vLLM server, and of others that speak OpenAI's protocol: what is asked, and what comes back."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from msgspec.structs import replace

from gapscope.errors import EndpointError, UnknownName
from gapscope.plan_options import Sampling
from gapscope.rollouts import Json
from gapscope.serving.asked import Asked, completion, conversation, generation, sampled
from gapscope.serving.known_ids import known_ids
from gapscope.serving.served import (
    DETOKENIZED,
    MODELS,
    RENDERED,
    SAMPLE,
    TOKENIZED,
    Generated,
    ModelCard,
    PromptScore,
    Sample,
    generated,
    scored,
)
from gapscope.serving.transport import (
    FIRST_WAITS,
    REFUSED,
    TOO_MANY,
    WAITS,
    RequestRefused,
    RouteMissing,
    Transport,
)

if TYPE_CHECKING:
    import httpx
    import msgspec

NO_GRAMMAR = "the server knows no grammars"
REARRANGED = "the server takes thinking or calls out of the text, and gives no token ids"

_ADDRESS = "Give the address of a vLLM server, such as http://localhost:8000."
_COMPLETIONS = "/v1/completions"
_CHAT = "/v1/chat/completions"
_GENERATE = "/inference/v1/generate"
_NO_IMAGES = ("is not a multimodal model", "At most 0 image")
"""What vLLM says of an image to a model that reads text alone, or that it was told to show none."""

T = TypeVar("T")


class Endpoint:
    """One model of one server; use it as an asynchronous context manager.

    `url` is what the server printed, with or without `/v1`. `timeout` is in seconds, for one try of one request.
    The key is taken from `key_file`, or else from the environment. With a `concurrency`, at most so many requests are
    in flight, and fewer while the server cannot keep up. `transport` and `pause` stand in for the network and the
    clock.

    `plain` says that the server turned out to refuse what only vLLM knows, so that it is asked without: no token ids,
    and special tokens may be missing from its texts.

    Raises:
        SettingsError: `url` is no http address, or the key cannot be read or sent.

    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: float = 600.0,
        key_file: Path | None = None,
        concurrency: int | None = None,
        transport: "httpx.AsyncBaseTransport | None" = None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._http = Transport(
            url, timeout=timeout, key_file=key_file, concurrency=concurrency, transport=transport, pause=pause
        )
        self.url = self._http.url
        self.model = model
        self.plain = False
        self._without_logprobs = False
        self._accepted: set[str] = set()
        self._wanted_logprobs = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return self._http.answered

    @property
    def limit(self) -> int | None:
        """How many requests may be in flight now, None where nothing limits them."""
        return None if self._http.throttle is None else self._http.throttle.limit

    async def card(self) -> ModelCard:
        """What the server says about the model; the first thing to ask.

        Raises:
            EndpointError: there is no such server, or it wants another key.
            UnknownName: the server has no such model.

        """
        try:
            models = (await self._ask("/v1/models", None, MODELS, waits=FIRST_WAITS)).data
        except RequestRefused as refusal:
            message = f"{self.url} does not list its models: {refusal.detail[:300] or refusal.reason}"
            raise EndpointError(message, hint=_ADDRESS) from None
        card = next((model for model in models if model.id == self.model), None)
        if card is None:
            raise UnknownName("model", self.model, [model.id for model in models])
        return card

    async def score(self, ids: Sequence[int], *, top_k: int = 0) -> PromptScore:
        """The log-prob that the model gives each of these tokens, given those before it.

        Raises:
            EndpointError: the server cannot do this, or is not there any more.
            RequestRefused: it cannot be done for these tokens.

        """
        body: dict[str, Json] = {
            "model": self.model,
            "prompt": ids,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": top_k,
            "return_token_ids": True,
        }
        try:
            choices = (await self._ask(_COMPLETIONS, body, SAMPLE)).choices
        except RequestRefused as refusal:
            if refusal.reason != TOO_MANY:
                raise
            message = f"{self.url} does not list so many tokens: {refusal.detail}"
            raise EndpointError(message, hint="Lower --top-k, or start it with a higher --max-logprobs.") from None
        if not choices or choices[0].prompt_logprobs is None:
            message = f"{self.url} gives no log-probs of prompts"
            raise EndpointError(message, hint="It takes a vLLM server, and no gateway that drops `prompt_logprobs`.")
        return scored(choices[0], ids, top_k)

    async def complete(
        self,
        prompt: Sequence[int] | str,
        *,
        sampling: Sampling,
        seed: int,
        max_tokens: int,
        stop: Sequence[str] = (),
        grammar: str | None = None,
    ) -> Generated:
        """One sample that goes on behind token ids, or behind a text to which nothing is added.

        Its text keeps special tokens and what it stopped at. Log-probs are the model's before `sampling` reshapes
        them, unless the server was started to give others.

        Raises:
            EndpointError: the server is not there any more.
            RequestRefused: it cannot be done for this prompt, or with this grammar; RouteMissing if for none.

        """
        if grammar is not None and self.plain:
            raise RequestRefused(NO_GRAMMAR)
        asked = completion(self.model, prompt, sampled(sampling, seed, max_tokens, stop), grammar)
        wanted = self._wanted_logprobs
        answer = generated(await self._sample(_COMPLETIONS, asked, logprobs=wanted))
        if answer.logprobs is None and wanted == 0 and not self._without_logprobs:
            # Some take a zero for none at all, and for vLLM it is one token less to spell.
            self._wanted_logprobs = 1
            answer = generated(await self._sample(_COMPLETIONS, asked, logprobs=1))
        return answer

    async def chat(
        self,
        messages: Json,
        *,
        sampling: Sampling,
        seed: int,
        max_tokens: int,
        stop: Sequence[str] = (),
        tools: Json = None,
        continued: bool,
    ) -> Generated:
        """One answer to messages, or if `continued` what goes on where the last of them ends.

        Raises:
            EndpointError: the server is not there any more.
            RequestRefused: it cannot be done for these messages, or the text cannot be had; RouteMissing if for none.

        """
        asked = sampled(sampling, seed, max_tokens, stop)
        sample = await self._sample(_CHAT, conversation(self.model, messages, asked, tools, continued=continued))
        answer = generated(sample)
        if not sample.choices[0].rearranged:
            return answer
        if answer.ids is None:
            raise RequestRefused(REARRANGED)
        return replace(answer, text=await self.detokenize(answer.ids))

    async def generate(
        self,
        ids: Sequence[int],
        *,
        images: Sequence[str],
        sampling: Sampling,
        seed: int,
        max_tokens: int,
        stop: Sequence[str] = (),
    ) -> Generated:
        """One sample behind token ids in which a single id stands for each of the images, data URLs in their order.

        Raises:
            EndpointError: the server is not there any more.
            RequestRefused: it cannot be done for this prompt; RouteMissing where `--enable-scale-out` is not set.

        """
        body = generation(self.model, ids, images, sampled(sampling, seed, max_tokens, stop))
        return generated(await self._ask(_GENERATE, body, SAMPLE, optional=True))

    async def tokenize(
        self, text: str = "", *, begins: bool = False, messages: Json = None, answered: bool = False, tools: Json = None
    ) -> list[int]:
        """The ids of a text, or of messages as the model's template writes them, with the tools it shows.

        That is up to where an answer begins, or if they are `answered` already to where the last one ends. A text that
        `begins` a prompt gets the tokens that the tokenizer puts before one; any other is taken as it is.

        Raises:
            EndpointError: the server has no /tokenize, or is not there any more.
            RequestRefused: the server cannot tokenise this.

        """
        asked: dict[str, Json] = {"model": self.model, "add_special_tokens": begins}
        if messages is None:
            asked["prompt"] = text
        else:
            asked |= {"messages": messages, "add_generation_prompt": not answered}
            asked |= {} if tools is None else {"tools": tools}
        return (await self._ask("/tokenize", asked, TOKENIZED)).tokens

    async def detokenize(self, ids: Sequence[int]) -> str:
        """What token ids spell, special tokens included; ids that the tokenizer does not know spell nothing.

        Raises:
            EndpointError: the server is not there any more.
            RequestRefused: the server cannot say it of these; RouteMissing if of none.

        """
        body: Json = {"model": self.model, "tokens": ids}
        return (await self._ask("/detokenize", body, DETOKENIZED, optional=True)).prompt

    async def tokenizes(self) -> bool:
        """Whether the server has /tokenize and /detokenize.

        Raises:
            EndpointError: the server is not there any more.

        """
        body: Json = {"model": self.model, "add_special_tokens": False, "prompt": "a"}
        try:
            await self.detokenize((await self._ask("/tokenize", body, TOKENIZED, optional=True)).tokens)
        except RequestRefused:
            return False
        return True

    async def scale_out(self) -> bool:
        """Whether the server lets us `generate`, for which vLLM must be started with `--enable-scale-out`.

        Raises:
            EndpointError: the server is not there any more.

        """
        try:
            await self.generate([0], images=(), sampling=Sampling(temperature=0), seed=0, max_tokens=1)
        except RequestRefused:
            return False
        return True

    async def image_token(self, image: str) -> int | None:
        """The id that stands for an image, of which a data URL is given, in the prompts of this model.

        None where the model takes no images, or the server does not render prompts.

        Raises:
            EndpointError: the server is not there any more.
            RequestRefused: the server cannot read this image.

        """
        content: Json = [{"type": "image_url", "image_url": {"url": image}}]
        body: Json = {"model": self.model, "messages": [{"role": "user", "content": content}]}
        try:
            return (await self._ask(f"{_CHAT}/render", body, RENDERED, optional=True)).image_token
        except RouteMissing:
            return None
        except RequestRefused as refusal:
            if any(words in refusal.detail for words in _NO_IMAGES):
                return None
            raise

    async def vocabulary_size(self) -> int | None:
        """How many tokens the model chooses from, None where the server does not say.

        A server says it in refusing to list them all, or by listing them.

        Raises:
            EndpointError: the server is not there any more.

        """
        body: Json = {
            "model": self.model, "prompt": [0, 0], "max_tokens": 1, "temperature": 0, "prompt_logprobs": -1
        }  # fmt: skip
        try:
            choices = (await self._ask(_COMPLETIONS, body, SAMPLE)).choices
        except RequestRefused as refusal:
            words = refusal.detail.replace(",", " ").split()
            return next((int(word) for word in words if word.isdecimal()), None)
        listed = choices[0].prompt_logprobs if choices else None
        return len(listed[-1]) if listed and listed[-1] else None

    async def tokenizer_size(self) -> int | None:
        """One more than the last id that the tokenizer knows, None where the server does not let us find it.

        A model may choose from more, which pad its vocabulary: such ids spell nothing, and are no sample.

        Raises:
            EndpointError: the server is not there any more.

        """
        size = await self.vocabulary_size()
        if not size:
            return None

        async def spell(ids: Sequence[int]) -> str:
            body: Json = {"model": self.model, "tokens": ids}
            return (await self._ask("/detokenize", body, DETOKENIZED, optional=True, probe=True)).prompt

        try:
            return await known_ids(size, spell)
        except RequestRefused:
            return None

    async def _sample(self, path: str, asked: Asked, **more: Json) -> Sample:
        """Ask with what only vLLM knows, and without what a server turns out to refuse."""
        body, extras = asked.body | more, asked.extras
        plain, without_logprobs = self.plain, self._without_logprobs
        while True:
            sent = body if plain else extras | body
            if without_logprobs:
                sent = {name: value for name, value in sent.items() if name != "logprobs"}
            try:
                answer = await self._ask(path, sent, SAMPLE, optional=True)
            except RequestRefused as refusal:
                if refusal.reason != REFUSED or path in self._accepted:
                    raise
                if not plain and any(name in refusal.detail for name in extras):
                    plain = True
                elif not without_logprobs and "logprobs" in refusal.detail:
                    without_logprobs = True
                else:
                    raise
                continue
            self.plain, self._without_logprobs = plain, without_logprobs
            self._accepted.add(path)
            return answer

    async def _ask(
        self,
        path: str,
        body: Json,
        decoder: "msgspec.json.Decoder[T]",
        *,
        waits: tuple[float, ...] = WAITS,
        optional: bool = False,
        probe: bool = False,
    ) -> T:
        """Send a request; a route that is missing is for the caller to deal with if it is `optional`."""
        method = "GET" if body is None else "POST"
        try:
            return await self._http.ask(method, path, body, decoder, waits=waits, optional=optional, probe=probe)
        except RouteMissing as missing:
            if body is not None and missing.status == 404 and "model" in missing.detail:
                await self.card()
            if optional:
                raise
            said = f": {missing.detail}" if missing.detail else ""
            message = f"{self.url}{path} answers HTTP {missing.status}{said}"
            raise EndpointError(message, hint=_ADDRESS) from None
