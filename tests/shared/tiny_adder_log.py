"""A log of `tiny_adder`'s rollouts, sampled by a server in a loop of a few lines, as any trainer has one."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import tiny_adder

from gapscope.recorders import recorded
from gapscope.rollouts import Rollout
from gapscope.tokenizer import load_vocabulary

SIZE = 8
MOST_TURNS = 3
MOST_TOKENS = 96
"""Of one turn."""
AGAIN = 10**6
TOOLS = ("add", "python")


def questions(count: int) -> list[tuple[int, int]]:
    """The first of all that there are, in an order that is as good as any."""
    every = [(a, b) for a in tiny_adder.NUMBERS for b in tiny_adder.NUMBERS]
    return [every[number * 7 % len(every)] for number in range(count)]


def result_of(name: str, arguments: Any) -> str:
    """What the trainer's tools answer."""
    if name == "add":
        try:
            return str(tiny_adder.add(**arguments))
        except TypeError as error:
            return f"Error: {error}"
    if name == "python":
        # The one program that it has learnt; nothing of what it writes is run.
        summed = re.fullmatch(r"print\((\d+) \+ (\d+)\)", str(arguments.get("code")))
        return str(sum(map(int, summed.groups()))) if summed else "Error: SyntaxError: invalid syntax"
    return f"Error: unknown tool {name}"


def call_in(text: str) -> tuple[str, dict[str, Any]] | None:
    """The call that a turn makes, None where there is none that can be read."""
    found = re.search(r"<tool_call>\n(.*)\n</tool_call>", text, re.DOTALL)
    try:
        body = json.loads(found[1]) if found else None
    except ValueError:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("arguments"), dict):
        return None
    return str(body.get("name")), body["arguments"]


class Sampling:
    """Rollouts of eight to a question at temperature 1, each turn a request of its own but for the first."""

    def __init__(self, url: str, tokenizer: Path) -> None:
        self.client = httpx.Client(base_url=url, timeout=120)
        self.tokenizer = load_vocabulary(tokenizer)
        self.known = 1 + max(entry["id"] for entry in json.loads(tokenizer.read_text())["added_tokens"])

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.client.post(path, json={"model": "tiny"} | body)
        answer.raise_for_status()
        return dict(answer.json())

    def complete(self, ids: list[int], seed: int, n: int = 1) -> list[dict[str, Any]]:
        asked = {"temperature": 1.0, "max_tokens": MOST_TOKENS, "logprobs": 0, "return_token_ids": True}
        shown = {"skip_special_tokens": False, "include_stop_str_in_output": True}
        choices = self.post("/v1/completions", prompt=ids, seed=seed, n=n, **asked, **shown)["choices"]
        # The vocabulary is padded, and once in ten thousand tokens the padding is sampled: another one is drawn then.
        return [
            choice if max(choice["token_ids"]) < self.known else self.complete(ids, seed + AGAIN + index)[0]
            for index, choice in enumerate(choices)
        ]

    def group(self, number: int, a: int, b: int) -> list[Rollout]:
        messages = [{"role": "user", "content": tiny_adder.question(a, b)}]
        prompt = self.post("/tokenize", messages=messages, add_generation_prompt=True)["tokens"]
        first = self.complete(prompt, 1000 * number, SIZE)
        return [self.rollout(number, index, (a, b), prompt, choice) for index, choice in enumerate(first)]

    def rollout(
        self, number: int, index: int, numbers: tuple[int, int], prompt: list[int], choice: dict[str, Any]
    ) -> Rollout:
        ids: list[int] = []
        mask: list[int] = []
        logprobs: list[float | None] = []
        for turn in range(MOST_TURNS):
            ids += choice["token_ids"]
            mask += [1] * len(choice["token_ids"])
            logprobs += choice["logprobs"]["token_logprobs"]
            call = call_in(choice["text"])
            if call is None or choice["finish_reason"] != "stop" or turn == MOST_TURNS - 1:
                break
            said = tiny_adder.answered(result_of(*call))
            told = self.post("/tokenize", prompt=said, add_special_tokens=False)["tokens"]
            ids += told
            mask += [0] * len(told)
            logprobs += [None] * len(told)
            (choice,) = self.complete(prompt + ids, 1000 * number + SIZE * (turn + 1) + index)
        answer = str(tiny_adder.add(*numbers))
        right = choice["text"].split("</think>")[-1].removesuffix("<|im_end|>").strip() == answer
        return recorded(
            [{"role": "user", "content": tiny_adder.question(*numbers)}],
            step=0, group=number, sample_index=index, rollout_id=f"{number}-{index}", prompt_ids=prompt,
            completion_ids=ids, mask=mask, logprobs=logprobs, reward=float(right), correct=right, ground_truth=answer,
            data_source="sums", finish_reason=choice["finish_reason"], tools=TOOLS, tokenizer=self.tokenizer,
            dialect="hermes",
        )  # fmt: skip


def sampled(url: str, tokenizer: Path, *, groups: int) -> list[Rollout]:
    """Groups of eight rollouts, the same ones each time, as far as the server is."""
    sampling = Sampling(url, tokenizer)
    with sampling.client, ThreadPoolExecutor(8) as several:
        made = several.map(lambda asked: sampling.group(asked[0], *asked[1]), enumerate(questions(groups)))
        return [rollout for group in made for rollout in group]
