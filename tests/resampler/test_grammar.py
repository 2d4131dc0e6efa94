"""The grammar for a resampled call, read by a matcher of the few forms that it is written in."""

import re
from collections.abc import Iterator
from contextlib import suppress

import pytest

from gapscope.dialects import DIALECTS, dialect_named
from gapscope.dialects.base import TaggedDialect
from gapscope.errors import PlanError
from gapscope.resampler.grammar import call_grammar

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|::=|[A-Za-z]\w*|[()|?*+]')


class Grammar:
    """Rules as trees: a text, a character's class, a name, a sequence, a choice, or a repetition with its bounds."""

    def __init__(self, written: str) -> None:
        self.rules = {}
        for line in written.splitlines():
            name, _, body = line.partition("::=")
            self.tokens = _TOKEN.findall(body)
            assert "".join(self.tokens) == re.sub(r"(?<!\[) (?!\\n)", "", body), line
            self.rules[name.strip()] = self._choice()
            assert not self.tokens

    def _choice(self) -> tuple[object, ...]:
        options = [self._sequence()]
        while self.tokens[:1] == ["|"]:
            self.tokens.pop(0)
            options.append(self._sequence())
        return ("choice", options)

    def _sequence(self) -> tuple[object, ...]:
        items = []
        while self.tokens and self.tokens[0] not in "|)":
            token = self.tokens.pop(0)
            if token == "(":
                item = self._choice()
                assert self.tokens.pop(0) == ")"
            elif token[0] == '"':
                item = ("text", re.sub(r"\\(.)", r"\1", token[1:-1]))
            elif token[0] == "[":
                item = ("class", re.compile(token))
            else:
                item = ("rule", token)
            if self.tokens and self.tokens[0] in "?*+":
                item = ("repeat", item, self.tokens.pop(0))
            items.append(item)
        return ("sequence", items)

    def ends(self, tree: object, text: str, at: int) -> Iterator[int]:
        """Where a match that begins at a place may end."""
        assert isinstance(tree, tuple)
        kind, inner = tree[:2]
        if kind == "text":
            yield from [at + len(inner)] * text.startswith(inner, at)
        elif kind == "class":
            yield from [at + 1] * bool(inner.match(text, at))
        elif kind == "rule":
            yield from self.ends(self.rules[inner], text, at)
        elif kind == "choice":
            for option in inner:
                yield from self.ends(option, text, at)
        elif kind == "sequence":
            places = {at}
            for item in inner:
                places = {end for place in places for end in self.ends(item, text, place)}
            yield from places
        else:
            found, new = {at} if tree[2] != "+" else set(), {at}
            while new:
                new = {end for place in new for end in self.ends(inner, text, place)} - found
                found |= new
                new = set() if tree[2] == "?" else new
            yield from found

    def matches(self, text: str) -> bool:
        return len(text) in set(self.ends(self.rules["root"], text, 0))


@pytest.fixture(scope="module")
def hermes() -> Grammar:
    return Grammar(call_grammar(dialect_named("hermes")))


CALLS = [
    '\n{"name": "get_weather", "arguments": {"city": "Arlen"}}\n</tool_call>',
    '{"name":"f","arguments":{}}</tool_call>',
    '\n{"name": "f", "arguments": {"a": [1, -2.5e+3, 0], "b": {"c": null}, "d": [], "e": true}}\n</tool_call>',
    r'{"name": "f", "arguments": {"x": "a \"b\" \\ \n é < > A"}}</tool_call>',
]


@pytest.mark.parametrize("text", CALLS)
def test_a_call_is_matched_and_the_dialect_reads_it(hermes: Grammar, text: str) -> None:
    assert hermes.matches(text)
    (call,) = dialect_named("hermes").segment("<tool_call>" + text).calls
    assert call.closed
    assert call.body is not None
    assert isinstance(call.body.arguments, dict)


@pytest.mark.parametrize(
    "text",
    [
        "",
        CALLS[0].removesuffix("</tool_call>"),
        CALLS[0] + "\n",
        CALLS[0].replace("arguments", "parameters"),
        CALLS[0].replace("}}", "}"),
        '{"arguments": {}, "name": "f"}</tool_call>',
        '{"name": "f", "arguments": []}</tool_call>',
        '{"name": "f", "arguments": {"a": 01}}</tool_call>',
        '{"name": "f", "arguments": {"a": 1,}}</tool_call>',
        '{"name": "f", "arguments": {"a": "\n"}}</tool_call>',
        r'{"name": "f", "arguments": {"a": "\x"}}</tool_call>',
        '{"name": "f", "arguments": {}} and so on</tool_call>',
    ],
)
def test_what_is_no_call_is_not_matched(hermes: Grammar, text: str) -> None:
    assert not hermes.matches(text)


def bound() -> dict[str, str]:
    """The dialects that have a grammar, with it."""
    found = {}
    for dialect in DIALECTS:
        with suppress(PlanError):
            found[dialect.name] = call_grammar(dialect)
    return found


@pytest.mark.parametrize("name", bound())
def test_the_closing_delimiter_is_the_dialects_own(name: str) -> None:
    dialect = dialect_named(name)
    assert isinstance(dialect, TaggedDialect)
    body = '{"name": "f", "arguments": {"a": 1}}'
    for syntax in dialect.tags.calls:
        assert isinstance(syntax.opening, str)
        assert Grammar(bound()[name]).matches(f"{body}{syntax.closing}")
        (call,) = dialect.segment(f"{syntax.opening}{body}{syntax.closing}").calls
        assert call.closed
        assert call.body is not None
        assert (call.body.name, call.body.arguments) == ("f", {"a": 1})


@pytest.mark.parametrize("name", ["search-r1", "qwen3-coder", "react", "retool", "deepeyes", "hermes+search-r1"])
def test_calls_that_are_not_all_json_have_none(name: str) -> None:
    with pytest.raises(PlanError, match=re.escape(name)):
        call_grammar(dialect_named(name))
