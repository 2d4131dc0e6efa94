"""The tool with which a vision model looks closer: a part of an image, cut out of its full resolution.

`bbox_2d` is [x1, y1, x2, y2] in thousandths of the image's width and height from the top left, `img_idx` counts the
images that the policy has seen from 0, and `label` is for the reader alone (axpo, appendix A.2). Without `img_idx` it
is the question's image, 0, as in DeepEyes: a box is nearly always meant for the whole picture. Other arguments are
ignored, as trainers do.
"""

import asyncio
import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple, Self

from gapscope.errors import SettingsError
from gapscope.rollouts import Json
from gapscope.tools.base import Call, ToolResult, failed

if TYPE_CHECKING:
    from PIL import Image

NAMES = ("image_zoom_in_tool", "image_zoom_in", "image_zoom", "zoom_in")
"""What trainers call it."""

SMALLEST = 32
"""Pixels a side, at least: one patch of Qwen3-VL after merging (Qwen2.5-VL: 28)."""

SCALE = 1000
_LONGEST_BY_SHORTEST = 100  # Processors of vision models refuse an image that is longer than 200 times its width.


class ImageZoom:
    """Crops of the images that the policy has seen, as PNG.

    A side of the box that is shorter than `smallest` pixels, or than a hundredth of the other, grows about its middle;
    an image that is itself smaller is enlarged. So a crop shows at least what was asked for, and vision models take it.
    """

    def __init__(self, names: tuple[str, ...] = NAMES, *, smallest: int = SMALLEST) -> None:
        self._names = names
        self._smallest = smallest

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is called."""
        return self._names

    @property
    def about(self) -> str:
        """What it does."""
        return f"{', '.join(self._names)}: crops of the images, at least {self._smallest} pixels a side"

    def session(self) -> Self:
        """The tool itself, which remembers nothing."""
        return self

    async def __aenter__(self) -> Self:
        """Look for Pillow.

        Raises:
            SettingsError: it is not installed.

        """
        if find_spec("PIL") is None:
            message = "the tool image_zoom needs Pillow"
            raise SettingsError(message, hint="pip install 'gapscope[images]'")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def call(self, call: Call) -> ToolResult:
        """The part of the image, or why there is none."""
        try:
            index, box = _wanted(call.arguments, len(call.images))
        except _Refused as refused:
            return failed(str(refused))
        return await asyncio.to_thread(self._crop, call.images[index], index, box)

    async def close(self) -> None:
        """Nothing: no call leaves anything behind."""

    def _crop(self, encoded: bytes, index: int, box: "_Box") -> ToolResult:
        from PIL import Image

        bomb = failed(f"image {index} has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels")
        try:
            with Image.open(BytesIO(encoded)) as image:
                if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                    return bomb
                pixels = _grown(box, image.size, self._smallest)
                crop = _flat(image.crop(pixels))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            return bomb
        except Exception as error:  # noqa: BLE001 (decoders raise errors of every kind)
            return failed(f"image {index} cannot be read: {error}")
        if max(crop.size) > _LONGEST_BY_SHORTEST * min(crop.size):
            return failed(f"image {index} is too narrow to be looked at: {image.width}x{image.height} pixels")
        if (short := min(crop.size)) < self._smallest:
            larger = [math.ceil(side * self._smallest / short) for side in crop.size]
            crop = crop.resize((larger[0], larger[1]))
        written = BytesIO()
        crop.save(written, "PNG")
        where = ", ".join(f"{part:g}" for part in box)
        text = f"The region [{where}] of image {index}, {crop.width}x{crop.height} pixels."
        return ToolResult(text, (written.getvalue(),))


class _Refused(Exception):
    """Arguments that make no box."""


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def _wanted(arguments: Mapping[str, Json], images: int) -> tuple[int, _Box]:
    """Which image, and which part of it."""
    if "bbox_2d" not in arguments:
        message = "missing 1 required argument: bbox_2d, as [x1, y1, x2, y2]"
        raise _Refused(message)
    box = _box(arguments["bbox_2d"])
    given = arguments.get("img_idx")
    index = 0 if given is None else _number(given)
    if index is None or index != int(index):
        message = f"invalid argument: img_idx must be a whole number, not {_shown(given)}"
        raise _Refused(message)
    if not 0 <= index < images:
        known = f"there are {images} images, counted from 0" if images else "there are no images"
        message = f"invalid argument: there is no image {index:g}; {known}"
        raise _Refused(message)
    return int(index), box


def _box(given: Json) -> _Box:
    value = given
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = given
    numbers = [_number(part) for part in value] if isinstance(value, list) else []
    known = [number for number in numbers if number is not None]
    if len(known) != 4 or len(numbers) != 4:
        message = f"invalid argument: bbox_2d must be four numbers [x1, y1, x2, y2], not {_shown(given)}"
        raise _Refused(message)
    box = _Box(*known)
    if min(box) < 0 or max(box) > SCALE:
        message = f"invalid argument: bbox_2d must lie within 0 and {SCALE}, not {_shown(given)}"
        raise _Refused(message)
    if box.left >= box.right or box.top >= box.bottom:
        message = f"invalid argument: bbox_2d must have x1 < x2 and y1 < y2, not {_shown(given)}"
        raise _Refused(message)
    return box


def _number(value: Json) -> float | None:
    """A number, also where a dialect has made a text of it; True is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _grown(box: _Box, size: tuple[int, int], smallest: int) -> tuple[int, int, int, int]:
    """The pixels of a box: all that it touches, and as many more as it needs, where the image has them."""
    spans = []
    for start, end, side in ((box.left, box.right, size[0]), (box.top, box.bottom, size[1])):
        first = min(math.floor(start * side / SCALE), side - 1)
        spans.append((first, max(math.ceil(end * side / SCALE), first + 1)))
    least = max(smallest, *(math.ceil((end - first) / _LONGEST_BY_SHORTEST) for first, end in spans))
    (left, right), (top, bottom) = (_widened(span, least, side) for span, side in zip(spans, size, strict=True))
    return left, top, right, bottom


def _widened(span: tuple[int, int], least: int, side: int) -> tuple[int, int]:
    first, end = span
    if end - first >= least:
        return span
    first = max(0, min((first + end - least) // 2, side - least))
    return first, min(side, first + least)


def _flat(image: "Image.Image") -> "Image.Image":
    """The colours that a vision model sees: what is transparent is white."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    whole = image.convert("RGBA")
    paper = Image.new("RGBA", whole.size, "white")
    return Image.alpha_composite(paper, whole).convert("RGB")
