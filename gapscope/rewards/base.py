"""What a reward is: a function from a finished continuation to a verdict, by a rule that is written down.

What of a continuation counts as its answer is said once, by `final_answer`, for all rewards that read it themselves.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import ClassVar, NamedTuple, Protocol, Self

import msgspec

from gapscope.correctness import REWARD_NAMES, Rule
from gapscope.errors import CorrectnessError
from gapscope.failures import Failure
from gapscope.rollouts import Json


class Solution(msgspec.Struct, frozen=True, kw_only=True):
    """A finished continuation, as rewards see it.

    `output` is all text after the prompt, the frozen prefix and tool results included; `final` is what the policy wrote
    in its last turn outside thinking and calls. `prompt` is a text or messages, `completion` the messages after it
    where the prompt is messages. `token_ids` are those of `output`, None where there are none. `ground_truth`,
    `data_source` and `extra` are the log's own.
    """

    output: str
    final: str
    prompt: Json = None
    completion: list[dict[str, Json]] | None = None
    token_ids: list[int] | None = None
    ground_truth: Json = None
    data_source: str | None = None
    extra: dict[str, Json] = {}


class Verdict(NamedTuple):
    """The reward, whether the answer is correct, and the parts that a function gave; None where there is no verdict."""

    reward: float | None
    correct: bool | None
    parts: dict[str, float | None] = {}  # noqa: RUF012 (of a NamedTuple, which is never changed)


class RewardFailure(Failure):
    """A reward that raised, hung or gave no number for one continuation, which stays without a verdict."""


class Reward(Protocol):
    """What judges continuations: an asynchronous context manager that is open for a whole run."""

    @property
    def rule(self) -> str:
        """The rule of correctness in words, as it is written into each rollout: `exact_match`, `my:score >= 1`."""

    async def judge(self, solution: Solution) -> Verdict:
        """The verdict on one continuation.

        Raises:
            RewardFailure: none could be had for this one.
            CorrectnessError: rewards of this kind are no verdicts without a rule that was not given.

        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


