"""A stand-in for a vLLM server: the answers of version 0.32 to the requests that gapscope makes, faults included.

`Double` answers one request; it serves `httpx.MockTransport` as it is, and `Served` puts it behind a real socket, for
what only a socket can do: break off, be slow, be down. Token t after token s has the probability 1 / (2 + (s + t) % 7),
and all others share the rest evenly, so that numbers follow by hand; with images it is s + t + their `pixels`. What is
said is up to a policy (vllm_policies.py), and becomes tokens in a language (vllm_tokens.py); unless told otherwise the
double speaks ASCII, in a short context.

`plain` makes it a server that is not vLLM: no tokens in its answers, and no routes for them.
"""

import asyncio
import base64
import binascii
import hashlib
import io
import itertools
import json
import math
import struct
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import httpx
from vllm_policies import Policy, Said, hermes
from vllm_served import Served
from vllm_tokens import ASCII, BEGIN, QWEN, Cannot, Language, parts

__all__ = [
    "BEGIN",
    "CONTEXT",
    "MODEL",
    "PAD",
    "VOCABULARY",
    "Body",
    "Double",
    "Fault",
    "Served",
    "Twist",
    "encoded",
    "error",
    "expected",
    "pads",
    "pixels",
    "probability",
    "qwen_double",
]

MODEL = "tiny"
CONTEXT = 200
VOCABULARY = ASCII.tokens.size
MOST_LOGPROBS = 20
VERSION = "0.32.0"
PAD = QWEN.tokens.ids["<|image_pad|>"]

Body = dict[str, Any]
Twist = Callable[[httpx.Response], httpx.Response]
"""What becomes of a good answer."""
Fault = Callable[[httpx.Request, Body], httpx.Response | Twist | None]
"""The answer in place of the double's own, or what becomes of that, or None to leave it; httpx's errors are raised."""

_LOGS = [math.log(1 / (2 + rest)) for rest in range(7)]
_SIDE = 32
"""Pixels of an image's side that become one token."""
_PLAIN = frozenset(
    {"frequency_penalty", "logit_bias", "logprobs", "max_tokens", "model", "n", "presence_penalty", "seed", "stop"}
    | {"stream", "stream_options", "temperature", "top_p", "user"}
)
_PLAIN_COMPLETION = _PLAIN | {"best_of", "echo", "prompt", "suffix"}
_PLAIN_CHAT = _PLAIN | {"max_completion_tokens", "messages", "response_format", "tool_choice", "tools", "top_logprobs"}


_REQUIRED = {
    "/v1/completions": ("prompt",),
    "/v1/chat/completions": ("messages",),
    "/v1/chat/completions/render": ("messages",),
    "/detokenize": ("tokens",),
    "/inference/v1/generate": ("token_ids", "sampling_params"),
}


def probability(before: int, token: int, images: int = 0) -> float:
    """What the model gives `token` after `before`; `images` are the pixels that it sees."""
    return 1 / (2 + (before + token + images) % 7)


def pixels(images: Sequence[bytes]) -> int:
    """What the model sees of images: a number from 1 to 6, and 0 where there are none."""
    return 1 + zlib.crc32(b"".join(images)) % 6 if images else 0


def pads(image: bytes) -> int:
    """How many tokens an image becomes: one for each square of 32 pixels, and at least one.

    Raises:
        Refusal: it is no image.

    """
    if image.startswith(b"\x89PNG") and len(image) > 24:
        wide, high = struct.unpack(">II", image[16:24])
    else:
        from PIL import Image, UnidentifiedImageError

        try:
            wide, high = Image.open(io.BytesIO(image)).size
        except UnidentifiedImageError:
            raise Refusal(error(400, "Failed to load image: cannot identify image file <_io.BytesIO object>")) from None
    rows, columns = (max(1, round(side / _SIDE)) for side in (high, wide))
    return int(rows * columns)


def expected(ids: list[int], images: Sequence[bytes] = ()) -> list[float | None]:
    """The log-probs of a prompt; those of sampled tokens are what follows in the same list."""
    seen = pixels(images)
    return [None] + [_LOGS[(a + b + seen) % 7] for a, b in pairwise(ids)]


def encoded(text: str) -> list[int]:
    return ASCII.tokens.encode(text)


