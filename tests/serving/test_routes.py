"""What is asked of a server that samples, what is made of its answers, and what of one that cannot do it all."""

import asyncio
import base64
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest
from vllm_double import MODEL, PAD, Body, Double, Fault, encoded, error, expected, pads, qwen_double
from vllm_policies import Said, always
from vllm_tokens import QWEN

from gapscope.errors import EndpointError, UnknownName
from gapscope.plan_options import Sampling
from gapscope.serving.known_ids import known_ids
from gapscope.serving.served import NO_SAMPLE, Generated
from gapscope.serving.transport import (
    IMPOSSIBLE,
    MISSING,
    NO_TEXT,
    OTHER_TOKENS,
    REFUSED,
    TOO_LONG,
    UNKNOWN_ID,
    RequestRefused,
    RouteMissing,
)
from gapscope.serving.vllm import NO_GRAMMAR, REARRANGED, Endpoint

IDS = encoded("Hi")
DEFAULT = Sampling()
MESSAGES: Any = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So"}]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"

Question = Callable[[Endpoint], Awaitable[Any]]


def ask(double: Callable[[httpx.Request], httpx.Response], question: Question, *, model: str = MODEL) -> Any:
    """What an endpoint on the double says; waiting takes no time."""

    async def run() -> Any:
        transport = httpx.MockTransport(double)
        async with Endpoint(
            "http://host", model, transport=transport, pause=lambda _: asyncio.sleep(0), timeout=5
        ) as server:
            return await question(server)

    return asyncio.run(run())


def complete(prompt: Sequence[int] | str = IDS, sampling: Sampling = DEFAULT, **options: Any) -> Question:
    return lambda server: server.complete(prompt, sampling=sampling, **({"seed": 3, "max_tokens": 20} | options))


def generate(ids: Sequence[int] = IDS, images: Sequence[str] = (), **options: Any) -> Question:
    asked: dict[str, Any] = {"seed": 3, "max_tokens": 20, "sampling": DEFAULT} | options
    return lambda server: server.generate(ids, images=images, **asked)


def chat(messages: Any = MESSAGES, **options: Any) -> Question:
    asked: dict[str, Any] = {"seed": 3, "max_tokens": 20, "sampling": DEFAULT, "continued": True} | options
    return lambda server: server.chat(messages, **asked)


def refused(double: Callable[[httpx.Request], httpx.Response], question: Question) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        ask(double, question)
    return caught.value


def saying(text: str | Said, **options: Any) -> Double:
    return Double(policy=always(text), **options)


def answering(**changes: Any) -> Fault:
    """Samples of which some keys of the choice are others than they should be."""

    def twist(answer: httpx.Response) -> httpx.Response:
        body = answer.json()
        for name, value in changes.items():
            body["choices"][0][name] = value(body["choices"][0][name]) if callable(value) else value
        return httpx.Response(200, json=body)

    return lambda request, _: twist if request.url.path.endswith(("/completions", "/generate")) else None


def listed(**changes: Any) -> Fault:
    """Completions whose log-probs are listed otherwise."""
    return answering(logprobs=lambda logprobs: logprobs | changes)


def test_a_sample_has_ids_and_log_probs_of_every_token_the_end_included() -> None:
    sample: Generated = ask(saying("ok"), complete())
    ids = [*encoded("ok"), 0]
    assert sample.ids == ids
    assert sample.logprobs == expected([*IDS, *ids])[len(IDS) :]
    assert (sample.text, sample.finish_reason, sample.stop_reason) == ("ok\0", "stop", None)
    assert sample.prompt_ids == IDS


def test_nothing_that_shapes_the_distribution_is_left_to_the_server() -> None:
    double = saying("ok")
    ask(double, complete(sampling=Sampling(temperature=0.7, top_p=0.9, top_k=20, max_tokens=99)))
    assert double.requests == [
        (
            "/v1/completions",
            {
                "model": MODEL,
                "prompt": IDS,
                "temperature": 0.7,
                "top_p": 0.9,
                "top_k": 20,
                "min_p": 0.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "repetition_penalty": 1.0,
                "seed": 3,
                "max_tokens": 20,
                "logprobs": 0,
                "return_token_ids": True,
                "skip_special_tokens": False,
                "spaces_between_special_tokens": False,
                "include_stop_str_in_output": True,
            },
        )
    ]


