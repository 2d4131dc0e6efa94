"""One continuation, turn by turn, against a sampler in this process whose every word is known."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from double_images import LARGE, PAD_TEXT, looked
from double_logs import asked, called, planned, rollout, write
from endpoint_runs import exact_prefix, text_prefix
from endpoint_runs import run as on_server
from msgspec.structs import replace
from vllm_double import PAD, Double, qwen_double
from vllm_faults import on, without
from vllm_policies import Policy, always, call, hermes, script
from vllm_tokens import MARKED

from gapscope.axpo.continuations import continuation
from gapscope.dialects import dialect_named
from gapscope.plans import PlannedPrefix
from gapscope.resampler.left_out import stopped_at
from gapscope.resampler.sampling import IMAGE, Ask, Context, NotSampled, Sampled
from gapscope.resampler.turns import Continued, Manner, continued, seed_of_turn
from gapscope.resampler.wording import Wording, own_wording, stops
from gapscope.rollouts import Rollout
from gapscope.tools.base import Call, ToolFailure, ToolResult, failed
from gapscope.tools.image_zoom import ImageZoom

QWEN = Wording(
    "\n<|im_start|>user\n<tool_response>\n",
    "\n</tool_response>\n<tool_response>\n",
    "\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    "turn",
    "log",
)
PLAIN = Manner(dialect_named("hermes"), QWEN)
CALL = call("get_weather", {"city": "Arlen"})
BODY = CALL.removeprefix("<tool_call>")


class Scripted:
    """A sampler that says what a policy says; token ids are those of MARKED."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.asked: list[Ask] = []
        self.told: list[str] = []

    async def begin(self, prefix: PlannedPrefix) -> Context:
        ids = prefix.prefix.token_ids
        assert ids is not None
        return Context(text=MARKED.decode(ids), ids=ids, guarantee="token_exact")

    async def sample(self, context: Context, ask: Ask) -> tuple[Sampled, Context]:
        self.asked.append(ask)
        said = self.policy(context.text, ask.seed)
        assert isinstance(said, str)
        ids = [*MARKED.encode(said), MARKED.end][: ask.max_tokens]
        text = MARKED.decode(ids)
        sampled = Sampled(text, ids, [-0.25] * len(ids), ended=ids[-1] == MARKED.end)
        return sampled, replace(context, text=context.text + text, ids=[*(context.ids or ()), *ids])

    async def tell(self, context: Context, text: str, results: Sequence[ToolResult]) -> Context:
        self.told.append(text)
        images = context.images + tuple(image for result in results for image in result.images)
        ids = [*(context.ids or ()), *MARKED.encode(text)]
        return replace(context, text=context.text + text, ids=ids, images=images)


