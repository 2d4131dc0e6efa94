"""Tokens and text brought together, checked by hand on rollouts of a few tokens."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tiny_tokenizer import byte_level
from tokenizers import Tokenizer

from gapscope.alignment import Aligner
from gapscope.dialects import dialect_named
from gapscope.outcomes import ErrorMarkers
from gapscope.parsers.base import reread
from gapscope.rollouts import CallTokens, Rollout, Source, Tokens
from gapscope.rows import Reading
from gapscope.shapes.conversations import message_of, tell
from gapscope.tokenizer import Vocabulary, load_vocabulary

HERMES = dialect_named("hermes")
READING = Reading("log", HERMES)
CALL = '{"name": "calc", "arguments": {"expr": "37*48"}}'
OUTPUT = (
    f"<think>hmm</think>\n\n<tool_call>\n{CALL}\n</tool_call>\nuser\n<tool_response>\n1776\n</tool_response>\n"
    "assistant\n<answer>1776</answer>"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return byte_level(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("model")
    byte_level(folder)
    return load_vocabulary(folder)


def rollout_of(output: str, tokens: Tokens, prompt: str = "Q") -> Rollout:
    found = reread(prompt, output, READING)
    return Rollout(
        format="test",
        source=Source("log", 1),
        prompt=prompt,
        output=output,
        turns=found.turns,
        spans=found.spans,
        calls=found.calls,
        tokens=tokens,
    )


def strings(*parts: str) -> Tokens:
    return Tokens(strings=list(parts), sampled=[True] * len(parts))


def align(rollout: Rollout, vocabulary: Vocabulary | None = None) -> str:
    return Aligner(HERMES, ErrorMarkers(), vocabulary).align(rollout)


def extents(rollout: Rollout) -> list[tuple[str, int | None, int | None]]:
    return [(span.kind, span.token_start, span.token_end) for span in rollout.spans]


def test_a_call_lies_between_its_delimiters_and_branches_behind_the_first() -> None:
    parts = ["<think>", "hm", "</think>", "<tool_call>", "\n", CALL, "\n", "</tool_call>", "<answer>7</answer>"]
    rollout = rollout_of("".join(parts), strings(*parts))
    assert align(rollout) == "strings"
    assert extents(rollout) == [("think", 0, 3), ("tool_call", 3, 8), ("answer", 8, 9)]
    assert [call.tokens for call in rollout.calls] == [CallTokens(start=3, branch=4, body_end=7, end=8)]


def test_white_space_in_the_last_token_of_the_delimiter_is_part_of_the_prefix() -> None:
    parts = ["<tool", "_call>\n", CALL, "\n</tool_call>"]
    rollout = rollout_of("".join(parts), strings(*parts))
    align(rollout)
    assert rollout.calls[0].tokens == CallTokens(start=0, branch=2, body_end=4, end=4, mixed=False)


def test_a_delimiter_that_shares_a_token_with_the_call_is_marked() -> None:
    parts = ["<tool", '_call>{"', CALL[2:], "</tool_call>"]
    rollout = rollout_of("".join(parts), strings(*parts))
    align(rollout)
    assert rollout.calls[0].tokens == CallTokens(start=0, branch=2, body_end=3, end=4, mixed=True)


def test_a_token_on_both_sides_of_a_boundary_belongs_to_the_call() -> None:
    parts = ["<think>a</think>", "so <", "tool_call>", CALL, "</tool_call", "> and", " on"]
    rollout = rollout_of("".join(parts), strings(*parts))
    align(rollout)
    assert extents(rollout) == [("think", 0, 1), ("text", 1, 1), ("tool_call", 1, 6), ("text", 6, 7)]


def test_ids_are_spelled_by_the_tokenizer(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    prompt, ids = tokenizer.encode("Q").ids, tokenizer.encode(OUTPUT).ids
    rollout = rollout_of(OUTPUT, Tokens(prompt + ids, n_prompt=len(prompt)))
    assert align(rollout, vocabulary) == "ids"
    place = rollout.calls[0].tokens
    assert place is not None
    assert tokenizer.decode(rollout.tokens.ids[place.start : place.end]) == f"<tool_call>\n{CALL}\n</tool_call>"
    assert tokenizer.decode(rollout.tokens.ids[: place.branch]) == "Q<think>hmm</think>\n\n<tool_call>"
    for span in rollout.spans:
        assert tokenizer.decode(rollout.tokens.ids[span.token_start : span.token_end]) == OUTPUT[span.start : span.end]


def test_special_tokens_that_the_text_leaves_out_are_skipped(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    text = f"<tool_call>\n{CALL}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n1\n</tool_response>"
    ids = tokenizer.encode(text).ids
    rollout = rollout_of(text.replace("<|im_end|>", "").replace("<|im_start|>", ""), Tokens(ids, n_prompt=0))
    assert align(rollout, vocabulary) == "ids"
    place = rollout.calls[0].tokens
    assert place is not None
    assert tokenizer.decode(ids[place.start : place.end]) == f"<tool_call>\n{CALL}\n</tool_call>"


def test_blanks_that_the_trainer_strips_do_not_matter(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    ids = tokenizer.encode(f"\n{OUTPUT}\n").ids
    rollout = rollout_of(OUTPUT, Tokens(ids))
    assert align(rollout, vocabulary) == "ids"
    place = rollout.calls[0].tokens
    assert place is not None
    assert tokenizer.decode(ids[place.start : place.end]) == f"<tool_call>\n{CALL}\n</tool_call>"


def test_another_text_is_not_matched_by_likeness(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    rollout = rollout_of(OUTPUT, Tokens(tokenizer.encode(OUTPUT.replace("hmm", "hm")).ids))
    assert align(rollout, vocabulary) == "other_text"
    assert all(start is None for _, start, _ in extents(rollout))
    assert rollout.calls[0].tokens is None


def test_why_nothing_is_known_is_said(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    ids = tokenizer.encode(OUTPUT).ids
    assert align(rollout_of(OUTPUT, Tokens(ids))) == "no_tokenizer"
    assert align(rollout_of(OUTPUT, Tokens([*ids, 10**6])), vocabulary) == "unknown_ids"
    assert align(rollout_of(OUTPUT, Tokens([])), vocabulary) == "no_tokens"


def test_offsets_that_the_log_has_are_left_alone() -> None:
    rollout = rollout_of(OUTPUT, Tokens([1, 2, 3]))
    rollout.spans = [replace(rollout.spans[0], token_start=0, token_end=1), *rollout.spans[1:]]
    before = extents(rollout)
    assert align(rollout) == "logged"
    assert extents(rollout) == before


def test_parts_of_characters_are_matched_where_they_are_certain() -> None:
    parts = ["<think>", "caf\ufffd", "\ufffd", " \ufffd\ufffd", "</think>", "<tool_call>", CALL, "</tool_call>"]
    text = f"<think>café 東</think><tool_call>{CALL}</tool_call>"
    rollout = rollout_of(text, strings(*parts))
    assert align(rollout) == "strings"
    assert extents(rollout) == [("think", 0, 5), ("tool_call", 5, 8)]


def test_parts_of_characters_before_another_one_are_not_guessed() -> None:
    text = f"東京<tool_call>{CALL}</tool_call>"
    assert align(rollout_of(text, strings("\ufffd", "京", "<tool_call>", CALL, "</tool_call>"))) == "other_text"


def test_a_rollout_without_text_gets_it_from_its_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    prompt, ids = tokenizer.encode("user\nQ\nassistant\n").ids, tokenizer.encode(OUTPUT).ids
    rollout = Rollout(format="test", source=Source("log", 1), tokens=Tokens(prompt + ids, n_prompt=len(prompt)))
    assert align(rollout, vocabulary) == "ids"
    assert rollout.output == OUTPUT
    assert rollout.prompt == "user\nQ\nassistant\n"
    assert [call.name for call in rollout.calls] == ["calc"]
    assert len(rollout.turns) == 2
    assert rollout.calls[0].tokens is not None


MESSAGES = [
    {"role": "user", "content": "37*48?"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hmm",
        "tool_calls": [{"function": {"name": "calc", "arguments": {"expr": "37*48"}}}],
    },
    {"role": "tool", "content": "1776"},
    {"role": "assistant", "content": "It is 1776."},
]


def conversation(tokenizer: Tokenizer, *turns: str) -> Rollout:
    """The messages above, with the tokens of turns that a template has put between them."""
    told = tell([message_of(message) for message in MESSAGES], READING)
    ids, sampled = tokenizer.encode("<|im_start|>user\n37*48?<|im_end|>\n<|im_start|>assistant\n").ids, []
    prompt = len(ids)
    sampled += [False] * prompt
    for turn in turns:
        wrote, given_back = tokenizer.encode(turn).ids, tokenizer.encode("\nuser\n1776<|im_end|>\nassistant\n").ids
        ids += [*wrote, *given_back]
        sampled += [True] * len(wrote) + [False] * len(given_back)
    return Rollout(
        format="test",
        source=Source("log", 1),
        output=told.output,
        output_origin="joined",
        turns=told.turns,
        spans=told.spans,
        calls=told.calls,
        tokens=Tokens(ids, n_prompt=prompt, sampled=sampled),
    )


def test_the_calls_of_messages_are_found_in_what_was_sampled(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    first = f"<think>\nhmm\n</think>\n\n<tool_call>\n{CALL}\n</tool_call><|im_end|>"
    rollout = conversation(tokenizer, first, "It is 1776.<|im_end|>")
    assert align(rollout, vocabulary) == "ids"
    place = rollout.calls[0].tokens
    assert place is not None
    ids = rollout.tokens.ids
    assert tokenizer.decode(ids[place.start : place.end]) == f"<tool_call>\n{CALL}\n</tool_call>"
    assert tokenizer.decode(ids[: place.branch], skip_special_tokens=False).endswith("</think>\n\n<tool_call>")
    (thinking,) = (span for span in rollout.spans if span.kind == "think")
    assert tokenizer.decode(ids[thinking.token_start : thinking.token_end]) == "<think>\nhmm\n</think>"


def test_calls_in_another_syntax_than_the_runs_are_found_too(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    xml = "<tool_call>\n<function=calc>\n<parameter=expr>\n37*48\n</parameter>\n</function>\n</tool_call>"
    rollout = conversation(tokenizer, f"<think>\nhmm\n</think>\n\n{xml}<|im_end|>", "It is 1776.<|im_end|>")
    assert align(rollout, vocabulary) == "ids"
    place = rollout.calls[0].tokens
    assert place is not None
    assert tokenizer.decode(rollout.tokens.ids[place.start : place.end]) == xml


def test_other_calls_and_other_turns_are_not_matched(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    assert align(conversation(tokenizer, "no call<|im_end|>", "It is 1776."), vocabulary) == "other_calls"
    assert align(conversation(tokenizer, "one turn"), vocabulary) == "other_turns"


@settings(max_examples=200)
@given(cuts=st.sets(st.integers(1, len(OUTPUT) - 1)))
def test_however_a_text_is_cut_into_tokens_each_is_in_one_span_and_calls_hold_their_text(cuts: set[int]) -> None:
    bounds = [0, *sorted(cuts), len(OUTPUT)]
    parts = [OUTPUT[start:end] for start, end in itertools.pairwise(bounds)]
    rollout = rollout_of(OUTPUT, strings(*parts))
    assert align(rollout) == "strings"
    covered = [index for _, start, end in extents(rollout) for index in range(start or 0, end or 0)]
    assert covered == list(range(len(parts)))
    place = rollout.calls[0].tokens
    assert place is not None
    assert place.start <= place.branch <= place.body_end <= place.end
    assert f"<tool_call>\n{CALL}\n</tool_call>" in "".join(parts[place.start : place.end])
    assert "".join(parts[: place.branch]).startswith(OUTPUT[: OUTPUT.index("<tool_call>") + len("<tool_call>")])
    assert place.mixed == bool("".join(parts[: place.branch])[OUTPUT.index("<tool_call>") + 11 :].strip())