def test_the_generate_route_is_asked_for_the_same_distribution() -> None:
    double = saying("ok", scale_out=True)
    ask(double, complete(stop=["x"]))
    ask(double, generate(stop=["x"]))
    (_, completion), (_, generation) = double.requests
    same = {"model", "prompt", "return_token_ids"}
    assert generation["sampling_params"] == {key: value for key, value in completion.items() if key not in same}
    assert "content_parts" not in generation


def test_a_text_that_ends_the_sample_is_kept_and_the_last_token_whole() -> None:
    sample = ask(saying("say</b>more"), complete(stop=["</b>"]))
    assert (sample.text, sample.stop_reason, sample.ids) == ("say</b>", "</b>", encoded("say</b>"))
    # The one token spells a line end too.
    double = qwen_double(policy=always(Said([QWEN.tokens.ids[">\n"]])))
    sample = ask(double, complete(stop=[">"]))
    assert (sample.text, sample.ids) == (">", [QWEN.tokens.ids[">\n"]])


def test_a_prompt_of_text_gets_no_token_before_it() -> None:
    double = saying("ok", bos=True)
    assert ask(double, complete("Hi")).prompt_ids == IDS


def test_a_grammar_is_sent_as_vllm_wants_it() -> None:
    double = saying("ok")
    ask(double, complete(grammar='root ::= "a"'))
    assert double.requests[0][1]["structured_outputs"] == {"grammar": 'root ::= "a"'}


def test_what_is_aborted_or_cut_off_is_given_as_it_is() -> None:
    assert ask(saying("so much"), complete(max_tokens=2)).finish_reason == "length"
    assert ask(Double(answering(finish_reason="abort")), complete()).finish_reason == "abort"


@pytest.mark.parametrize("question", [complete(), generate(), chat()], ids=["complete", "generate", "chat"])
def test_the_log_prob_of_a_chance_of_nil_is_missing_and_rounding_is_no_chance_above_one(question: Question) -> None:
    given = [-9999.0, None, 1e-7, -0.5]
    content = [{"logprob": value, "token": "x"} for value in given]
    fault = answering(logprobs={"token_logprobs": given, "content": content}, token_ids=[1, 2, 3, 4])
    assert ask(Double(fault, scale_out=True), question).logprobs == [None, None, 0.0, -0.5]


def test_numbers_that_are_no_json_are_missing() -> None:
    def fault(request: httpx.Request, _: Body) -> httpx.Response:
        return httpx.Response(
            200, content=b'{"choices": [{"text": "ab", "logprobs": {"token_logprobs": [NaN, -Infinity, -1.5]}}]}'
        )

    assert ask(Double(fault), complete()).logprobs == [None, None, -1.5]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (listed(token_logprobs=[-0.5]), OTHER_TOKENS),
        (listed(token_logprobs=[0.5] * 3), IMPOSSIBLE),
        (answering(token_ids=[1]), OTHER_TOKENS),
        (answering(token_ids="none"), OTHER_TOKENS),
    ],
)
def test_a_sample_that_contradicts_itself_is_refused(fault: Fault, reason: str) -> None:
    async def second(server: Endpoint) -> Any:
        await server.card()
        return await complete()(server)

    assert refused(saying("ok", fault=fault), second).reason == reason


def test_an_answer_without_a_choice_is_no_sample() -> None:
    assert refused(Double(lambda *_: httpx.Response(200, json={"choices": []})), complete()).reason == NO_SAMPLE


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (complete([65] * 201), TOO_LONG),
        (complete([65] * 200), TOO_LONG),
        (generate([65] * 201), TOO_LONG),
        (chat([{"role": "user", "content": "x" * 300}], continued=False), TOO_LONG),
        (complete([65, 256]), UNKNOWN_ID),
        (generate([65, 256]), UNKNOWN_ID),
        (complete(sampling=Sampling(temperature=3)), REFUSED),
        (complete("half \ud800"), NO_TEXT),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_the_reason(question: Question, reason: str) -> None:
    assert refused(Double(scale_out=True), question).reason == reason


