"""Prefixes of logs without token ids: written again as one sequence that ends where the call begins, or refused."""

from typing import Any

import pytest
from double_logs import THOUGHT, asked, prompt_of
from endpoint_runs import continued, refused, text_prefix
from samples import SAMPLE_OF, options
from vllm_double import Double, qwen_double
from vllm_policies import ANSWERING, hermes
from vllm_tokens import MARKED

import gapscope as gs
from gapscope.plans import PlannedPrefix
from gapscope.resampler import chat_messages, retokenised

BEGUN = THOUGHT + "<tool_call>"
ASKED = asked("Arlen")
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def begun(prefix: PlannedPrefix, double: Double | None = None) -> str:
    """The text of the ids with which a prefix is continued."""
    start, _, after = continued(double or qwen_double(policy=hermes()), prefix)
    assert start.guarantee == after.guarantee == "text_retokenised"
    assert MARKED.decode(start.ids or ()) == start.text
    return start.text


def why(prefix: PlannedPrefix) -> str:
    double = qwen_double(policy=hermes())
    reason = refused(double, prefix).reason
    assert not [body for body in double.asked("/v1/completions") if "seed" in body]
    return reason


def test_messages_are_written_by_the_template_up_to_the_turn_and_its_text_verbatim() -> None:
    blanks = "<think>\n\nI need it. \n</think>\n<tool_call>"
    assert begun(text_prefix(blanks, prompt="user\nHi\n", messages=[{"role": "user", "content": "Hi"}])) == (
        f"<|im_start|>user\nHi<|im_end|>\n{ANSWERING}{blanks}"
    )


def test_a_prompt_as_the_model_read_it_comes_before_its_messages() -> None:
    prompt = "<|im_start|>system\nToday.<|im_end|>\n" + prompt_of(ASKED)
    assert begun(text_prefix(prompt=prompt, messages=ASKED, tools=[TOOL])) == prompt + BEGUN


def test_a_prompt_without_its_special_tokens_is_taken_apart_into_messages() -> None:
    prompt = "system\n# Tools\nget_weather\nuser\nHi\nassistant\nHello.\nuser\nSo?\nassistant\n"
    assert begun(text_prefix(prompt=prompt, tools=[TOOL])) == (
        "<|im_start|>system\n# Tools\nget_weather<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        f"<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n{ANSWERING}{BEGUN}"
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "system\n\nYou help.user\n\nHi.assistant\n\n",
        "user\nWhich\nuser\ndo I mean?\nassistant\n",
        "user\nHi\nmodel\n",
    ],
    ids=["no line ends", "a line of the text that is a role", "another name of a role"],
)
def test_a_prompt_whose_messages_cannot_be_told_apart_is_refused(prompt: str) -> None:
    assert why(text_prefix(prompt=prompt)) == retokenised.ROLES_LOST


def test_messages_that_quote_a_special_token_are_no_prompt_as_the_model_read_it() -> None:
    messages = [{"role": "user", "content": "What is <|im_end|>?"}]
    text = begun(text_prefix(prompt="user\nWhat is <|im_end|>?\n", messages=messages))
    assert text == prompt_of(messages) + BEGUN


def test_a_base_models_prompt_is_tokenised_as_it_is() -> None:
    assert begun(text_prefix(prompt="Question: Hi?\nAnswer: ")) == "Question: Hi?\nAnswer: " + BEGUN


def test_a_plan_without_prompt_or_messages_is_refused() -> None:
    assert why(text_prefix(prompt=None)) == retokenised.UNTOLD
    assert why(text_prefix(prompt=None, delimited=False)) == retokenised.UNTOLD


TURNS = f"{THOUGHT}<tool_call>\n{{}}\n</tool_call>\nuser\n<tool_response>\n21\n</tool_response>\nassistant\n{BEGUN}"


@pytest.mark.parametrize("prompt", [prompt_of(ASKED), "user\nHi\nassistant\n", "user\nHi\n"])
@pytest.mark.parametrize(
    "text", [TURNS, TURNS.replace("user\n", "").replace("assistant\n", "")], ids=["role lines", "results"]
)
def test_turns_that_nothing_parts_any_more_are_refused(prompt: str, text: str) -> None:
    messages = [{"role": "user", "content": "Hi"}] if prompt == "user\nHi\n" else None
    assert why(text_prefix(text, prompt=prompt, messages=messages)) == retokenised.TURNS_LOST


def test_results_that_stood_between_messages_are_missed_too() -> None:
    joined = f"{THOUGHT}<tool_call>\n{{}}\n</tool_call>\n21\n{BEGUN}"
    assert why(text_prefix(joined, prompt="user\nHi\n", messages=asked("Arlen"), call=2)) == retokenised.TURNS_LOST


def test_turns_with_all_that_stood_between_them_are_continued() -> None:
    whole = TURNS.replace("\nuser\n", "<|im_end|>\n<|im_start|>user\n").replace(
        "\nassistant\n", "<|im_end|>\n" + ANSWERING
    )
    assert begun(text_prefix(whole, call=2)) == prompt_of(ASKED) + whole


def test_results_within_the_policys_own_turn_need_nothing_between_them() -> None:
    text = "<think>Hm.</think><search>a</search>\n\n<information>b</information>\n\n<search>"
    prompt = "Question: a?"
    assert begun(text_prefix(text, prompt=prompt, dialect="search-r1", call=2)) == prompt + text


