"""A log of `tiny_looker`'s rollouts: its images are in the messages, and what it looks at is cut out by Pillow here."""

import base64
import hashlib
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import tiny_looker
from tiny_adder import answered

from gapscope.recorders import recorded
from gapscope.rollouts import Image, Rollout

SIZE = 6
MOST_TURNS = 3
MOST_TOKENS = 96
"""Of one turn."""
RIGHT = "blue"
"""What it says least often."""


def png(number: int) -> bytes:
    """An image of one colour, larger for some numbers than for others."""
    from PIL import Image as Picture

    draw, written = random.Random(number), BytesIO()
    size = (draw.choice((64, 96, 128)), draw.choice((64, 96)))
    Picture.new("RGB", size, tuple(draw.randrange(256) for _ in range(3))).save(written, "PNG")
    return written.getvalue()


def url_of(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def crop(image: bytes, box: list[int]) -> bytes:
    """The part between two corners, in thousandths, enlarged until the model takes it."""
    from PIL import Image as Picture

    written = BytesIO()
    with Picture.open(BytesIO(image)) as whole:
        sides = [round(part * whole.size[place % 2] / 1000) for place, part in enumerate(box)]
        part = whole.crop((sides[0], sides[1], sides[2], sides[3]))
        part.resize((max(32, part.width), max(32, part.height))).save(written, "PNG")
    return written.getvalue()


def box_in(text: str) -> list[int] | None:
    """The box of the call that a turn makes, None where there is none that can be read."""
    found = re.search(r"<tool_call>\n(.*)\n</tool_call>", text, re.DOTALL)
    try:
        box = json.loads(found[1])["arguments"]["bbox_2d"] if found else None
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(type(each) is int for each in box):
        return None
    return box if 0 <= box[0] < box[2] <= 1000 and 0 <= box[1] < box[3] <= 1000 else None


class Looking:
    """Rollouts of six to a question at temperature 1, with the server's routes for ids and images together."""

    def __init__(self, url: str, model: Path) -> None:
        self.client = httpx.Client(base_url=url, timeout=120)
        self.tokenizer = model / "tokenizer.json"
        added = json.loads(self.tokenizer.read_text())["added_tokens"]
        self.pad = next(entry["id"] for entry in added if entry["content"] == "<|image_pad|>")
        self.known = 1 + max(entry["id"] for entry in added)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.client.post(path, json={"model": "tiny"} | body)
        answer.raise_for_status()
        return dict(answer.json())

    def generate(self, ids: list[int], images: list[bytes], seed: int) -> tuple[list[int], dict[str, Any]]:
        """The ids as the server has read them, and a sample: another one where that holds padding of the vocabulary."""
        shown = {"skip_special_tokens": False, "include_stop_str_in_output": True}
        answer = self.asked(ids, images, temperature=1.0, max_tokens=MOST_TOKENS, logprobs=0, seed=seed, **shown)
        (choice,) = answer["choices"]
        if max(choice["token_ids"]) >= self.known:
            return self.generate(ids, images, seed + 10**6)
        return answer["prompt_token_ids"], choice

    def scored(self, ids: list[int], images: list[bytes]) -> tuple[list[int], list[dict[str, Any]]]:
        """The ids as the server has read them, and the log-probs of each of them; those of the first are none."""
        answer = self.asked(ids, images, max_tokens=1, prompt_logprobs=0)
        return answer["prompt_token_ids"], answer["prompt_logprobs"]

    def asked(self, ids: list[int], images: list[bytes], **params: Any) -> dict[str, Any]:
        """What the server says about ids, with one of them sent for each image."""
        sent = [token for place, token in enumerate(ids) if token != self.pad or ids[place - 1] != self.pad]
        parts = [{"type": "image_url", "url": url_of(image)} for image in images]
        return self.post(
            "/inference/v1/generate", token_ids=sent, content_parts=parts, sampling_params=params,
            return_token_ids=True, output_mode="text",
        )  # fmt: skip

    def rollout(self, number: int, index: int) -> Rollout:
        images = [png(number)]
        shown = {"type": "image_url", "image_url": {"url": url_of(images[0])}}
        messages = [{"role": "user", "content": [shown, {"type": "text", "text": tiny_looker.QUESTION}]}]
        prompt = self.post("/tokenize", messages=messages, add_generation_prompt=True)["tokens"]
        ids, mask, logprobs = list(prompt), [False] * len(prompt), [0.0] * len(prompt)
        for turn in range(MOST_TURNS):
            read, choice = self.generate(ids, images, 1000 * number + SIZE * turn + index)
            new = len(read) - len(ids)
            ids, mask, logprobs = read, mask + [False] * new, logprobs + [0.0] * new
            ids = ids + choice["token_ids"]
            mask += [True] * len(choice["token_ids"])
            logprobs += [entry["logprob"] for entry in choice["logprobs"]["content"]]
            box = box_in(choice["text"])
            if box is None or choice["finish_reason"] != "stop" or turn == MOST_TURNS - 1:
                break
            images.append(crop(images[0], box))
            told = answered("<|vision_start|><|image_pad|><|vision_end|>")
            ids += self.post("/tokenize", prompt=told, add_special_tokens=False)["tokens"]
            mask += [False] * (len(ids) - len(mask))
            logprobs += [0.0] * (len(ids) - len(logprobs))
        right = choice["text"].split("</think>")[-1].removesuffix("<|im_end|>").strip() == RIGHT
        rollout = recorded(
            messages, step=0, group=number, sample_index=index, rollout_id=f"{number}-{index}", prompt_ids=prompt,
            completion_ids=ids[len(prompt) :], mask=mask[len(prompt) :], logprobs=logprobs[len(prompt) :],
            reward=float(right), correct=right, ground_truth=RIGHT, finish_reason=choice["finish_reason"],
            tools=["image_zoom"], tokenizer=self.tokenizer, dialect="hermes",
        )  # fmt: skip
        rollout.images = [Image(hashlib.sha256(images[0]).hexdigest(), "image/png")]
        return rollout


def looked(url: str, model: Path, *, groups: int) -> list[Rollout]:
    """Groups of six rollouts, each about an image of its own."""
    looking = Looking(url, model)
    with looking.client, ThreadPoolExecutor(8) as several:
        made = several.map(lambda one: looking.rollout(*one), product(range(groups), range(SIZE)))
        return list(made)
