"""Prefixes with images: token-exact where the server takes ids and images in one request, else by conversation.

The first takes a vLLM server that was started with `--enable-scale-out`. Each run of ids that stands for an image is
sent as a single one, which the server expands again; what it has read is in its answer and must be what was frozen. The
second is accepted only where the conversation, as the server's template writes it, is the frozen prefix to the token.
"""

import asyncio
import hashlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from gapscope.errors import SettingsError
from gapscope.plan_options import Sampling
from gapscope.plans import PlannedPrefix
from gapscope.resampler.chat_messages import chat_messages, chat_tools, data_url, images_in
from gapscope.resampler.retokenised import text_ids
from gapscope.resampler.sampling import IMAGE, Ask, Context, NotSampled
from gapscope.rollouts import Json
from gapscope.serving.served import Generated
from gapscope.serving.transport import OTHER_TOKENS
from gapscope.serving.vllm import Endpoint
from gapscope.tools.base import ToolResult

NO_BYTES = "an image of the prefix is not in the plan: the log has only its hash"
NO_IMAGES = "the tokens of the prefix show images, and the plan has none"
NO_VISION = "the server's model takes no images"
OTHER_IMAGES = "the prefix has another number of images than its tokens show"
NOT_AS_FROZEN = "the conversation, as the server's template writes it, is not the frozen prefix"
NO_MESSAGES = "images take a server with --enable-scale-out, or the token ids and the messages of the log"
NEW_IMAGE = "a tool's image takes a server with --enable-scale-out"
NO_PLACE = "the server's template does not show how an image is written"
NO_GRAMMAR = "no grammar binds a turn that follows images"

_LOGGED = "<image>"
_SHOWS = re.compile(r"<\|(?:image|vision)[^<>|\s]*\|>|<(?:image_soft_token|(?:start|end)_of_image|IMG_CONTEXT)>")
"""What stands for an image, or around it, in the texts of models."""
_SIDE = 64
"""Pixels of an image that is only for finding out what the server writes; more than any model's least."""


class Conversation(Context, frozen=True, kw_only=True):
    """A context that the server knows as messages; `begun` says that the last one is not finished."""

    messages: list[dict[str, Json]]
    tools: Json
    begun: bool


class Sight(NamedTuple):
    """What a server does with images: the id that stands for one, and what the template writes around that.

    `exact` says that it takes ids and images together; `token` is None where its model takes no images.
    """

    exact: bool
    token: int | None = None
    around: tuple[list[int], list[int]] | None = None