class Graded(ABC):
    """A reward in [0, 1] that is read off the final answer; without a rule, 1 is correct and everything else is not."""

    name: ClassVar[str]
    about: ClassVar[str]

    def __init__(self, rule: Rule | None, seconds: float) -> None:
        if rule is not None and rule.name not in REWARD_NAMES:
            message = f"the reward {self.name} has no field {rule.name!r}"
            raise CorrectnessError(message, hint="Its only number is the reward: --correct 'reward>=1'.")
        self._rule = rule
        self._seconds = seconds

    @property
    def rule(self) -> str:
        """The name, and the rule where one was given: `exact_match`, `f1: reward>=0.8`."""
        return self.name if self._rule is None else f"{self.name}: {self._rule}"

    async def judge(self, solution: Solution) -> Verdict:
        """The grade, and whether it is a correct one."""
        reward = await self.grade(solution)
        return Verdict(reward, reward == 1 if self._rule is None else holds(self._rule, reward, self.name))

    @abstractmethod
    async def grade(self, solution: Solution) -> float:
        """The reward of one continuation.

        Raises:
            RewardFailure: there is nothing to compare it with, or it cannot be compared.

        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


def holds(rule: Rule, value: float, source: str) -> bool:
    """Whether a number is what the rule calls correct.

    Raises:
        CorrectnessError: the rule is a bare name, and the number is neither 0 nor 1.

    """
    if rule.op is None and value not in {0, 1}:
        message = f"`{rule.name}` of {source} is {value:g}, which is neither 0 nor 1"
        raise CorrectnessError(message, hint=f"Give a comparison, for example --correct '{rule.name}>=1'.")
    return rule.holds(value)


NO_GROUND_TRUTH = "no ground truth in the plan"
"""Why a rollout cannot be judged whose log did not say what is right."""

_TAGS = ("answer", "solution")
_END_OF_TURN = re.compile(
    r"(?:<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|</s>|<eos>|<pad>|<end_of_turn>|<turn\|>|<seed:eos>|\[e~\[)\s*\Z"
)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_LONGEST_ENDING = 60


def final_answer(final: str) -> str:
    r"""What counts as the answer in the text that a policy ended with.

    The inside of the last closed `<answer>…</answer>` or `<solution>…</solution>`; in it, or where there is none, that
    of the last `\boxed{…}` whose braces balance; where there is neither, the whole text. Without blanks at its ends
    and without end-of-turn tokens. It is empty where the text is, or where the tags hold nothing.
    """
    inside = _last_tagged(final)
    boxed = _last_boxed(final if inside is None else inside)
    if boxed is not None:
        return boxed.strip()
    return _spoken(final) if inside is None else inside.strip()


def has_marked_answer(final: str) -> bool:
    """Whether the answer stands in tags or in a box, so that the text around it is not part of it."""
    return _last_tagged(final) is not None or _last_boxed(final) is not None


def _last_tagged(text: str) -> str | None:
    folded = text.lower() if text.isascii() else "".join(c.lower() if c.isascii() else c for c in text)
    closing, tag = max((folded.rfind(f"</{tag}>"), tag) for tag in _TAGS)
    opening = folded.rfind(f"<{tag}>", 0, closing) if closing >= 0 else -1
    return text[opening + len(tag) + 2 : closing] if opening >= 0 else None


def _last_boxed(text: str) -> str | None:
    r"""The inside of the last box to open that also closes: of `\boxed{\boxed{5}}` the inner one."""
    opened: list[int | None] = []
    last: tuple[int, int] | None = None
    for found in _BRACES.finditer(text):
        if found[0] == "}":
            start = opened.pop() if opened else None
            if start is not None and (last is None or start > last[0]):
                last = (start, found.start())
        elif found[0].endswith("{") and found[0] != r"\{":
            opened.append(found.end() if found[0] != "{" else None)
    return None if last is None else text[last[0] : last[1]]


def _spoken(text: str) -> str:
    text = text.strip()
    while found := _END_OF_TURN.search(text, max(0, len(text) - _LONGEST_ENDING)):
        text = text[: found.start()].rstrip()
    return text


def accepted_answers(ground_truth: Json) -> list[str]:
    """The texts of a ground truth: one, or each of a list; an object gives those of its `target`, as Search-R1 has it.

    Raises:
        RewardFailure: there is none, or it is something else.

    """
    if isinstance(ground_truth, Mapping) and "target" in ground_truth:
        ground_truth = ground_truth["target"]
    found = [_text(one) for one in (ground_truth if isinstance(ground_truth, list) else [ground_truth])]
    texts = [text for text in found if text is not None and text.strip()]
    if texts:
        return texts
    if ground_truth is None or ground_truth in ("", []):
        raise RewardFailure(NO_GROUND_TRUTH)
    reason = "the ground truth is no text"
    raise RewardFailure(reason, f"it is {ground_truth!r}"[:200])


def _text(value: Json) -> str | None:
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return str(value) if isinstance(value, (str, int)) else None


_ENCLOSED = (
    *(("**", "**"), ("$$", "$$"), ("$", "$"), ("`", "`"), ('"', '"'), ("'", "'")),
    *(("“", "”"), ("‘", "’"), (r"\(", r"\)"), (r"\[", r"\]")),
)
_MOST_ENDS = 6
_NUMBER = re.compile(r"(?P<sign>[+-]?)(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?:\.(?P<part>\d*))?")


def normalised(text: str) -> str:
    """A text as it is compared.

    Unicode NFKC, without regard to case; runs of blanks are one; quotation marks, `**`, backquotes and dollar signs
    around the whole are taken off, and `.,;:!?` at its end. A text that is a number is that number: `1,000` is `1000`,
    `7.0` is `7` and `+.50` is `0.5`. Articles, signs inside the text and units stay: `$5` is not `5`.
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("−", "-").split())
    bare = text
    for _ in range(_MOST_ENDS):
        bare = _without_ends(bare)
    text = bare or text
    number = _NUMBER.fullmatch(text)
    if number is None or not (number["whole"] or number["part"]) or not text.isascii():
        return text
    whole = number["whole"].replace(",", "").lstrip("0") or "0"
    part = (number["part"] or "").rstrip("0")
    value = f"{whole}.{part}" if part else whole
    return f"-{value}" if number["sign"] == "-" and value != "0" else value


def _without_ends(text: str) -> str:
    for opening, closing in _ENCLOSED:
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            return text[len(opening) : -len(closing)].strip()
    return text.rstrip(".,;:!? ")
