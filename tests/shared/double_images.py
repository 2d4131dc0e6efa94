"""Images, and prefixes of a policy of the vLLM double that has looked at some."""

import base64
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from double_logs import THOUGHT
from endpoint_runs import exact_prefix
from vllm_double import pads
from vllm_policies import ANSWERING
from vllm_tokens import MARKED

from gapscope.plans import PlannedImage, PlannedPrefix

PAD_TEXT = "<|image_pad|>"


def png(width: int, height: int, shade: int = 0) -> bytes:
    """A PNG of one shade of grey."""
    rows = (b"\0" + bytes([shade]) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    image = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        image += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return image


LARGE, SMALL = png(96, 64), png(32, 64, 200)
"""Six tokens and two."""


def url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def shown(image: bytes) -> str:
    """An image as the model's tokens spell it."""
    return f"<|vision_start|>{PAD_TEXT * pads(image)}<|vision_end|>"


def message(*images: bytes) -> dict[str, Any]:
    """A question about images, in the shape of OpenAI's API."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}


def looked(
    images: Sequence[bytes] = (LARGE, SMALL),
    *,
    messages: Any = None,
    thought: str = THOUGHT,
    more: Sequence[bytes] = (),
) -> PlannedPrefix:
    """A prefix that looks at images, of a rollout that was shown `more` after its call."""
    prompt = f"<|im_start|>user\n{''.join(map(shown, images))}What is it?<|im_end|>\n{ANSWERING}"
    text = f"{thought}<tool_call>"
    before = MARKED.encode(prompt)
    ids = before + MARKED.encode(text)
    made = exact_prefix()
    content = made.prefix.model_copy(
        update={
            "token_ids": ids,
            "n_tokens": len(ids),
            "n_prompt": len(before),
            "prompt": prompt,
            "messages": [message(*images)] if messages is None else messages,
            "text": text,
            "branch_char": len(text),
        }
    )
    hashes = [hashlib.sha256(image).hexdigest() for image in dict.fromkeys([*images, *more])]
    listed = [PlannedImage(sha256=each, media_type="image/png") for each in hashes]
    return made.model_copy(update={"prefix": content, "images": listed})
