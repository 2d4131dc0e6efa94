"""The client of a vLLM server: what it asks, what it makes of the answer, and what of every way not to answer."""

import asyncio
import base64
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from vllm_double import CONTEXT, MODEL, VOCABULARY, Body, Double, Fault, Served, encoded, error, expected

from gapscope.errors import EndpointError, GapscopeError, SettingsError, UnknownName
from gapscope.serving.served import PromptScore
from gapscope.serving.transport import IMPOSSIBLE, NO_ANSWER, OTHER_TOKENS, TOO_LONG, UNKNOWN_ID, RequestRefused
from gapscope.serving.vllm import Endpoint

IDS = encoded("Hi there")
URL = "http://localhost:8000"


def ask(
    double: Callable[[httpx.Request], httpx.Response],
    question: Callable[[Endpoint], Awaitable[Any]] = lambda server: server.score(IDS),
    *,
    model: str = MODEL,
    waits: list[float] | None = None,
) -> Any:
    """What an endpoint on the double says; waiting takes no time, and is noted in `waits`."""

    async def pause(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    async def run() -> Any:
        transport = httpx.MockTransport(double)
        async with Endpoint(URL, model, transport=transport, pause=pause, timeout=5) as server:
            return await question(server)

    return asyncio.run(run())


def only(status: int, *, times: int, message: str = "try later", headers: dict[str, str] | None = None) -> Fault:
    """A fault that goes away after so many times."""
    left = iter(range(times))

    def fault(request: httpx.Request, body: Body) -> httpx.Response | None:
        if next(left, None) is None:
            return None
        answer = error(status, message)
        answer.headers.update(headers or {})
        return answer

    return fault


def answering(**changes: Any) -> Fault:
    """Completions of which some keys of the choice are others than they should be."""

    def fault(request: httpx.Request, body: Body) -> httpx.Response | None:
        if request.url.path != "/v1/completions":
            return None
        choice = Double().complete(body).json()["choices"][0]
        changed = {key: value(choice[key]) if callable(value) else value for key, value in changes.items()}
        return httpx.Response(200, json={"choices": [choice | changed]})

    return fault


def test_the_log_probs_are_those_of_the_server_and_the_first_token_has_none() -> None:
    score: PromptScore = ask(Double())
    assert score.logprobs == expected(IDS)
    assert score.strings == ["", *"i there"]
    assert score.alternatives is None


def test_the_request_carries_ids_and_samples_a_single_token() -> None:
    double = Double()
    ask(double)
    assert double.requests == [
        (
            "/v1/completions",
            {
                "model": MODEL,
                "prompt": IDS,
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": 0,
                "return_token_ids": True,
            },
        )
    ]


def test_alternatives_are_the_k_likeliest_tokens() -> None:
    score = ask(Double(), lambda server: server.score([0, 0], top_k=3))
    # 1/2 for the token, and for each of two others of 255 the like part of the other half.
    assert score.alternatives == [[], [math.log(1 / 2), math.log(1 / 510), math.log(1 / 510)]]


def test_a_token_that_is_not_among_the_k_likeliest_is_no_alternative() -> None:
    entry = {"105": {"logprob": -3.0, "rank": 9}, "7": {"logprob": -0.5, "rank": 1}}
    fault = answering(prompt_logprobs=[None, entry], prompt_token_ids=None)
    score = ask(Double(fault), lambda server: server.score([72, 105], top_k=1))
    assert (score.logprobs, score.alternatives) == ([None, -3.0], [[], [-0.5]])


def test_the_size_of_the_vocabulary_is_read_from_the_refusal_to_list_it() -> None:
    assert ask(Double(), lambda server: server.vocabulary_size()) == VOCABULARY


def test_a_server_that_does_not_say_the_size_of_its_vocabulary_leaves_it_unknown() -> None:
    double = Double(lambda *_: error(400, "no"))
    assert ask(double, lambda server: server.vocabulary_size()) is None


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}/v1", f"{URL}/v1/"])
def test_an_address_may_end_in_v1(url: str) -> None:
    assert Endpoint(url, MODEL).url == URL


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "", "http://", "http://host:port", "/v1"])
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="no http address"):
        Endpoint(url, MODEL)