def error(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> httpx.Response:
    """An error in vLLM's shape."""
    return httpx.Response(status, json={"error": {"message": message, "type": kind, "param": param, "code": status}})


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(answer.text)
        self.answer = answer


def wrong(name: str, value: Any, message: str) -> Refusal:
    """A parameter that the server does not take, in its words."""
    return Refusal(error(400, f"{message} (parameter={name}, value={value})", param=name))


def invalid(place: str, kind: str, message: str, given: Any) -> Refusal:
    """A field of the wrong type; the server lists every type that it is not."""
    said = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{place}', 'msg': '{message}', 'input': '{given}'}}"
    return Refusal(error(400, said, "Bad Request", place))


class Prompt(NamedTuple):
    """What a turn is sampled after; the placeholders are where images' tokens begin, and how many they are."""

    ids: list[int]
    images: Sequence[bytes] = ()
    placeholders: Sequence[tuple[int, int]] = ()


class Choice(NamedTuple):
    """A turn that was sampled."""

    ids: list[int]
    text: str
    finish: str
    stop: str | int | None


def _checked(asked: Body) -> None:
    """Refuse what the server refuses of the parameters of sampling."""
    most, n = asked.get("max_tokens"), asked.get("n", 1)
    if most is not None and not isinstance(most, int):
        said = "Input should be a valid integer, unable to parse string as an integer"
        raise invalid("body.max_tokens", "int_parsing", said, most)
    warmth, mass = asked.get("temperature"), asked.get("top_p")
    if n < 1:
        raise Refusal(error(400, f"n must be at least 1, got {n}."))
    if warmth is not None and warmth < 0:
        raise wrong("temperature", float(warmth), f"temperature must be non-negative, got {float(warmth)}.")
    if warmth is not None and warmth > 2:
        raise wrong("temperature", float(warmth), f"temperature must be in [0, 2], got {float(warmth)}.")
    if mass is not None and not 0 < mass <= 1:
        raise wrong("top_p", float(mass), f"top_p must be in (0, 1], got {float(mass)}.")
    if most is not None and most < 1:
        raise wrong("max_tokens", most, f"max_tokens must be at least 1, got {most}.")
    if isinstance(asked.get("stop"), list) and "" in asked["stop"]:
        raise Refusal(error(400, "stop cannot contain an empty string."))
    if warmth == 0 and n > 1:
        raise Refusal(error(400, f"n must be 1 when using greedy sampling, got {n}."))


class Double:
    """Answers requests; `fault` may answer in its place, `key` is demanded where it is given.

    `scale_out` opens the routes that continue ids with images, `vision` makes it a model that takes images, `bos` one
    whose tokenizer puts a token before every text. `plain` is a server that is not vLLM, `refusing` the status with
    which it answers fields that it does not know, which it ignores otherwise; `reads_ids` is whether it takes ids.
    """

    def __init__(
        self,
        fault: Fault | None = None,
        *,
        key: str | None = None,
        context: int | None = CONTEXT,
        policy: Policy | None = None,
        language: Language = ASCII,
        model: str = MODEL,
        scale_out: bool = False,
        vision: bool = False,
        most_images: int = 4,
        bos: bool = False,
        plain: bool = False,
        refusing: int | None = None,
        reads_ids: bool = True,
        keep: bool = True,
    ) -> None:
        self.fault = fault
        self.key = key
        self.context = context
        self.policy = policy or hermes()
        self.language = language
        self.tokens = language.tokens
        self.model = model
        self.scale_out = scale_out
        self.vision = vision
        self.most_images = most_images
        self.first = [0 if language is ASCII else self.tokens.ids["<|endoftext|>"]] if bos else []
        self.plain = plain
        self.refusing = refusing
        self.reads_ids = reads_ids
        self.keep = keep
        self.requests: list[tuple[str, Body]] = []
        self.keys: set[str | None] = set()
        self.count = 0
        self._numbered = [f"token_id:{token}" for token in range(self.tokens.size)]
        self._unseeded = itertools.count(1_000_003)

    @property
    def prompts(self) -> list[Any]:
        """The prompts that were scored or continued, in the order in which they came."""
        return [body["prompt"] for path, body in self.requests if path == "/v1/completions"]

    def asked(self, path: str) -> list[Body]:
        """The bodies of the requests to one route."""
        return [body for each, body in self.requests if each == path]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        path = request.url.path
        self.count += 1
        if self.keep:
            self.requests.append((path, body))
        self.keys.add(request.headers.get("Authorization"))
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return httpx.Response(401, json={"error": "Unauthorized"})
        met = self.fault(request, body) if self.fault is not None else None
        if isinstance(met, httpx.Response):
            return met
        answer = self.answer(path, body)
        return met(answer) if met is not None else answer

    async def paced(self, request: httpx.Request) -> httpx.Response:
        """The same for `httpx.MockTransport`, as slow as the answer says that it is."""
        answer = self(request)
        await asyncio.sleep(answer.extensions.get("seconds", 0.0))
        return answer

    def answer(self, path: str, body: Body) -> httpx.Response:
        """The answer to a request that meets no fault."""
        open_to_all = {
            "/health": lambda _: httpx.Response(200),
            "/v1/models": self.models,
            "/v1/completions": self.complete,
            "/v1/chat/completions": self.chat,
        }
        own = {
            "/version": lambda _: httpx.Response(200, json={"version": VERSION}),
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
            "/v1/chat/completions/render": self.render,
            "/inference/v1/generate": self.generate,
        }
        route = (open_to_all if self.plain else open_to_all | own).get(path)
        if route is None:
            return httpx.Response(404, json={"detail": "Not Found"})
        if body.get("stream"):
            return error(501, "The double does not stream.", "NotImplementedError")
        try:
            for name in _REQUIRED.get(path, ()):
                place = f"body.{name}"
                if name not in body:
                    raise invalid(place, "missing", "Field required", f"<dict of {len(body)} items>")
            return route(self._plain(path, body) if self.plain else body)
        except Refusal as refusal:
            return refusal.answer

    def models(self, _: Body) -> httpx.Response:
        card = {"id": self.model, "object": "model", "owned_by": "vllm", "max_model_len": self.context}
        if self.plain:
            card = {"id": self.model, "object": "model", "created": 0, "owned_by": "somebody"}
        return httpx.Response(200, json={"object": "list", "data": [card]})

    def tokenize(self, body: Body) -> httpx.Response:
        self._known(body)
        if "messages" in body:
            # A real server drops `reasoning_content` here, and honours it in a chat.
            messages = [
                {key: value for key, value in each.items() if key != "reasoning_content"} for each in body["messages"]
            ]
            ids = self._written(body | {"messages": messages}).ids
        else:
            ids = self.first * body.get("add_special_tokens", True) + self.tokens.encode(body["prompt"])
        strings = [self.tokens.string(token) for token in ids] if body.get("return_token_strs") else None
        answer = {"count": len(ids), "max_model_len": self.context, "tokens": ids, "token_strs": strings}
        return httpx.Response(200, json=answer)

    def detokenize(self, body: Body) -> httpx.Response:
        self._known(body)
        known = (token for token in body["tokens"] if token < self.tokens.size)
        return httpx.Response(200, json={"prompt": self.tokens.decode(known)})

    def complete(self, body: Body) -> httpx.Response:
        """Scores and continues prompts of ids, or texts; images are not known here, and what would be one is ignored.

        Raises:
            Refusal: the server refuses the request.

        """
        self._known(body)
        _checked(body)
        tops = self._tops(body, "logprobs", "sample")
        wanted = self._tops(body, "prompt_logprobs", "prompt")
        prompts = self._prompts(body)
        choices: list[Body] = []
        n, spent = body.get("n", 1), 0
        for ids in prompts:
            prompt = Prompt(ids)
            for choice in self._sampled(prompt, body, self._room(len(ids), body.get("max_tokens", 16))):
                spent += len(choice.ids)
                answer = {
                    "index": len(choices),
                    "text": choice.text,
                    "logprobs": None if tops is None else self._listed(prompt, choice.ids, tops, body),
                    "finish_reason": choice.finish,
                }
                if not self.plain:
                    given = bool(body.get("return_token_ids"))
                    answer |= {
                        "stop_reason": choice.stop,
                        "token_ids": choice.ids if given else None,
                        "prompt_logprobs": None if wanted is None else self._scored(ids, wanted),
                        "prompt_token_ids": ids if given else None,
                        "routed_experts": None,
                    }
                choices.append(answer)
        used = self._usage(sum(map(len, prompts)), spent)
        answer = {"id": f"cmpl-{self.count:016x}", "object": "text_completion", "created": int(time.time())}
        answer |= {"model": self.model, "choices": choices, "usage": used}
        if not self.plain:
            answer |= {"service_tier": None, "system_fingerprint": f"vllm-{VERSION}-double", "metrics": None}
            answer |= {"kv_transfer_params": None, "ec_transfer_params": None}
        assert len(choices) == n * len(prompts)
        return _json(answer)

    def chat(self, body: Body) -> httpx.Response:
        """Answers messages, or goes on with the last of them.

        Raises:
            Refusal: the server refuses the request.

        """
        self._known(body)
        self._refuse_tools(body)
        _checked(body)
        tops = self._tops(body, "top_logprobs", "sample", said="logprobs") or 0
        prompt = self._written(body)
        room = self._room(len(prompt.ids), body.get("max_completion_tokens") or body.get("max_tokens"))
        sampled = self._sampled(prompt, body, room)
        goes_on = body.get("continue_final_message") or not body.get("add_generation_prompt", True)
        role = body["messages"][-1]["role"] if goes_on else "assistant"
        choices = [self._message(number, prompt, choice, tops, body, role) for number, choice in enumerate(sampled)]
        seen = sum(length for _, length in prompt.placeholders)
        used = self._usage(len(prompt.ids), sum(len(choice.ids) for choice in sampled), images=seen, created=0)
        answer = {"id": f"chatcmpl-{self.count:016x}", "object": "chat.completion", "created": int(time.time())}
        answer |= {"model": self.model, "choices": choices, "usage": used}
        if not self.plain:
            answer |= {"service_tier": None, "system_fingerprint": f"vllm-{VERSION}-double", "metrics": None}
            answer |= {"kv_transfer_params": None, "ec_transfer_params": None, "prompt_logprobs": None}
            given = prompt.ids if body.get("return_token_ids") else None
            answer |= {"prompt_token_ids": given, "prompt_text": None}
        return _json(answer)

    def render(self, body: Body) -> httpx.Response:
        """The tokens of a chat and the pixels of its images, to be sent on to `generate`.

        Raises:
            Refusal: the server refuses the request.

        """
        self._scaled_out()
        self._known(body)
        prompt = self._written(body)
        features = None
        if prompt.images:
            features = {
                "mm_hashes": {"image": [hashlib.sha256(image).hexdigest() for image in prompt.images]},
                "mm_placeholders": _places(prompt),
                "kwargs_data": {"image": [base64.b64encode(image).decode() for image in prompt.images]},
                "mm_metadata": {"image": [base64.b64encode(b"grid").decode() for _ in prompt.images]},
            }
        sampling: Body = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
        sampling |= {"temperature": float(body.get("temperature", 1.0)), "stop": body.get("stop", [])}
        sampling |= {"max_tokens": self._room(len(prompt.ids), body.get("max_tokens")), "stop_token_ids": []}
        sampling |= {"output_kind": 2, "skip_clone": True, "bad_words": [], "skip_reading_prefix_cache": False}
        if sampling["temperature"]:
            sampling |= {"top_p": 1.0, "min_p": 0.0}
        answer: Body = {"cache_salt": None, "content_parts": None, "return_token_ids": None, "token_offsets": None}
        answer |= {"reasoning_ended": None, "reasoning_parser_kwargs": None, "stream_options": None}
        answer |= {"kv_transfer_params": None, "ec_transfer_params": None}
        answer |= {"request_id": f"chatcmpl-{self.count:016x}", "token_ids": prompt.ids, "features": features}
        answer |= {"sampling_params": sampling, "model": self.model, "output_mode": "tokens"}
        return _json(answer | {"stream": False, "priority": 0})

    def generate(self, body: Body) -> httpx.Response:
        """Continues ids as they are, with the pixels of `content_parts` or of rendered `features`.

        Raises:
            Refusal: the server refuses the request.

        """
        self._scaled_out()
        if body.get("model") is not None:
            self._known(body)
        asked = body["sampling_params"]
        _checked(asked)
        tops = self._tops(asked, "logprobs", "sample")
        wanted = self._tops(asked, "prompt_logprobs", "prompt")
        prompt = self._with_images(self._valid(body["token_ids"]), body)
        if len(prompt.ids) > self._limit:
            raise Refusal(
                error(
                    400,
                    f"The decoder prompt (length {len(prompt.ids)}) is longer than the maximum model length of "
                    f"{self._limit}. Make sure that `max_model_len` is no smaller than the number of text tokens.",
                )
            )
        sampled = self._sampled(prompt, asked, self._room(len(prompt.ids), asked.get("max_tokens", 16)))
        mode = body.get("output_mode") or "tokens"
        choices = []
        for number, choice in enumerate(sampled):
            entries = None if tops is None else {"content": self._ranked(prompt, choice.ids, tops)}
            version = {"version": "default", "start": 0, "end": len(choice.ids)}
            made = {"index": number, "finish_reason": choice.finish, "stop_reason": choice.stop}
            made |= {"token_ids": choice.ids, "logprobs": entries, "weight_versions": [version]}
            made |= {"routed_experts": None, "sampling_mask": None}
            choices.append(made | ({"text": choice.text} if mode == "text" else {}))
        given = bool(body.get("return_token_ids"))
        nothing = ("prompt_token_id_logprobs", "metrics", "kv_transfer_params", "ec_transfer_params")
        answer: Body = dict.fromkeys(nothing)
        answer |= {
            "request_id": f"generate-tokens-{body.get('request_id') or f'{self.count:016x}'}",
            "model": self.model,
            "created": int(time.time()),
            "usage": self._usage(len(prompt.ids), sum(len(choice.ids) for choice in sampled)),
            "prompt_logprobs": None if wanted is None else self._scored(prompt.ids, wanted, prompt.images),
            "prompt_token_ids": prompt.ids if given else None,
            "mm_placeholders": _places(prompt) if given and prompt.images else None,
            "output_mode": mode,
            "choices": choices,
        }
        return _json(answer)

    def _plain(self, path: str, body: Body) -> Body:
        """A request as a server reads it that has never heard of vLLM."""
        known = _PLAIN_CHAT if "chat" in path else _PLAIN_COMPLETION
        unknown = sorted(body.keys() - known) if body else []
        if unknown and self.refusing == 422:
            extra = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}
            detail = [extra | {"loc": ["body", name], "input": body[name]} for name in unknown]
            raise Refusal(httpx.Response(422, json={"detail": detail}))
        if unknown and self.refusing is not None:
            said = f"Unrecognized request argument supplied: {unknown[0]}"
            answer = {"message": said, "type": "invalid_request_error", "param": None, "code": None}
            raise Refusal(httpx.Response(self.refusing, json={"error": answer}))
        if not self.reads_ids and not isinstance(body.get("prompt", ""), str):
            answer = {"message": "prompt must be a string", "type": "invalid_request_error", "param": "prompt"}
            raise Refusal(httpx.Response(self.refusing or 400, json={"error": answer | {"code": None}}))
        return {name: value for name, value in body.items() if name in known}

    @property
    def _limit(self) -> int:
        return self.context or CONTEXT

    def _known(self, body: Body) -> None:
        if body.get("model", self.model) != self.model:
            said = f"The model `{body['model']}` does not exist. Valid aliases: {self.model}."
            raise Refusal(error(404, said, "NotFoundError", "model"))

    def _scaled_out(self) -> None:
        if not self.scale_out:
            said = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."
            raise Refusal(error(403, said, "PermissionDeniedError"))

    @staticmethod
    def _refuse_tools(body: Body) -> None:
        """The server is one without a parser of tool calls, as it is when nothing is said about it."""
        chosen = body.get("tool_choice", "auto")
        if body.get("chat_template"):
            said = "Chat template is passed with request, but --trust-request-chat-template is not set. "
            raise Refusal(error(400, said + "Refused request with untrusted chat template."))
        if not body.get("tools") or chosen == "none":
            return
        if chosen == "auto":
            said = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        elif chosen == "required":
            said = 'tool_choice="required" requires --tool-call-parser to be set'
        else:
            said = f'tool_choice=function "{chosen["function"]["name"]}" requires --tool-call-parser to be set'
        raise Refusal(error(400, said))

    def _tops(self, asked: Body, name: str, kind: str, *, said: str | None = None) -> int | None:
        wanted = asked.get(name)
        if wanted is None or wanted is True or wanted is False:
            return None
        if wanted == -1 or wanted > MOST_LOGPROBS:
            number = self.tokens.size if wanted == -1 else wanted
            message = f"Requested {kind} logprobs of {number}, which is greater than max allowed: {MOST_LOGPROBS}"
            raise wrong(said or name, number, message)
        return int(wanted)

    def _valid(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self.tokens.size:
            raise Refusal(error(400, f"Token id {max(ids)} is out of vocabulary"))
        if ids and min(ids) < 0:
            place = f"body.prompt.{ids.index(min(ids))}"
            said = "Input should be greater than or equal to 0"
            raise invalid(place, "greater_than_equal", said, min(ids))
        return ids

    def _prompts(self, body: Body) -> list[list[int]]:
        prompt = body.get("prompt")
        if not isinstance(prompt, str | list):
            kind = f"<{type(prompt).__name__} of {len(prompt)} items>" if prompt else prompt
            raise invalid("body.prompt", "list_type", "Input should be a valid list", kind)
        if any(not isinstance(one, str | int | list) for one in prompt):
            raise invalid("body.prompt.0", "int_type", "Input should be a valid integer", prompt[0])
        if not prompt:
            raise Refusal(error(400, "You must pass at least one prompt"))
        each = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        first = self.first * body.get("add_special_tokens", True)
        return [first + self.tokens.encode(one) if isinstance(one, str) else self._valid(one) for one in each]

    def _room(self, length: int, most: int | None) -> int:
        """How many tokens may be sampled: what does not fit is cut off in silence."""
        room = self._limit - length
        if room < 0:
            said = (
                f"This model's maximum context length is {self._limit} tokens. However, your prompt contains {length} "
                "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of "
                "the input prompt."
            )
            raise wrong("input_tokens", length, said)
        if room == 0:
            raise wrong("max_tokens", 0, "max_tokens must be at least 1, got 0.")
        return room if most is None else min(most, room)

    def _written(self, body: Body) -> Prompt:
        """Messages as tokens, those of their images included."""
        messages, goes_on = body["messages"], bool(body.get("continue_final_message"))
        opens = bool(body.get("add_generation_prompt", True))
        if goes_on and opens and "add_generation_prompt" in body:
            said = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
            raise Refusal(error(400, said))
        if not messages:
            said = "Cannot apply chat template to an empty conversation. Provide at least one message."
            raise Refusal(error(400, said))
        urls = [
            part["image_url"]["url"]
            for each in messages
            for part in parts(each.get("content"))
            if part["type"] == "image_url"
        ]
        images = self._images(urls)
        thinking = (body.get("chat_template_kwargs") or {}).get("enable_thinking", True)
        try:
            text = self.language.template(
                messages, body.get("tools") or (), generation_prompt=opens, go_on=goes_on, thinking=thinking
            )
        except Cannot as refused:
            raise Refusal(error(400, str(refused))) from None
        return _expanded(self.tokens.encode(text), images)

    def _images(self, urls: list[str]) -> list[bytes]:
        if urls and not self.vision:
            raise Refusal(error(400, f"{self.model} is not a multimodal model"))
        if len(urls) > self.most_images:
            said = f"At most {self.most_images} image(s) may be provided in one prompt. (parameter=image)"
            raise Refusal(error(400, said, param="image"))
        images = []
        for url in urls:
            if not url.startswith("data:"):
                host = httpx.URL(url).netloc.decode()
                said = f"Cannot connect to host {host} ssl:default [Connect call failed]"
                raise Refusal(error(500, said, "InternalServerError"))
            try:
                images.append(base64.b64decode(url.partition(",")[2], validate=True))
            except binascii.Error:
                raise Refusal(error(400, "Failed to load image: Incorrect padding")) from None
        return images

    def _with_images(self, ids: list[int], body: Body) -> Prompt:
        features, given = body.get("features"), body.get("content_parts")
        if features:
            images = [base64.b64decode(data) for data in features["kwargs_data"]["image"]]
            places = features["mm_placeholders"]["image"]
            return Prompt(ids, images, [(place["offset"], place["length"]) for place in places])
        if given:
            return _expanded(ids, self._images([part["url"] for part in given if part["type"] == "image_url"]))
        return Prompt(ids)

    def _sampled(self, prompt: Prompt, asked: Body, room: int) -> list[Choice]:
        """What the policy says to each of the seeds: those of n choices follow on one another."""
        first = asked.get("seed")
        greedy = asked.get("temperature") == 0
        text = self.tokens.decode(prompt.ids)
        choices = []
        for number in range(asked.get("n", 1)):
            seed = next(self._unseeded) if first is None else first + number
            choices.append(self._said(self.policy(text, 0 if greedy else seed), asked, room))
        return choices

    def _said(self, said: str | Said, asked: Body, room: int) -> Choice:
        """What is left of a turn when it ends where the request says that it does."""
        said = Said([said]) if isinstance(said, str) else said
        ids = [
            token
            for piece in said.pieces
            for token in (self.tokens.encode(piece) if isinstance(piece, str) else [piece])
        ]
        unending = bool(asked.get("ignore_eos"))
        ids += [self.tokens.end] if said.ends else []
        if not said.ends or unending:
            ids += [ids[-1] if ids and not said.ends else ord("\n")] * (room - len(ids))
        ending = {*(asked.get("stop_token_ids") or ()), *(() if unending else (self.tokens.end,))}
        last = next((place for place, token in enumerate(ids) if token in ending), len(ids))
        ids = ids[: min(last + 1, room)]
        ended = last < len(ids)
        finish: str = "stop" if ended else "length"
        stop: str | int | None = ids[last] if ended and ids[last] != self.tokens.end else None
        shown = bool(asked.get("include_stop_str_in_output"))
        spelled = self.tokens.spelled(ids, skip_special=asked.get("skip_special_tokens", True))
        if ended and not shown:
            spelled[-1] = b""
        text = b"".join(spelled)
        stops = asked.get("stop") or ()
        found = [
            (begin + len(one.encode()), begin, one)
            for one in ([stops] if isinstance(stops, str) else stops)
            if (begin := text.find(one.encode())) >= 0
        ]
        if found:
            end, begin, stop = min(found, key=lambda each: each[0])
            # The token that completes the match is kept whole, whatever it holds beyond it.
            ids = ids[: bisect_left(list(accumulate(map(len, spelled))), end) + 1]
            text, finish = text[: end if shown else begin], "stop"
        return Choice(ids, text.decode("utf-8", "replace"), finish, stop)

    def _logprobs(self, prompt: Prompt, ids: list[int]) -> list[float]:
        seen = pixels(prompt.images)
        return [_LOGS[(a + b + seen) % 7] for a, b in pairwise([prompt.ids[-1], *ids])]

    def _others(self, token: int, logprob: float, most: int) -> list[tuple[int, float]]:
        """The token itself, which is the likeliest, and as many of the others as are wanted."""
        if most < 2:
            return [(token, logprob)]
        size = self.tokens.size
        rest = math.log((1 - math.exp(logprob)) / (size - 1))
        return [(token, logprob), *(((token + rank) % size, rest) for rank in range(1, most))]

    def _name(self, token: int, asked: Body) -> str:
        return (self._numbered if asked.get("return_tokens_as_token_ids") else self.tokens.strings)[token]

    def _listed(self, prompt: Prompt, ids: list[int], tops: int, asked: Body) -> Body:
        """The log-probs of a completion; tokens of one spelling collide in `top_logprobs`."""
        strings = self._numbered if asked.get("return_tokens_as_token_ids") else self.tokens.strings
        names = [strings[token] for token in ids]
        logprobs = self._logprobs(prompt, ids)
        listed = [{name: logprob} for name, logprob in zip(names, logprobs, strict=True)]
        if tops > 1:
            listed = [
                {strings[other]: value for other, value in self._others(token, logprob, tops)}
                for token, logprob in zip(ids, logprobs, strict=True)
            ]
        return {
            "text_offset": [0, *accumulate(map(len, names))][:-1],
            "token_logprobs": logprobs,
            "tokens": names,
            "top_logprobs": listed,
        }

    def _ranked(self, prompt: Prompt, ids: list[int], tops: int) -> list[Body]:
        entries = []
        for token, logprob in zip(ids, self._logprobs(prompt, ids), strict=True):
            others = self._others(token, logprob, tops)
            listed = [
                {"token_id": other, "logprob": value, "rank": rank} for rank, (other, value) in enumerate(others, 1)
            ]
            entries.append(listed[0] | {"top_logprobs": listed})
        return entries

    def _message(self, number: int, prompt: Prompt, choice: Choice, tops: int, asked: Body, role: str) -> Body:
        """A choice of a chat; `role` is that of the message which it goes on with."""
        entries = None
        if asked.get("logprobs"):
            content = []
            for token, logprob in zip(choice.ids, self._logprobs(prompt, choice.ids), strict=True):
                listed = [
                    {
                        "token": self._name(other, asked),
                        "logprob": value,
                        "bytes": list(self.tokens.string(other).encode()),
                    }
                    for other, value in self._others(token, logprob, tops)
                ]
                content.append(listed[0] | {"top_logprobs": listed[:tops]})
            entries = {"content": content}
        message = {"role": role, "content": choice.text, "refusal": None}
        answer = {"index": number, "message": message, "logprobs": entries, "finish_reason": choice.finish}
        if not self.plain:
            message |= {"annotations": None, "audio": None, "function_call": None, "reasoning": None}
            given = choice.ids if asked.get("return_token_ids") else None
            answer |= {"stop_reason": choice.stop, "token_ids": given, "routed_experts": None}
        return answer

    def _scored(self, ids: list[int], wanted: int, images: Sequence[bytes] = ()) -> list[Body | None]:
        seen = pixels(images)
        return [None, *(self.entry(a, b, wanted, seen) for a, b in pairwise(ids))]

    def entry(self, before: int, token: int, wanted: int, seen: int = 0) -> dict[str, Body]:
        """The token itself, which is the likeliest, and as many of the others as are wanted."""
        others = self._others(token, _LOGS[(before + token + seen) % 7], wanted)
        return {
            str(other): {"logprob": value, "rank": rank, "decoded_token": self.tokens.string(other)}
            for rank, (other, value) in enumerate(others, 1)
        }

    def _usage(self, prompt: int, sampled: int, *, images: int = 0, created: int | None = None) -> Body:
        used: Body = {"prompt_tokens": prompt, "total_tokens": prompt + sampled, "completion_tokens": sampled}
        if self.plain:
            return used
        details = None
        if self.scale_out:
            seen = {"image": images} if images else None
            details = {"cached_tokens": 0, "created_cache_tokens": created, "multimodal_tokens": seen}
        return used | {"prompt_tokens_details": details, "completion_tokens_details": None}


def qwen_double(fault: Fault | None = None, *, context: int | None = 8192, **options: Any) -> Double:
    """A double that speaks as Qwen's chat models do, with room for conversations; the options are those of `Double`."""
    return Double(fault, context=context, language=QWEN, **options)


def _json(answer: Body) -> httpx.Response:
    content = json.dumps(answer, separators=(",", ":")).encode()
    return httpx.Response(200, content=content, headers={"Content-Type": "application/json"})


def _places(prompt: Prompt) -> Body:
    return {"image": [{"offset": offset, "length": length} for offset, length in prompt.placeholders]}


def _expanded(ids: list[int], images: Sequence[bytes]) -> Prompt:
    """Ids in which the first placeholders have become the tokens of the images, one after the other.

    Where the ids were expanded already, a whole image takes the place of one of its tokens, and the others remain.
    """
    if not images:
        return Prompt(ids)
    if ids.count(PAD) < len(images):
        said = f"Expected there to be {len(images)} prompt updates corresponding to {len(images)} image items, but "
        raise Refusal(error(400, said + f"instead found {ids.count(PAD)} prompt updates!"))
    left = iter(images)
    expanded: list[int] = []
    places: list[tuple[int, int]] = []
    for token in ids:
        image = next(left, None) if token == PAD else None
        if image is not None:
            places.append((len(expanded), pads(image)))
        expanded += [token] * (places[-1][1] if image is not None else 1)
    return Prompt(expanded, images, places)
