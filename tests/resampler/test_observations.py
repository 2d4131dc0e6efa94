"""What a log shows of how its environment answered, from samples of many trainers and from texts made for it."""

from collections.abc import Sequence
from typing import Any

import pytest
from chat_templates import TemplateServer, alternating, ask, qwen, thinking
from msgspec.structs import replace
from samples import SAMPLES, rollouts

import gapscope as gs
from gapscope.dialects import DIALECTS, dialect_named
from gapscope.errors import PlanError
from gapscope.recorders import recorded
from gapscope.resampler.observations import (
    MESSAGES,
    NO_ANSWER,
    STRIPPED,
    UNBOUNDED,
    VARIES,
    Learned,
    Malformed,
    Several,
    learned,
)
from gapscope.resampler.wording import NAME, Stops, Wording, own_wording, stops, turn_ends, written
from gapscope.resampler.wording_choice import verified, wording_for
from gapscope.rollouts import Parent, Span, Tokens
from gapscope.tokenizer import Vocabulary, load_vocabulary

END = "<|im_end|>"
ENDED = 256
VOCABULARY = Vocabulary("bytes", [*(bytes([byte]) for byte in range(256)), END.encode()], frozenset({ENDED}))
"""Bytes, and one token that ends a turn."""
HEAD = "\n<|im_start|>user\n<tool_response>\n"
TAIL = "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
BETWEEN = "\n</tool_response>\n<tool_response>\n"
COUNTED = "\n</tool_response>\n{} turns left<|im_end|>\n<|im_start|>assistant\n"
QWEN = Wording(HEAD, None, TAIL, "turn", "log", trims="\n")
SEARCH = Wording("\n\n<information>", None, "</information>\n\n", "call", "log", trims="\n")
CALL = '<tool_call>\n{"name": "calc", "arguments": {"expr": "5*7"}}\n</tool_call>'
BROKEN = "<tool_call>\n{5*7}\n</tool_call>"
ANSWER = "It is so." + END


def ids_of(text: str) -> list[int]:
    first, *others = text.split(END)
    return [*first.encode(), *(token for other in others for token in (ENDED, *other.encode()))]


def told(*parts: str, dialect: str = "hermes", masked: bool = False, **changes: Any) -> gs.Rollout:
    """A rollout of which the policy and the environment have written every other part."""
    tokens: dict[str, Any] = {}
    if masked:
        mask = [index % 2 == 0 for index, part in enumerate(parts) for _ in ids_of(part)]
        tokens = {"completion_ids": ids_of("".join(parts)), "mask": mask, "tokenizer": VOCABULARY}
        tokens["prompt_ids"] = []
    return recorded("What?", "".join(parts), dialect=dialect, **tokens, **changes)


def answered(*results: str, head: str = HEAD, tail: str = TAIL, **changes: Any) -> gs.Rollout:
    """One call after another with its result, and then an answer."""
    parts = [part for result in results for part in (CALL + END, head + result + tail)]
    return told(*parts, ANSWER, **changes)


def wording(*found: gs.Rollout) -> Wording:
    known = learned(found)
    assert known.wording is not None, known.why
    return known.wording


@pytest.mark.parametrize("vocabulary", [None, load_vocabulary(SAMPLES / "recorded")], ids=["spans", "ids"])
def test_a_recorded_run_of_trl_shows_its_wording_and_what_became_of_broken_calls(vocabulary: Vocabulary | None) -> None:
    found = [each for each in gs.read([str(SAMPLES / "recorded")]) if isinstance(each, gs.Rollout)]
    assert learned(found, vocabulary) == Learned(
        wording=QWEN,
        why=None,
        n=32,
        same=32,
        ended={"turn": 32},
        malformed=Malformed(ends=5),
        several=Several(),
    )


@pytest.mark.parametrize("name", ["areal", "deepeyes", "ms-swift", "nemo-rl", "skyrl-eval", "slime", "verltool"])
def test_samples_with_special_tokens_show_the_template_of_their_policy(name: str) -> None:
    assert wording(*rollouts(name)) == QWEN


