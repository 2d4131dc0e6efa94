"""A log as large as you like, as verl's legacy trainer writes it: `python generate.py FILE --megabytes 700`.

Rollouts are cut out of pools of text that are made and JSON-encoded once, so that writing keeps up with the
disk. What decides how fast a reader is looks as in a real run: lengths, escapes, the share of tool calls and
of non-ASCII texts, `<` in code and mathematics. No thinking mentions a call tag, so "the output contains
<tool_call>" and "the rollout attempts a call" are the same thing here. One seed gives the same bytes, and a
larger log begins like a smaller one.
"""

import argparse
import json
import math
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate, count
from pathlib import Path
from random import Random
from typing import NamedTuple

GROUPS_PER_STEP = 64
ROLLOUTS_PER_GROUP = 8
TOOL_SHARE = 0.3
NON_ASCII_SHARE = 0.02
POOL_BYTES = 2_000_000
LONGEST_CUT = 30_000

_STEMS = """
account add adjust align angle answer argue assign assum average balance base bound bracket calcul carr case chang
check circl claim clos coin collect column combin compar complet comput connect consider constant contain convert
correct count cover cross curv decid defin depend deriv detail diagonal differ digit direct display distanc divid doubl
edg effect element end equal estimat evaluat exact exampl exclud exist expand expect expla extend factor fail figur fill
final find fit fix follow form fraction function general given graph group half handl hold identif imag imply includ
increas index input interest interpret invers invert involv join judg label length level limit line link list locat loop
lower map mark match matter maximum mean measur method middl minimum minut mistak model modul month mov multipl need
negativ not number object observ obtain order origin output pair part pattern percent perhap pick plac plan plot point
position possib power predict present prim print problem proceed produc product prov quantit quarter question quick
rang rat ratio read reason recall record reduc refer region reject relat remain remov repeat replac report represent
requir resolv result return revers root rotat round row rul sampl satisf scal second segment select sens sequenc set
shap shift show sid sign simpl singl siz slop smal solv sort spac split squar standard start stat step stor structur
subset subtract suggest sum suppos symbol system tabl tak target term test think thre tim total track transform triang
tripl tru try turn typ uniform unit valu variabl vector verif volum weigh whol width word work writ year zero
"""
_ENDINGS = ("", "e", "s", "es", "ed", "ing", "er", "ion", "able", "ment", "al", "ly")
_SMALL_WORDS = """
the of is a to and so that we in it then this for be with if as have but not are on by can from which at or two one
there now first let must each all wait because
"""
_FOREIGN = ("größer", "naïve", "Lösung", "→", "≈", "≤", "π", "√2", "答案", "因此", "所以", "café", "Σ", "∈", "😀", "—")
_TOOLS = {
    "python": ("Run Python code in a sandbox and return what it prints.", {"code": "The program. Print the result."}),
    "search": ("Search the web and return the first passages found.", {"query": "A few words.", "pages": "How many."}),
    "image_zoom_in": ("Enlarge a region of the image.", {"bbox_2d": "x1, y1, x2, y2 in pixels.", "label": "Its name."}),
    "calculator": ("Evaluate one arithmetic expression.", {"expression": "Numbers, brackets and + - * / **."}),
}


class Written(NamedTuple):
    """What is in a log; `all_wrong` of the `tool_groups` have no correct tool-using rollout."""

    rollouts: int
    attempts: int
    tool_groups: int
    all_wrong: int


class Pool:
    """Paragraphs of JSON-encoded text, one after another, from which long stretches are cut."""

    def __init__(self, rng: Random, paragraph: Callable[[], str], size: int) -> None:
        parts: list[bytes] = []
        written = 0
        while written < size:
            parts.append(encoded(paragraph() + "\n\n"))
            written += len(parts[-1])
        self._rng = rng
        self._text = b"".join(parts)
        self._starts = [0, *accumulate(map(len, parts))]
        self._choices = bisect_left(self._starts, written - LONGEST_CUT)

    def cut(self, size: float) -> bytes:
        """Whole paragraphs, of about `size` bytes together."""
        start = self._starts[int(self._rng.random() * self._choices)]
        return self._text[start : self._starts[bisect_left(self._starts, start + size)]]


