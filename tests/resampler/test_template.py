"""What a server's chat template writes around results and calls."""

from typing import Any

import pytest
from chat_templates import (
    Template,
    TemplateServer,
    alternating,
    ask,
    glm,
    harmony,
    llama,
    qwen,
    thinking,
    with_ids,
    without_calls,
    without_results,
)

from gapscope.dialects import DIALECTS, dialect_named
from gapscope.resampler.template import (
    CALL_IDS,
    NO_CALLS,
    NO_END,
    NO_RESULTS,
    calling_dialect,
    opening_delimiter,
    prompt_ids,
    template_wording,
)
from gapscope.resampler.wording import NAME, Wording, turn_ends, written
from gapscope.serving.transport import RequestRefused

BLANKS = " \t\r\n"
QUESTION = {"role": "user", "content": "What is 5*7?"}
CALLING = {"id": "call_0", "type": "function", "function": {"name": "calc", "arguments": '{"expr": "5*7"}'}}


def wording(template: Template, dialect: str = "hermes") -> Wording:
    ends = turn_ends(dialect_named(dialect))
    found: Wording = ask(TemplateServer(template), lambda server: template_wording(server, ends=ends))
    return found


def opened(template: Template, *messages: dict[str, Any]) -> str:
    """The text of a conversation up to where the body of a call begins."""
    ids = ask(TemplateServer(template), lambda server: opening_delimiter(server, list(messages), DIALECTS))
    return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("template", "dialect", "expected"),
    [
        (
            qwen,
            "hermes",
            Wording(
                "\n<|im_start|>user\n<tool_response>\n",
                "\n</tool_response>\n<tool_response>\n",
                "\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
                "turn",
                "template",
            ),
        ),
        (
            thinking,
            "hermes",
            Wording(
                "\n<|im_start|>user\n<tool_response>\n",
                "\n</tool_response>\n<tool_response>\n",
                "\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n",
                "turn",
                "template",
                trims=BLANKS,
            ),
        ),
        (
            harmony,
            "harmony",
            Wording(
                f"<|start|>functions.{NAME} to=assistant<|channel|>commentary<|message|>",
                f"<|end|><|start|>functions.{NAME} to=assistant<|channel|>commentary<|message|>",
                "<|end|><|start|>assistant",
                "turn",
                "template",
                quoted=True,
            ),
        ),
        (
            llama,
            "llama",
            Wording(
                "<|start_header_id|>ipython<|end_header_id|>\n\n",
                None,
                "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                "turn",
                "template",
                quoted=True,
            ),
        ),
        (
            glm,
            "glm",
            Wording(
                "\n<tool_response>\n",
                "\n</tool_response>\n<tool_response>\n",
                "\n</tool_response><|assistant|>",
                "turn",
                "template",
            ),
        ),
        (
            without_calls,
            "hermes",
            Wording(
                "\n<|im_start|>tool\n",
                "<|im_end|>\n<|im_start|>tool\n",
                "<|im_end|>\n<|im_start|>assistant\n",
                "turn",
                "template",
            ),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_template_shows_what_stands_around_results(template: Template, dialect: str, expected: Wording) -> None:
    assert wording(template, dialect) == expected


@pytest.mark.parametrize("template", [qwen, thinking, harmony, glm])
def test_results_written_so_are_what_the_template_itself_makes_of_them(template: Template) -> None:
    results = ["35", '  two "lines"\nof text\n']
    calls = {"role": "assistant", "content": "", "tool_calls": [CALLING, CALLING]}
    answers = [{"role": "tool", "name": "calc", "tool_call_id": "call_0", "content": result} for result in results]
    found = wording(template, "glm" if template is glm else "harmony" if template is harmony else "hermes")
    expected = template([QUESTION, calls, *answers], True)
    assert expected.endswith(written(found, results, ["calc", "calc"]))


@pytest.mark.parametrize(
    ("template", "reason", "detail"),
    [
        (without_results, NO_RESULTS, ""),
        (alternating, NO_RESULTS, "Conversation roles must alternate"),
        (with_ids, CALL_IDS, "## Return of"),
    ],
)
def test_a_template_without_results_or_with_ids_is_refused(template: Template, reason: str, detail: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        wording(template)
    assert refusal.value.reason == reason
    assert detail in refusal.value.detail


def test_the_turn_ends_with_the_first_token_that_could_end_it() -> None:
    ends = ["</tool_response>", "<|im_start|>", "<|im_end|>"]
    found = ask(TemplateServer(qwen), lambda server: template_wording(server, ends=ends))
    assert found == wording(qwen)


def test_a_template_whose_end_of_turn_is_not_known_is_refused() -> None:
    with pytest.raises(RequestRefused) as refusal:
        ask(TemplateServer(qwen), lambda server: template_wording(server, ends=["<|eot_id|>", ""]))
    assert refusal.value.reason == NO_END
    assert "<|im_end|>" in refusal.value.detail


@pytest.mark.parametrize(
    ("template", "content", "end"),
    [
        (qwen, "I shall ask.", "<|im_start|>assistant\nI shall ask.\n<tool_call>"),
        (qwen, "", "<|im_start|>assistant\n<tool_call>"),
        (glm, "I shall ask.", "<|assistant|>\nI shall ask.\n<tool_call>"),
        (harmony, "", "<|start|>assistant to="),
        (llama, "", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ],
)
def test_a_begun_turn_is_written_up_to_the_body_of_its_call(template: Template, content: str, end: str) -> None:
    text = opened(template, QUESTION, {"role": "assistant", "content": content})
    assert text == template([QUESTION], False) + end


def test_thinking_and_earlier_calls_of_the_begun_turn_are_written_too() -> None:
    begun = {"role": "assistant", "content": "Both.", "reasoning": "Two calls.", "tool_calls": [CALLING]}
    first = '<tool_call>\n{"name": "calc", "arguments": {"expr": "5*7"}}\n</tool_call>'
    begins = "<|im_start|>assistant\n<think>\nTwo calls.\n</think>\n\nBoth.\n"
    assert opened(thinking, QUESTION, begun) == qwen([QUESTION], False) + begins + first + "\n<tool_call>"


def test_a_template_that_writes_no_calls_opens_none() -> None:
    with pytest.raises(RequestRefused, match=NO_CALLS):
        opened(without_calls, QUESTION, {"role": "assistant", "content": "Hm."})


@pytest.mark.parametrize(
    ("template", "name"), [(qwen, "hermes"), (glm, "glm"), (harmony, "harmony"), (llama, "llama-bare")]
)
def test_the_dialect_of_the_templates_calls_is_known(template: Template, name: str) -> None:
    assert ask(TemplateServer(template), lambda server: calling_dialect(server, DIALECTS)).name == name


def test_a_prompt_goes_up_to_where_an_answer_begins_and_shows_the_tools() -> None:
    server = TemplateServer(thinking)
    tools = [{"type": "function", "function": {"name": "calc"}}]
    ids = ask(server, lambda endpoint: prompt_ids(endpoint, [QUESTION], tools=tools))
    assert "".join(map(chr, ids)) == thinking([QUESTION], True)
    assert [request["tools"] for request in server.asked] == [tools]