def test_samples_of_results_in_the_policys_own_turn_show_the_blanks_around_them() -> None:
    assert wording(*rollouts("rlinf-eval")) == SEARCH
    assert wording(*rollouts("arpo")) == Wording(" <result>\n", None, "\n</result>", "call", "log", trims="\n")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *(
            (name, STRIPPED)
            for name in ("verl-legacy", "verl-v1", "easyr1", "roll-rlvr", "agent-r1", "gapscope-rollout")
        ),
        *((name, MESSAGES) for name in ("trl", "verifiers", "art", "openai-chat", "prime-rl", "ragen", "tunix")),
        *((name, NO_ANSWER) for name in ("verl-agent", "skyrl-train", "prime-rl-tokens")),
    ],
)
def test_samples_that_lack_the_text_between_turns_say_so(name: str, why: str) -> None:
    found = learned(rollouts(name))
    assert (found.wording, found.why, found.n) == (None, why, 0)


def test_ids_and_their_vocabulary_show_what_messages_do_not() -> None:
    found = answered("35", masked=True)
    found.output, found.output_origin = CALL + "35" + "It is so.", "joined"
    ends = [len(CALL), len(CALL) + 2, len(found.output)]
    found.spans = [
        Span("tool_call", 0, 0, ends[0], sampled=True),
        Span("tool_result", 0, ends[0], ends[1], sampled=False),
        Span("text", 1, ends[1], ends[2], sampled=True),
    ]
    assert learned([found]).why == MESSAGES
    assert learned([found], VOCABULARY).wording == QWEN


def test_the_mask_says_whether_the_policy_wrote_the_end_of_its_turn() -> None:
    own = told(CALL + END, HEAD + "35" + TAIL, ANSWER, masked=True)
    environments = told(CALL, END + HEAD + "35" + TAIL, ANSWER, masked=True)
    assert learned([own], VOCABULARY).wording == QWEN
    assert learned([environments], VOCABULARY).wording == Wording(END + HEAD, None, TAIL, "call", "log", trims="\n")


def test_a_mask_over_the_spans_of_the_log_shows_the_same_without_the_spelling() -> None:
    assert learned([answered("35", masked=True)]).wording == QWEN
    environments = told(CALL, END + HEAD + "35" + TAIL, ANSWER, masked=True)
    assert learned([environments]).wording == Wording(END + HEAD, None, TAIL, "call", "log", trims="\n")


BEGINS = len(CALL) + 1
"""The first token that the environment wrote."""
RESUMES = BEGINS + len(ids_of(HEAD + "35" + TAIL))
"""The first one that the policy wrote behind it."""


@pytest.mark.parametrize(
    ("parts", "token", "own"),
    [
        ([CALL + END, HEAD + "35" + TAIL, ANSWER], BEGINS, True),
        ([CALL + END, HEAD + "35" + TAIL, ANSWER], BEGINS + 5, True),
        ([CALL + END, HEAD + "35" + TAIL, ANSWER], RESUMES, False),
        ([CALL, HEAD + "35" + TAIL, ANSWER], BEGINS - 1, True),
        ([CALL, HEAD + "35" + TAIL, ANSWER], BEGINS - 2, False),
    ],
)
def test_a_mask_that_does_not_fit_the_text_teaches_nothing(parts: list[str], token: int, own: bool) -> None:
    found = told(*parts, masked=True)
    assert found.tokens is not None
    assert found.tokens.sampled is not None
    assert found.tokens.sampled[token] is not own
    found.tokens.sampled[token] = own
    assert learned([found]).why == UNBOUNDED


def test_a_mask_with_other_turns_than_the_text_is_not_spelled_out() -> None:
    found = answered("35", masked=True)
    assert found.tokens is not None
    assert found.tokens.sampled is not None
    found.tokens.sampled[BEGINS + 5] = True
    assert learned([found], VOCABULARY).why == UNBOUNDED


def test_what_a_mask_leaves_out_before_the_first_turn_answers_none() -> None:
    late = told("", "Given.", CALL + END, HEAD + "35" + TAIL, BROKEN + END, masked=True)
    found = learned([answered("35", "36"), late], VOCABULARY)
    assert (found.n, found.malformed) == (3, Malformed(ends=1))