def test_a_password_in_the_address_is_not_shown() -> None:
    assert Endpoint("http://user:secret@host:8000", MODEL).url == "http://host:8000"


def test_a_password_in_what_is_no_address_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        Endpoint("ftp://user:s3cret@host:8000", MODEL)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["VLLM_API_KEY", "OPENAI_API_KEY"])
def test_the_key_comes_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setenv(name, "s3cret")
    double = Double(key="s3cret")
    ask(double)
    assert double.keys == {"Bearer s3cret"}


def test_a_key_that_is_not_accepted_names_the_variable_and_not_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "wr0ng")
    with pytest.raises(EndpointError, match="VLLM_API_KEY") as caught:
        ask(Double(key="s3cret"))
    assert "wr0ng" not in str(caught.value)


def endpoint(url: str, double: Callable[[httpx.Request], httpx.Response], **options: Any) -> Any:
    """What the card says at an address."""

    async def run() -> Any:
        transport = httpx.MockTransport(double)
        async with Endpoint(
            url, MODEL, transport=transport, pause=lambda _: asyncio.sleep(0), timeout=5, **options
        ) as server:
            return await server.card()

    return asyncio.run(run())


def test_the_key_may_be_in_a_file_and_comes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "other")
    file = tmp_path / "key"
    file.write_text("  s3cret\n")
    double = Double(key="s3cret")
    assert endpoint(URL, double, key_file=file).id == MODEL
    file.write_text("wr0ng")
    with pytest.raises(EndpointError, match=str(file)) as caught:
        endpoint(URL, double, key_file=file)
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "not text"),
        (b"one\ntwo", "cannot be a key"),
        ("schlüssel".encode(), "cannot be a key"),
    ],
)
def test_a_file_that_holds_no_key_is_named_and_not_quoted(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=said) as caught:
        Endpoint(URL, MODEL, key_file=file)
    assert str(file) in str(caught.value)
    assert "two" not in str(caught.value)


def test_a_variable_that_holds_no_key_is_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "s3cret with\nmore")
    with pytest.raises(SettingsError, match="VLLM_API_KEY") as caught:
        Endpoint(URL, MODEL)
    assert "s3cret" not in str(caught.value)


KEY = "s3cret"
# The key is part of the password: each must go as a whole.
SECRETS = (KEY, "s3cret/more", "s3cret%2Fmore", "%2Fmore", base64.b64encode(b"user:s3cret/more").decode(), "/more")
ADDRESS = "http://user:s3cret%2Fmore@localhost:8000"


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 418, 422, 500])
@pytest.mark.parametrize("shape", ["json", "detail", "text"])
@pytest.mark.parametrize("padding", [0, 285, 295])
def test_what_a_server_echoes_of_our_key_or_password_is_not_shown(
    status: int, shape: str, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)

    def echo(request: httpx.Request) -> httpx.Response:
        # What is shown ends after 300 characters, and that may be within a secret.
        said = "x" * padding + f" {' '.join(SECRETS[:3])} {request.headers['Authorization']}"
        headers = {"Location": f"https://host/{said}"}
        if shape == "json":
            return httpx.Response(status, json={"error": {"message": said}}, headers=headers)
        if shape == "detail":
            return httpx.Response(status, json={"detail": [{"loc": ["body"], "msg": said}]}, headers=headers)
        return httpx.Response(status, text=said, headers=headers)

    for url in (URL, ADDRESS):
        with pytest.raises(EndpointError) as caught:
            endpoint(url, echo)
        known = SECRETS if url == ADDRESS else (KEY,)
        assert [secret for secret in (*known, "s3c") if secret in str(caught.value)] == []


def test_a_password_in_the_address_is_sent_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    double = Double()
    assert endpoint(ADDRESS, double).id == MODEL
    assert double.keys == {f"Basic {base64.b64encode(b'user:s3cret/more').decode()}"}
    assert [secret for secret in SECRETS if secret in caplog.text] == []


