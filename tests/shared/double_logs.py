"""Logs of a policy that the vLLM double serves, in its tokens: what a trainer would have written before a plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from vllm_policies import ANSWERING, CITIES, call
from vllm_tokens import MARKED, qwen

import gapscope as gs
from gapscope.alignment import Aligner
from gapscope.dialects import dialect_named
from gapscope.outcomes import ErrorMarkers
from gapscope.plan_options import PlanOptions, Sampling
from gapscope.plans import Plan
from gapscope.recorders import RolloutWriter, recorded
from gapscope.rollouts import Rollout

DEGREES = {city: f"{4 * number} degrees" for number, city in enumerate(CITIES)}
RESULT = "<|im_end|>\n<|im_start|>user\n<tool_response>\n{}\n</tool_response><|im_end|>\n" + ANSWERING
THOUGHT = "<think>\nI need the tool.\n</think>\n\n"


def get_weather(city: str) -> str:
    """The tool: degrees in a city."""
    return DEGREES[city]


def asked(city: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is the weather in {city}?"}]


def prompt_of(messages: Sequence[dict[str, Any]]) -> str:
    return qwen(list(messages)) + ANSWERING


def rollout(
    pieces: Sequence[tuple[str, bool]], city: str = "Arlen", *, logprob: float = -0.5, **fields: Any
) -> Rollout:
    """A rollout out of pieces of text with whether the policy wrote them, with all tokens and where they stand."""
    messages = asked(city)
    prompt = fields.pop("prompt", prompt_of(messages))
    ids, mask = [], []
    for text, own in pieces:
        found = MARKED.encode(text)
        ids += found
        mask += [own] * len(found)
    made = recorded(
        prompt,
        "".join(text for text, _ in pieces),
        prompt_ids=MARKED.encode(prompt),
        completion_ids=ids,
        mask=mask,
        logprobs=[logprob if own else None for own in mask],
        dialect="hermes",
        ground_truth=fields.pop("ground_truth", f"It is {DEGREES[city]}."),
        tools=["get_weather"],
        **fields,
    )
    assert made.tokens is not None
    made.tokens = replace(made.tokens, strings=[MARKED.string(token) for token in made.tokens.ids or ()])
    made.messages = messages
    assert Aligner(dialect_named("hermes"), ErrorMarkers(), None).align(made) == "strings"
    made.tokens = replace(made.tokens, strings=None)
    return made


def called(city: str, answer: str, result: str | None = None) -> list[tuple[str, bool]]:
    """A thought, a call, its result, and an answer."""
    said = THOUGHT + call("get_weather", {"city": city}) + "<|im_end|>"
    told = RESULT.format(DEGREES[city] if result is None else result).removeprefix("<|im_end|>")
    return [(said, True), (told, False), (f"<think>\nSo.\n</think>\n\n{answer}<|im_end|>", True)]


def groups(number: int = 3, *, step: int = 1) -> list[Rollout]:
    """Groups of four: two that call the tool for the wrong city, one that guesses right, and one that guesses wrong."""
    made = []
    for question in range(number):
        city, other = CITIES[question % 5], CITIES[(question + 1) % 5]
        guesses = [f"It is {DEGREES[each]}." for each in (city, other)]
        outputs = [
            called(other, guesses[1]),
            called(other, guesses[1]),
            *([(f"<think>\nI know.\n</think>\n\n{guess}<|im_end|>", True)] for guess in guesses),
        ]
        for index, (pieces, logprob) in enumerate(zip(outputs, (-0.5, -0.7, -0.1, -0.1), strict=True)):
            right = index == 2
            made.append(
                rollout(
                    pieces,
                    city,
                    logprob=logprob,
                    step=step,
                    group=f"q{question}",
                    sample_index=index,
                    rollout_id=f"{step}-{question}-{index}",
                    reward=float(right),
                    correct=right,
                )
            )
    return made


def without_tokens(made: Rollout) -> Rollout:
    """The same as a log of text alone."""
    return replace(
        made,
        tokens=None,
        spans=[replace(span, token_start=None, token_end=None) for span in made.spans],
        calls=[replace(each, tokens=None) for each in made.calls],
    )


def write(path: Path, rollouts: Sequence[Rollout]) -> Path:
    with RolloutWriter(path) as log:
        log.write(*rollouts)
    return path


def planned(log: Path, *, k: int = 4, r: str = "1", max_tokens: int | None = 400, **options: Any) -> Plan:
    """A plan of a log, with a budget for every candidate of three-quarters of its groups or more."""
    given = {"k": k, "r": r, "seed": 0, "max_turns": 3, "sampling": Sampling(max_tokens=max_tokens)} | options
    return gs.plan(str(log), PlanOptions.model_validate(given))
