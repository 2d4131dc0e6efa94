"""What a model of the vLLM double says: functions of the text so far and of a seed.

What a policy returns is followed by the end-of-turn token, which it may also write itself to end earlier.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

ANSWERING = "<|im_start|>assistant\n"
_ANSWERED = re.compile("</tool_call>.*?<tool_response>", re.DOTALL)
CITIES = ("Arlen", "Borow", "Cadiz", "Dunmor", "Elstow")


class Said(NamedTuple):
    """A turn in pieces, each a text that is tokenised by itself or an id; one that never ends repeats its last token.

    `Said(["a", "b"])` spells "ab" in two tokens where the tokenizer has one; `Said(["x", MARKED.padded[0]])` ends in a
    token that has no text.
    """

    pieces: Sequence[str | int]
    ends: bool = True


Policy = Callable[[str, int], str | Said]
Turn = str | Said | Callable[[int], str | Said]


def weather(seed: int) -> dict[str, Any]:
    """The arguments of the call that is made unless others are asked for."""
    return {"city": CITIES[seed % len(CITIES)]}


def call(name: str, arguments: dict[str, Any]) -> str:
    """A call in Hermes' syntax, as Qwen's models write it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def so_far(text: str) -> tuple[str, str]:
    """What stands before the turn that is being written, and what is written of it."""
    before, opened, turn = text.rpartition(ANSWERING)
    if not opened:
        before, opened, turn = text.rpartition("</tool_response>")
    return before + opened, turn


def hermes(
    name: str = "get_weather",
    arguments: Callable[[int], dict[str, Any]] = weather,
    answer: Callable[[str, int], str] = lambda response, _: f"It is {response}.",
    *,
    calls: int = 1,
    rounds: int = 1,
) -> Policy:
    """A policy that thinks, calls a tool `calls` times in each of `rounds` turns, and answers from the last result.

    It goes on wherever a turn was cut: within a thought, before a call, behind its opening tag, within it.
    """

    def policy(text: str, seed: int) -> str:
        before, turn = so_far(text)
        responses = before.split("<tool_response>")[1:]
        done = len(_ANSWERED.findall(before))
        if responses and done >= rounds:
            response = responses[-1].partition("</tool_response>")[0].strip()
            thought, said = f"The tool says {response}.", answer(response, seed)
        else:
            thought, said = "I need the tool.", "\n".join(call(name, arguments(seed + k)) for k in range(calls))
        return _rest(turn, f"<think>\n{thought}\n</think>\n\n", said)

    return policy


def _rest(turn: str, thought: str, said: str) -> str:
    """What is missing of a turn, of which another policy may have written the beginning."""
    whole = thought + said
    if whole.startswith(turn):
        return whole[len(turn) :]
    _, opened, tail = turn.rpartition("<tool_call>")
    if opened and "</tool_call>" not in tail:
        own = said.partition("<tool_call>")[2] or "\n{}\n</tool_call>"
        return own[len(tail) :] if own.startswith(tail) else '"}}\n</tool_call>'
    if opened:
        return ""
    if "<think>" in turn and "</think>" not in turn:
        return "\n</think>\n\n" + said
    tail = turn.rpartition("</think>")[2].lstrip("\n")
    return said.removeprefix(tail)


def script(*turns: Turn) -> Policy:
    """A policy that says its turns one after another; the first is that of the first answer in the text.

    A turn may be a function of the seed. Of a turn whose beginning is already there the rest is said, and all of it
    where there is another beginning. Behind the last turn nothing is said but the end.
    """

    def policy(text: str, seed: int) -> str | Said:
        before, begun = so_far(text)
        number = max(0, before.count(ANSWERING) - 1)
        if number >= len(turns):
            return ""
        turn = turns[number]
        said = turn(seed) if callable(turn) else turn
        return said[len(begun) :] if isinstance(said, str) and said.startswith(begun) else said

    return policy


def always(said: str | Said | Callable[[int], str | Said]) -> Policy:
    """A policy that says the same after every text, or the same function of the seed."""
    return lambda _, seed: said(seed) if callable(said) else said