def encoded(text: str) -> bytes:
    """The inside of a JSON string, as verl's `json.dumps(…, ensure_ascii=False)` writes it."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


class Texts:
    """The paragraphs that a policy thinks in: prose, mathematics and code."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        words = [stem + ending for stem in _STEMS.split() for ending in _ENDINGS]
        rng.shuffle(words)
        self._names = words
        self._words = [*_SMALL_WORDS.split(), *words]
        # Word frequencies fall as in any language, with the small words in front.
        self._weights = list(accumulate(1 / (rank + 2) for rank in range(len(self._words))))

    def prose(self) -> str:
        """Two to six sentences."""
        sentences = [self._sentence() for _ in range(self._rng.randint(2, 6))]
        return " ".join(sentences)

    def foreign(self) -> str:
        """Prose with some words and signs outside ASCII."""
        words = self.prose().split(" ")
        for place in range(3, len(words), 9):
            words[place] = self._rng.choice(_FOREIGN)
        return " ".join(words)

    def any(self) -> str:
        """Prose mostly, now and then mathematics or code."""
        draw = self._rng.random()
        return self._code() if draw < 0.08 else self._mathematics() if draw < 0.3 else self.prose()

    def _sentence(self) -> str:
        rng = self._rng
        words = rng.choices(self._words, cum_weights=self._weights, k=rng.randint(6, 22))
        if rng.random() < 0.25:
            words[len(words) // 2] = str(rng.randint(2, 5000))
        if rng.random() < 0.1:
            words[-2] = f'"{words[-2]}"'
        return f"{' '.join(words).capitalize()}{rng.choice('...,?:')}"

    def _mathematics(self) -> str:
        rng = self._rng
        a, b, c = (rng.randint(2, 99) for _ in range(3))
        return rng.choice(
            (
                f"{a} * {b} = {a * b}, and {a * b} - {c} = {a * b - c}.\nSo x = {a * b - c}. {self._sentence()}",
                f"\\[ \\frac{{{a}x + {b}}}{{{c}}} \\le {b}, \\quad x^2 - {a}x + {b} = 0 \\]\n{self._sentence()}",
                f"If x < {a} then {b}x < {a * b}; otherwise x >= {a} and {self._sentence()}",
                f"Let $n = {a}$. Then $\\sum_{{k=1}}^{{n}} k = {a * (a + 1) // 2}$ and n mod {b} = {a % b}.",
            ),
        )

    def _code(self) -> str:
        rng = self._rng
        name, other = rng.choices(self._names, k=2)
        return (
            f"```python\n{name} = [{', '.join(str(rng.randint(0, 999)) for _ in range(rng.randint(3, 12)))}]\n"
            f"{other} = 0\nfor i, value in enumerate({name}):\n    if value < {rng.randint(5, 500)}:\n"
            f'        {other} += value * i\nprint("{other}:", {other})\n```'
        )


class Writer:
    """Makes the lines of one step after another."""

    def __init__(self, seed: int) -> None:
        self._rng = rng = Random(seed)
        texts = Texts(rng)
        self._thinking = Pool(rng, texts.any, POOL_BYTES)
        self._prose = Pool(rng, texts.prose, POOL_BYTES // 4)
        self._foreign = Pool(rng, texts.foreign, POOL_BYTES // 4)
        self._system = encoded(_system())
        self._calls = [encoded(_call(rng)) for _ in range(2000)]
        self._questions = 0

    def step(self, step: int, most_bytes: float) -> tuple[list[bytes], Written]:
        """The rows of a step in the order of their lengths' balance, that is in none; whole groups only."""
        rows: list[bytes] = []
        written = Written(0, 0, 0, 0)
        size = 0
        for _ in range(GROUPS_PER_STEP):
            lines, group = self._group(step)
            rows += lines
            written = Written(*map(sum, zip(written, group, strict=True)))
            size += sum(map(len, lines))
            if size >= most_bytes:
                break
        self._rng.shuffle(rows)
        return rows, written

    def _group(self, step: int) -> tuple[list[bytes], Written]:
        rng = self._rng
        self._questions += 1
        truth = b"%d" % rng.randint(-99, 9999)
        prompt = self._system + b"Question %d. " % self._questions + self._prose.cut(200) + b"assistant\\n"
        chance, appeal = rng.random(), rng.random() * 2 * TOOL_SHARE
        lines, attempts, right_attempts = [], 0, 0
        for _ in range(ROLLOUTS_PER_GROUP):
            tool = rng.random() < appeal
            correct = rng.random() < (0.8 * chance if tool else chance)
            output = self._output(truth if correct else b"%d" % rng.randint(10_000, 99_999), tool=tool)
            verdict = (b"1.0", b"true") if correct else (b"0.0", b"false")
            lines.append(
                b'{"input": "%b", "output": "%b", "gts": "%b", "score": %b, "step": %d, "acc": %b}\n'
                % (prompt, output, truth, verdict[0], step, verdict[1]),
            )
            attempts += tool
            right_attempts += tool and correct
        tried = attempts > 0
        return lines, Written(ROLLOUTS_PER_GROUP, attempts, int(tried), int(tried and right_attempts == 0))

    def _output(self, answer: bytes, *, tool: bool) -> bytes:
        rng = self._rng
        pool = self._foreign if rng.random() < NON_ASCII_SHARE else self._thinking
        length = min(math.exp(rng.gauss(8.75, 0.5)), 0.9 * LONGEST_CUT)
        if not tool:
            return self._thought(pool, length) + self._final(answer)
        parts: list[bytes] = []
        calls = 1 if rng.random() < 0.7 else 2
        for _ in range(calls):
            call = rng.choice(self._calls)
            parts += (self._thought(pool, length / (calls + 1)), b"<tool_call>\\n", call)
            if rng.random() < 0.03:
                return b"".join(parts)
            result = b"Error: timed out after 30 s" if rng.random() < 0.05 else self._prose.cut(rng.random() * 800)
            parts += (b"\\n</tool_call>\\nuser\\n<tool_response>\\n", result, b"\\n</tool_response>\\nassistant\\n")
        parts += (self._thought(pool, length / (calls + 1)), self._final(answer))
        return b"".join(parts)

    def _thought(self, pool: Pool, size: float) -> bytes:
        return b"<think>\\n" + pool.cut(size) + b"</think>\\n\\n"

    def _final(self, answer: bytes) -> bytes:
        pool = self._thinking if self._rng.random() < 0.15 else self._prose
        return pool.cut(500) + b"The answer is **%b**." % answer


def _system() -> str:
    tools = []
    for name, (description, arguments) in _TOOLS.items():
        properties = {key: {"type": "string", "description": meaning} for key, meaning in arguments.items()}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        function = {"name": name, "description": description, "parameters": parameters}
        tools.append(json.dumps({"type": "function", "function": function}))
    listed = "\n".join(tools)
    return (
        "system\nSolve the problem. Think first; call a tool where it helps.\n\n# Tools\n\nYou may call one or more "
        "functions to assist with the user query.\n\nYou are provided with function signatures within "
        f"<tools></tools> XML tags:\n<tools>\n{listed}\n</tools>\n\nFor each function call, return a json object with "
        'function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
        '"arguments": <args-json-object>}\n</tool_call>\nuser\n'
    )


def _call(rng: Random) -> str:
    """The body of a call; three in a hundred are no JSON."""
    a, b, c = (rng.randint(2, 9999) for _ in range(3))
    arguments: dict[str, dict[str, object]] = {
        "python": {"code": f"total = 0\nfor k in range({a}):\n    if k % {b} < 7:\n        total += k\nprint(total)"},
        "search": {"query": f"population of district {a} in {1900 + b % 120}", "pages": "2"},
        "image_zoom_in": {"bbox_2d": [a, b, a + 224, b + 224], "label": f"part {c}"},
        "calculator": {"expression": f"({a} + {b}) * {c}"},
    }
    name = rng.choice(list(arguments))
    body = json.dumps({"name": name, "arguments": arguments[name]})
    return body[:-1] if rng.random() < 0.03 else body


def write_log(path: Path, size: float, *, seed: int = 1) -> Written:
    """Write about `size` bytes: the groups that it takes to reach them."""
    writer = Writer(seed)
    written = Written(0, 0, 0, 0)
    with path.open("wb") as stream:
        for step in count(1):
            if stream.tell() >= size:
                break
            rows, added = writer.step(step, size - stream.tell())
            stream.writelines(rows)
            written = Written(*map(sum, zip(written, added, strict=True)))
    return written


def main() -> None:
    """Write a log and print, as JSON, what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--megabytes", type=float, default=700)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    written = write_log(arguments.file, 1e6 * arguments.megabytes, seed=arguments.seed)
    print(json.dumps(written._asdict()))


if __name__ == "__main__":
    main()
