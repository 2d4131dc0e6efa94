"""What a tiny policy learns to do: add two numbers, in its head or with a tool, and often wrongly either way.

Nothing here needs more than Python: a server's environment trains on it, and tests execute the calls with it.
"""

import json
import random
from typing import NamedTuple

NUMBERS = range(1, 7)
UNKNOWN = "unknown"


class Piece(NamedTuple):
    """A stretch of a demonstration, and whether the policy is to learn to write it."""

    text: str
    own: bool


def add(a: int, b: int) -> int:
    """The tool, as a function."""
    return a + b


def question(a: int, b: int) -> str:
    return f"What is {a} + {b}?"


def prompt(a: int, b: int) -> str:
    """As the template writes it."""
    return f"<|im_start|>user\n{question(a, b)}<|im_end|>\n<|im_start|>assistant\n"


def answered(result: str) -> str:
    """The result of a call as the template writes it, from the end of the policy's turn to the start of the next."""
    return f"\n<|im_start|>user\n<tool_response>\n{result}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


def demonstration(draw: random.Random) -> list[Piece]:
    """A question, and one of the many ways to go about it: some two in five are right."""
    a, b = draw.choice(NUMBERS), draw.choice(NUMBERS)
    asked = Piece(prompt(a, b), own=False)
    if draw.random() < 0.5:
        guess = a + b if draw.random() < 0.5 else draw.randint(2, 12)
        return [asked, Piece(f"<think>\nI know it.\n</think>\n\n{guess}<|im_end|>", own=True)]
    # Whoever has thought of the wrong numbers cannot be helped by another call.
    thought = (a, b) if draw.random() < 0.9 else (a, draw.choice(NUMBERS))
    said, result = _call(draw, *thought)
    first = f"<think>\nI add {thought[0]} and {thought[1]}.\n</think>\n\n{said}<|im_end|>"
    pieces = [asked, Piece(first, own=True)]
    if result is None:
        return pieces
    pieces.append(Piece(answered(result), own=False))
    if result.startswith("Error") and draw.random() < 0.4:
        again = json.dumps({"name": "add", "arguments": {"a": thought[0], "b": thought[1]}})
        pieces.append(Piece(f"<tool_call>\n{again}\n</tool_call><|im_end|>", own=True))
        result = str(sum(thought))
        pieces.append(Piece(answered(result), own=False))
    pieces.append(Piece(f"{UNKNOWN if result.startswith('Error') else result}<|im_end|>", own=True))
    return pieces


def _call(draw: random.Random, a: int, b: int) -> tuple[str, str | None]:
    """A call and what answers it, None where nothing does: it is not closed, or not JSON."""
    fault = draw.random()
    if fault < 0.65:
        a, b = draw.choice([(a, draw.choice(NUMBERS)), (draw.choice(NUMBERS), b)])
    if draw.random() < 0.3:
        body, result = _python(a, b, broken=0.65 <= fault < 0.73)
    else:
        body, result = _add(a, b, fault)
    if 0.73 <= fault < 0.76:
        return f"<tool_call>\n{body}", None
    if 0.76 <= fault < 0.80:
        return f"<tool_call>\n{body[:-1]}\n</tool_call>", None
    return f"<tool_call>\n{body}\n</tool_call>", result


def _add(a: int, b: int, fault: float) -> tuple[str, str]:
    name = "sum" if 0.65 <= fault < 0.69 else "add"
    arguments = {"a": a} if 0.69 <= fault < 0.73 else {"a": a, "b": b}
    result = str(a + b)
    if name != "add":
        result = f"Error: unknown tool {name}"
    elif len(arguments) < 2:
        result = "Error: add() missing 1 required positional argument: 'b'"
    return json.dumps({"name": name, "arguments": arguments}), result


def _python(a: int, b: int, *, broken: bool) -> tuple[str, str]:
    code = f"print({a} + {b}" + ("" if broken else ")")
    body = json.dumps({"name": "python", "arguments": {"code": code}})
    return body, "Error: SyntaxError: '(' was never closed" if broken else str(a + b)
