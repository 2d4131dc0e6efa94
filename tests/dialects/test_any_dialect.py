"""What holds for every dialect and for any mixture of them, whatever the text."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gapscope.dialects import DIALECTS, dialect_named
from gapscope.dialects.base import TaggedDialect
from gapscope.dialects.gemma import read_body as read_gemma
from gapscope.dialects.harmony import read_tools as read_harmony_tools
from gapscope.dialects.kimi import read_tools as read_kimi_tools
from gapscope.dialects.mistral import read_tools as read_mistral_tools
from gapscope.dialects.qwen3_coder import read_tools as read_coder_tools
from gapscope.outcomes import ErrorMarkers, judge_calls

NAMES = [dialect.name for dialect in DIALECTS]

# What the patterns among the delimiters match; literals are taken from the dialects themselves.
MATCHES = (
    *("<|channel|>commentary to=functions.calc", "<|start|>assistant to=functions.calc", "<|call|>", "<|return|>"),
    *("<|start|>functions.calc to=assistant<|channel|>commentary<|message|>", "<|start|>assistant", "<|end|>"),
    *("assistantcommentary to=functions.calc json", "functions.calc to=assistantcommentary", "assistantfinal"),
    *("assistantanalysis", "<|eom_id|>", "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    *("<|start_header_id|>ipython<|end_header_id|>\n\n", "ipython\n\n", "assistant\n\n", "## Return of a:0\n"),
    *("<|im_system|>tool<|im_middle|>", "<|im_assistant|>assistant<|im_middle|>", "<|observation|>", "<|assistant|>"),
    *("[TOOL_RESULTS]", "[INST]", "[/INST]", "</s>", "calc[ARGS]", "<|turn>model\n", "<|turn>user\n", "<turn|>"),
    *("]~b]tool\n", "]~b]ai\n", "[e~[\n", "<seed:bos>tool\n", "<seed:bos>assistant\n", "<seed:eos>"),
    *("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜Assistant｜>", "<｜User｜>", "<｜tool▁sep｜>"),
    *("<function_results>\n", "</function_results>", "Action: calc\n", "Action Input: ", "Observation: ", "Thought: "),
    *("Final Answer: ", "```python\n", "```bash\n", "```search\n", "```output\n", "```json\n", "search: x\n"),
    *("Let me try again.\n", '<invoke name="calc">', "</invoke>", "<parameter=a>", "</parameter>", "<arg_key>a"),
    *('{"name": "calc", "parameters": {', '[{"name": "calc", "arguments": {', '{"content": 5, "call_id": "a"}'),
    *("<|tool_call_argument_begin|>", "<|message|>", "call:calc{", "function", "{", "}", "[", "]", '"', "{}", "}]"),
    *(
        "\nuser\n",
        "\ntool\n",
        "\nassistant\n",
        "<|im_start|>",
        "<|im_end|>",
        "assistant",
        "user",
        "\n",
        " ",
        "a",
        "终\u2028",
    ),
)
LITERALS = tuple(
    dict.fromkeys(
        delimiter
        for dialect in DIALECTS
        for pair in (*dialect.tags.calls, *dialect.tags.results, *dialect.tags.think, *dialect.tags.answers)
        for delimiter in (pair.opening, pair.closing)
        if isinstance(delimiter, str)
    )
)
FRAGMENTS = MATCHES + LITERALS


@given(
    texts=st.lists(st.sampled_from(FRAGMENTS), max_size=24).map("".join),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
    opens_in_thinking=st.booleans(),
)
@example(texts="```output\n", names=["torl"], opens_in_thinking=False)
@example(texts="assistantanalysisassistantfinal", names=["harmony-stripped"], opens_in_thinking=True)
def test_any_jumble_of_delimiters_is_cut_without_a_gap_and_without_a_contradiction(
    texts: str, names: list[str], *, opens_in_thinking: bool
) -> None:
    segments = dialect_named("+".join(names)).segment(texts, opens_in_thinking=opens_in_thinking)
    ends = [0, *(span.end for span in segments.spans)]
    assert [span.start for span in segments.spans] == ends[:-1]
    assert ends[-1] == len(texts)
    assert all(span.start < span.end for span in segments.spans)
    assert [span.turn or 0 for span in segments.spans] == sorted(span.turn or 0 for span in segments.spans)
    for call in segments.calls:
        assert call.span is not None
        span = segments.spans[call.span]
        assert span.kind == ("think" if call.in_think else "tool_call")
        assert call.raw in texts[span.start : span.end]
        assert call.closed or call.body is None
        assert call.turn < segments.turns
        assert call.result_span is None or segments.spans[call.result_span].kind == "tool_result"
    judged = judge_calls(segments.calls, declared_tools=None, markers=ErrorMarkers(), finish_reason="length")
    assert len(judged) == len(segments.calls)


def hostile(dialect: TaggedDialect) -> list[str]:
    """What a policy may repeat to its limit: an opening delimiter, a part of a call, a role line, a bracket."""
    openings = [call.opening for call in dialect.tags.calls]
    pairs = (*dialect.tags.results, *dialect.tags.think, *dialect.tags.answers)
    openings += [pair.opening for pair in pairs]
    literals = [opening for opening in openings if isinstance(opening, str)]
    patterns = [opening for opening in openings if isinstance(opening, re.Pattern)]
    matched = [text for text in MATCHES if any(pattern.search(text) for pattern in patterns)]
    units = literals[:4] + literals[-4:] + matched
    units += [unit + rest for unit in units for rest in ('{"a":', "\nuser\n")]
    return list(dict.fromkeys([*units, "\nuser\n", "assistant\n\n", "<", "```", "{", " "]))


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_text_that_repeats_a_delimiter_to_its_end_is_cut_in_proportion_to_its_length(dialect: TaggedDialect) -> None:
    call = dialect.tags.calls[0].closing
    endings = ["", "</think>", call if isinstance(call, str) else "}"]

    def seconds(unit: str, size: int) -> float:
        body = unit * (size // len(unit))
        started = time.process_time()
        for ending in endings:
            dialect.segment(body + ending)
        return time.process_time() - started

    for unit in hostile(dialect):
        if seconds(unit, 24_000) > 0.2:
            # Four times as long takes sixteen times as long where it is quadratic; the best of three is no accident.
            slow = min(seconds(unit, 24_000) for _ in range(3))
            assert slow < 0.2 or slow < 10 * min(seconds(unit, 6_000) for _ in range(3)), unit


def test_a_hundred_thousand_characters_of_any_opening_delimiter_take_no_time() -> None:
    everything = dialect_named("+".join(NAMES))
    started = time.process_time()
    for opening in ("<tool_call>", "<search>", "[TOOL_CALLS][", "<｜DSML｜tool_calls>", "```python"):
        everything.segment(opening * (100_000 // len(opening)))
    assert time.process_time() - started < 10


@pytest.mark.parametrize("name", NAMES)
def test_no_body_takes_long_to_be_read_or_refused(name: str) -> None:
    for filler in (
        " ",
        "\n",
        "a",
        "```",
        ") ",
        '<parameter name="a">',
        "<parameter=a>",
        '<invoke name="a">',
        "{a:",
        '["',
    ):
        for start in (
            "",
            "function<｜tool▁sep｜>",
            "functions.",
            "calc.call(",
            "calc\n",
            "call:calc{",
            "```python\n",
            '{"',
        ):
            body = start + filler * (20_000 // len(filler))
            started = time.process_time()
            for call in DIALECTS[NAMES.index(name)].tags.calls:
                call.read(body)
                if call.ends_by_rule:
                    assert callable(call.closing)
                    call.closing(body, 0, len(body))
            assert time.process_time() - started < 1, (start, filler)


def test_names_are_unique_and_can_be_joined() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert not any("+" in name for name in NAMES)
    assert [dialect_named(name).name for name in NAMES] == NAMES
    assert DIALECTS[0].name == "hermes"


def test_a_combination_reads_each_body_with_the_first_reader_that_can() -> None:
    both = dialect_named("hermes+qwen3-coder")
    assert both is dialect_named("hermes+qwen3-coder")
    assert both.name == "hermes+qwen3-coder"
    text = (
        '<tool_call>{"name": "calc", "arguments": {"a": "<function=x>"}}</tool_call>'
        "<tool_call><function=now></function></tool_call><function=later></function><tool_call>calc</tool_call>"
    )
    bodies = [call.body and call.body.name for call in both.segment(text).calls]
    assert bodies == ["calc", "now", "later", None]


def test_a_combination_knows_the_tools_that_a_syntax_names_itself() -> None:
    prompt = '<tools>\n{"name": "calc"}\n</tools>'
    assert dialect_named("hermes+torl").declared_tools(prompt) == ["calc", "python"]
    assert dialect_named("hermes+torl").declared_tools("") is None
    assert dialect_named("torl").declared_tools("") is None


def test_a_combination_has_the_results_thinking_and_headers_of_all_its_dialects() -> None:
    mixed = dialect_named("hermes+mistral+ragen")
    text = "[THINK]a[/THINK]<answer>Up</answer>\nuser\nb\nassistant\n[TOOL_CALLS][{}]"
    assert [span.kind for span in mixed.segment(text).spans] == ["think", "tool_call", "tool_result", "tool_call"]
    assert mixed.special
    assert mixed.opens_thinking("x[THINK]")
    assert mixed.opens_thinking("x<think>\n")
    assert not mixed.opens_thinking("x")


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        dialect_named("hermes+nonsense")


def test_the_delimiters_of_deepseek_are_fullwidth_bars_and_low_blocks() -> None:
    names = ("deepseek-r1", "deepseek-v3.1", "deepseek-v4")
    openings = [call.opening for name in names for call in DIALECTS[NAMES.index(name)].tags.calls]
    assert [[ord(sign) for sign in str(opening) if not sign.isascii()] for opening in openings] == [
        [0xFF5C, 0x2581, 0x2581, 0xFF5C],
        [0xFF5C, 0x2581, 0x2581, 0xFF5C],
        [0xFF5C, 0xFF5C],
        [0xFF5C, 0xFF5C],
    ]
    assert DIALECTS[NAMES.index("deepseek-r1")].segment("<|tool_call_begin|>function").calls == []


def test_the_closing_token_that_rllm_writes_has_plain_underscores() -> None:
    text = (
        "<｜tool▁call▁begin｜>calc<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁response▁begin｜>5<｜tool_response_end｜>5"
    )
    assert [call.result for call in dialect_named("deepseek-v3.1").segment(text).calls] == ["5"]


def test_a_stop_token_at_the_very_end_is_no_answer() -> None:
    for name, text in (
        ("glm", "<tool_call>calc</tool_call><|observation|>"),
        ("gemma", "<|tool_call>call:calc{}<tool_call|><|tool_response>"),
        ("react", "Action: calc\nAction Input: {}\nObservation:"),
    ):
        (call,) = dialect_named(name).segment(text).calls
        assert call.body is not None
        assert call.result is None


def test_declared_tools_are_read_from_the_prompts_of_the_families() -> None:
    listed = '[{"type": "function", "function": {"name": "calc"}}, {"type": "function", "function": {"name": "now"}}]'
    expected = ["calc", "now"]
    tools = "<tools>\n<function>\n<name>calc</name>\n</function>\n<function>\n<name>now</name>\n</function>\n</tools>"
    assert read_coder_tools(tools) == expected
    assert read_coder_tools(f"<tools>{listed}</tools>") == expected
    assert read_coder_tools("none") is None
    assert read_kimi_tools(f"<|im_system|>tool_declare<|im_middle|>{listed}<|im_end|>") == expected
    assert read_kimi_tools("<|im_system|>tool_declare<|im_middle|>[<|im_end|>") is None
    assert read_mistral_tools(f"[AVAILABLE_TOOLS] {listed}[/AVAILABLE_TOOLS][INST]a[/INST]") == expected
    assert read_mistral_tools("[AVAILABLE_TOOLS] x[/AVAILABLE_TOOLS]") is None
    assert (
        read_harmony_tools("namespace functions {\n\ntype calc = (_: {a: number}) => any;\n\ntype now = () => any;\n}")
        == expected
    )
    assert read_harmony_tools("type calc = () => any;") is None
    minimax = '<tools>\n<tool>{"name": "calc"}</tool>\n<tool>{"name": "now"}</tool>\n</tools>'
    assert dialect_named("minimax").declared_tools(minimax) == expected


@pytest.mark.parametrize(
    "body", ["call:calc", "call:{}", "call:calc{a}", "call:calc{a:[1}", "call:calc{} b", "call:calc" + "{a:" * 99, "x"]
)
def test_arguments_of_gemma_that_break_the_syntax_cannot_be_read(body: str) -> None:
    assert read_gemma(body) is None


def test_a_wrapper_without_its_closing_tag_is_one_call() -> None:
    text = "<tool_call>\n<function=calc>\n</function>\nuser\n<tool_response>\n5\n</tool_response>\nassistant\n5"
    (call,) = dialect_named("qwen3-coder").segment(text).calls
    assert (call.body and call.body.name, call.result) == ("calc", "5")


def test_text_that_is_its_own_argument_ends_where_the_next_call_or_result_begins() -> None:
    text = "<search>X\n<search>Y</search>\n<information>a</information>"
    calls = dialect_named("search-r1").segment(text).calls
    assert [(call.closed, call.raw, call.result) for call in calls] == [(False, "X\n", None), (True, "Y", "a")]
