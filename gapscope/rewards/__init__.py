"""What judges continuations. A new reward is one file here and one entry in REWARDS."""

from gapscope.correctness import Rule
from gapscope.errors import SettingsError, UnknownName
from gapscope.rewards.base import Graded, Reward, RewardFailure, Solution, Verdict
from gapscope.rewards.exact_match import ExactMatch
from gapscope.rewards.f1 import F1
from gapscope.rewards.function import Function, FunctionReward
from gapscope.rewards.math_ import Math
from gapscope.rewards.multiple_choice import MultipleChoice

REWARDS: tuple[type[Graded], ...] = (ExactMatch, Math, MultipleChoice, F1)
"""Every reward that has a name; any other one is a function."""

__all__ = ["REWARDS", "Reward", "RewardFailure", "Solution", "Verdict", "reward_from"]


def reward_from(spec: str | Function, *, rule: str | None = None, seconds: float = 30) -> Reward:
    """The reward of that name, or of a function `module:function`, `path/to/file.py:function` or as an object.

    `rule` says what is correct, as `--correct` does for an audit: `acc`, `score>=1`. `seconds` are for one verdict.

    Raises:
        UnknownName: no reward has that name.
        CorrectnessError: the rule cannot be read, or is needed and not given.
        SettingsError: the time is none, or the reward needs what is not installed.

    """
    if not seconds > 0:
        message = f"a reward cannot answer in {seconds:g} seconds"
        raise SettingsError(message, hint="Give a time above 0.")
    parsed = None if rule is None else Rule.parse(rule)
    if not isinstance(spec, str) or ":" in spec:
        return FunctionReward(spec, parsed, seconds)
    for reward in REWARDS:
        if reward.name == spec:
            return reward(parsed, seconds)
    raise UnknownName("reward", spec, [*(reward.name for reward in REWARDS), "module:function"])