def test_a_model_that_the_server_does_not_have_is_named_on_every_route() -> None:
    for question in (complete(), chat(), generate(), lambda server: server.detokenize(IDS)):
        with pytest.raises(UnknownName, match="Known: tiny"):
            ask(Double(scale_out=True), question, model="other")


def test_images_are_sent_beside_ids_and_the_server_says_what_it_read() -> None:
    double = qwen_double(scale_out=True, vision=True, policy=always("ok"))
    prompt = [65, PAD, 66, PAD]
    sample = ask(double, generate(prompt, [IMAGE, IMAGE]))
    assert double.requests[0][1]["content_parts"] == [{"type": "image_url", "url": IMAGE}] * 2
    assert sample.prompt_ids == [65, *[PAD] * pads(PNG), 66, *[PAD] * pads(PNG)]
    assert sample.text == "ok<|im_end|>"


@pytest.mark.parametrize("double", [Double(), Double(plain=True)], ids=["closed", "not there"])
def test_a_route_that_is_not_there_is_told_apart(double: Double) -> None:
    with pytest.raises(RouteMissing) as caught:
        ask(double, generate())
    assert caught.value.reason == MISSING
    assert ask(double, lambda server: server.scale_out()) is False
    assert ask(double, lambda server: server.image_token(IMAGE)) is None


def test_the_routes_for_images_are_found_where_they_are_open() -> None:
    assert ask(Double(scale_out=True), lambda server: server.scale_out()) is True


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_completions_is_told_apart_from_no_server(status: int) -> None:
    gone = Double(lambda request, _: error(status, "Not Found") if "completions" in request.url.path else None)
    for question in (complete(), chat()):
        assert refused(gone, question).reason == MISSING


def test_a_closed_door_is_a_wrong_key_where_nobody_closes_it_to_all() -> None:
    closed = Double(lambda *_: error(403, "Forbidden"))
    for question in (complete(), chat(), lambda server: server.card(), lambda server: server.tokenize("a")):
        with pytest.raises(EndpointError, match="does not let us in"):
            ask(closed, question)
    assert refused(closed, lambda server: server.detokenize(IDS)).reason == MISSING


def test_a_web_server_that_names_the_path_that_it_does_not_have_is_no_endless_question() -> None:
    express = Double(lambda request, _: httpx.Response(404, html=f"Cannot {request.method} {request.url.path}"))
    with pytest.raises(EndpointError, match="Cannot GET /v1/models"):
        ask(express, lambda server: server.card())


def test_the_id_of_an_image_is_that_which_fills_its_place() -> None:
    assert ask(qwen_double(scale_out=True, vision=True), lambda server: server.image_token(IMAGE)) == PAD
    places = {"mm_placeholders": {"image": [{"offset": 1, "length": 4}]}}
    framed = httpx.Response(200, json={"token_ids": [9, 7, 8, 8, 6], "features": places})
    assert ask(Double(lambda *_: framed), lambda server: server.image_token(IMAGE)) == 8


def test_a_model_that_takes_no_images_has_no_id_for_them_and_a_bad_image_is_refused() -> None:
    assert ask(Double(scale_out=True), lambda server: server.image_token(IMAGE)) is None
    none_allowed = qwen_double(scale_out=True, vision=True, most_images=0)
    assert ask(none_allowed, lambda server: server.image_token(IMAGE)) is None
    with pytest.raises(RequestRefused) as caught:
        ask(qwen_double(scale_out=True, vision=True), lambda server: server.image_token("data:image/png;base64,A"))
    assert "Failed to load image" in caught.value.detail


def test_a_chat_goes_on_with_the_last_message_and_says_what_it_read() -> None:
    double = qwen_double(policy=always("ok"))
    sample = ask(double, chat())
    assert QWEN.tokens.decode(sample.prompt_ids).endswith("So")
    assert (sample.text, sample.ids) == ("ok<|im_end|>", [*encoded("ok"), QWEN.tokens.end])
    assert sample.logprobs is not None
    assert len(sample.logprobs) == 3
    asked = double.requests[0][1]
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)


