"""Crops: which pixels, how many, and what is said of arguments and images that give none."""

import asyncio
import struct
import zlib
from io import BytesIO
from typing import Any

import pytest

from gapscope.outcomes import ErrorMarkers
from gapscope.tools.base import Call, ToolResult
from gapscope.tools.image_zoom import ImageZoom

Image = pytest.importorskip("PIL.Image", reason="needs the extra `images`")
judge = ErrorMarkers().judge


def encoded(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An image in which the red of a pixel is its column, and the green its row."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x % 256, y % 256, 0) for y in range(height) for x in range(width)])
    written = BytesIO()
    image.convert(mode).save(written, kind)
    return written.getvalue()


def zoomed(*images: bytes, smallest: int = 4, **arguments: Any) -> ToolResult:
    async def run() -> ToolResult:
        async with ImageZoom(smallest=smallest) as tool:
            return await tool.session().call(Call("image_zoom_in", arguments, images))

    return asyncio.run(run())


def crop(result: ToolResult) -> Any:
    assert not result.error, result.text
    (image,) = result.images
    assert image.startswith(b"\x89PNG")
    return Image.open(BytesIO(image))


def corners(result: ToolResult) -> tuple[tuple[int, int], tuple[int, int]]:
    """Column and row of the first pixel, and of the last."""
    image = crop(result)
    first, last = image.getpixel((0, 0)), image.getpixel((image.width - 1, image.height - 1))
    return first[:2], last[:2]


def test_a_box_is_in_thousandths_and_the_crop_is_every_pixel_that_it_touches() -> None:
    picture = encoded(200, 100)
    found = zoomed(picture, bbox_2d=[250, 500, 750, 1000], label="the sign")
    assert corners(found) == ((50, 50), (149, 99))
    assert found.text == "The region [250, 500, 750, 1000] of image 0, 100x50 pixels."
    assert corners(zoomed(picture, bbox_2d=[251, 501, 749, 999])) == ((50, 50), (149, 99))
    assert corners(zoomed(picture, bbox_2d=[0, 0, 1000, 1000])) == ((0, 0), (199, 99))


def test_boxes_that_a_dialect_has_made_texts_of_are_read() -> None:
    picture = encoded(200, 100)
    for box in ("[250, 500, 750, 1000]", ["250", "500", "750", "1e3"]):
        assert corners(zoomed(picture, bbox_2d=box)) == ((50, 50), (149, 99))
    assert corners(zoomed(encoded(9, 9), picture, bbox_2d=[0, 0, 500, 500], img_idx="1")) == ((0, 0), (99, 49))


def test_without_an_index_it_is_the_image_of_the_question() -> None:
    assert crop(zoomed(encoded(50, 40), encoded(9, 9), bbox_2d=[0, 0, 1000, 1000])).size == (50, 40)
    assert crop(zoomed(encoded(9, 9), encoded(50, 40), bbox_2d=[0, 0, 1000, 1000], img_idx=1)).size == (50, 40)


def test_a_small_box_grows_about_its_middle_and_stays_in_the_image() -> None:
    picture = encoded(200, 100)
    assert corners(zoomed(picture, smallest=20, bbox_2d=[500, 500, 510, 1000])) == ((91, 50), (110, 99))
    assert corners(zoomed(picture, smallest=20, bbox_2d=[0, 0, 1, 1])) == ((0, 0), (19, 19))
    assert corners(zoomed(picture, smallest=20, bbox_2d=[999, 999, 1000, 1000])) == ((180, 80), (199, 99))


def test_a_small_image_is_enlarged_until_a_model_takes_it() -> None:
    found = zoomed(encoded(8, 4), smallest=32, bbox_2d=[0, 0, 1000, 1000])
    assert crop(found).size == (64, 32)
    assert found.text == "The region [0, 0, 1000, 1000] of image 0, 64x32 pixels."


def test_no_crop_is_a_hundred_times_as_long_as_it_is_wide() -> None:
    assert crop(zoomed(encoded(1000, 30), smallest=1, bbox_2d=[0, 0, 1000, 1])).size == (1000, 10)
    narrow = zoomed(encoded(1000, 3), smallest=1, bbox_2d=[0, 0, 1000, 1])
    assert narrow.text == "Error: image 0 is too narrow to be looked at: 1000x3 pixels"


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("GIF", "P"), ("PNG", "1"), ("PNG", "LA")])
def test_images_of_every_kind_become_plain_colours(kind: str, mode: str) -> None:
    assert crop(zoomed(encoded(40, 40, kind, mode), bbox_2d=[0, 0, 1000, 1000])).mode == "RGB"


def test_what_is_transparent_is_white() -> None:
    written = BytesIO()
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(written, "PNG")
    assert crop(zoomed(written.getvalue(), bbox_2d=[0, 0, 1000, 1000])).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "box",
    [
        None,
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [0, 0, "left", 4],
        [0, 0, True, 4],
        [0, 0, float("nan"), 4],
        [0, 0, None, 4],
        [[0, 0, 3, 4]],
        {"x1": 0},
        "everything",
        7,
        [500, 0, 500, 1000],
        [0, 600, 1000, 500],
        [-1, 0, 500, 500],
        [0, 0, 1001, 500],
        [0, 0, 10**400, 500],
        "[" * 100_000,
    ],
)
def test_what_makes_no_box_is_the_models_fault_and_said(box: Any) -> None:
    found = zoomed(encoded(9, 9), bbox_2d=box)
    assert found.error
    assert found.text.startswith("Error: invalid argument: bbox_2d must ")
    assert len(found.text) < 300
    assert judge("image_zoom_in", found.text) == "bad_arguments"


@pytest.mark.parametrize("index", [-1, 2, 0.5, "first", True, float("inf"), [0]])
def test_an_image_that_is_not_there_is_said(index: Any) -> None:
    found = zoomed(encoded(9, 9), encoded(9, 9), bbox_2d=[0, 0, 9, 9], img_idx=index)
    assert judge("image_zoom_in", found.text) == "bad_arguments"
    assert zoomed(bbox_2d=[0, 0, 9, 9]).text == "Error: invalid argument: there is no image 0; there are no images"
    assert judge("image_zoom_in", zoomed(encoded(9, 9)).text) == "bad_arguments"


def test_broken_images_are_answers() -> None:
    png, jpeg = encoded(64, 64), encoded(64, 64, "JPEG")
    spoilt = png[:60] + b"\0\0\0\0" + png[64:]
    for image in (b"", b"no image", png[:20], png[: len(png) // 2], spoilt, jpeg[:200], jpeg[:-50]):
        found = zoomed(image, bbox_2d=[0, 0, 1000, 1000])
        assert found.error
        assert found.text.startswith("Error: image 0 cannot be read")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 100_000])
def test_an_image_that_would_fill_the_memory_is_not_opened(side: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    found = zoomed(bomb, bbox_2d=[0, 0, 10, 10])
    assert found.text == f"Error: image 0 has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
