"""A simulated training run in which tool use collapses, in the files that verl's V1 trainer would have written.

What is simulated: word problems and bar charts of varied difficulty, and a policy that decides in each rollout
whether to call a tool and whether to think with care. Some questions hold a trap that changes the set-up.
Thinking mostly notices it; a call is written before the set-up is thought through, so the tool-using rollouts
of such a question fail together. Calls also fail by themselves: bad JSON, unclosed, unknown, errors, time-outs.

After each step the log-odds of both decisions move along the advantage-weighted gradient of GRPO, computed from
the rollouts that were sampled; nothing else makes tool use fall. A reward is 1.0 exactly if the answer in the
text is the right one, and then every calculation in the text is right too.
"""
# ruff: noqa: S311  (a simulation, and no secrets)

import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

_T = TypeVar("_T")
_Step = tuple[str, int]
_Steps = tuple[_Step, ...]
_Arguments = dict[str, object]

_START = (-0.75, -0.2)  # Log-odds of a tool and of care at step 1: three rollouts in ten, and nearly half.
_LEARNING_RATE = 3.0
_TRAPPED = (0, 2)  # Of every five questions, those that hold a trap.
_NOTICES_TRAP = {(True, True): 0.15, (True, False): 0.05, (False, True): 0.87, (False, False): 0.65}  # Tool, care.
_PADDED_STEPS = (6, 13)  # Their files end with rows that only fill up the last mini-batch.
_SPLIT_STEP, _SPLIT_SESSION = 9, 3  # Where one rollout is logged as two outputs with the same reward.
_FATES = ((0.65, "answered"), (0.73, "bad json"), (0.80, "never closed"), (0.87, "unknown"), (0.94, "error"))
_KEYS = ("input", "output", "gts", "score", "step", "uid")
_SYSTEM = """system
Solve the problem.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "calculator", "description": "Evaluate an expression.", \
"parameters": {"type": "object", "properties": {"expression": {"type": "string"}}}}}
{"type": "function", "function": {"name": "image_zoom_in", "description": "Enlarge a region.", \
"parameters": {"type": "object", "properties": {"bbox_2d": {"type": "array"}, "label": {"type": "string"}}}}}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>
"""
_STORIES = (
    ("depot", "crates", "bottles", "break on the way", "are left"),
    ("library", "shelves", "books", "are out on loan", "are in the house"),
    ("bakery", "racks", "rolls", "are sold before noon", "are left at noon"),
)
_GOODS = ("tickets", "bicycles", "umbrellas", "lamps", "notebooks", "kites")
_MONTHS = (("January", "April"), ("March", "October"), ("June", "August"), ("July", "December"))
_MISNAMED = {"calculator": ("python", "calc"), "image_zoom_in": ("zoom", "image_crop")}
_OPENERS = ("First the set-up, then the numbers.", "I write down every step.", "What is given, and what is asked for?")
_CHECKS = ("The size is right for these numbers.", "Every number is used once.", "A rough estimate comes close.")
_PLANS = ("A tool can do the rest of the work.", "I had better not do this in my head when there is a tool for it.")
_FAILURES = ("{'error': \"out of memory\"}", "{'error': \"busy (503)\"}", "Error: could not run CALL")
_TIME_OUTS = ("Error: timed out after 30 s", "Execution timed out.")


@dataclass(frozen=True, slots=True)
class Policy:
    """Log-odds of a tool call, on a question without appeal of its own, and of thinking with care."""

    tool: float
    care: float