def test_a_chat_that_is_not_continued_begins_an_answer_and_shows_tools() -> None:
    double = qwen_double(policy=always("ok"))
    tools: Any = [{"type": "function", "function": {"name": "look"}}]
    sample = ask(double, chat(MESSAGES[:1], continued=False, tools=tools))
    read = QWEN.tokens.decode(sample.prompt_ids)
    assert read.endswith("assistant\n")
    assert "look" in read
    assert "continue_final_message" not in double.requests[0][1]


@pytest.mark.parametrize(
    "changes",
    [{"reasoning": "Hm."}, {"reasoning_content": "Hm."}, {"tool_calls": [{"function": {"name": "f"}}]}],
)
def test_what_a_server_took_out_of_a_chat_is_spelled_from_the_ids_or_refused(changes: Body) -> None:
    def rearranged(message: Body) -> Body:
        return message | {"content": None} | changes

    double = qwen_double(answering(message=rearranged), policy=always("<think>Hm.</think>Yes"))
    assert ask(double, chat()).text == "<think>Hm.</think>Yes<|im_end|>"
    without = qwen_double(answering(message=rearranged, token_ids=None, logprobs=None))
    assert refused(without, chat()).reason == REARRANGED


@pytest.mark.parametrize("refusing", [None, 400, 422])
def test_a_server_that_is_not_vllm_samples_with_less_to_show_for_it(refusing: int | None) -> None:
    double = saying("ok", plain=True, refusing=refusing)

    async def twice(server: Endpoint) -> Any:
        samples = [await complete("Hi")(server), await complete("Hi")(server)]
        return samples, server.plain

    (first, second), plain = ask(double, twice)
    assert first == second
    assert first.text == "ok"
    assert (first.ids, first.prompt_ids) == (None, None)
    assert plain is (refusing is not None)
    # What was found out is remembered.
    assert len(double.requests) == (2 if refusing is None else 3)
    assert set(double.requests[-1][1]) >= {"temperature", "top_p", "seed", "max_tokens", "logprobs"}
    assert ("return_token_ids" in double.requests[-1][1]) is (refusing is None)


def test_what_the_plan_samples_with_is_never_left_out_for_a_server() -> None:
    double = saying("ok", plain=True, refusing=422)
    refusal = refused(double, complete(sampling=Sampling(top_k=20)))
    assert "top_k" in refusal.detail


def test_a_grammar_is_never_left_out_for_a_server() -> None:
    double = saying("ok", plain=True, refusing=422)

    async def found_out(server: Endpoint) -> Any:
        await complete()(server)
        return await complete(grammar="root ::= a")(server)

    assert refused(double, complete(grammar="root ::= a")).reason == REFUSED
    assert refused(double, found_out).reason == NO_GRAMMAR


def test_a_server_that_has_accepted_all_fields_is_not_asked_without_them() -> None:
    def fault(_: httpx.Request, body: Body) -> httpx.Response | None:
        return error(400, "return_token_ids cannot be done now") if body["max_tokens"] == 7 else None

    async def both(server: Endpoint) -> Any:
        await complete()(server)
        return await complete(max_tokens=7)(server)

    double = saying("ok", fault=fault)
    assert refused(double, both).reason == REFUSED
    assert len(double.requests) == 2


def test_a_zero_that_means_no_log_probs_is_asked_again_with_a_one() -> None:
    def zero_is_none(answer: httpx.Response) -> httpx.Response:
        body = answer.json()
        body["choices"][0]["logprobs"] = None
        return httpx.Response(200, json=body)

    double = saying("ok", fault=lambda _, body: zero_is_none if body["logprobs"] == 0 else None, plain=True)

    async def twice(server: Endpoint) -> Any:
        return [await complete("Hi")(server), await complete("Hi")(server)]

    assert all(sample.logprobs is not None for sample in ask(double, twice))
    assert [body["logprobs"] for _, body in double.requests] == [0, 1, 1]


