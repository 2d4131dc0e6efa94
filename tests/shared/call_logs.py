"""Rollouts whose first calls are alike or not: drawn at random, with verdicts, prefixes and two kinds of log-probs."""

import math
import random

import msgspec
import scipy.stats

import gapscope as gs
from gapscope.rollouts import CallTokens, Source, Span, Tokens, ToolCall, Turn

CALLS = ("find(Rome)", "find(ROME)", "find( Rome )", "find(Oslo)", "find(", "")
"""Bodies of calls, of which the first three differ in case and blanks alone, and the last two cannot be read."""
PREFIXES = ("", "look ", "well ")
PROBABILITIES = (0.05, 0.2, 0.5, 0.8, 0.95)
APART = (0.0, 0.005, 0.05, 0.5, 2.0)


def drawn(seed: int, *, groups: int = 40) -> list[gs.Rollout]:
    """Groups of one to six rollouts at three steps; some of two prompts, and some of the validation split."""
    rng = random.Random(seed)
    found: list[gs.Rollout] = []
    for group in range(groups):
        for place in range(rng.randint(1, 6)):
            rollout = _rollout(rng, len(found) + 1)
            rollout.group_id, rollout.step = f"q{group}", group % 3
            rollout.split = "validation" if group % 7 == 6 else "train"
            rollout.prompt = f"Another {group}?" if group % 8 == 5 and place else f"Question {group}?"
            found.append(rollout)
    return found


def _rollout(rng: random.Random, number: int) -> gs.Rollout:
    correct = rng.choice([True, True, False, False, None])
    state = rng.choice(["bare", "text", *["tokens"] * 4])
    prefix = rng.choice(PREFIXES) if rng.random() < 0.9 else f"{number} "
    raw = rng.choice(CALLS)
    calls: list[ToolCall] = []
    if rng.random() < 0.2:
        calls.append(_call(0, raw, in_think=True))
    if rng.random() < 0.8:
        calls.append(_call(len(calls), raw))
        if rng.random() < 0.3:
            calls.append(_call(len(calls), "find(later)"))
    rollout = gs.Rollout(
        format="drawn",
        source=Source("drawn", number),
        output=f"{prefix}{raw}",
        correct=correct,
        correct_rule=None if correct is None else "drawn",
        turns=[Turn(0)],
        calls=calls,
        spans=[Span("text", 0, 0, len(prefix) + len(raw), sampled=True)],
    )
    first = first_call(rollout)
    if first is not None and state != "bare":
        calls[first.index] = _placed(first, len(prefix), tokens=state == "tokens")
    if state == "tokens":
        rollout.spans = [Span("text", 0, 0, len(rollout.output), sampled=True, token_start=1, token_end=9)]
        rollout.tokens = _tokens(rng, prefix)
    return rollout


def _call(index: int, raw: str, *, in_think: bool = False) -> ToolCall:
    readable = raw.endswith(")")
    outcome = "in_think" if in_think else "executed_ok" if readable else "unparseable" if raw else "opened_not_closed"
    return ToolCall(
        index, 0, None, raw, "find" if readable else None, {"what": raw[5:-1]} if readable else None, opened=True,
        closed=bool(raw), parsed=readable, executed=readable and not in_think, in_think=in_think, outcome=outcome,
    )  # fmt: skip


def _placed(call: ToolCall, start: int, *, tokens: bool) -> ToolCall:
    # The two tokens before a call say what the prefix is; the third opens it.
    place = CallTokens(2, 3, 5, 6) if tokens else None
    return msgspec.structs.replace(call, body_start=start, tokens=place)


def _tokens(rng: random.Random, prefix: str) -> Tokens:
    """A prompt of one token, and eight of the policy.

    The four of the call have one probability, so that equal confidences are equal to the last bit.
    """
    confidence = rng.choice(PROBABILITIES)
    own = [rng.choice(PROBABILITIES), 0.5, *[confidence] * 4, 0.5, rng.choice(PROBABILITIES), 0.5]
    sampled = [False, *[True] * 6, rng.random() < 0.5, True]
    logprobs = [math.log(p) if mine else None for p, mine in zip(own, sampled, strict=True)]
    trainer = [None if p is None else p - rng.choice(APART) for p in logprobs]
    source = rng.choice(["rollout", "rollout", "rescored", None])
    ids = [len(prefix), rng.choice([0, 0, 0, 1]), 7, *(rng.randrange(99) for _ in range(6))]
    return Tokens(
        ids if rng.random() < 0.9 else None,
        1 if rng.random() < 0.9 else None,
        strings=["x"] * 9,
        logprobs=logprobs if source else None,
        logprob_source=source,
        sampled=sampled,
        trainer_logprobs=trainer if rng.random() < 0.7 else None,
        retokenised=rng.random() < 0.1,
    )


# --- A plain script --------------------------------------------------------------------------------------


def first_call(rollout: gs.Rollout) -> ToolCall | None:
    """The first call outside thinking."""
    return next((call for call in rollout.calls if not call.in_think), None)


def in_scope(rollouts: list[gs.Rollout]) -> list[gs.Rollout]:
    return [rollout for rollout in rollouts if rollout.split != "validation"]


def groups_of(rollouts: list[gs.Rollout]) -> list[list[gs.Rollout]]:
    """All groups, by the trainer's id."""
    found: dict[str, list[gs.Rollout]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.group_id or "", []).append(rollout)
    return list(found.values())


def of_one_prompt(groups: list[list[gs.Rollout]]) -> list[list[gs.Rollout]]:
    """Groups in which rollouts can be compared: two or more of one prompt."""
    return [group for group in groups if len(group) > 1 and len({rollout.prompt for rollout in group}) == 1]


def cluster_bounds(pairs: list[tuple[float, float]], *, share: bool) -> tuple[float, float]:
    """Metrics, section 4, written out: the interval of Σx / Σm over groups."""
    pairs = [(x, m) for x, m in pairs if m]
    number, total = len(pairs), sum(m for _, m in pairs)
    ratio = sum(x for x, _ in pairs) / total
    error = math.sqrt(number / (number - 1) * sum((x - ratio * m) ** 2 for x, m in pairs)) / total
    half = scipy.stats.t.ppf(0.975, number - 1) * error
    return (max(0.0, ratio - half), min(1.0, ratio + half)) if share else (ratio - half, ratio + half)
