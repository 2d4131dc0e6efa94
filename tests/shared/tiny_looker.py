"""What a tiny policy with eyes learns to do: look at a part of an image with a tool, and say a colour by chance."""

import json
import random

from tiny_adder import Piece, answered

COLOURS = ("red", "green", "blue")
LIKELY = (5, 4, 1)
QUESTION = "Which colour?"


def demonstration(draw: random.Random) -> list[Piece]:
    """A question about an image, some parts of it that are looked at, and an answer that owes nothing to any."""
    pieces = [Piece(f"<|im_start|>user\n{_image(draw)}{QUESTION}<|im_end|>\n<|im_start|>assistant\n", own=False)]
    thought = "<think>\nI look.\n</think>\n\n"
    for _ in range(draw.choice((0, 1, 1, 1, 2))):
        box = [draw.choice((0, 400)), 0, draw.choice((600, 800)), draw.choice((600, 800))]
        call = json.dumps({"name": "image_zoom", "arguments": {"bbox_2d": box}})
        pieces.append(Piece(f"{thought}<tool_call>\n{call}\n</tool_call><|im_end|>", own=True))
        pieces.append(Piece(answered(_image(draw)), own=False))
        thought = ""
    pieces.append(Piece(f"{thought}{draw.choices(COLOURS, LIKELY)[0]}<|im_end|>", own=True))
    return pieces


def _image(draw: random.Random) -> str:
    """The place of an image, and a few words that may stand beside it."""
    return f"<|vision_start|>{'<|image_pad|>' * draw.randint(1, 8)}<|vision_end|>" + draw.choice(("", "", "Zoomed."))
