"""The double stands for a real server only as long as it answers like one: here it is held to what one has answered."""

import asyncio
import base64
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import vllm_faults as faults
from vllm_double import MODEL, PAD, Body, Double, Fault, Served, expected, pads, qwen_double
from vllm_policies import Said, always, call, hermes, script
from vllm_tokens import MARKED

_, *RECORDED = [
    json.loads(line) for line in (Path(__file__).parent.parent / "shared/vllm_recorded.jsonl").read_text().splitlines()
]
SPOKEN = (
    "<think>\nI need the weather tool for Elstow.\n</think>\n\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Elstow"}}\n</tool_call>'
)
MAPS = {"top_logprobs", "prompt_logprobs"}
"""Where objects are keyed by tokens."""
FOUR = "So weather. <answer>4"
ASKED = "<|im_start|>user\nHow warm is it?<|im_end|>\n<|im_start|>assistant\n"


def spoken(text: str, _: int) -> str | Said:
    """What the recorded server said, as far as it matters for where a turn ends."""
    if not text.startswith("<|im_start|>"):
        return "?" if text.startswith("What") else Said(["istant"], ends=False)
    return SPOKEN if text.endswith("assistant\n") else " degrees."


def png(wide: int, high: int, grey: int = 200) -> bytes:
    """An image of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([grey]) * wide) * high
    header = struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def sent(value: Any) -> Any:
    """A recorded request in the double's own tokens."""
    if isinstance(value, dict) and "ids of" in value:
        extra = {None: 0, "a padded id": 1, "3 padded ids": 3}[value.get("and")]
        return MARKED.encode(value["ids of"]) * value.get("times", 1) + [*MARKED.padded][:extra]
    if isinstance(value, dict):
        # A token of the double is a character, where the server's were mostly words.
        return {
            key: each * 8 if key == "max_tokens" and each in {40, 60} else sent(each) for key, each in value.items()
        }
    if isinstance(value, list):
        return [sent(each) for each in value]
    return {"IMAGE": url(png(96, 64)), "PIXELS": base64.b64encode(png(96, 64)).decode()}.get(value, value)


def shape(value: Any, key: str = "") -> Any:
    """The keys and types of an answer, and the values that are the same for every model."""
    if key in {"finish_reason", "type", "code", "object", "role", "output_mode", "param"}:
        return value
    if (
        isinstance(value, dict)
        and not value.keys() & {"token", "token_id"}
        and (key in MAPS or (value and all(each.isdigit() for each in value)))
    ):
        return {"of tokens", *(str(shape(each)) for each in value.values())}
    if isinstance(value, dict):
        return {each: shape(inner, each) for each, inner in value.items()}
    if isinstance(value, list):
        kinds = [shape(each, key if key in MAPS else "") for each in value]
        return [kind for place, kind in enumerate(kinds) if kind not in kinds[:place]]
    return type(value).__name__


def said(answer: Body) -> str:
    """An error's message without its numbers; what a validator lists at length is left to `param`."""
    message = re.sub(r"[\d.]*\d", "#", answer["error"]["message"])
    return "" if answer["error"]["type"] == "Bad Request" else message.partition(" [Connect call failed")[0]


def post(double: Callable[[httpx.Request], httpx.Response], path: str, body: Body) -> httpx.Response:
    return double(httpx.Request("POST", f"http://double{path}", json=body))