def test_a_server_that_refuses_log_probs_samples_without() -> None:
    def fault(_: httpx.Request, body: Body) -> httpx.Response | None:
        return error(400, "logprobs are not supported") if "logprobs" in body else None

    async def twice(server: Endpoint) -> Any:
        return [await chat(continued=False)(server), await complete("Hi")(server)]

    double = saying("ok", fault=fault, plain=True)
    assert [sample.logprobs for sample in ask(double, twice)] == [None, None]
    assert ["logprobs" in body for _, body in double.requests] == [True, False, False]


def test_ids_are_spelled_with_special_tokens_and_texts_tokenised_as_they_are() -> None:
    double = qwen_double()
    ids = [QWEN.tokens.end, *encoded("ab c")]
    assert ask(double, lambda server: server.detokenize(ids)) == "<|im_end|>ab c"
    assert ask(double, lambda server: server.tokenizes()) is True
    assert ask(Double(plain=True), lambda server: server.tokenizes()) is False


def test_the_template_shows_the_tools_that_it_is_given() -> None:
    tools: Any = [{"type": "function", "function": {"name": "look"}}]
    ids = ask(qwen_double(), lambda server: server.tokenize(messages=MESSAGES[:1], tools=tools))
    assert "look" in QWEN.tokens.decode(ids)


def test_the_tokenizer_ends_where_the_vocabulary_is_padded() -> None:
    assert ask(qwen_double(), lambda server: server.tokenizer_size()) == QWEN.tokens.known
    assert ask(Double(), lambda server: server.tokenizer_size()) == 256
    assert ask(Double(plain=True), lambda server: server.tokenizer_size()) is None


def test_an_id_beyond_the_tokenizer_may_be_a_server_error_and_is_asked_once() -> None:
    def fault(request: httpx.Request, body: Body) -> httpx.Response | None:
        beyond = request.url.path == "/detokenize" and max(body["tokens"]) >= QWEN.tokens.known
        return error(500, "piece id is out of range") if beyond else None

    double = qwen_double(fault)
    assert ask(double, lambda server: server.tokenizer_size()) == QWEN.tokens.known
    asked = [tuple(body["tokens"]) for body in double.asked("/detokenize")]
    assert len(asked) < 50


@pytest.mark.parametrize("size", [1, 2, 3, 64, 100])
def test_the_last_known_id_is_found_whatever_gaps_are_before_it(size: int) -> None:
    for end in range(1, size + 1):
        gaps = {token for token in range(1, end - 1) if token % 3 == 0}

        async def spell(ids: Sequence[int], end: int = end, gaps: set[int] = gaps) -> str:
            # A tokenizer drops the space that a text begins with: the last token is one.
            text = "".join(" " if token == end - 1 else "x" for token in ids if token < end and token not in gaps)
            return text.lstrip(" ")

        # Where the first token is the only one and a space, it cannot be told from none.
        assert asyncio.run(known_ids(size, spell)) == (end if end > 1 else None)


@pytest.mark.parametrize(("gap", "found"), [((), 80), ((60,), 80), (tuple(range(40, 70)), None)])
def test_ids_that_are_refused_one_by_one_end_where_no_later_one_is_known(
    gap: tuple[int, ...], found: int | None
) -> None:
    async def spell(ids: Sequence[int]) -> str:
        if any(token >= 80 or token in gap for token in ids):
            raise RequestRefused(REFUSED)
        return "x" * len(ids)

    assert asyncio.run(known_ids(100, spell)) == found


def test_a_tokenizer_that_spells_nothing_ends_nowhere() -> None:
    async def spell(ids: Sequence[int]) -> str:
        return ""

    assert asyncio.run(known_ids(100, spell)) is None


def test_the_seed_decides_and_the_sum_of_log_probs_is_the_chance_of_the_sample() -> None:
    double = Double(policy=lambda _, seed: str(seed))
    first, again, other = (ask(double, complete(seed=seed)) for seed in (5, 5, 6))
    assert first == again
    assert (first.text, other.text) == ("5\0", "6\0")
    # i → "5" → end: 1/(2 + (105+53) % 7) = 1/6 and 1/(2 + 53 % 7) = 1/6.
    assert math.exp(sum(first.logprobs)) == pytest.approx(1 / 36)
