"""The headline numbers of a log, computed once more by a plain script that shares no code with gapscope.

`python tests/independent.py LOG...` prints them as JSON. Every text is searched for tags as it stands, every
group is a list, every formula is written out: slow and easy to check.
"""

import json
import sys
from itertools import groupby
from math import comb
from pathlib import Path
from typing import NamedTuple


class Attempt(NamedTuple):
    """One rollout: who it is compared with, and what is counted about it."""

    step: int
    group: str
    calls: int
    right: bool


def outside(text: str, opening: str, closing: str) -> str:
    """The text without what stands between two tags; an opening tag that is never closed takes the rest."""
    first, *blocks = text.split(opening)
    return first + "".join(block.split(closing, 1)[1] for block in blocks if closing in block)


def calls_in(text: str) -> int:
    """Opening call tags that the model wrote outside its thinking."""
    if "</think>" in text and "<think>" not in text.split("</think>", 1)[0]:
        text = text.split("</think>", 1)[1]
    return outside(outside(text, "<think>", "</think>"), "<tool_response>", "</tool_response>").count("<tool_call>")


def rows_of(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]


def verl(rows: list[dict]) -> list[Attempt]:
    """Sub-outputs of one session are one rollout; rows with empty texts are padding."""
    sessions: dict[object, Attempt] = {}
    for number, row in enumerate(rows):
        if not row["input"] and not row["output"]:
            continue
        right = bool(row["acc"]) if "acc" in row else row["score"] >= 1
        group, session = json.dumps([row["input"], row["gts"]]), str(number)
        if "uid" in row:
            group, session, _ = row["uid"].rsplit("_", 2)
        key = (row["step"], group, session)
        before = sessions[key].calls if key in sessions else 0
        sessions[key] = Attempt(row["step"], group, before + calls_in(row["output"]), right)
    return list(sessions.values())


def trl(rows: list[dict]) -> list[Attempt]:
    """Equal prompts in a row are one group; a call that TRL could not parse stands in the content."""
    attempts = []
    for number, (_, members) in enumerate(groupby(rows, key=lambda row: row["prompt"])):
        for row in members:
            assistant = [message for message in row["completion"] if message["role"] == "assistant"]
            calls = sum(len(m["tool_calls"] or []) + calls_in(m["content"] or "") for m in assistant)
            attempts.append(Attempt(row["step"], str(number), calls, row["accuracy_reward"] > 0.5))
    return attempts


def ratio(numbers: list[bool] | list[int] | list[float]) -> float | None:
    """Their mean; none, no mean."""
    return sum(numbers) / len(numbers) if numbers else None


def all_wrong(members: list[Attempt]) -> bool:
    return not any(member.right for member in members)


def pass_at(k: int, members: list[Attempt]) -> float:
    wrong = sum(not member.right for member in members)
    return 1 - comb(wrong, k) / comb(len(members), k)


def null(groups: list[list[Attempt]], *, tool: bool) -> tuple[float | None, float | None, float | None]:
    """The expected share of all-wrong subgroups, observed minus expected, and P(as many or more)."""
    chances, observed = [], 0
    for members in groups:
        subgroup = [member for member in members if (member.calls > 0) == tool]
        if subgroup:
            wrong = sum(not member.right for member in members)
            chances.append(comb(wrong, len(subgroup)) / comb(len(members), len(subgroup)))
            observed += all_wrong(subgroup)
    if not chances:
        return None, None, None
    distribution = [1.0]
    for chance in chances:
        distribution = [
            stay * (1 - chance) + come * chance
            for stay, come in zip([*distribution, 0.0], [0.0, *distribution], strict=True)
        ]
    expected = sum(chances) / len(chances)
    return expected, observed / len(chances) - expected, sum(distribution[observed:])


def rates(attempts: list[Attempt]) -> dict[str, float | None]:
    """Every number of one set of rollouts."""
    found: dict[tuple[int, str], list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault((attempt.step, attempt.group), []).append(attempt)
    groups = [members for members in found.values() if len(members) > 1]
    acting = [[member for member in members if member.calls] for members in groups]
    thinking = [[member for member in members if not member.calls] for members in groups]
    correct = [sum(member.right for member in members) for members in groups]
    signs = []
    for members, c in zip(groups, correct, strict=True):
        even = c in {0, len(members)}
        signs += ["zero" if even else "positive" if member.right else "negative" for member in members if member.calls]
    numbers = {
        "tool_attempt_rate": ratio([attempt.calls > 0 for attempt in attempts]),
        "tool_attempt_group_rate": ratio([bool(subgroup) for subgroup in acting]),
        "tool_calls_per_rollout": ratio([attempt.calls for attempt in attempts]),
        "accuracy": ratio([attempt.right for attempt in attempts]),
        "tool_accuracy": ratio([attempt.right for attempt in attempts if attempt.calls]),
        "notool_accuracy": ratio([attempt.right for attempt in attempts if not attempt.calls]),
        "all_wrong_tool_group_rate": ratio([all_wrong(subgroup) for subgroup in acting if subgroup]),
        "all_wrong_notool_group_rate": ratio([all_wrong(subgroup) for subgroup in thinking if subgroup]),
        "axpo_trigger_rate": ratio([bool(subgroup) and all_wrong(subgroup) for subgroup in acting]),
        "group_all_wrong_rate": ratio([c == 0 for c in correct]),
        "group_all_correct_rate": ratio([c == len(members) for members, c in zip(groups, correct, strict=True)]),
        "group_mixed_rate": ratio([0 < c < len(members) for members, c in zip(groups, correct, strict=True)]),
    }
    for sign in ("negative", "zero", "positive"):
        numbers[f"tool_signal_{sign}_share"] = ratio([s == sign for s in signs])
    for k in (2, 4):
        for name, subgroups in (("", groups), ("tool_", acting), ("notool_", thinking)):
            numbers[f"{name}pass_at_k[{k}]"] = ratio(
                [pass_at(k, subgroup) for subgroup in subgroups if len(subgroup) >= k]
            )
    for name in ("tool", "notool"):
        values = null(groups, tool=name == "tool")
        numbers |= zip(
            (f"all_wrong_{name}_expected", f"all_wrong_{name}_excess", f"all_wrong_{name}_p"), values, strict=True
        )
    return numbers


def measure(paths: list[str]) -> dict:
    """Rows and rollouts, all rates, and all rates step by step."""
    rows = [row for path in paths for row in rows_of(Path(path))]
    attempts = trl(rows) if "completion" in rows[0] else verl(rows)
    return {
        "rows": len(rows),
        "rollouts": len(attempts),
        "rates": rates(attempts),
        "steps": {
            step: rates([attempt for attempt in attempts if attempt.step == step])
            for step in sorted({attempt.step for attempt in attempts})
        },
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:]), indent=2))