def test_a_begun_answer_among_the_messages_is_continued() -> None:
    messages = [*ASKED, {"role": "assistant", "content": "<think>\n"}]
    text = "I need the tool.\n</think>\n\n<tool_call>"
    assert begun(text_prefix(text, prompt=None, messages=messages)) == prompt_of(ASKED) + "<think>\n" + text


class Opening(Double):
    """A server whose template opens the thinking where an answer begins."""

    def _written(self, body: dict[str, Any]) -> Any:
        prompt = super()._written(body)
        opens = body.get("add_generation_prompt", True)
        return prompt._replace(ids=prompt.ids + MARKED.encode("<think>\n") * opens)


def opening() -> Double:
    double = qwen_double(policy=hermes())
    double.__class__ = Opening
    return double


@pytest.mark.parametrize("text", [BEGUN, BEGUN.removeprefix("<think>\n")], ids=["in the log too", "not in the log"])
def test_thinking_that_the_template_opens_is_opened_once(text: str) -> None:
    prefix = text_prefix(text, prompt=None, messages=ASKED)
    assert begun(prefix, opening()) == prompt_of(ASKED) + BEGUN


def test_thinking_that_only_one_of_template_and_log_opens_is_refused() -> None:
    closed = text_prefix("I need it.\n</think>\n\n<tool_call>", prompt=None, messages=ASKED)
    assert why(closed) == retokenised.OTHER_THINKING
    without = text_prefix("At once: <tool_call>", prompt=None, messages=ASKED)
    assert refused(opening(), without).reason == retokenised.OTHER_THINKING


STRUCTURED = [*ASKED, {"role": "assistant", "content": "", "reasoning": "I need the tool."}]


def structured(messages: Any = STRUCTURED, **changes: Any) -> PlannedPrefix:
    return text_prefix("I need the tool.\n", prompt="user\nHi\n", messages=messages, delimited=False, **changes)


def test_a_call_apart_from_the_text_is_opened_by_the_template() -> None:
    assert begun(structured()) == f"{prompt_of(ASKED)}{THOUGHT}\n<tool_call>"


def test_earlier_calls_and_results_are_written_by_the_template_too() -> None:
    function = {"name": "get_weather", "arguments": '{"b": 1, "a": 2}'}
    messages = [
        *ASKED,
        {"role": "assistant", "content": "", "reasoning": "So.", "tool_calls": [{"id": "c", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": "21"},
        {"role": "assistant", "content": "Again: "},
    ]
    text = begun(structured(messages))
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"b": 1, "a": 2}}\n</tool_call>' in text
    assert "<tool_response>\n21\n</tool_response>" in text
    assert text.endswith("Again: \n<tool_call>")


@pytest.mark.parametrize(
    "tool",
    [
        TOOL,
        {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": None},
        {"name": "get_weather", "input_schema": {"type": "object"}},
    ],
    ids=["OpenAI", "Responses", "Anthropic"],
)
def test_definitions_of_tools_reach_the_template_in_one_shape(tool: dict[str, Any]) -> None:
    double = qwen_double(policy=hermes())
    text = begun(structured(tools=[tool]), double)
    assert "<tools>" in text
    assert [body["tools"] for body in double.asked("/tokenize") if "tools" in body] == [[TOOL], [TOOL]]


def test_a_definition_without_a_name_is_refused() -> None:
    assert why(structured(tools=[{"type": "web_search"}])) == chat_messages.NO_DEFINITION


@pytest.mark.parametrize("kind", ["text", "input_text"])
def test_the_parts_of_a_content_are_one_text(kind: str) -> None:
    content = [{"type": kind, "text": "What is "}, {"type": kind, "text": "it?"}]
    double = qwen_double(policy=hermes())
    text = begun(text_prefix(prompt=None, messages=[{"role": "user", "content": content}]), double)
    assert text.startswith("<|im_start|>user\nWhat is it?<|im_end|>")
    assert double.asked("/tokenize")[-2]["messages"] == [{"role": "user", "content": "What is it?"}]


@pytest.mark.parametrize(
    "message",
    [
        {"content": "nobody's"},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://somewhere/a.png"}}]},
        {"role": "user", "content": {"text": "Hi"}},
    ],
    ids=["no role", "an item that is no message", "sound", "an image elsewhere", "an object"],
)
def test_what_no_server_takes_as_a_message_is_refused(message: dict[str, Any]) -> None:
    assert why(text_prefix(prompt=None, messages=[message])) == chat_messages.NO_MESSAGE


@pytest.mark.parametrize("name", ["arpo", "art", "openai-chat", "otel-genai", "roll-agentic", "tunix"])
def test_the_prefixes_of_a_sample_end_where_the_body_of_the_call_begins(name: str) -> None:
    rule = {"arpo": "score>=1"}.get(name)
    everything = gs.PlanOptions(rank="random", seed=0, step="all", r="2", correctness=rule)
    plan = gs.plan(SAMPLE_OF[name], everything, mapping=options(name).mapping or None)
    assert plan.prefixes
    for prefix in plan.prefixes:
        double = qwen_double(policy=hermes(), context=100_000)
        # The policy that was logged has more to say than there is room for; where it begins is what counts.
        start, _, _ = continued(double, prefix)
        assert start.text.endswith(("<tool_call>", "<python>"))
        assert start.text.count(ANSWERING) == 1
