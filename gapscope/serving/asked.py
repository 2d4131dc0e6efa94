"""What a server is asked that is to sample: the bodies of requests, for vLLM and for others of OpenAI's protocol."""

from collections.abc import Sequence
from typing import NamedTuple

from gapscope.plan_options import Sampling
from gapscope.rollouts import Json

# The policy is sampled as the plan says: what a request leaves out, a server takes from the model's own
# generation_config.json, or has a default of its own for.
_OFF: dict[str, Json] = {"top_k": -1, "min_p": 0.0}
_NEUTRAL: dict[str, Json] = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
_WHOLE_TEXT: dict[str, Json] = {
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": True,
}


class Asked(NamedTuple):
    """A request: what every server must honour, and what one may do without that does not know it."""

    body: dict[str, Json]
    extras: dict[str, Json]


def completion(model: str, prompt: Sequence[int] | str, asked: Asked, grammar: str | None) -> Asked:
    """A request to /v1/completions. Nothing is added to a prompt that is text."""
    body = {"model": model, "prompt": prompt, **asked.body}
    if grammar is not None:
        body["structured_outputs"] = {"grammar": grammar}
    return Asked(body, asked.extras | ({"add_special_tokens": False} if isinstance(prompt, str) else {}))


def conversation(model: str, messages: Json, asked: Asked, tools: Json, *, continued: bool) -> Asked:
    """A request to /v1/chat/completions. The template shows the tools, and calls stay in the text."""
    body = {"model": model, "messages": messages, "logprobs": True, **asked.body}
    if tools is not None:
        body |= {"tools": tools, "tool_choice": "none"}
    if continued:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return Asked(body, asked.extras)


def generation(model: str, ids: Sequence[int], images: Sequence[str], asked: Asked) -> dict[str, Json]:
    """A request to /inference/v1/generate, which none but vLLM has."""
    body: dict[str, Json] = {
        "model": model,
        "token_ids": ids,
        "sampling_params": {**_sampling_params(asked), "logprobs": 0},
        "return_token_ids": True,
        "output_mode": "text",
    }
    if images:
        body["content_parts"] = [{"type": "image_url", "url": image} for image in images]
    return body


def sampled(sampling: Sampling, seed: int, max_tokens: int, stop: Sequence[str]) -> Asked:
    """How to sample, which is the same on all routes: the text keeps special tokens, and what it stopped at."""
    body: dict[str, Json] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
        "max_tokens": max_tokens,
    }
    if stop:
        body["stop"] = list(stop)
    cut: dict[str, Json] = {"top_k": sampling.top_k, "min_p": sampling.min_p}
    body |= {name: value for name, value in cut.items() if value != _OFF[name]}
    return Asked(body, {**_OFF, **_NEUTRAL, **_WHOLE_TEXT, "return_token_ids": True})


def _sampling_params(asked: Asked) -> dict[str, Json]:
    both = asked.extras | asked.body
    return {name: value for name, value in both.items() if name != "return_token_ids"}
