"""Reward functions that users have already: verl's `compute_score`, and those of TRL's trainers."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

from gapscope.correctness import REWARD_NAMES, Rule
from gapscope.errors import CorrectnessError, SettingsError
from gapscope.processes import CallFailed, Processes
from gapscope.processes.serve import parameters
from gapscope.rewards.base import NO_GROUND_TRUTH, RewardFailure, Solution, Verdict, holds
from gapscope.rollouts import Json
from gapscope.threads import called

Function = Callable[..., Any]
Style = Literal["verl", "trl"]

SIGNATURES = (
    "verl: compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float or a dict with `score`",
    "TRL: reward(prompts, completions, completion_ids, **columns) -> list of floats",
)
_ANSWER_NAMES = ("ground_truth", "answer", "solution")
_VERDICT_NAMES = ("acc", "is_correct", "correct")
_LONGEST_SHOWN = 200


class FunctionReward:
    """A function in one of the two signatures; either may be asynchronous.

    One that is named (`module:function` or `path/to/file.py:function`) runs in processes of its own, and is killed when
    it takes longer than `seconds`. One that is given as an object runs here, in a thread unless it is asynchronous; a
    thread cannot be killed, so one that hangs is left alone.

    verl's gets `solution_str`, all text after the prompt; TRL's gets batches of one: the text, or the messages where
    the prompt is messages. The ground truth is `ground_truth`, `answer` and `solution`, and the log's extra fields
    are columns, each where the function takes it.

    Without a rule the verdict is `acc` of a dict, else its `is_correct` or `correct`, else the reward, and each must be
    0 or 1.
    """

    def __init__(self, source: str | Function, rule: Rule | None, seconds: float) -> None:
        self._source = source
        self.name = source if isinstance(source, str) else _name_of(source)
        self._rule = rule
        self._seconds = seconds
        self._parameters: list[str] = []
        self._style: Style = "verl"
        self._seen = False
        self._processes = Processes()

    @property
    def rule(self) -> str:
        """The function's name, and the rule where one was given: `my:score`, `my:score: acc`."""
        return self.name if self._rule is None else f"{self.name}: {self._rule}"

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        try:
            self._parameters = await self._found()
            self._style = _style(self.name, self._parameters)
        except BaseException:
            await self._processes.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._processes.__aexit__(*error)

    async def _found(self) -> list[str]:
        if isinstance(self._source, str):
            return await self._processes.check(self._source)
        try:
            return parameters(self._source)
        except (TypeError, ValueError) as error:
            message = f"the parameters of {self.name} cannot be read: {error}"
            raise SettingsError(message, hint=_wanted()) from error

    async def judge(self, solution: Solution) -> Verdict:
        """What the function says of one continuation; no verdict where a TRL function gives None."""
        answer = await self._answer(self._arguments(solution))
        if self._style == "trl":
            answer = self._only(answer)
            if answer is None:
                return Verdict(None, None)
        fields = answer if isinstance(answer, Mapping) else {"score": answer}
        if "score" not in fields:
            raise self._nonsense(answer)
        reward = _number(fields["score"])
        if reward is None:
            raise self._nonsense(answer)
        numbers = {str(name): _number(value) for name, value in fields.items() if name not in REWARD_NAMES}
        parts: dict[str, float | None] = {name: value for name, value in numbers.items() if value is not None}
        return Verdict(reward, self._correct(reward, fields, parts), parts)

    def _correct(self, reward: float, fields: Mapping[str, Json], parts: Mapping[str, float | None]) -> bool:
        if self._rule is not None:
            return holds(self._rule, reward if self._rule.name in REWARD_NAMES else self._field(parts), self.name)
        name = next((name for name in _VERDICT_NAMES if name in fields), None)
        value = reward if name is None else parts.get(name)
        if value is None or value not in {0, 1}:
            shown = repr(fields[name] if name else reward)[:_LONGEST_SHOWN]
            message = f"`{name or 'score'}` of {self.name} is {shown}, which is neither 0 nor 1"
            hint = f"Say which are correct: --correct '{name or 'score'}>=1'."
            raise CorrectnessError(message, hint=hint)
        return value == 1

    def _field(self, parts: Mapping[str, float | None]) -> float:
        """The part that the rule names. A function may leave it out now and then, but not always."""
        name = self._rule.name if self._rule else ""
        value = parts.get(name)
        if value is not None:
            self._seen = True
            return value
        if self._seen:
            reason = f"the reward has no {name} this time"
            raise RewardFailure(reason, f"it has {', '.join(sorted(parts)) or 'none'}")
        message = f"{self.name} gives no number {name!r}, by which --correct {self._rule} would judge"
        raise CorrectnessError(message, hint=f"It gives: {', '.join(['score', *sorted(parts)])}.")

    def _arguments(self, solution: Solution) -> dict[str, Json]:
        known = _verl_arguments(solution) if self._style == "verl" else _trl_arguments(solution)
        if any(name in self._parameters and known.get(name) is None for name in _ANSWER_NAMES):
            raise RewardFailure(NO_GROUND_TRUTH)
        everything = "**" in self._parameters
        return {name: value for name, value in known.items() if everything or name in self._parameters}

    async def _answer(self, arguments: dict[str, Json]) -> Json:
        try:
            if isinstance(self._source, str):
                return await self._processes.call(self._source, arguments, seconds=self._seconds)
            return await _called(self._source, arguments, self._seconds)
        except CallFailed as failure:
            reason = f"the reward {failure.reason}"
            raise RewardFailure(reason, failure.detail) from failure

    def _only(self, answer: Json) -> Json:
        """The one reward of a batch of one."""
        answer = _plain(answer)
        if not isinstance(answer, Sequence) or isinstance(answer, str) or len(answer) != 1:
            raise self._nonsense(answer, "a list of one reward")
        return answer[0]

    def _nonsense(self, answer: Json, wanted: str = "a number, or a dict with a number `score`") -> RewardFailure:
        return RewardFailure("the reward is no number", f"{self.name} gave {answer!r:.{_LONGEST_SHOWN}}, not {wanted}")


