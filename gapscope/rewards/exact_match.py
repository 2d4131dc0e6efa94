"""Whether the final answer is, letter for letter after normalising, one of the accepted ones."""

from typing import ClassVar

from gapscope.rewards.base import Graded, Solution, accepted_answers, final_answer, normalised


class ExactMatch(Graded):
    """1 where `normalised(final_answer(final))` equals a ground truth, or any of a list of them; else 0."""

    name: ClassVar[str] = "exact_match"
    about: ClassVar[str] = "the final answer equals the ground truth, or one of several; numbers by value"

    async def grade(self, solution: Solution) -> float:
        """1.0 or 0.0."""
        accepted = {normalised(text) for text in accepted_answers(solution.ground_truth)}
        return float(normalised(final_answer(solution.final)) in accepted)