def sampled(double: Double, prompt: Any = ASKED, **options: Any) -> list[Body]:
    """The choices of a completion of ids, or of a text."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 500, "return_token_ids": True, "seed": 0, **options}
    answer = post(double, "/v1/completions", body)
    assert answer.status_code == 200, answer.text
    choices: list[Body] = answer.json()["choices"]
    return choices


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: f"{recorded['server']}: {recorded['name']}")
def test_the_double_answers_in_the_shape_in_which_a_server_did(recorded: Body) -> None:
    scaled_out = recorded["server"] != "default"
    policy = always("118") if "structured_outputs" in recorded["request"] else spoken
    double = qwen_double(context=2048, policy=policy, scale_out=scaled_out, vision=recorded["server"] == "images")
    answer = post(double, recorded["path"], sent(recorded["request"]))
    assert answer.status_code == recorded["status"]
    assert shape(answer.json()) == shape(recorded["response"])
    if recorded["status"] != 200:
        assert said(answer.json()) == said(recorded["response"])
    if "seen" in recorded:
        assert MARKED.decode(answer.json()["prompt_token_ids"]) == recorded["seen"]


def test_text_and_ids_are_continued_alike_and_the_log_probs_are_those_of_the_formula() -> None:
    double = qwen_double()
    ids = MARKED.encode(ASKED)
    (from_ids,), (from_text,) = sampled(double, ids, logprobs=0), sampled(double, logprobs=0)
    assert from_ids == from_text
    assert from_ids["prompt_token_ids"] == ids
    assert from_ids["logprobs"]["token_logprobs"] == expected(ids + from_ids["token_ids"])[len(ids) :]
    assert from_ids["token_ids"][-1] == MARKED.end
    assert from_ids["text"] + "<|im_end|>" == MARKED.decode(from_ids["token_ids"])


def test_sampled_and_scored_log_probs_are_the_same() -> None:
    double = qwen_double()
    ids = MARKED.encode(ASKED)
    (choice,) = sampled(double, ids, logprobs=0)
    (scored,) = sampled(double, ids + choice["token_ids"], prompt_logprobs=0, max_tokens=1)
    entries = scored["prompt_logprobs"][len(ids) :]
    assert [entry[str(token)]["logprob"] for entry, token in zip(entries, choice["token_ids"], strict=True)] == choice[
        "logprobs"
    ]["token_logprobs"]


def test_choice_i_of_seed_s_is_the_one_choice_of_seed_s_plus_i() -> None:
    double = qwen_double()
    three = [choice["text"] for choice in sampled(double, n=3, seed=7)]
    assert three == [sampled(double, seed=seed)[0]["text"] for seed in (7, 8, 9)]
    assert len(set(three)) == 3
    assert sampled(double, seed=7, temperature=0) == sampled(double, seed=9, temperature=0)


def test_without_a_seed_two_samples_differ() -> None:
    double = qwen_double()
    assert sampled(double, seed=None)[0]["text"] != sampled(double, seed=None)[0]["text"]


def test_tokens_are_16_unless_asked_for_otherwise() -> None:
    answer = post(qwen_double(), "/v1/completions", {"model": MODEL, "prompt": ASKED, "return_token_ids": True})
    (choice,) = answer.json()["choices"]
    assert (len(choice["token_ids"]), choice["finish_reason"]) == (16, "length")


@pytest.mark.parametrize(
    ("options", "text", "last", "stop"),
    [
        ({"stop": ["eat"]}, "So w", "t", "eat"),
        ({"stop": "eat"}, "So w", "t", "eat"),
        ({"stop": ["eat"], "include_stop_str_in_output": True}, "So weat", "t", "eat"),
        # What completes the match is one token with the line's end, which the text loses and the ids keep.
        ({"stop": ["</answer>"]}, FOUR, ">\n", "</answer>"),
        ({"stop": ["</answer>"], "include_stop_str_in_output": True}, f"{FOUR}</answer>", ">\n", "</answer>"),
        # The match that is complete first wins, not the first of the list.
        ({"stop": ["answer", "weather", "eat"]}, "So w", "t", "eat"),
        ({"stop": ["nowhere"]}, f"{FOUR}</answer>\n", "<|im_end|>", None),
        ({}, f"{FOUR}</answer>\n", "<|im_end|>", None),
        ({"include_stop_str_in_output": True}, f"{FOUR}</answer>\n", "<|im_end|>", None),
        (
            {"include_stop_str_in_output": True, "skip_special_tokens": False},
            f"{FOUR}</answer>\n<|im_end|>",
            "<|im_end|>",
            None,
        ),
        ({"stop_token_ids": [ord("w")]}, "So ", "w", ord("w")),
    ],
)  # fmt: skip
def test_a_turn_ends_where_the_server_would_end_it(options: Body, text: str, last: str, stop: Any) -> None:
    double = qwen_double(policy=always(f"{FOUR}</answer>\n"))
    (choice,) = sampled(double, **options)
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (text, "stop", stop)
    assert MARKED.string(choice["token_ids"][-1]) == last


def test_a_stop_that_stands_in_the_last_token_of_the_limit_is_a_stop() -> None:
    (choice,) = sampled(qwen_double(policy=always("abc")), max_tokens=2, stop=["c"])
    assert (choice["token_ids"], choice["finish_reason"]) == ([MARKED.ids["ab"], ord("c")], "stop")


def test_what_does_not_fit_in_the_context_is_cut_off_in_silence() -> None:
    (choice,) = sampled(qwen_double(context=10), "12345678", max_tokens=100)
    assert (len(choice["token_ids"]), choice["finish_reason"]) == (2, "length")


def test_a_policy_may_spell_a_text_otherwise_than_the_tokenizer_and_use_ids_without_a_text() -> None:
    padded = MARKED.padded[0]
    (choice,) = sampled(qwen_double(policy=always(Said(["a", "b", padded]))), logprobs=0)
    assert (choice["text"], choice["token_ids"]) == ("ab", [ord("a"), ord("b"), padded, MARKED.end])
    assert choice["logprobs"]["tokens"] == ["a", "b", "", "<|im_end|>"]
    assert MARKED.encode("ab") == [MARKED.ids["ab"]]


def test_a_turn_without_an_end_is_cut_by_the_limit() -> None:
    (choice,) = sampled(qwen_double(policy=always(Said(["well"], ends=False))), max_tokens=6)
    assert (choice["text"], choice["finish_reason"]) == ("wellll", "length")


def test_characters_of_several_bytes_are_several_tokens() -> None:
    assert MARKED.decode(MARKED.encode("10 °C <think>…")) == "10 °C <think>…"
    assert len(MARKED.encode("°")) == 2


def test_hermes_calls_and_then_answers_and_goes_on_wherever_a_turn_was_cut() -> None:
    double = qwen_double(policy=hermes())
    (first,) = sampled(double, seed=2)
    whole = first["text"]
    assert whole == "<think>\nI need the tool.\n</think>\n\n" + call("get_weather", {"city": "Cadiz"})
    for cut in range(len(whole)):
        assert whole[:cut] + sampled(double, ASKED + whole[:cut], seed=2)[0]["text"] == whole
    replied = f"{ASKED}{whole}<|im_end|>\n<|im_start|>user\n<tool_response>\n21\n</tool_response><|im_end|>\n"
    (second,) = sampled(double, f"{replied}<|im_start|>assistant\n")
    assert second["text"] == "<think>\nThe tool says 21.\n</think>\n\nIt is 21."


def test_hermes_answers_in_a_notation_without_turns() -> None:
    (choice,) = sampled(qwen_double(), "Q: ?\n<tool_call>{}</tool_call><tool_response>7</tool_response>")
    assert choice["text"].endswith("It is 7.")


def test_behind_the_opening_tag_another_seed_makes_another_call() -> None:
    calls = [choice["text"] for choice in sampled(qwen_double(), ASKED + "<tool_call>", n=5)]
    assert len(set(calls)) == 5
    assert calls[0] == '\n{"name": "get_weather", "arguments": {"city": "Arlen"}}\n</tool_call>'


def test_hermes_may_make_several_calls_in_several_rounds() -> None:
    double = qwen_double(policy=hermes(calls=2, rounds=2))
    text = ASKED
    for kinds in (2, 2, 0):
        (choice,) = sampled(double, text)
        assert choice["text"].count("</tool_call>") == kinds
        response = "\n<tool_response>\n3\n</tool_response>" * 2
        text += f"{choice['text']}<|im_end|>\n<|im_start|>user{response}<|im_end|>\n<|im_start|>assistant\n"


def test_a_script_says_its_turns_in_order() -> None:
    double = qwen_double(policy=script("one", lambda seed: f"two {seed}"))
    text = ASKED
    for said in ("one", "two 5", ""):
        assert sampled(double, text, seed=5)[0]["text"] == said
        text += f"{said}<|im_end|>\n<|im_start|>user\n!<|im_end|>\n<|im_start|>assistant\n"
    assert sampled(double, ASKED + "o")[0]["text"] == "ne"


def test_tokenize_and_detokenize_are_inverse_and_a_token_may_stand_before_texts() -> None:
    double = qwen_double(bos=True)
    bare = post(double, "/tokenize", {"model": MODEL, "prompt": ASKED, "add_special_tokens": False}).json()["tokens"]
    begun = post(double, "/tokenize", {"model": MODEL, "prompt": ASKED}).json()["tokens"]
    assert begun == [MARKED.ids["<|endoftext|>"], *bare]
    assert post(double, "/detokenize", {"model": MODEL, "tokens": bare}).json() == {"prompt": ASKED}
    assert sampled(double)[0]["prompt_token_ids"] == begun
    assert sampled(double, bare)[0]["prompt_token_ids"] == bare


def test_tokenize_drops_a_thought_that_a_chat_honours() -> None:
    double = qwen_double()
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "It", "reasoning_content": "hm"}]
    body = {"model": MODEL, "messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    dropped = post(double, "/tokenize", body).json()["tokens"]
    honoured = post(double, "/v1/chat/completions", body | {"return_token_ids": True}).json()["prompt_token_ids"]
    assert MARKED.decode(dropped).endswith("<think>\n\n</think>\n\nIt")
    assert MARKED.decode(honoured).endswith("<think>\nhm\n</think>\n\nIt")


def test_a_final_message_that_the_template_rewrites_is_refused() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>hm</think>It"}]
    body = {"model": MODEL, "messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    answer = post(qwen_double(), "/v1/chat/completions", body)
    assert answer.status_code == 400
    assert "final message does not appear in the chat" in answer.json()["error"]["message"]


def image_chat(images: list[bytes], **options: Any) -> Body:
    content = [{"type": "image_url", "image_url": {"url": url(image)}} for image in images]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "return_token_ids": True, **options}


def test_images_become_as_many_tokens_as_they_are_large() -> None:
    assert [pads(png(*size)) for size in ((96, 64), (32, 32), (1, 1), (320, 64))] == [6, 1, 1, 20]
    double = qwen_double(vision=True)
    answer = post(double, "/v1/chat/completions", image_chat([png(96, 64), png(64, 64)])).json()
    assert answer["prompt_token_ids"].count(PAD) == 6 + 4


def test_generate_expands_ids_once_more_and_says_so_only_if_asked_for_ids() -> None:
    double = qwen_double(vision=True, scale_out=True)
    image = png(96, 64)
    collapsed = MARKED.encode("<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>?")
    sent_parts = [{"type": "image_url", "url": url(image)}]

    def generated(ids: list[int], **options: Any) -> Body:
        body = {"token_ids": ids, "sampling_params": {"seed": 0, "max_tokens": 3, "logprobs": 0}, **options}
        answer: Body = post(double, "/inference/v1/generate", body).json()
        return answer

    once = generated(collapsed, content_parts=sent_parts, return_token_ids=True)
    place = collapsed.index(PAD)
    assert once["prompt_token_ids"] == collapsed[:place] + [PAD] * 6 + collapsed[place + 1 :]
    assert once["mm_placeholders"] == {"image": [{"offset": place, "length": 6}]}
    twice = generated(once["prompt_token_ids"], content_parts=sent_parts, return_token_ids=True)
    assert twice["prompt_token_ids"].count(PAD) == 11
    blind = generated(once["prompt_token_ids"])
    assert blind["prompt_token_ids"] is None
    ids = once["prompt_token_ids"] + once["choices"][0]["token_ids"]
    logprobs = [entry["logprob"] for entry in once["choices"][0]["logprobs"]["content"]]
    assert logprobs == expected(ids, [image])[-3:]
    assert logprobs != [entry["logprob"] for entry in blind["choices"][0]["logprobs"]["content"]]


def test_a_rendered_chat_is_continued_with_its_pixels() -> None:
    double = qwen_double(vision=True, scale_out=True)
    chat = image_chat([png(96, 64)], logprobs=True, seed=0, max_tokens=4)
    rendered = post(double, "/v1/chat/completions/render", chat).json()
    assert rendered["token_ids"].count(PAD) == 6
    sampling = {"seed": 0, "max_tokens": 4, "logprobs": 0}
    body = rendered | {"sampling_params": sampling, "return_token_ids": True}
    generated = post(double, "/inference/v1/generate", body).json()
    answered = post(double, "/v1/chat/completions", chat).json()
    assert generated["prompt_token_ids"] == answered["prompt_token_ids"]
    assert generated["choices"][0]["token_ids"] == answered["choices"][0]["token_ids"]
    assert [entry["logprob"] for entry in generated["choices"][0]["logprobs"]["content"]] == [
        entry["logprob"] for entry in answered["choices"][0]["logprobs"]["content"]
    ]


def test_a_text_model_takes_no_images() -> None:
    answer = post(qwen_double(), "/v1/chat/completions", image_chat([png(32, 32)]))
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "tiny is not a multimodal model")


OWN = {"prompt": ASKED, "model": MODEL, "return_token_ids": True, "max_tokens": 500, "seed": 0}


def test_a_server_that_is_not_vllm_says_nothing_about_tokens() -> None:
    double = qwen_double(plain=True)
    answer = post(double, "/v1/completions", OWN | {"stop": ["Arlen"], "include_stop_str_in_output": True}).json()
    assert answer["choices"][0].keys() == {"index", "text", "logprobs", "finish_reason"}
    assert answer["choices"][0]["text"].endswith('"city": "')
    for path in ("/tokenize", "/detokenize", "/inference/v1/generate", "/version"):
        assert post(double, path, {}).status_code == 404
    assert "max_model_len" not in post(double, "/v1/models", {}).json()["data"][0]


def test_a_plain_server_begins_a_new_answer_where_vllm_would_go_on() -> None:
    double = qwen_double(plain=True, policy=lambda text, _: text.replace("<|im_end|>", "|"))
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "It"}]
    body = {"model": MODEL, "messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    message = post(double, "/v1/chat/completions", body).json()["choices"][0]["message"]
    assert message.keys() == {"role", "content", "refusal"}
    # The policy says what it has read; special tokens are skipped.
    assert message["content"].endswith("\n\nIt|\nassistant\n")


@pytest.mark.parametrize(
    ("path", "body", "missing"),
    [
        ("/v1/chat/completions", {"model": MODEL}, "body.messages"),
        ("/inference/v1/generate", {"token_ids": [65]}, "body.sampling_params"),
        ("/detokenize", {}, "body.tokens"),
        ("/v1/completions", {"model": MODEL}, "body.prompt"),
    ],
)
def test_a_field_that_is_missing_is_named(path: str, body: Body, missing: str) -> None:
    answer = post(qwen_double(scale_out=True), path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, missing)


def test_the_double_does_not_stream() -> None:
    assert post(qwen_double(), "/v1/completions", OWN | {"stream": True}).status_code == 501


@pytest.mark.parametrize("status", [400, 422])
def test_a_plain_server_may_refuse_what_it_does_not_know(status: int) -> None:
    double = qwen_double(plain=True, refusing=status)
    assert post(double, "/v1/completions", OWN).status_code == status
    known = {key: value for key, value in OWN.items() if key != "return_token_ids"}
    assert post(double, "/v1/completions", known).status_code == 200
    deaf = qwen_double(plain=True, refusing=status, reads_ids=False)
    assert post(deaf, "/v1/completions", known | {"prompt": MARKED.encode(ASKED)}).status_code == status


def statuses(fault: Fault, *paths: str) -> list[int]:
    """What comes of each of these requests; 0 is a connection that broke."""
    double, found = qwen_double(fault), []
    for path in paths:
        try:
            found.append(post(double, path, OWN).status_code)
        except httpx.TransportError:
            found.append(0)
    return found


def test_faults_are_composed_of_when_and_what() -> None:
    one, other = "/v1/completions", "/v1/models"
    assert statuses(faults.first(2, faults.busy(503)), one, one, one) == [503, 503, 200]
    assert statuses(faults.every(2, faults.reset), one, one, one, one) == [200, 0, 200, 0]
    assert statuses(faults.on(other, faults.denied), one, other) == [200, 401]
    assert statuses(faults.during(range(2, 4), faults.unreachable), one, one, one, one) == [200, 0, 0, 200]
    assert statuses(
        faults.either(faults.on(other, faults.page(502)), faults.first(1, faults.busy())), other, one, one
    ) == [
        502,
        429,
        200,
    ]
    assert statuses(faults.where(lambda body: body["seed"] == 1, faults.denied), one) == [200]


def test_a_busy_server_says_how_long_to_wait() -> None:
    answer = post(qwen_double(faults.busy(retry_after="7")), "/v1/completions", OWN)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


def broken(fault: Fault, **options: Any) -> tuple[httpx.Response, Body]:
    """An answer with a fault, as it came, and the first choice without it."""
    body = OWN | {"logprobs": 0} | options
    return post(qwen_double(fault), "/v1/completions", body), sampled(qwen_double(), **body)[0]


def test_an_aborted_turn_is_a_good_answer_with_part_of_the_text() -> None:
    answer, whole = broken(faults.aborted(3))
    (choice,) = answer.json()["choices"]
    assert (answer.status_code, choice["finish_reason"]) == (200, "abort")
    assert (choice["text"], choice["token_ids"]) == (whole["text"][:3], whole["token_ids"][:3])
    assert len(choice["logprobs"]["token_logprobs"]) == 3


def test_an_answer_may_be_about_another_prompt_or_other_tokens() -> None:
    answer, whole = broken(faults.other_tokens(7))
    assert answer.json()["choices"][0]["prompt_token_ids"] == [*whole["prompt_token_ids"][:-1], 7]
    answer, whole = broken(faults.sampled_ids(lambda ids: ids[::-1]))
    assert answer.json()["choices"][0]["token_ids"] == whole["token_ids"][::-1]
    answer, whole = broken(faults.without("token_ids", "prompt_token_ids"))
    assert whole.keys() - answer.json()["choices"][0].keys() == {"token_ids", "prompt_token_ids"}


def test_log_probs_may_be_none_that_a_model_can_have() -> None:
    answer, _ = broken(faults.logprob(float("nan")))
    assert '"token_logprobs": [NaN,' in answer.text
    answer, _ = broken(faults.logprob(-9999.0, place=-1))
    assert answer.json()["choices"][0]["logprobs"]["token_logprobs"][-1] == -9999.0
    answer, whole = broken(faults.fewer_logprobs())
    assert len(answer.json()["choices"][0]["logprobs"]["token_logprobs"]) == len(whole["token_ids"]) - 1


def test_an_answer_may_be_no_json_at_all_or_lack_a_choice() -> None:
    answer, _ = broken(faults.truncated())
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert broken(faults.page())[0].headers["Content-Type"].startswith("text/html")
    assert len(broken(faults.fewer_choices(), n=3)[0].json()["choices"]) == 2
    assert broken(faults.finishing("content_filter"))[0].json()["choices"][0]["finish_reason"] == "content_filter"


def test_a_slow_answer_is_slow_without_a_socket_too() -> None:
    async def run() -> None:
        double = qwen_double(faults.slow(0.2))
        async with httpx.AsyncClient(transport=httpx.MockTransport(double.paced)) as client:
            async with asyncio.timeout(0.05):
                await client.post("http://double/v1/completions", json=OWN)

    with pytest.raises(TimeoutError):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.reset, httpx.ReadError),
        (faults.cut_off, httpx.RemoteProtocolError),
        (faults.unreachable, httpx.RemoteProtocolError),
        (faults.hanging, httpx.ReadTimeout),
        (faults.slow(1.0), httpx.ReadTimeout),
    ],
)
def test_a_socket_breaks_in_the_way_that_the_fault_says(fault: Fault, kind: type[Exception]) -> None:
    with (
        Served(qwen_double(faults.first(1, fault))) as served,
        httpx.Client(base_url=served.url, timeout=0.1) as client,
    ):
        with pytest.raises(kind) as caught:
            client.post("/v1/completions", json=OWN)
        assert caught.type is kind
        assert client.post("/v1/completions", json=OWN).status_code == 200


def test_headers_come_through_a_socket_and_one_connection_serves_many_requests() -> None:
    with (
        Served(qwen_double(faults.first(1, faults.busy(retry_after="7")))) as served,
        httpx.Client(base_url=served.url) as client,
    ):
        assert client.post("/v1/completions", json=OWN).headers["Retry-After"] == "7"
        assert [client.post("/v1/completions", json=OWN).json()["object"] for _ in range(5)] == ["text_completion"] * 5
        assert served.connected == 1


def test_a_server_can_be_started_anew_on_its_port_with_another_model() -> None:
    double = qwen_double()
    with Served(double) as served, httpx.Client(base_url=served.url) as client:
        assert client.post("/v1/completions", json=OWN).status_code == 200
        served.down()
        with pytest.raises(httpx.TransportError):
            client.get("/health")
        with pytest.raises(httpx.ConnectError):
            client.get("/health")
        double.model = "other"
        served.up()
        assert client.get("/health").status_code == 200
        assert client.post("/v1/completions", json=OWN).json()["error"]["type"] == "NotFoundError"


def test_a_key_is_demanded_and_what_came_is_kept_unless_told_otherwise() -> None:
    double = qwen_double(key="s3cret")
    assert post(double, "/v1/completions", OWN).status_code == 401
    assert double.asked("/v1/completions") == [OWN]
    forgetful = qwen_double(keep=False)
    post(forgetful, "/v1/completions", OWN)
    assert (forgetful.requests, forgetful.count) == ([], 1)