class Answers:
    """A session whose tool answers from a function, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Call], ToolResult] = lambda _: ToolResult("21")) -> None:
        self.answer = answer
        self.calls: list[Call] = []

    async def call(self, call: Call) -> ToolResult:
        self.calls.append(call)
        return self.answer(call)

    async def close(self) -> None:
        return


@pytest.fixture(scope="module")
def prefix() -> PlannedPrefix:
    return exact_prefix()


def run(
    prefix: PlannedPrefix,
    policy: Policy,
    *,
    tool: Answers | None = None,
    manner: Manner = PLAIN,
    **limits: Any,
) -> tuple[Continued, Scripted, Answers]:
    sampler, session = Scripted(policy), tool or Answers()
    changed = prefix.model_copy(update=limits)
    return asyncio.run(continued(changed, 0, sampler, session, manner)), sampler, session


def test_the_call_is_executed_its_result_told_and_the_answer_said(prefix: PlannedPrefix) -> None:
    found, sampler, session = run(prefix, hermes())
    assert [(each.name, each.arguments) for each in session.calls] == [
        ("get_weather", {"city": ["Arlen", "Borow", "Cadiz", "Dunmor", "Elstow"][prefix.seeds[0] % 5]})
    ]
    assert sampler.told == [
        "\n<|im_start|>user\n<tool_response>\n21\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    ]
    assert found.text.endswith("The tool says 21.\n</think>\n\nIt is 21.<|im_end|>")
    assert (found.finish, found.turns, found.calls, found.failures) == ("stop", 2, 1, 0)


def test_text_ids_and_mask_say_the_same(prefix: PlannedPrefix) -> None:
    found, sampler, _ = run(prefix, hermes())
    assert found.ids is not None
    assert found.mask is not None
    assert found.logprobs is not None
    assert MARKED.decode(found.ids) == found.text
    told = [token for token, own in zip(found.ids, found.mask, strict=True) if not own]
    assert MARKED.decode(told) == sampler.told[0]
    assert [value is not None for value in found.logprobs] == found.mask
    assert found.sampled == sum(found.mask)
    assert found.prefix_ids == prefix.prefix.token_ids


def test_blanks_that_share_the_delimiters_last_token_are_frozen_and_belong_to_the_text(prefix: PlannedPrefix) -> None:
    frozen = prefix.prefix
    assert frozen.token_ids is not None
    ids = [*frozen.token_ids, *MARKED.encode("\n")]
    merged = prefix.model_copy(update={"prefix": frozen.model_copy(update={"token_ids": ids, "n_tokens": len(ids)})})
    found, _, session = run(merged, hermes())
    assert found.text.startswith('\n{"name": "get_weather"')
    assert found.ids is not None
    assert "\n" + MARKED.decode(found.ids) == found.text
    assert len(session.calls) == 1


def test_the_first_seed_is_the_plans_and_later_ones_follow_from_it(prefix: PlannedPrefix) -> None:
    _, sampler, _ = run(prefix, hermes(rounds=2))
    seed = prefix.seeds[0]
    assert [ask.seed for ask in sampler.asked] == [seed, seed_of_turn(seed, 1), seed_of_turn(seed, 2)]
    assert seed_of_turn(seed, 0) == seed
    assert seed_of_turn(7, 1) == seed_of_turn(7, 1) != seed_of_turn(7, 2) != seed_of_turn(8, 2)
    assert all(0 <= seed_of_turn(seed, turn) < 2**31 for turn in range(50))


def test_several_calls_of_a_turn_are_executed_in_order_and_answered_together(prefix: PlannedPrefix) -> None:
    tool = Answers(lambda call: ToolResult(str(call.arguments["city"]).upper()))
    found, sampler, _ = run(prefix, script(BODY + "\n" + call("get_weather", {"city": "Cadiz"}), "Both."), tool=tool)
    assert [each.arguments["city"] for each in tool.calls] == ["Arlen", "Cadiz"]
    assert "ARLEN\n</tool_response>\n<tool_response>\nCADIZ\n</tool_response>" in sampler.told[0]
    assert (found.finish, found.calls) == ("stop", 2)


def test_a_trainer_that_executes_the_first_call_of_a_turn_alone_is_followed(prefix: PlannedPrefix) -> None:
    both = BODY + "\n" + call("get_weather", {"city": "Cadiz"})
    found, _, session = run(prefix, script(both, "One."), manner=PLAIN._replace(most_calls=1))
    assert [each.arguments["city"] for each in session.calls] == ["Arlen"]
    assert found.calls == 1


@pytest.mark.parametrize("body", ['\n{"name": oops\n</tool_call>', '\n{"name": "get_weather"'])
def test_a_call_that_cannot_be_read_ends_the_rollout(prefix: PlannedPrefix, body: str) -> None:
    found, sampler, session = run(prefix, script(body, "Never said."))
    assert (found.finish, found.turns, session.calls, sampler.told) == ("stop", 1, [], [])


def test_it_is_answered_where_the_trainer_goes_on(prefix: PlannedPrefix) -> None:
    manner = PLAIN._replace(malformed="continues")
    found, sampler, session = run(prefix, script("\n{oops\n</tool_call>", "Sorry."), manner=manner)
    assert "<tool_response>\nError: the call could not be read\n</tool_response>" in sampler.told[0]
    assert (found.finish, found.turns, found.calls, found.failures) == ("stop", 2, 0, 1)
    assert not session.calls


def test_it_is_answered_in_the_trainers_own_words_where_these_are_known(prefix: PlannedPrefix) -> None:
    manner = PLAIN._replace(
        malformed="continues", complaint="\n<|im_start|>user\nTry again.<|im_end|>\n<|im_start|>assistant\n"
    )
    _, sampler, _ = run(prefix, script("\n{oops\n</tool_call>", "Sorry."), manner=manner)
    assert sampler.told == [manner.complaint]


def test_arguments_that_are_no_object_are_answered_and_not_executed(prefix: PlannedPrefix) -> None:
    body = '\n{"name": "get_weather", "arguments": [1]}\n</tool_call>'
    found, sampler, session = run(prefix, script(body, "Hm."), manner=PLAIN._replace(malformed="continues"))
    assert not session.calls
    assert "Error: " in sampler.told[0]
    assert (found.finish, found.turns, found.calls, found.failures) == ("stop", 2, 0, 1)


def test_the_turn_limit_ends_it_before_the_call_of_its_last_turn(prefix: PlannedPrefix) -> None:
    found, _, session = run(prefix, hermes(rounds=9), remaining_turns=2)
    assert (found.finish, found.turns, len(session.calls)) == ("turn_limit", 2, 1)


def test_the_token_limit_counts_what_tools_say_as_trainers_do(prefix: PlannedPrefix) -> None:
    whole, _, _ = run(prefix, hermes())
    assert whole.ids is not None
    limit = len(whole.ids) - 3
    found, sampler, _ = run(prefix, hermes(), remaining_tokens=limit)
    assert found.ids is not None
    assert (found.finish, len(found.ids)) == ("length", limit)
    assert sampler.asked[0].max_tokens == limit
    assert found.ids == whole.ids[:limit]


def test_results_that_leave_no_room_are_not_told(prefix: PlannedPrefix) -> None:
    found, sampler, session = run(prefix, script(BODY), remaining_tokens=len(MARKED.encode(BODY)) + 5)
    assert (found.finish, len(session.calls), len(sampler.told)) == ("length", 1, 1)
    assert found.mask is not None
    assert all(found.mask)


def test_an_end_of_turn_that_the_log_counts_as_the_environments_is_not_there_twice(prefix: PlannedPrefix) -> None:
    wording = Wording("<|im_end|>" + QWEN.head, None, QWEN.tail, "turn", "log")
    _, sampler, _ = run(prefix, hermes(), manner=PLAIN._replace(wording=wording))
    assert sampler.told[0].startswith("\n<|im_start|>user")


def test_texts_to_stop_at_and_a_grammar_reach_the_sampler_the_grammar_for_the_first_turn(prefix: PlannedPrefix) -> None:
    _, sampler, _ = run(prefix, hermes(), manner=PLAIN._replace(stop=("</tool_call>",), grammar="root ::= x"))
    assert [(ask.stop, ask.grammar) for ask in sampler.asked] == [
        (("</tool_call>",), "root ::= x"),
        (("</tool_call>",), None),
    ]


def test_calls_in_thinking_and_calls_that_a_tool_quotes_are_not_executed(prefix: PlannedPrefix) -> None:
    tool = Answers(lambda _: ToolResult(f"I quote {CALL}"))
    found, _, _ = run(prefix, script(BODY, f"<think>\nWhat of {CALL}?\n</think>\n\nDone."), tool=tool)
    assert (found.finish, found.turns, len(tool.calls)) == ("stop", 2, 1)


def test_an_answer_that_is_an_error_goes_on_and_is_counted(prefix: PlannedPrefix) -> None:
    found, _, _ = run(prefix, hermes(), tool=Answers(lambda _: failed("ValueError: no")))
    assert (found.finish, found.calls, found.failures) == ("stop", 1, 1)


def test_a_place_is_left_for_each_image_of_a_result(prefix: PlannedPrefix) -> None:
    found, sampler, _ = run(prefix, hermes(), tool=Answers(lambda _: ToolResult("a crop", (b"1", b"2"))))
    assert f"a crop{IMAGE}{IMAGE}" in sampler.told[0]
    assert found.images == (b"1", b"2")


def test_a_tool_that_has_failed_ends_the_continuation_with_the_reason(prefix: PlannedPrefix) -> None:
    def fail(_: Call) -> ToolResult:
        reason = "the server of the tool is gone"
        raise ToolFailure(reason)

    with pytest.raises(ToolFailure, match="gone"):
        run(prefix, hermes(), tool=Answers(fail))


def test_what_is_no_sample_ends_it(prefix: PlannedPrefix) -> None:
    class Refusing(Scripted):
        async def sample(self, *_: object) -> tuple[Sampled, Context]:
            reason = "aborted"
            raise NotSampled(reason)

    with pytest.raises(NotSampled, match="aborted"):
        asyncio.run(continued(prefix, 0, Refusing(always("")), Answers(), PLAIN))


def test_a_prefix_behind_an_earlier_turn_executes_its_own_call_alone(tmp_path: Any) -> None:
    first = [*called("Borow", "")[:2], ("<think>\nAgain.\n</think>\n\n" + CALL + "<|im_end|>", True)]
    tries = [
        rollout(first, group="q", sample_index=n, step=1, reward=0.0, correct=False, rollout_id=f"{n}")
        for n in range(4)
    ]
    plan = planned(write(tmp_path / "log.jsonl", tries), branch_call=2)
    (prefix, *_) = plan.prefixes
    assert prefix.prefix.text.count("<tool_call>") == 2
    found, _, session = run(prefix, hermes(rounds=2))
    assert len(session.calls) == 1
    assert found.finish == "stop"


def test_a_place_for_an_image_in_what_a_tool_says_is_none(prefix: PlannedPrefix) -> None:
    _, sampler, _ = run(prefix, hermes(), tool=Answers(lambda _: ToolResult(f"a{IMAGE}b", (b"1",))))
    assert f"\nab{IMAGE}\n" in sampler.told[0]


def test_a_call_that_is_not_bound_by_the_grammar_shows_that_the_server_ignores_it(prefix: PlannedPrefix) -> None:
    with pytest.raises(NotSampled, match="grammar"):
        run(prefix, script("\n{oops\n</tool_call>"), manner=PLAIN._replace(grammar="root ::= x"))


def on_double(prefix: PlannedPrefix, double: Double, manner: Manner, tool: Answers | None = None) -> Continued:
    """A whole continuation by a server."""
    return on_server(double, lambda sampler: continued(prefix, 0, sampler, tool or Answers(), manner))


def rollout_of(prefix: PlannedPrefix, found: Continued, dialect: str) -> Rollout:
    """What is written of it."""
    return continuation(
        prefix.model_copy(update={"dialect": dialect}),
        0,
        found.text,
        correct=None,
        token_ids=found.ids,
        mask=found.mask,
        logprobs=found.logprobs,
        prefix_ids=found.prefix_ids,
        finish_reason=found.finish,
    )


SEARCH = dialect_named("search-r1")
ASKED_FIRST = text_prefix("<think>Who?</think><search>", prompt="Question: who?\n", dialect="search-r1")


def searching(text: str, _: int) -> str:
    """Twice for something, with a line end that shares the token with the delimiter, and then an answer."""
    found = text.count("<information>")
    again = ("a</search>\nmore", "<think>Not yet.</think><search>b</search>\nmore")
    return again[found] if found < 2 else "<think>So.</think><answer>c</answer>\nmore"


def search_manner() -> Manner:
    wording = own_wording(SEARCH)
    assert wording is not None
    return Manner(SEARCH, wording, tuple(stops(SEARCH, wording).texts))


def test_a_policy_that_is_stopped_at_its_calls_goes_on_behind_their_results() -> None:
    double = qwen_double(policy=searching)
    tool = Answers(lambda call: ToolResult(f"of {call.arguments['query']}"))
    found = on_double(ASKED_FIRST, double, search_manner(), tool)
    assert search_manner().stop == ("</search>", "</answer>")
    assert found.text == (
        "a</search>\n\n\n<information>of a</information>\n\n<think>Not yet.</think>"
        "<search>b</search>\n\n\n<information>of b</information>\n\n<think>So.</think><answer>c</answer>\n"
    )
    assert found.ids is not None
    assert found.mask is not None
    assert MARKED.decode(found.ids) == found.text
    own = [token for token, sampled in zip(found.ids, found.mask, strict=True) if sampled]
    assert own.count(MARKED.ids[">\n"]) == 3
    assert (found.finish, found.turns, found.calls) == ("stop", 3, 2)
    written = rollout_of(ASKED_FIRST, found, "search-r1")
    assert [call.executed for call in written.calls] == [True, True]
    assert written.calls[0].body_start == ASKED_FIRST.prefix.branch_char


def test_a_server_that_cuts_off_what_it_was_stopped_at_is_mended() -> None:
    tool = Answers(lambda call: ToolResult(f"of {call.arguments['query']}"))
    found = on_double(ASKED_FIRST, qwen_double(policy=searching, plain=True), search_manner(), tool)
    assert found.guarantee == "text"
    assert found.text.startswith("a</search>\n\n<information>of a</information>\n\n<think>Not yet.</think><search>b<")
    assert found.text.endswith("<answer>c</answer>")
    assert (found.ids, found.mask, found.logprobs, found.finish, found.calls) == (None, None, None, "stop", 2)


@pytest.mark.parametrize(
    ("output", "closing"),
    [
        ("<search>a", "</search>"),
        ("<search>a</search>", ""),
        ("<search>a</search> That is all.", ""),
        ("<search>a</search><information>b</information><answer>c", "</answer>"),
        ("That is all.", ""),
    ],
)
def test_what_is_still_open_was_stopped_at_its_end(output: str, closing: str) -> None:
    assert stopped_at(output, SEARCH, search_manner().stop) == closing
    assert stopped_at(output, SEARCH, ()) == ""


@pytest.mark.parametrize("refusing", [None, 400, 422])
def test_a_server_that_leaves_out_the_end_of_turns_is_mended(refusing: int | None) -> None:
    double = qwen_double(policy=hermes(), plain=True, refusing=refusing)
    found = on_double(text_prefix(), double, PLAIN)
    assert f"</tool_call><|im_end|>{QWEN.head}21{QWEN.tail}" in found.text
    assert (found.guarantee, found.finish, found.turns, found.calls) == ("text", "stop", 2, 1)
    assert rollout_of(text_prefix(), found, "hermes").tokens is None


def test_an_end_of_turn_that_no_earlier_turn_shows_is_not_made_up() -> None:
    with pytest.raises(NotSampled, match="ends a turn"):
        on_double(text_prefix(prompt="Question: "), qwen_double(policy=hermes(), plain=True), PLAIN)


def test_a_server_that_leaves_out_the_delimiters_of_calls_gives_no_sample() -> None:
    manner = PLAIN._replace(dialect=dialect_named("gemma"))
    with pytest.raises(NotSampled, match="delimiters of calls"):
        on_double(text_prefix(), qwen_double(policy=hermes(), plain=True), manner)


def test_ids_that_were_made_of_a_servers_text_are_as_many_as_their_mask(prefix: PlannedPrefix) -> None:
    double = qwen_double(on("/v1/completions", without("token_ids")), policy=hermes())
    found = on_double(prefix, double, PLAIN)
    assert found.guarantee == "text_retokenised"
    assert found.ids is not None
    assert found.mask is not None
    assert len(found.ids) == len(found.mask)
    assert MARKED.decode(found.ids) == found.text
    assert found.logprobs is None
    tokens = rollout_of(prefix, found, "hermes").tokens
    assert tokens is not None
    assert tokens.ids == [*(prefix.prefix.token_ids or ()), *found.ids]


STRUCTURED = text_prefix(
    "I need the tool.\n",
    prompt="user\nWhat is the weather in Arlen?\n",
    messages=[*asked("Arlen"), {"role": "assistant", "content": "", "reasoning": "I need the tool."}],
    delimited=False,
)


def test_a_call_that_the_log_has_apart_from_its_text_is_opened_in_the_continuations() -> None:
    found = on_double(STRUCTURED, qwen_double(policy=hermes()), PLAIN)
    assert found.text.startswith('<tool_call>\n{"name": "get_weather"')
    assert (found.guarantee, found.finish, found.calls) == ("text_retokenised", "stop", 1)
    written = rollout_of(STRUCTURED, found, "hermes")
    (call_,) = written.calls
    assert call_.executed
    assert call_.body_start == len("I need the tool.\n<tool_call>")
    tokens = written.tokens
    assert tokens is not None
    assert tokens.retokenised
    assert tokens.ids == [*(found.prefix_ids or ()), *(found.ids or ())]
    assert tokens.logprobs is not None
    assert tokens.sampled is not None
    assert [value is not None for value in tokens.logprobs] == tokens.sampled
    assert sum(tokens.sampled) == found.sampled
    assert MARKED.decode(tokens.ids).endswith(found.text)


def test_a_syntax_that_opens_calls_with_nothing_begins_where_the_prefix_ends(prefix: PlannedPrefix) -> None:
    bare = prefix.model_copy(update={"prefix": prefix.prefix.model_copy(update={"delimited": False})})
    manner = PLAIN._replace(dialect=dialect_named("llama-bare"))
    found, _, _ = run(bare, script("no call"), manner=manner)
    assert found.text == "no call<|im_end|>"


def test_calls_that_the_prompt_shows_are_no_beginning(prefix: PlannedPrefix) -> None:
    ids = MARKED.encode(f"Call so: {CALL}\nQuestion: ")
    shown = prefix.prefix.model_copy(update={"delimited": False, "token_ids": ids, "text": "", "branch_char": 0})
    found, _, _ = run(prefix.model_copy(update={"prefix": shown}), script("no call"))
    assert found.text == "no call<|im_end|>"


def test_a_crop_of_an_image_is_looked_at_in_the_next_turn() -> None:
    pytest.importorskip("PIL")
    seen = looked((LARGE,))
    zoom = ImageZoom()

    def policy(text: str, _: int) -> str:
        box = {"bbox_2d": [0, 0, 500, 1000], "img_idx": 0}
        return "I see it." if "<tool_response>" in text else call("image_zoom", box).removeprefix("<tool_call>")

    double = qwen_double(policy=policy, vision=True, scale_out=True)
    found = on_server(double, lambda sampler: continued(seen, 0, sampler, zoom, PLAIN))
    assert found.guarantee == "token_exact"
    assert (found.turns, found.calls, found.failures) == (2, 1, 0)
    assert found.ids is not None
    assert found.mask is not None
    told = [token for token, own in zip(found.ids, found.mask, strict=True) if not own]
    assert told.count(PAD) == 4
    assert MARKED.decode(found.ids).replace(PAD_TEXT * 4, PAD_TEXT) == found.text
    assert found.prefix_ids == seen.prefix.token_ids