def test_a_model_that_the_server_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(UnknownName, match="Known: tiny"):
        ask(Double(), lambda server: server.card(), model="other")
    with pytest.raises(UnknownName, match="Known: tiny"):
        ask(Double(), model="other")


def test_the_card_says_how_long_a_prompt_may_be() -> None:
    assert ask(Double(), lambda server: server.card()).max_model_len == CONTEXT


@pytest.mark.parametrize(
    ("ids", "reason"),
    [([65] * (CONTEXT + 1), TOO_LONG), ([65] * CONTEXT, TOO_LONG), ([65, VOCABULARY], UNKNOWN_ID)],
)
def test_tokens_that_cannot_be_scored_are_refused_one_request_at_a_time(ids: list[int], reason: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        ask(Double(), lambda server: server.score(ids))
    assert caught.value.reason == reason


def test_more_alternatives_than_the_server_lists_say_which_option_to_lower() -> None:
    with pytest.raises(EndpointError, match="--top-k"):
        ask(Double(), lambda server: server.score(IDS, top_k=21))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (answering(prompt_logprobs=lambda entries: entries[:-1]), OTHER_TOKENS),
        (answering(prompt_token_ids=lambda ids: [*ids[:-1], 1]), OTHER_TOKENS),
        (answering(prompt_logprobs=lambda entries: [*entries[:-1], {"1": {"logprob": -1.0}}]), OTHER_TOKENS),
        (answering(prompt_logprobs=lambda entries: [*entries[:-1], None]), OTHER_TOKENS),
        (answering(prompt_logprobs=lambda entries: [*entries[:-1], {str(IDS[-1]): {"logprob": 0.5}}]), IMPOSSIBLE),
        (answering(prompt_logprobs=lambda entries: [*entries[:-1], {str(IDS[-1]): {"logprob": -9999.0}}]), IMPOSSIBLE),
    ],
)  # fmt: skip
def test_an_answer_about_other_tokens_is_refused(fault: Fault, reason: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        ask(Double(fault))
    assert caught.value.reason == reason
    assert caught.value.detail


def test_a_log_prob_that_rounding_has_put_above_zero_is_zero() -> None:
    fault = answering(prompt_logprobs=lambda entries: [*entries[:-1], {str(IDS[-1]): {"logprob": 1e-7}}])
    assert ask(Double(fault)).logprobs[-1] == 0.0


def test_a_server_that_has_no_log_probs_of_prompts_is_no_vllm() -> None:
    with pytest.raises(EndpointError, match="takes a vLLM server"):
        ask(Double(answering(prompt_logprobs=None)))


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, html="<h1>It works!</h1>"), httpx.Response(404, html="<h1>Not Found</h1>")]
)
def test_a_wrong_address_says_what_to_give(answer: httpx.Response) -> None:
    with pytest.raises(EndpointError, match="such as http://localhost:8000"):
        ask(lambda *_: answer, lambda server: server.card())


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again(status: int) -> None:
    waits: list[float] = []
    assert ask(Double(only(status, times=3)), waits=waits).logprobs == expected(IDS)
    assert len(waits) == 3
    assert waits[0] < waits[1] < waits[2]


def test_the_server_says_how_long_to_wait() -> None:
    waits: list[float] = []
    ask(Double(only(429, times=1, headers={"Retry-After": "7"})), waits=waits)
    assert waits == [7.0]


def test_a_date_until_which_to_wait_is_understood_and_a_long_one_is_cut() -> None:
    waits: list[float] = []
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    ask(Double(only(503, times=1, headers={"Retry-After": soon})), waits=waits)
    ask(Double(only(503, times=1, headers={"Retry-After": "86400"})), waits=waits)
    ask(Double(only(503, times=1, headers={"Retry-After": "soon"})), waits=waits)
    assert 25 < waits[0] <= 30
    assert waits[1] == 60.0
    assert waits[2] < 1


def test_a_server_that_stays_busy_ends_the_work_with_what_it_said() -> None:
    with pytest.raises(EndpointError, match=r"HTTP 503: try later, 10 times in a row"):
        ask(Double(only(503, times=99)))


