"""What a mapping finds of tools and prompts, so that a chat template can render them again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gapscope as gs

TOOLS = [{"type": "function", "function": {"name": "calc", "parameters": {"type": "object"}}}]
ASKED = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}
SAID = {"role": "assistant", "content": "4"}


@pytest.fixture
def read(log: Callable[..., Path]) -> Callable[..., gs.Rollout]:
    def one(value: dict[str, Any], **mapping: str) -> gs.Rollout:
        (record,) = gs.read(str(log([value], "mine.jsonl")), gs.ReadOptions(mapping=mapping))
        assert isinstance(record, gs.Rollout), record
        return record

    return one


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_definitions_of_tools_may_be_json_in_a_string(read: Callable[..., gs.Rollout], tools: Any) -> None:
    rollout = read({"chat": [ASKED, SAID], "offered": tools}, messages="chat", tools="offered")
    assert (rollout.tools, rollout.declared_tools) == (TOOLS, ["calc"])


@pytest.mark.parametrize("tools", [None, "calc", ["calc"], "[]", "[{", 3])
def test_what_is_no_list_of_definitions_is_none(read: Callable[..., gs.Rollout], tools: Any) -> None:
    assert read({"chat": [ASKED, SAID], "offered": tools}, messages="chat", tools="offered").tools is None


def test_definitions_stand_beside_texts_too(read: Callable[..., gs.Rollout]) -> None:
    rollout = read({"asked": "2+2?", "said": "4", "offered": TOOLS}, prompt="asked", response="said", tools="offered")
    assert (rollout.tools, rollout.messages) == (TOOLS, None)


def test_messages_of_the_prompt_are_kept_as_they_were_written(read: Callable[..., gs.Rollout]) -> None:
    assert read({"chat": [ASKED, SAID]}, messages="chat").messages == [ASKED]
    assert read({"asked": [ASKED], "said": "4"}, prompt="asked", response="said").messages == [ASKED]
    assert read({"asked": [ASKED, ASKED], "said": [SAID]}, prompt="asked", response="said").messages == [ASKED, ASKED]