def test_tokens_that_were_made_from_text_are_no_witness() -> None:
    found = answered("35", head=HEAD.replace("<|im_start|>", ""), tail=TAIL.replace("<|im_start|>", ""), masked=True)
    tokens = found.tokens
    assert tokens is not None
    found.tokens = Tokens(tokens.ids, 0, sampled=tokens.sampled, retokenised=True)
    found.spans = [replace(span, token_start=None, token_end=None) for span in found.spans]
    assert learned([found], VOCABULARY).why == STRIPPED


@pytest.mark.parametrize(("same", "n", "is_learned"), [(9, 10, True), (8, 9, False), (1, 1, True)])
def test_nine_in_ten_must_say_the_same(same: int, n: int, is_learned: bool) -> None:
    usual = [answered("35") for _ in range(same)]
    others = [answered("35", tail=COUNTED.format(left)) for left in range(n - same)]
    found = learned(usual + others)
    assert (found.wording is not None, found.n, found.same) == (is_learned, n, same)
    assert is_learned or (found.why or "").startswith(f"{VARIES}: {same} of {n}")


def test_a_count_of_turns_is_not_learned() -> None:
    found = learned([answered("35", tail=COUNTED.format(left)) for left in (1, 2, 3)])
    assert found.wording is None
    assert VARIES in (found.why or "")


def test_lines_around_results_belong_to_the_wording_only_where_they_are_always_there() -> None:
    always, sometimes = ["35\n", "36\n"], ["35\n", "36"]
    assert wording(*map(answered, always)) == Wording(HEAD, None, "\n" + TAIL, "turn", "log", trims="\n")
    assert wording(*map(answered, sometimes)) == Wording(HEAD, None, TAIL, "turn", "log", trims="")
    for results in (always, sometimes):
        found = wording(*map(answered, results))
        assert [written(found, [result]) for result in results] == [HEAD + result + TAIL for result in results]


def test_a_result_that_stands_there_twice_is_no_example() -> None:
    assert learned([answered("assistant")]).wording is None


def test_several_results_show_what_stands_between_them_and_how_many_are_answered() -> None:
    both = told(CALL + "\n" + CALL + END, HEAD + "35" + BETWEEN + "36" + TAIL, ANSWER)
    first = told(CALL + "\n" + CALL + END, HEAD + "35" + TAIL, ANSWER)
    assert wording(both).between == BETWEEN
    assert learned([both]).several == Several(all=1)
    assert learned([both, first, first]).several == Several(all=1, some=2, most=1)
    assert written(wording(both), ["1", "2", "3"]) == HEAD + "1" + BETWEEN + "2" + BETWEEN + "3" + TAIL


def harmony(tool: str, result: str) -> gs.Rollout:
    said = f'<|channel|>commentary to=functions.{tool} <|constrain|>json<|message|>{{"x": 1}}<|call|>'
    told_back = (
        f"<|start|>functions.{tool} to=assistant<|channel|>commentary<|message|>{result}<|end|><|start|>assistant"
    )
    return told(said, told_back, "<|channel|>final<|message|>So.<|return|>", dialect="harmony")


def test_the_name_of_the_tool_is_written_where_the_log_writes_it() -> None:
    found = wording(harmony("calc", '"35"'), harmony("look", '"a \\"cat\\""'))
    assert found.head == f"<|start|>functions.{NAME} to=assistant<|channel|>commentary<|message|>"
    assert found.quoted
    expected = '<|start|>functions.see to=assistant<|channel|>commentary<|message|>"a\\nb"<|end|><|start|>assistant'
    assert written(found, ["a\nb"], ["see"]) == expected
    assert not wording(harmony("calc", "35")).quoted
    # With one tool in the log, its name is the tool's as well.
    assert wording(harmony("calc", "35")).head == found.head


def test_a_tool_that_is_called_as_a_word_of_the_template_is_not_named_by_it() -> None:
    named = CALL.replace("calc", "user")
    assert wording(told(named + END, HEAD + "35" + TAIL, ANSWER)) == QWEN


