"""Which rollouts are correct, by a rule that is written down and never guessed from a shaped reward.

A rule is a name (`acc`: the field must hold only 0 and 1) or a comparison (`score>=1`). `reward` and `score`
both name the rollout's reward; any reward part or numeric field of the log can be named as well.
"""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gapscope.errors import CorrectnessError, UnknownName
from gapscope.report import Correctness

if TYPE_CHECKING:
    from gapscope.store.store import Store

REWARD_NAMES = ("reward", "score")
PREFERRED_FIELDS = ("acc", "is_correct")
"""Fields that state correctness by their name, in the order in which they are looked for."""

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_RULE = re.compile(r"\s*(?P<name>.+?)\s*(?:(?P<op>>=|<=|==|!=|>|<|=)\s*(?P<limit>[^<>=!]+?)\s*)?")


@dataclass(frozen=True, slots=True)
class Rule:
    """A field, and what its value is compared with; without a comparison the field itself is the verdict."""

    name: str
    op: str | None = None
    limit: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read `acc` or `score >= 1`.

        Raises:
            CorrectnessError: the text is neither a name nor a comparison with a number.

        """
        match = _RULE.fullmatch(text.strip())
        if match is None or match["name"][-1] in "<>=!":
            message = f"the rule {text!r} is neither a name nor a comparison with a number"
            raise CorrectnessError(message, hint="Write for example --correct acc or --correct 'score>=1'.")
        if match["op"] is None:
            return cls(match["name"])
        try:
            limit = float(match["limit"])
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            message = f"the rule {text!r} compares with {match['limit']!r}, which is not a number"
            raise CorrectnessError(message, hint="Write for example --correct 'score>=1'.")
        return cls(match["name"], "==" if match["op"] == "=" else match["op"], limit)

    def __str__(self) -> str:
        return self.name if self.limit is None else f"{self.name}{self.op}{repr(self.limit).removesuffix('.0')}"

    def holds(self, value: float) -> bool:
        """Whether a number is what the rule calls correct; a bare name asks for 1."""
        return value == 1 if self.op is None or self.limit is None else _COMPARE[self.op](value, self.limit)


def decide(store: "Store", rule: str | None) -> Correctness:
    """Make the table `verdicts (id, correct)` and say by which rule.

    Without a rule: what the log itself calls correct, else `acc`, else `is_correct`, else the one score,
    provided that all its values are 0 or 1. Otherwise no rollout gets a verdict, and the result says what
    was seen and which flag to give. `counted` adds the numbers of rollouts.

    Raises:
        CorrectnessError: the rule given names a field without a comparison that is not binary.
        UnknownName: the rule given names a field that the log does not have.

    """
    if rule is not None:
        parsed = Rule.parse(rule)
        _require(store, parsed)
        return _apply(store, parsed, "explicit")
    if store.rows("SELECT 1 FROM rollouts WHERE correct IS NOT NULL LIMIT 1"):
        store.execute("CREATE OR REPLACE TEMP TABLE verdicts AS SELECT id, correct FROM rollouts")
        return Correctness(rule="correct", chosen="logged", known=0, unknown=0)
    names = _field_names(store)
    for name in PREFERRED_FIELDS:
        if name in names:
            if _is_binary(store, name):
                return _apply(store, Rule(name), "column")
            return _undefined(store, [name], f"`{name}` holds other values than 0 and 1")
    scores = _scores(store, names)
    if len(scores) == 1 and _is_binary(store, scores[0]):
        return _apply(store, Rule(scores[0], ">=", 1.0), "implied_binary")
    if not scores:
        return _undefined(store, [], "the log has no reward")
    if len(scores) == 1:
        return _undefined(store, scores, f"`{scores[0]}` is not 0 or 1 on every rollout: it may be shaped")
    return _undefined(store, scores, "the log has several reward parts and no total")


def counted(store: "Store", correctness: Correctness) -> Correctness:
    """The same with how many rollouts get a verdict and how many do not, and where sources disagree.

    Needs the tables of views.sql: duplicates and padding are nobody's rollouts.
    """
    known, unknown = store.rows("SELECT count(correct), count(*) - count(correct) FROM attempts")[0]
    found: dict[str, int] = {}
    if correctness.rule is not None and correctness.chosen != "logged":
        found = _disagreements(store, Rule.parse(correctness.rule).name)
    return correctness.model_copy(update={"known": known, "unknown": unknown, "disagreements": found})


def _scores(store: "Store", names: list[str]) -> list[str]:
    """What could be the score: the reward where one is logged, else the parts that the trainer added up."""
    return ["score"] if _has_reward(store) else names


def _has_reward(store: "Store") -> bool:
    return bool(store.rows("SELECT 1 FROM rollouts WHERE reward IS NOT NULL LIMIT 1"))


def _names_reward(store: "Store", name: str) -> bool:
    """Whether the name stands for the total reward; where none is logged, a part may bear the name."""
    return name in REWARD_NAMES and _has_reward(store)


def _field_names(store: "Store") -> list[str]:
    return [name for (name,) in store.rows("SELECT DISTINCT name FROM fields ORDER BY name")]


_VALUES = """
SELECT f.value FROM fields AS f
SEMI JOIN (SELECT id FROM rollouts WHERE coalesce(status, 'ok') NOT IN ('padding', 'excluded')) USING (id)
WHERE f.name = $name
"""
_REWARDS = """
SELECT reward AS value FROM rollouts
WHERE coalesce(status, 'ok') NOT IN ('padding', 'excluded') AND reward IS NOT NULL
"""


def _values(store: "Store", name: str) -> tuple[str, dict[str, str]]:
    return (_REWARDS, {}) if _names_reward(store, name) else (_VALUES, {"name": name})


def _is_binary(store: "Store", name: str) -> bool:
    query, values = _values(store, name)
    (other,) = store.rows(f"SELECT count(*) FROM ({query}) WHERE value NOT IN (0, 1)", **values)[0]  # noqa: S608
    return bool(other == 0)


def _seen(store: "Store", name: str, most: int = 6) -> str:
    """The values of a field, the most frequent first."""
    query, values = _values(store, name)
    frequencies = store.rows(
        f"SELECT value, count(*) AS n FROM ({query}) GROUP BY value ORDER BY n DESC, value",  # noqa: S608
        **values,
    )
    shown = ", ".join(f"{value:g} ({count:,}×)" for value, count in frequencies[:most])
    return shown + (f" and {len(frequencies) - most:,} more" if len(frequencies) > most else "")


def _require(store: "Store", rule: Rule) -> None:
    names = _field_names(store)
    known = names + (list(REWARD_NAMES) if _has_reward(store) else [])
    if rule.name not in known:
        other = {name for (name,) in store.rows("SELECT DISTINCT name FROM other_fields")}
        if rule.name in other:
            message = f"`{rule.name}` holds no numbers, so it cannot say what is correct"
            raise CorrectnessError(message, hint=f"Numeric fields of this log: {', '.join(known) or 'none'}.")
        raise UnknownName("field", rule.name, known)
    if rule.op is None and not _is_binary(store, rule.name):
        message = f"`{rule.name}` holds other values than 0 and 1: {_seen(store, rule.name)}"
        raise CorrectnessError(message, hint=f"Give a comparison, for example --correct '{rule.name}>=1'.")


def _apply(store: "Store", rule: Rule, chosen: Literal["explicit", "column", "implied_binary"]) -> Correctness:
    op, limit = (rule.op, rule.limit) if rule.op is not None else ("==", 1.0)
    if op not in _COMPARE:
        message = f"unknown comparison {op!r}"
        raise CorrectnessError(message)
    if _names_reward(store, rule.name):
        store.execute(
            f"CREATE OR REPLACE TEMP TABLE verdicts AS SELECT id, reward {op} $limit AS correct FROM rollouts",  # noqa: S608
            limit=limit,
        )
    else:
        store.execute(
            f"""CREATE OR REPLACE TEMP TABLE verdicts AS
            SELECT id, any_value(value {op} $limit) AS correct FROM fields WHERE name = $name GROUP BY id""",  # noqa: S608
            limit=limit,
            name=rule.name,
        )
    return Correctness(rule=str(rule), chosen=chosen, known=0, unknown=0)


def _disagreements(store: "Store", judge: str) -> dict[str, int]:
    """How many rollouts another binary source of correctness judges differently from the field `judge`."""
    names = _field_names(store)
    others = [name for name in PREFERRED_FIELDS if name in names and name != judge]
    if _has_reward(store) and judge not in REWARD_NAMES:
        others.append("score")
    found = {}
    for name in others:
        if not _is_binary(store, name):
            continue
        reward = _names_reward(store, name)
        source = "SELECT id, reward AS value FROM rollouts" if reward else _FIELD
        (count,) = store.rows(
            f"SELECT count(*) FROM attempts JOIN ({source}) USING (id) WHERE correct <> (value = 1)",  # noqa: S608
            **({} if reward else {"name": name}),
        )[0]
        if count:
            found[name] = count
    return found


_FIELD = "SELECT id, value FROM fields WHERE name = $name"


def _undefined(store: "Store", names: list[str], reason: str) -> Correctness:
    store.execute("CREATE OR REPLACE TEMP TABLE verdicts AS SELECT id, NULL::BOOLEAN AS correct FROM rollouts LIMIT 0")
    seen = "; ".join(f"{name}: {_seen(store, name)}" for name in names)
    example = _example(names)
    return Correctness(
        rule=None,
        chosen="undefined",
        known=0,
        unknown=0,
        message=f"what is correct is not defined: {reason}" + (f". Values seen: {seen}" if seen else ""),
        hint=f"Say which rollouts are correct: --correct '{example}'." if example else None,
    )


def _example(names: list[str]) -> str | None:
    telling = [name for name in names if re.search("acc|correct|exact|match", name, re.IGNORECASE)]
    return f"{(telling or names)[0]}>=1" if names else None
