"""Prefixes continued on the protocol double: the tokens are those of the plan, or it is said that they may not be."""

import asyncio
from typing import Any

import httpx
import pytest
from double_logs import asked, prompt_of
from endpoint_runs import ASK, continued, exact_prefix, refused, run, text_prefix
from vllm_double import qwen_double
from vllm_faults import aborted, finishing, first, on, other_tokens, twisted, where, without
from vllm_policies import Said, always, hermes, script
from vllm_tokens import MARKED

from gapscope.plans import PlannedPrefix
from gapscope.resampler.sampler import ServerSampler
from gapscope.resampler.sampling import Context


@pytest.fixture(scope="module")
def prefix() -> PlannedPrefix:
    return exact_prefix()


def test_the_plans_own_tokens_are_sent_and_the_answer_is_about_them(prefix: PlannedPrefix) -> None:
    double = qwen_double(policy=hermes())
    start, said, after = continued(double, prefix)
    assert start.ids == prefix.prefix.token_ids
    assert start.guarantee == after.guarantee == "token_exact"
    sent = [body for body in double.asked("/v1/completions") if "seed" in body][-1]
    assert sent["prompt"] == prefix.prefix.token_ids
    assert (sent["seed"], sent["max_tokens"], sent["temperature"]) == (5, 200, 1.0)
    assert said.ids is not None
    assert after.ids == [*(start.ids or ()), *said.ids]
    assert MARKED.decode(said.ids) == said.text == after.text[len(start.text) :]
    assert said.logprobs is not None
    assert len(said.logprobs) == len(said.ids)
    assert said.ended
    assert said.text.endswith("<|im_end|>")


def test_the_continuations_of_a_prefix_share_what_is_asked_about_it(prefix: PlannedPrefix) -> None:
    double = qwen_double(policy=hermes())

    async def work(sampler: ServerSampler) -> int:
        before = len(double.asked("/detokenize"))
        await asyncio.gather(*(sampler.begin(prefix) for _ in range(4)))
        return len(double.asked("/detokenize")) - before

    assert run(double, work) == 1


def test_the_token_limit_is_not_an_end(prefix: PlannedPrefix) -> None:
    _, said, _ = continued(qwen_double(policy=hermes()), prefix, ASK._replace(max_tokens=4))
    assert said.ids is not None
    assert (len(said.ids), said.ended) == (4, False)


def test_at_a_text_to_stop_at_the_whole_token_is_kept_in_text_and_ids(prefix: PlannedPrefix) -> None:
    _, said, after = continued(qwen_double(policy=script("xxab.")), prefix, ASK._replace(stop=("a",)))
    assert said.ids == [*MARKED.encode("xx"), MARKED.ids["ab"]]
    assert said.text == "xxab"
    assert after.text.endswith("xxab")
    assert said.ended


def test_another_tokenizer_is_told_by_the_first_difference(prefix: PlannedPrefix) -> None:
    ids = list(prefix.prefix.token_ids or ())
    place = MARKED.decode(ids).index("Arlen")
    other = prefix.model_copy(
        update={"prefix": prefix.prefix.model_copy(update={"token_ids": [*ids[: len(ids) - 1], MARKED.encode("!")[0]]})}
    )
    why = refused(qwen_double(policy=hermes()), other)
    assert "spells the prefix otherwise" in why.reason
    assert "'<tool_call>'" in why.detail
    assert "'!'" in why.detail
    assert place


def test_an_answer_about_other_tokens_is_no_sample(prefix: PlannedPrefix) -> None:
    why = refused(qwen_double(on("/v1/completions", other_tokens()), policy=hermes()), prefix)
    assert "other tokens than those sent" in why.reason


def test_a_server_that_does_not_say_what_it_has_read_is_marked(prefix: PlannedPrefix) -> None:
    _, _, after = continued(qwen_double(on("/v1/completions", without("prompt_token_ids")), policy=hermes()), prefix)
    assert after.guarantee == "ids_unverified"


def test_what_the_server_aborts_is_asked_again_and_in_the_end_no_sample(prefix: PlannedPrefix) -> None:
    twice, always_so = (on("/v1/completions", fault) for fault in (first(2, aborted()), aborted()))
    _, said, _ = continued(qwen_double(twice, policy=hermes()), prefix)
    assert said.ended
    assert "aborted by the server" in refused(qwen_double(always_so, policy=hermes()), prefix).reason


def test_a_token_that_pads_the_vocabulary_is_no_sample(prefix: PlannedPrefix) -> None:
    why = refused(qwen_double(policy=always(Said(["ok", MARKED.padded[0]]))), prefix)
    assert "only pads the vocabulary" in why.reason
    assert f"{MARKED.padded[0]}" in why.detail


def test_an_output_that_the_context_cuts_off_is_no_sample(prefix: PlannedPrefix) -> None:
    size = len(prefix.prefix.token_ids or ())
    why = refused(qwen_double(policy=always(Said(["x"], ends=False)), context=size + 10), prefix)
    assert "end of the model's context" in why.reason
    _, said, _ = continued(qwen_double(policy=always("short"), context=size + 10), prefix)
    assert said.ended


def test_a_prefix_that_fills_the_context_is_not_sent(prefix: PlannedPrefix) -> None:
    size = len(prefix.prefix.token_ids or ())
    double = qwen_double(policy=hermes(), context=size)
    assert "longer than the model's context" in refused(double, prefix).reason
    assert not [body for body in double.asked("/v1/completions") if "seed" in body]