@pytest.mark.parametrize(("blanks", "following"), [("\n\n", "<think>Hm.</think>"), ("\n", "<think>Hm.</think>")])
def test_blanks_around_a_result_in_the_policys_turn_are_the_environments(blanks: str, following: str) -> None:
    text = f"<search>who</search>{blanks}<information>me</information>{blanks}{following}<answer>me</answer>"
    found = wording(recorded("Who?", text, dialect="search-r1"))
    assert found == Wording(f"{blanks}<information>", None, f"</information>{blanks}", "call", "log", trims="\n")


def test_blanks_that_the_log_gives_to_the_environment_are_all_that_it_wrote() -> None:
    found = recorded("Who?", "<search>who</search><information>me</information>\n\nSo.", dialect="search-r1")
    call, result, text = found.spans
    found.spans = [call, replace(result, end=result.end + 1), replace(text, start=result.end + 1)]
    assert wording(found).tail == "</information>\n"


def test_messages_of_results_in_the_policys_turn_lack_the_blanks() -> None:
    found = recorded("Who?", "<search>who</search><information>me</information>So.", dialect="search-r1")
    found.output_origin = "joined"
    assert learned([found]).why == MESSAGES


def test_thinking_that_the_template_opens_is_part_of_what_the_environment_writes() -> None:
    prompt = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    first = f"Hm.\n</think>\n{CALL}{END}{HEAD}35{TAIL}"
    opened = recorded(prompt, f"{first}<think>\nSo.\n</think>\n{ANSWER}", dialect="hermes")
    assert wording(opened).tail == TAIL + "<think>\n"
    assert wording(recorded(prompt, first + ANSWER, dialect="hermes")).tail == TAIL


def test_after_broken_calls_rollouts_end_or_go_on_as_the_log_shows() -> None:
    error = HEAD + "Error: no JSON" + TAIL
    went_on, ended = told(BROKEN + END, error, ANSWER), told(BROKEN + END)
    cut_off = told("<tool_call>\n{5*", finish_reason="length")
    assert learned([answered("35"), went_on, ended, cut_off]).malformed == Malformed(1, 1, error)
    assert learned([answered("35"), went_on, told(BROKEN + END, HEAD + "No." + TAIL, ANSWER)]).malformed.answer is None


def test_a_broken_call_in_the_last_turn_that_any_rollout_had_tells_nothing() -> None:
    late = told(CALL + END, HEAD + "35" + TAIL, BROKEN + END)
    assert learned([answered("35"), late]).malformed.ends == 0
    assert learned([answered("35", "36"), late]).malformed.ends == 1


def test_resampled_rollouts_and_unknown_dialects_are_passed_over() -> None:
    resampled, foreign = answered("35"), answered("35")
    resampled.parent, foreign.dialect = Parent("x"), "klingon"
    assert learned([resampled, foreign, told(ANSWER)]) == learned([])


def known(found: Wording | None, why: str | None = None) -> Learned:
    return Learned(found, why, 1, 1, {}, Malformed(), Several())


def chosen(found: Learned, dialect: str, server: TemplateServer | None) -> Any:
    if server is None:
        return ask(TemplateServer(qwen), lambda _: wording_for(found, dialect_named(dialect), None))
    return ask(server, lambda endpoint: wording_for(found, dialect_named(dialect), endpoint))


def test_the_log_goes_before_the_template_which_adds_what_stands_between_results() -> None:
    found = chosen(known(QWEN), "hermes", TemplateServer(qwen))
    assert found == Wording(HEAD, BETWEEN, TAIL, "turn", "log", trims="\n")
    assert chosen(known(found), "hermes", None) == found


def test_a_template_that_differs_from_the_log_adds_nothing() -> None:
    other = Wording(HEAD, None, TAIL.replace("assistant", "model"), "turn", "log")
    assert chosen(known(other), "hermes", TemplateServer(qwen)).between == BETWEEN
    other = Wording("\n<|im_start|>tool\n", None, TAIL, "turn", "log")
    assert chosen(known(other), "hermes", TemplateServer(qwen)).between is None