class Vision:
    """The routes of one server that take images; `folder` holds images by whatever names."""

    def __init__(self, endpoint: Endpoint, folder: Path | None) -> None:
        self._endpoint = endpoint
        self._folder = folder
        self._in_folder: dict[str, Path] | None = None
        self._sight: Sight | None = None
        self._learning = asyncio.Lock()

    async def begin(self, prefix: PlannedPrefix) -> Context:
        """What is frozen of a prefix with images.

        Raises:
            NotSampled: its images are not there, or the server takes none.
            RequestRefused: the server refuses one.

        """
        frozen = prefix.prefix
        sight = await self._seen()
        if not sight.exact:
            return await self._conversation(prefix)
        if sight.token is None:
            raise NotSampled(NO_VISION)
        hashes = _hashes(prefix)
        if frozen.token_ids is not None:
            ids = frozen.token_ids
        else:
            # Only the images of messages have places that are known; those that tools have shown have none.
            inline = tuple(images_in(frozen.messages)) or self._images(prefix, hashes)
            ids = await text_ids(self._endpoint, prefix, inline)
        number = sum(1 for _ in _runs(ids, sight.token))
        if not 0 < number <= len(hashes) or (not frozen.exact and _LOGGED in frozen.text):
            raise NotSampled(OTHER_IMAGES, f"{len(hashes)} images, and {number} in its tokens")
        # The log also has those that were shown after the call, behind those of the prefix.
        images = self._images(prefix, hashes[:number])
        text = await self._endpoint.detokenize(_collapsed(ids, sight.token))
        if frozen.exact:
            return Context(text=text, ids=ids, images=images, guarantee="token_exact")
        ids = await self._expanded(ids, images, sight.token)
        return Context(text=text, ids=ids, images=images, guarantee="text_retokenised")

    async def _seen(self) -> Sight:
        """What the server can do, found out once."""
        async with self._learning:
            if self._sight is None:
                self._sight = await self._learned()
            return self._sight

    async def _learned(self) -> Sight:
        if not await self._endpoint.scale_out():
            return Sight(exact=False)
        url = data_url(_blank())
        token = await self._endpoint.image_token(url)
        return Sight(exact=True, token=token, around=None if token is None else await self._surroundings(url, token))

    async def _surroundings(self, url: str, token: int) -> tuple[list[int], list[int]] | None:
        """The ids that the template writes before and behind the one that stands for an image."""
        said = {"type": "text", "text": "x"}
        shown = {"type": "image_url", "image_url": {"url": url}}
        plain, seen = [
            await self._endpoint.tokenize(messages=[{"role": "user", "content": content}])
            for content in ([said], [shown, said])
        ]
        seen = _collapsed(seen, token)
        start = next((at for at, pair in enumerate(zip(plain, seen, strict=False)) if pair[0] != pair[1]), len(plain))
        inserted = seen[start : start + len(seen) - len(plain)]
        if token not in inserted or plain[:start] + inserted + plain[start:] != seen:
            return None
        place = inserted.index(token)
        return inserted[:place], inserted[place + 1 :]

    def _images(self, prefix: PlannedPrefix, hashes: Sequence[str]) -> tuple[bytes, ...]:
        found = {hashlib.sha256(image).hexdigest(): image for image in images_in(prefix.prefix.messages)}
        for sha256 in hashes:
            if sha256 not in found:
                path = self._files().get(sha256)
                if path is None:
                    raise NotSampled(NO_BYTES, f"SHA-256 {sha256[:12]}…; name a folder that has it with --images")
                found[sha256] = path.read_bytes()
        return tuple(found[sha256] for sha256 in hashes)

    def _files(self) -> dict[str, Path]:
        if self._in_folder is None:
            files = sorted(path for path in self._folder.rglob("*") if path.is_file()) if self._folder else []
            try:
                self._in_folder = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files}
            except OSError as error:
                message = f"--images {self._folder}: {error.filename} cannot be read: {error.strerror}"
                raise SettingsError(message) from None
        return self._in_folder

    async def _conversation(self, prefix: PlannedPrefix) -> Conversation:
        frozen = prefix.prefix
        if not isinstance(frozen.messages, list) or frozen.token_ids is None or not frozen.delimited:
            raise NotSampled(NO_MESSAGES)
        images = tuple(images_in(frozen.messages)) or self._images(prefix, _hashes(prefix))
        asked = chat_messages(frozen.messages, images)
        return Conversation(
            text=await self._endpoint.detokenize(frozen.token_ids),
            ids=frozen.token_ids,
            images=images,
            guarantee="token_exact",
            messages=[*asked, {"role": "assistant", "content": frozen.text}],
            tools=chat_tools(prefix.tools),
            begun=True,
        )

    async def sample(self, context: Context, ask: Ask, limit: int) -> tuple[Generated, Context]:
        """One answer of the server, and the context as it has read it.

        Raises:
            NotSampled: it has read something else.
            RequestRefused: it refuses.

        """
        if ask.grammar is not None:
            raise NotSampled(NO_GRAMMAR)
        if isinstance(context, Conversation):
            return await self._by_conversation(context, ask, limit)
        ids, token = context.ids or [], (await self._seen()).token
        if token is None:
            raise NotSampled(NO_VISION)
        sent = _collapsed(ids, token)
        answer = await self._endpoint.generate(
            sent,
            images=[data_url(image) for image in context.images],
            sampling=ask.sampling,
            seed=ask.seed,
            max_tokens=limit,
            stop=ask.stop,
        )
        read = answer.prompt_ids
        if read is None:
            known = "ids_unverified" if context.guarantee == "token_exact" else context.guarantee
            return answer, replace(context, guarantee=known)
        if read != ids:
            raise NotSampled(OTHER_TOKENS, _parted(read, ids))
        return answer, context

    async def _expanded(self, ids: list[int], images: Sequence[bytes], token: int) -> list[int]:
        """Ids with as many for each image as the server makes of it, where it says what it has read.

        Raises:
            NotSampled: it has read something else.
            RequestRefused: it refuses an image.

        """
        sent = _collapsed(ids, token)
        answer = await self._endpoint.generate(
            sent, images=[data_url(image) for image in images], sampling=Sampling(temperature=0), seed=0, max_tokens=1
        )
        read = answer.prompt_ids
        if read is None:
            return ids
        if _collapsed(read, token) != sent:
            raise NotSampled(OTHER_TOKENS, f"{len(read):,} tokens read, {len(sent):,} sent")
        return read

    async def _by_conversation(self, context: Conversation, ask: Ask, limit: int) -> tuple[Generated, Context]:
        answer = await self._endpoint.chat(
            context.messages,
            sampling=ask.sampling,
            seed=ask.seed,
            max_tokens=limit,
            stop=ask.stop,
            tools=context.tools,
            continued=context.begun,
        )
        ids = context.ids or []
        if answer.prompt_ids != ids:
            raise NotSampled(NOT_AS_FROZEN, _parted(answer.prompt_ids, ids))
        said = await self._without_end(answer)
        *before, last = context.messages
        if context.begun:
            messages = [*before, {**last, "content": last["content"] + said}]
        else:
            messages = [*context.messages, {"role": "assistant", "content": said}]
        return answer, replace(context, messages=messages, begun=False)

    async def _without_end(self, answer: Generated) -> str:
        """What was said without the token that ended the turn, which the template writes again."""
        if answer.ids and answer.finish_reason == "stop" and answer.stop_reason is None:
            return answer.text.removesuffix(await self._endpoint.detokenize(answer.ids[-1:]))
        return answer.text

    async def tell(self, context: Context, text: str, results: Sequence[ToolResult]) -> Context:
        """The context with results behind it, their images included.

        Raises:
            NotSampled: the server takes no images here.
            RequestRefused: the server refuses one.

        """
        new = tuple(image for result in results for image in result.images)
        if isinstance(context, Conversation):
            return await self._told(context, text, results, images=len(new))
        if not new:
            told = await self._endpoint.tokenize(text)
            return replace(context, text=context.text + text, ids=(context.ids or []) + told)
        sight = await self._seen()
        if not sight.exact or context.ids is None:
            raise NotSampled(NEW_IMAGE)
        if sight.token is None:
            raise NotSampled(NO_VISION)
        if sight.around is None:
            raise NotSampled(NO_PLACE)
        before, after = sight.around
        told = []
        for number, part in enumerate(text.split(IMAGE)):
            if number:
                told += [*before, sight.token, *after]
            if part:
                told += await self._endpoint.tokenize(part)
        images = context.images + new
        ids = await self._expanded(context.ids + told, images, sight.token)
        if ids[: len(context.ids)] != context.ids:
            raise NotSampled(OTHER_TOKENS, _parted(ids, context.ids))
        return replace(context, text=context.text + await self._endpoint.detokenize(told), ids=ids, images=images)

    async def _told(
        self, context: Conversation, text: str, results: Sequence[ToolResult], *, images: int
    ) -> Conversation:
        """The template writes the results; what it writes must be what the trainer's environment does."""
        if images:
            raise NotSampled(NEW_IMAGE)
        told: list[dict[str, Json]] = [
            {"role": "tool", "tool_call_id": f"call_{number}", "content": result.text}
            for number, result in enumerate(results)
        ]
        ids = (context.ids or []) + await self._endpoint.tokenize(text)
        return replace(context, text=context.text + text, ids=ids, messages=[*context.messages, *told])


