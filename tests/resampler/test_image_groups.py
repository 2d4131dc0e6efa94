"""Logs whose rollouts have images: what tells one question from another, and what is kept of a continuation."""

from pathlib import Path

import pytest
from double_logs import groups, planned, write

from gapscope.errors import PlanError
from gapscope.rollouts import Image, Rollout


def with_images(*shown: tuple[str, ...]) -> list[Rollout]:
    """One group of four, each of whose rollouts has seen these images."""
    made = groups(1)
    for rollout, names in zip(made, shown, strict=True):
        rollout.images = [Image(name * 64) for name in names]
    return made


def test_images_that_tools_have_made_do_not_part_the_rollouts_of_a_question(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", with_images(("a", "b"), ("a", "c", "d"), ("a",), ("a",)))
    (prefix,) = planned(log).prefixes
    assert prefix.images[0].sha256 == "a" * 64


def test_questions_about_different_images_are_not_one(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", with_images(("a",), ("b",), ("a",), ("b",)))
    with pytest.raises(PlanError, match="several groups in one"):
        planned(log)