def test_the_template_goes_before_the_dialect_unless_results_are_in_the_policys_turn() -> None:
    server = TemplateServer(thinking)
    assert chosen(known(None), "hermes", server).source == "template"
    assert chosen(known(None), "deepeyes", server).source == "template"
    asked = len(server.asked)
    found = chosen(known(None), "search-r1", server)
    assert len(server.asked) == asked
    assert found == Wording(
        "\n\n<information>", "</information>\n\n\n\n<information>", "</information>\n\n", "call", "dialect", trims="\n"
    )
    assert chosen(known(None), "deepeyes", None).source == "dialect"


def test_where_nothing_shows_the_wording_all_that_is_known_is_said() -> None:
    with pytest.raises(PlanError) as error:
        chosen(known(None, STRIPPED), "hermes", TemplateServer(alternating))
    assert STRIPPED in error.value.message
    assert "Conversation roles must alternate" in error.value.message
    assert "--chat-template" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("results", "names", "said"),
    [([], [], "no result"), (["1", "2"], ["calc", "calc"], "several"), (["1"], [], "1 results and 0 names")],
)
def test_results_that_cannot_be_written_are_an_error(results: list[str], names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        written(Wording(f"<{NAME}>", None, "\n", "turn", "log"), results, names)


@pytest.mark.parametrize(
    ("dialect", "texts", "missing"),
    [
        ("search-r1", ["</search>", "</answer>"], []),
        ("retool", ["</code>", "</tool_call>", "</answer>"], []),
        ("skyrl-sql", ["</sql>", "</solution>", "</answer>"], []),
        ("torl", ["</python>", "</answer>"], [r"```\s?(?:python|py)\b[ \t]*"]),
    ],
)
def test_a_turn_stops_at_the_end_of_a_call_or_an_answer(dialect: str, texts: Sequence[str], missing: list[str]) -> None:
    found = own_wording(dialect_named(dialect))
    assert found is not None
    assert stops(dialect_named(dialect), found) == Stops(list(texts), missing)
    assert stops(dialect_named(dialect), QWEN) == Stops([], [])


def test_what_a_dialect_writes_around_results_is_read_as_a_result_by_it() -> None:
    framed = [dialect for dialect in DIALECTS if dialect.frame is not None]
    assert {dialect.name for dialect in framed} == {"search-r1", "retool", "torl", "arpo", "skyrl-sql", "deepeyes"}
    calls = {"search-r1": "<search>x</search>", "retool": "<code>x</code>", "torl": "```python\nx\n```"}
    calls |= {"arpo": "<python>x</python>", "skyrl-sql": "<sql>x</sql>"}
    calls["deepeyes"] = '<tool_call>{"function": "zoom", "x": 1}</tool_call>' + END
    for dialect in framed:
        found = own_wording(dialect)
        assert found is not None
        (call,) = dialect.segment(calls[dialect.name] + written(found, ["the result"]) + "So.").calls
        assert call.result == "the result", dialect.name


def test_the_ends_of_turns_are_those_of_the_dialect_and_of_others() -> None:
    assert turn_ends(dialect_named("glm"))[:2] == ("<|im_end|>", "<|endoftext|>")
    assert "<|observation|>" in turn_ends(dialect_named("glm"))
    assert "<|observation|>" not in turn_ends(dialect_named("hermes"))


def test_logged_answers_are_the_same_tokens_when_written_and_tokenised_again() -> None:
    # Results with lines of their own around them, and one that the trainer has written otherwise.
    found = [answered(result, masked=True) for result in ("35\n", "36", "37")]
    tokens = found[2].tokens
    assert tokens is not None
    assert tokens.ids is not None
    tokens.ids[BEGINS] = ord(" ")
    form = Wording(HEAD, BETWEEN, TAIL, "turn", "log")
    server = TemplateServer(qwen, ids_of)
    assert ask(server, lambda endpoint: verified(endpoint, form, found, VOCABULARY)) == (2, 3)
    assert ask(server, lambda endpoint: verified(endpoint, form, [answered("35")])) == (0, 0)
