"""The share of words that the final answer has in common with the ground truth."""

import re
import string
from collections import Counter
from typing import ClassVar

from gapscope.correctness import Rule
from gapscope.errors import CorrectnessError
from gapscope.rewards.base import Graded, Solution, accepted_answers, final_answer

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class F1(Graded):
    """SQuAD's token F1 of the final answer, in [0, 1]: the best over the accepted answers.

    From which value on an answer is correct nobody can tell but the user, so a rule is required.
    """

    name: ClassVar[str] = "f1"
    about: ClassVar[str] = "SQuAD's token F1 against the best of the ground truths; needs --correct 'reward>=…'"

    def __init__(self, rule: Rule | None, seconds: float) -> None:
        if rule is None:
            message = "f1 is a number between 0 and 1, and nothing says from which value on an answer is correct"
            raise CorrectnessError(message, hint="Say it, for example --correct 'reward>=0.8'.")
        super().__init__(rule, seconds)

    async def grade(self, solution: Solution) -> float:
        """The best F1, in [0, 1]."""
        answer = final_answer(solution.final)
        return max(token_f1(answer, accepted) for accepted in accepted_answers(solution.ground_truth))


def token_f1(one: str, other: str) -> float:
    """Harmonic mean of the shares of words in common, in [0, 1], the same both ways (arXiv:1606.05250, section 6).

    Words are compared in lower case, without ASCII punctuation and without the articles a, an and the. Where nothing is
    left of one of the texts it is 1 if nothing is left of the other either, as for questions of SQuAD 2.0 that have
    no answer, and else 0.
    """
    ours, theirs = _words(one), _words(other)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()