def require_no_images(text: str) -> None:
    """What shows images is not continued without them.

    Raises:
        NotSampled: it shows some.

    """
    found = _SHOWS.search(text)
    if found is not None:
        raise NotSampled(NO_IMAGES, found[0])


def without_images(text: str) -> str:
    """The text, as the log or the tokens have it, without what stands for images in it."""
    return _SHOWS.sub("", text).replace(_LOGGED, "")


def _hashes(prefix: PlannedPrefix) -> list[str]:
    """The images as they were shown, in order: the plan has one that is shown twice in its messages once."""
    listed = [image.sha256 for image in prefix.images]
    shown = [hashlib.sha256(image).hexdigest() for image in images_in(prefix.prefix.messages)]
    different = len(set(shown))
    return shown + listed[different:] if list(dict.fromkeys(shown)) == listed[:different] else listed


def _parted(read: Sequence[int] | None, frozen: Sequence[int]) -> str:
    if read is None:
        return "the server does not say what it has read"
    same = next((at for at, pair in enumerate(zip(read, frozen, strict=False)) if pair[0] != pair[1]), None)
    where = f"from token {same:,} on" if same is not None else "at its end"
    return f"another {where}: {len(read):,} tokens read, {len(frozen):,} frozen"


def _blank() -> bytes:
    """A black square as a PNG."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes((1 + 3 * _SIDE) * _SIDE))),
        (b"IEND", b""),
    )
    image = b"\x89PNG\r\n\x1a\n"
    for kind, data in parts:
        image += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return image


def _runs(ids: Sequence[int], token: int) -> Iterator[int]:
    """The lengths of the stretches that stand for an image each."""
    return (sum(1 for _ in run) for own, run in groupby(ids, key=token.__eq__) if own)


def _collapsed(ids: Sequence[int], token: int) -> list[int]:
    """The ids with one for each image."""
    return [each for place, each in enumerate(ids) if each != token or not place or ids[place - 1] != token]
