"""Whether the final answer is the same mathematics as the ground truth, by math-verify."""

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Self

from gapscope.correctness import Rule
from gapscope.errors import SettingsError
from gapscope.processes import CallFailed, Processes
from gapscope.rewards.base import (
    Graded,
    RewardFailure,
    Solution,
    accepted_answers,
    final_answer,
    has_marked_answer,
)

_EQUAL = f"{Path(__file__).with_name('math_process.py')}:equal"


class Math(Graded):
    r"""1 where the final answer equals a ground truth, or any of a list of them, as mathematics; else 0.

    `1/2`, `0.5` and `\frac{2}{4}` are equal; `x=5` is `5`, `50\%` is `0.5` as well as `50`, and units are not read.
    Where the answer is in no tags and no box, it is what math-verify finds in the final text: behind words such as "the
    answer is", else the last expression. Words are compared as words. The comparison runs in a process of its own and
    is given up after `seconds`, because some expressions take for ever.
    """

    name: ClassVar[str] = "math"
    about: ClassVar[str] = "the final answer equals the ground truth as mathematics (math-verify)"

    def __init__(self, rule: Rule | None, seconds: float) -> None:
        if find_spec("math_verify") is None:
            message = "the reward math needs math-verify, which is not installed"
            raise SettingsError(message, hint="pip install 'gapscope[math]'")
        super().__init__(rule, seconds)
        self._processes = Processes(most=2, longest_answer=1_000)

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._processes.__aexit__(*error)

    async def grade(self, solution: Solution) -> float:
        """1.0 or 0.0."""
        accepted = accepted_answers(solution.ground_truth)
        arguments = {
            "answer": final_answer(solution.final),
            "marked": has_marked_answer(solution.final),
            "accepted": [final_answer(text) for text in accepted],
        }
        try:
            equal = await self._processes.call(_EQUAL, arguments, seconds=self._seconds)
        except CallFailed as failure:
            reason = f"math-verify {failure.reason}"
            raise RewardFailure(reason, failure.detail) from failure
        if equal is None:
            reason = "the ground truth is no mathematics"
            raise RewardFailure(reason, " or ".join(map(repr, accepted))[:200])
        return float(equal)