def test_a_request_that_fails_while_others_are_answered_is_refused_alone() -> None:
    poison = encoded("poison")

    def fault(request: httpx.Request, body: Body) -> httpx.Response | None:
        return error(500, "index out of range") if body.get("prompt") == poison else None

    async def both(server: Endpoint) -> Any:
        server._http._pause = lambda *_: server.score(IDS)
        return await asyncio.gather(server.score(poison), return_exceptions=True)

    (refusal,) = ask(Double(fault), both)
    assert isinstance(refusal, RequestRefused)
    assert (refusal.reason, "index out of range" in refusal.detail) == (NO_ANSWER, True)


def test_a_connection_that_breaks_off_is_made_anew() -> None:
    failures = iter([httpx.ReadError(""), httpx.RemoteProtocolError(""), httpx.ConnectError("refused")])
    double = Double()

    def breaking(request: httpx.Request) -> httpx.Response:
        if failure := next(failures, None):
            raise failure
        return double(request)

    assert ask(breaking).logprobs == expected(IDS)


def test_a_server_that_is_down_is_a_clear_error_after_a_few_tries() -> None:
    waits: list[float] = []

    def down(request: httpx.Request) -> httpx.Response:
        message = "All connection attempts failed"
        raise httpx.ConnectError(message)

    with pytest.raises(EndpointError, match=f"{URL} cannot be reached .*, 4 times in a row"):
        ask(down, lambda server: server.card(), waits=waits)
    assert len(waits) == 3


def test_a_server_that_hangs_is_given_up_after_two_deadlines() -> None:
    async def run(url: str) -> None:
        async with Endpoint(url, MODEL, timeout=0.05, pause=lambda *_: asyncio.sleep(0)) as server:
            await server.score(IDS)

    with (
        Served(Double(), delay=1.0) as served,
        pytest.raises(EndpointError, match=r"no answer within 0\.05 s, 2 times"),
    ):
        asyncio.run(run(served.url))


def test_a_socket_that_closes_an_idle_connection_costs_a_try_and_no_more() -> None:
    async def run(url: str) -> list[PromptScore]:
        async with Endpoint(url, MODEL, pause=lambda *_: asyncio.sleep(0)) as server:
            return [await server.score(IDS) for _ in range(6)]

    with Served(Double(), breaking=lambda number: number % 3 == 0) as served:
        assert [score.logprobs for score in asyncio.run(run(served.url))] == [expected(IDS)] * 6


def test_a_server_that_is_started_again_in_the_middle_costs_nothing() -> None:
    async def run(served: Served) -> list[PromptScore]:
        waits: list[float] = []

        async def restart(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 1:
                await asyncio.to_thread(served.up)

        async with Endpoint(served.url, MODEL, pause=restart) as server:
            first = await server.score(IDS)
            await asyncio.to_thread(served.down)
            return [first, *await asyncio.gather(*(server.score(IDS) for _ in range(4)))]

    with Served(Double()) as served:
        assert [score.logprobs for score in asyncio.run(run(served))] == [expected(IDS)] * 5


def test_a_server_that_sends_us_on_says_where_to() -> None:
    moved = httpx.Response(301, headers={"Location": "https://elsewhere/v1/models"})
    with pytest.raises(EndpointError, match="sends us on to https://elsewhere"):
        ask(lambda *_: moved, lambda server: server.card())


def test_an_address_may_have_a_path_before_v1() -> None:
    paths: list[str] = []

    def note(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, json={"data": [{"id": MODEL}]})

    endpoint("http://host/models/tiny/v1/", note)
    assert paths == ["/models/tiny/v1/models"]


def test_messages_are_tokenised_as_a_prompt_before_an_answer() -> None:
    double = Double()
    messages = [{"role": "user", "content": "Hi"}]
    assert ask(double, lambda server: server.tokenize(messages=messages)) == [1, 72, 105, 1]
    assert double.requests[0][1]["add_generation_prompt"] is True


def test_every_failure_is_an_error_for_users_or_a_refusal_of_one_request() -> None:
    for status in (301, 400, 403, 404, 405, 413, 418, 422):
        with pytest.raises((GapscopeError, RequestRefused)):
            ask(Double(only(status, times=99)))
