"""Whether the final answer is the right one of lettered choices."""

import re
import string
from collections.abc import Mapping
from typing import ClassVar

from gapscope.rewards.base import Graded, RewardFailure, Solution, accepted_answers, final_answer, normalised
from gapscope.rollouts import Json

_NAMES = ("choices", "options")

_MARKUP = re.compile(r"\*\*|[$`{}]|\\(?:text|mathrm|mathbf|boxed)(?:bf|rm|it)?(?=\s*\{)")
_LEAD = re.compile(
    r"(?:the\s+)?(?:(?:correct|right|final)\s+)*(?:answer|choice|option)\b(?:\s+is\b)?[\s:=]*", re.IGNORECASE
)

# `B`, `(b)`, `[B]`, `B.`, and behind a full stop, bracket or the like the text of the choice.
_LETTER = re.compile(r"[(\[]?(?P<letter>[A-Za-z])(?:[)\].:,]+(?:\s+(?P<text>\S.*))?)?")

_SAID = re.compile(
    r"\b(?i:answer|choice|option)\s*(?:(?i:is|would\s+be|should\s+be|must\s+be)\b\s*:?|[:=])\s*"
    r"(?i:(?:therefore|thus|clearly|option|choice|letter)\b[\s,:]*)*"
    r"(?:[(\[](?P<bracketed>[A-Za-z])[)\]]|(?P<bare>[A-Z])(?![\w'’]))"
)
_ANOTHER = re.compile(r"[)\].\s]*(?:,\s*)?(?:,|/|&|\bor\b|\band\b)\s*[(\[]?(?P<bare>[A-Z])(?![\w'’])")
_WORD = re.compile(r"\s+(?!(?:because|since|as|for|and|or)\b)[a-z]")


class MultipleChoice(Graded):
    r"""1 where the final answer names the right choice by its letter or by its text, and no other one; else 0.

    What names a choice is an answer that is its letter (`B`, `(b)`, `B.`, `Option B`, `Answer: B`, `\text{B}`), its
    letter and text (`B) Paris`) or its text; a sentence that says which one is the answer ("the answer is B", "Answer:
    (B)"), where `A` and `I` before another word are no letters; and a letter alone on the last line. An answer that
    names two, or a letter with another one's text, names none.

    The ground truth is a letter, or the text of one of the choices. These are `choices` or `options` among the log's
    extra fields: texts in the order of the letters, an object from letters to texts, or ARC's lists `label` and `text`.
    """

    name: ClassVar[str] = "multiple_choice"
    about: ClassVar[str] = "the final answer names the right letter, or the right one of the log's choices"

    async def grade(self, solution: Solution) -> float:
        """1.0 or 0.0."""
        choices = _choices(solution.extra)
        right = _right(solution.ground_truth, choices)
        return float(_chosen(final_answer(solution.final), choices) == {right})


def _right(ground_truth: Json, choices: Mapping[str, str]) -> str:
    accepted = accepted_answers(ground_truth)
    if len(accepted) > 1:
        reason = "the ground truth is several choices"
        raise RewardFailure(reason, ", ".join(accepted)[:200])
    named = _named(accepted[0], choices)
    if len(named) != 1:
        known = "; ".join(f"{letter}: {text}" for letter, text in choices.items()) or "the log has no choices"
        reason = "the ground truth is neither a letter nor a choice"
        raise RewardFailure(reason, f"{accepted[0]!r}; {known}"[:200])
    return named.pop()


def _chosen(answer: str, choices: Mapping[str, str]) -> set[str]:
    """The letters of all choices that an answer names."""
    plain = _MARKUP.sub("", answer).strip()
    said = {found for match in _SAID.finditer(plain) for found in _letters(match)}
    lines = plain.splitlines()
    last = _LETTER.fullmatch(lines[-1].strip()) if lines else None
    if last and not last["text"]:
        said.add(last["letter"].upper())
    return said | (_named(answer, choices) if len(lines) == 1 else _worded(answer, choices))


def _letters(match: re.Match[str]) -> set[str]:
    """The letter that a sentence says, and one that it says beside it."""
    if match["bracketed"]:
        found = {match["bracketed"].upper()}
    elif _is_word(match["bare"], match):
        return set()
    else:
        found = {match["bare"]}
    another = _ANOTHER.match(match.string, match.end())
    return found | {another["bare"]} if another and not _is_word(another["bare"], another) else found


def _is_word(letter: str, match: re.Match[str]) -> bool:
    """Whether a capital is an article or a pronoun: `A dog`, `I think`."""
    return letter in "AI" and _WORD.match(match.string, match.end()) is not None


def _named(text: str, choices: Mapping[str, str]) -> set[str]:
    """The choices that a short text names, by a letter, a text or both."""
    worded = _worded(text, choices)
    bare = _LEAD.sub("", _MARKUP.sub("", text).strip(), count=1)
    match = _LETTER.fullmatch(bare)
    if match is None or (choices and match["letter"].upper() not in choices):
        return worded | _worded(bare, choices)
    return {match["letter"].upper()} | worded | _worded(match["text"] or "", choices)


def _worded(text: str, choices: Mapping[str, str]) -> set[str]:
    wanted = normalised(text)
    return {letter for letter, choice in choices.items() if normalised(choice) == wanted}


def _choices(extra: Mapping[str, Json]) -> dict[str, str]:
    """Texts by letter, as the log has them; none where they are in no form that is known."""
    value = next((extra[name] for name in _NAMES if extra.get(name)), None)
    pairs: list[tuple[str, Json]] = []
    if isinstance(value, Mapping) and isinstance(value.get("label"), list) and isinstance(value.get("text"), list):
        pairs = list(zip(map(str, value["label"]), value["text"], strict=False))
    elif isinstance(value, Mapping):
        pairs = [(str(letter), text) for letter, text in value.items()]
    elif isinstance(value, list):
        pairs = list(zip(string.ascii_uppercase, value, strict=False))
    found = {letter.strip().upper(): str(text) for letter, text in pairs}
    if not all(len(letter) == 1 and letter in string.ascii_uppercase for letter in found):
        return {}
    lettered = {letter: _LETTER.fullmatch(text) for letter, text in found.items()}
    if all(match and match["text"] and match["letter"].upper() == letter for letter, match in lettered.items()):
        return {letter: match["text"] for letter, match in lettered.items() if match}
    return found