def test_without_any_limit_of_tokens_nothing_is_asked(prefix: PlannedPrefix) -> None:
    why = refused(qwen_double(policy=hermes(), plain=True), text_prefix(), ASK._replace(max_tokens=None))
    assert "--max-tokens" in why.reason


def test_what_the_environment_says_is_tokenised_by_the_server(prefix: PlannedPrefix) -> None:
    double = qwen_double(policy=hermes())

    async def work(sampler: ServerSampler) -> tuple[Context, Context]:
        start = await sampler.begin(prefix)
        return start, await sampler.tell(start, "\n\nab<|im_end|>", [])

    start, told = run(double, work)
    assert told.ids == [*(start.ids or ()), *MARKED.encode("\n\nab<|im_end|>")]
    assert told.text == start.text + "\n\nab<|im_end|>"


def test_where_the_server_gives_no_ids_its_text_is_tokenised_again_and_marked(prefix: PlannedPrefix) -> None:
    double = qwen_double(on("/v1/completions", without("token_ids")), policy=script("a" + "b."))
    start, said, after = continued(double, prefix)
    assert said.ids == [MARKED.ids["ab"], *MARKED.encode(".<|im_end|>")]
    assert said.logprobs is None
    assert not said.whole
    assert after.ids == [*(start.ids or ()), *said.ids]
    assert after.guarantee == "text_retokenised"


@pytest.mark.parametrize("reason", [None, "content_filter", "repetition"])
def test_only_the_policy_and_the_limit_end_a_turn(prefix: PlannedPrefix, reason: str | None) -> None:
    why = refused(qwen_double(on("/v1/completions", finishing(reason)), policy=hermes()), prefix)
    assert "has ended the turn" in why.reason
    assert str(reason) in why.detail


def test_a_blank_that_tokens_lose_when_they_are_spelled_alone_is_kept(prefix: PlannedPrefix) -> None:
    def spelled(answer: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json={"prompt": answer.json()["prompt"].removeprefix(" ")})

    fault = on("/detokenize", where(lambda body: len(body["tokens"]) == 3, twisted(spelled)))
    _, said, _ = continued(qwen_double(fault, policy=script(" xab.")), prefix, ASK._replace(stop=("a",)))
    assert said.text == " xab"


def test_a_prompt_that_was_put_together_from_messages_is_not_compared(prefix: PlannedPrefix) -> None:
    joined = prefix.prefix.model_copy(update={"prompt": "user\nWhat is the weather in Arlen?\n"})
    start, _, _ = continued(qwen_double(policy=hermes()), prefix.model_copy(update={"prefix": joined}))
    assert start.guarantee == "token_exact"


@pytest.mark.parametrize("delimited", [True, False])
def test_of_a_conversation_that_was_put_together_the_words_are_compared(
    prefix: PlannedPrefix, *, delimited: bool
) -> None:
    changes: dict[str, Any] = {"text": "I need the tool.\n", "delimited": delimited, "masked": [(1, 2)]}
    joined = prefix.model_copy(update={"prefix": prefix.prefix.model_copy(update=changes)})
    start, _, _ = continued(qwen_double(policy=hermes()), joined)
    assert start.guarantee == "token_exact"
    other = joined.prefix.model_copy(update={"text": "Quite some other words."})
    why = refused(qwen_double(policy=hermes()), joined.model_copy(update={"prefix": other}))
    assert "spells the prefix otherwise" in why.reason


def test_special_tokens_that_the_log_leaves_out_are_no_difference(prefix: PlannedPrefix) -> None:
    bare = (prefix.prefix.prompt or "").replace("<|im_start|>", "").replace("<|im_end|>", "")
    stripped = prefix.prefix.model_copy(update={"prompt": bare, "messages": None})
    start, _, _ = continued(qwen_double(policy=hermes()), prefix.model_copy(update={"prefix": stripped}))
    assert start.guarantee == "token_exact"
    nothing = prefix.prefix.model_copy(update={"prompt": None, "messages": None})
    start, _, _ = continued(qwen_double(policy=hermes()), prefix.model_copy(update={"prefix": nothing}))
    assert start.guarantee == "token_exact"


@pytest.mark.parametrize("refusing", [None, 400, 422])
def test_any_completions_server_continues_text_and_says_so(refusing: int | None) -> None:
    double = qwen_double(policy=hermes(), plain=True, refusing=refusing)
    start, said, after = continued(double, text_prefix())
    assert start.guarantee == after.guarantee == "text"
    assert start.ids is said.ids is after.ids is None
    assert start.text == prompt_of(asked("Arlen")) + "<think>\nI need the tool.\n</think>\n\n<tool_call>"
    assert after.text == start.text + said.text
    assert not said.whole
    assert double.asked("/v1/completions")[-1]["prompt"] == start.text


@pytest.mark.parametrize(
    "prefix",
    [
        text_prefix(prompt=None),
        text_prefix(prompt="user\nHi\n", messages=[{"role": "user", "content": "Hi"}]),
        text_prefix(prompt="user\nHi\nassistant\n"),
        text_prefix(delimited=False),
    ],
    ids=["no prompt", "messages", "special tokens lost", "calls apart from the text"],
)
def test_a_server_that_takes_text_alone_needs_the_text_as_the_model_read_it(prefix: PlannedPrefix) -> None:
    why = refused(qwen_double(policy=hermes(), plain=True), prefix)
    assert "as the model read it" in why.reason