def _wanted() -> str:
    return "A reward function is one of\n" + "\n".join(f"  {signature}" for signature in SIGNATURES)


def _style(name: str, found: list[str]) -> Style:
    if "solution_str" in found:
        return "verl"
    if "completions" in found:
        return "trl"
    message = f"{name} has the parameters of no known reward function: {', '.join(found) or 'none'}"
    raise SettingsError(message, hint=_wanted())


def _verl_arguments(solution: Solution) -> dict[str, Json]:
    return {
        "data_source": solution.data_source,
        "solution_str": solution.output,
        "ground_truth": solution.ground_truth,
        "extra_info": dict(solution.extra),
    }


def _trl_arguments(solution: Solution) -> dict[str, Json]:
    """Columns of one row each; what the log itself calls `answer` or `solution` is not replaced."""
    columns: dict[str, Json] = {}
    if solution.ground_truth is not None:
        columns = dict.fromkeys(_ANSWER_NAMES, solution.ground_truth)
    columns |= {name: value for name, value in solution.extra.items() if name != "ground_truth" or name not in columns}
    if solution.data_source is not None:
        columns.setdefault("data_source", solution.data_source)
    said: Json = solution.output
    if isinstance(solution.prompt, list):
        said = solution.completion or [{"role": "assistant", "content": solution.output}]
    known = {name: [value] for name, value in columns.items() if value is not None}
    known |= {"prompts": [solution.prompt], "completions": [said]}
    return known if solution.token_ids is None else known | {"completion_ids": [solution.token_ids]}


def _plain(value: Any) -> Any:  # noqa: ANN401 (of whatever library)
    """Numbers and arrays of NumPy and torch as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _number(value: Json) -> float | None:
    value = _plain(value)
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _name_of(function: Function) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', None) or type(function).__module__}:{name}"


async def _called(function: Function, arguments: dict[str, Json], seconds: float) -> Json:
    """Call a function in this process.

    Raises:
        CallFailed: it raised, or did not answer in time.

    """
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await called(function, arguments)
    except (Exception, SystemExit) as error:
        if deadline.expired():
            reason: Literal["timed out"] = "timed out"
            raise CallFailed(reason, f"no answer after {seconds:g} s") from None
        raise CallFailed("raised", f"{type(error).__name__}: {error}") from error