@dataclass(frozen=True, slots=True)
class Question:
    """A start and the steps from there to the answer; `hasty` are those of who overlooks the trap, if any."""

    text: str
    given: str
    tool: str
    start: int
    steps: _Steps
    hasty: _Steps
    difficulty: float
    appeal: float

    def answer(self) -> int:
        """Follow the steps."""
        return _values(self.start, self.steps)[-1]


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout: its text, its reward, the two decisions and how likely they were."""

    text: str
    reward: float
    used_tool: bool
    careful: bool
    p_tool: float
    p_care: float


def write_demo(folder: Path, *, seed: int = 7, steps: int = 20, questions: int = 16, rollouts: int = 8) -> list[Path]:
    """Write `{step}.jsonl` for each step into `folder` and return the paths; equal arguments, equal bytes."""
    rng = Random(seed)
    dataset = [_question(rng, index) for index in range((steps * questions + 1) // 2)]  # Each is asked twice.
    policy = Policy(*_START)
    paths = [folder / f"{step}.jsonl" for step in range(1, steps + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    for step, path in enumerate(paths, 1):
        asked = [dataset[i % len(dataset)] for i in range((step - 1) * questions, step * questions)]
        groups = [(question, [_sample(rng, policy, question) for _ in range(rollouts)]) for question in asked]
        policy = _learn(policy, groups)
        path.write_bytes("".join(_lines(rng, groups, step)).encode())
    return paths


def _learn(policy: Policy, groups: Sequence[tuple[Question, Sequence[Sample]]]) -> Policy:
    """The policy after one GRPO step: mean of advantage times the gradient of ln P(decision)."""
    tool, care = [], []
    for _, samples in groups:
        mean = math.fsum(sample.reward for sample in samples) / len(samples)
        deviation = math.sqrt(mean * (1 - mean)) or 1.0
        for sample in samples:
            advantage = (sample.reward - mean) / deviation
            tool.append(advantage * (sample.used_tool - sample.p_tool))
            care.append(advantage * (sample.careful - sample.p_care))
    # Rounded, so that a platform whose exp differs in the last bit does not drift away.
    gain = _LEARNING_RATE / len(tool)
    return Policy(round(policy.tool + gain * math.fsum(tool), 6), round(policy.care + gain * math.fsum(care), 6))


def _lines(rng: Random, groups: Sequence[tuple[Question, Sequence[Sample]]], step: int) -> list[str]:
    """The rows of one step as verl writes them: sorted by uid and session, padding at the end."""
    named = [(str(uuid.UUID(int=rng.getrandbits(128), version=4)), *group) for group in groups]
    rows: list[tuple[str, str, str, float, int, str]] = []
    unsplit = step == _SPLIT_STEP
    for uid, question, samples in sorted(named, key=lambda group: group[0]):
        prompt, truth = f"{_SYSTEM}user\n{question.text}\nassistant\n", str(question.answer())
        for session, sample in enumerate(samples):
            outputs = [sample.text]
            if unsplit and session == _SPLIT_SESSION and sample.reward:
                outputs, unsplit = sample.text.rsplit("\n\n", 1), False
            for index, output in enumerate(outputs):
                rows.append((prompt, output, truth, sample.reward, step, f"{uid}_{session}_{index}"))
    if step in _PADDED_STEPS:
        fill = sorted(f"pad{rng.getrandbits(32):08x}_0_0" for _ in range(2))
        rows += [("", "", rows[0][2], 0.0, step, uid) for uid in fill]
    return [json.dumps(dict(zip(_KEYS, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]


def _between(rng: Random, low: int, high: int) -> int:
    # From random() alone: randint and choice do not promise the same draws in every version of Python.
    return low + int(rng.random() * (high - low + 1))


def _pick(rng: Random, items: Sequence[_T]) -> _T:
    return items[_between(rng, 0, len(items) - 1)]


def _question(rng: Random, index: int) -> Question:
    is_trapped = index % 5 in _TRAPPED
    difficulty = (7 * index % 16 + rng.random()) / 16  # Evenly spread over any 16 questions in a row.
    appeal = 1.2 * (difficulty - 0.5) + rng.random() - 0.5
    if rng.random() < 0.5:
        place, box, thing, happens, rest = _pick(rng, _STORIES)
        boxes, each, gone, empty = (_between(rng, *range_) for range_ in ((23, 89), (12, 48), (11, 97), (2, 9)))
        given = f"{boxes} {box}, {each} in each, and {gone} {thing} to take off."
        text = f"A {place} has {boxes} {box} of {each} {thing} each." + f" {empty} {box} are empty." * is_trapped
        text += f" {gone} {thing} {happens}. How many {rest}?"
        hasty: _Steps = (("*", each), ("-", gone))
        steps = (("-", empty), *hasty) if is_trapped else hasty
        return Question(text, given, "calculator", boxes, steps, hasty, difficulty, appeal)
    thing, (month, later), pack = _pick(rng, _GOODS), _pick(rng, _MONTHS), _pick(rng, (6, 12, 15, 24))
    one, other = _between(rng, 110, 989), _between(rng, 110, 989)
    text = f"The bar chart shows the {thing} sold in each month." + f" Its axis counts packs of {pack}." * is_trapped
    text += f" How many {thing} were sold in {month} and {later} together?"
    given = f"{month}: {one}, {later}: {other}."
    hasty = (("+", other),)
    steps = (*hasty, ("*", pack)) if is_trapped else hasty
    return Question(text, given, "image_zoom_in", one, steps, hasty, difficulty, appeal)


def _sample(rng: Random, policy: Policy, question: Question) -> Sample:
    log_odds = policy.tool + question.appeal, policy.care
    p_tool, p_care = (round(1 / (1 + math.exp(-x)), 9) for x in log_odds)
    used_tool, careful = rng.random() < p_tool, rng.random() < p_care
    steps = question.steps if rng.random() < _NOTICES_TRAP[used_tool, careful] else question.hasty
    if used_tool:
        text, answer = _with_tool(rng, question, steps)
    else:
        text, answer = _by_thinking(rng, question, steps, careful=careful)
    return Sample(text, float(answer == question.answer()), used_tool, careful, p_tool, p_care)


def _by_thinking(rng: Random, question: Question, steps: _Steps, *, careful: bool) -> tuple[str, int | None]:
    work, answer = _work(rng, question, steps, careful=careful)
    text = f"<think>\n{_pick(rng, _OPENERS)} {question.text}\n{question.given}\n"
    if rng.random() < 0.02:
        text += f"I could send {_call(question.tool, _arguments(rng, question, steps))}, but this is quick.\n"
    if rng.random() < 0.05 * question.difficulty:
        return f"{text}{work} Wait, is that right? {_pick(rng, _OPENERS)} {work} Wait, once more. So", None
    return _concluded(rng, f"{text}{work} {_pick(rng, _CHECKS)} So the answer should be {answer}.", answer)


def _with_tool(rng: Random, question: Question, steps: _Steps) -> tuple[str, int | None]:
    arguments = _arguments(rng, question, steps)
    call, draw = _call(question.tool, arguments), rng.random()
    fate = next((name for limit, name in _FATES if draw < limit), "time-out")
    text = f"<think>\n{_pick(rng, _OPENERS)} {question.text} {_pick(rng, _PLANS)}\n</think>\n\n"
    if fate == "answered":
        return _after_result(rng, question, steps, text + call)
    if fate == "never closed":
        return text + call[: -_between(rng, 13, 30)], None
    if fate == "bad json":  # verl's parser drops it, and the rollout ends there.
        return text + (call.replace('"', "'") if rng.random() < 0.5 else call.replace("}}", "}")), None
    if fate == "unknown":
        name = _pick(rng, _MISNAMED[question.tool])
        text += _call(name, arguments) + _result(f"Error when executing tool: '{name}'")
    else:
        failure = _pick(rng, _TIME_OUTS if fate == "time-out" else _FAILURES)
        failed = call + _result(failure.replace("CALL", call.replace("\n", " ")))
        again = f"<think>\nThat failed. The same call once more.\n</think>\n\n{failed}"
        text += failed + again * (rng.random() < 0.35)
    work, answer = _work(rng, question, steps, careful=False)
    return _concluded(rng, f"{text}<think>\nThen without the tool, by hand. {work}", answer)


def _after_result(rng: Random, question: Question, steps: _Steps, text: str) -> tuple[str, int]:
    values = _values(question.start, steps)
    solved = _result(str(values[-1])) + "<think>\nThe calculator has done it."
    if question.tool == "calculator":
        text += solved
    else:
        text += _result(question.given) + f"<think>\nThe labels are clear now. {question.given} "
        if rng.random() < 0.4:
            second = _call("calculator", {"expression": _expression(question.start, steps)})
            text += f"I pass the numbers on.\n</think>\n\n{second}{solved}"
        else:
            text += _equations(question.start, steps, values)
    return _concluded(rng, f"{text} {_pick(rng, _CHECKS)}", values[-1])


def _concluded(rng: Random, text: str, answer: int) -> tuple[str, int]:
    stated = _pick(rng, (f"<answer>{answer}</answer>", f"The answer is {answer}."))
    return f"{text}\n</think>\n\n{stated}", answer


def _work(rng: Random, question: Question, steps: _Steps, *, careful: bool) -> tuple[str, int]:
    """The steps written out, with one slip or none, and where they end."""
    values = _values(question.start, steps)
    if rng.random() < (0.05 + 0.8 * question.difficulty) * (0.65 if careful else 1.0):
        at = _between(rng, 0, len(steps) - 1)
        slipped = values[at] + _pick(rng, (-100, -10, -2, 1, 10, 20, 100))
        values[at:] = [slipped, *_values(slipped, steps[at + 1 :])]
    return _equations(question.start, steps, values), values[-1]


def _values(start: int, steps: _Steps) -> list[int]:
    values = []
    for sign, number in steps:
        start = start * number if sign == "*" else start + (number if sign == "+" else -number)
        values.append(start)
    return values


def _equations(start: int, steps: _Steps, values: Sequence[int]) -> str:
    lefts = (start, *values[:-1])
    lines = [f"{a} {sign} {b} = {c}." for a, (sign, b), c in zip(lefts, steps, values, strict=True)]
    return " ".join(lines).replace("*", "×")


def _expression(start: int, steps: _Steps) -> str:
    text = str(start)
    for index, (sign, number) in enumerate(steps):
        text = f"({text}) * {number}" if index and sign == "*" else f"{text} {sign} {number}"
    return text


def _arguments(rng: Random, question: Question, steps: _Steps) -> _Arguments:
    if question.tool == "calculator":
        return {"expression": _expression(question.start, steps)}
    left, top = _between(rng, 0, 400), _between(rng, 0, 300)
    return {"bbox_2d": [left, top, left + 224, top + 168], "label": question.given.partition(":")[0]}


def _call(name: str, arguments: _Arguments) -> str:
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def _result(text: str) -> str:
    return f"\nuser\n<tool_response>\n{text}\n</tool_response>\nassistant\n"
