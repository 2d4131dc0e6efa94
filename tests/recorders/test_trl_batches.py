"""Which row of TRL's shuffled batch is which rollout."""

from types import SimpleNamespace
from typing import Any

from gapscope.recorders.trl_batches import Kept, found


def kept(prompt: list[int], completion: list[int], mark: float) -> Kept:
    return Kept(prompt, completion, None, False, [mark], None, None)


def marks(rows: list[Kept | None]) -> list[float | None]:
    return [row.engine[0] if row and row.engine else None for row in rows]


def trainer_rendering(**prompts: list[int]) -> Any:
    def render(text: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [prompts[text[0]]]}

    render.pad_token_id = 0  # type: ignore[attr-defined]
    return SimpleNamespace(processing_class=render)


def test_shuffled_rows_are_found_again_by_their_tokens() -> None:
    rows = [kept([1], [7, 8, 9], -3.0), kept([1], [7, 0, 0], -1.0), kept([2], [8, 9, 0], -2.0)]
    order = found(trainer_rendering(), ["a", "b", "a"], [[7], [8, 9], [7, 8, 9]], iter(rows))
    assert marks(order) == [-1.0, -2.0, -3.0]


def test_rollouts_of_two_prompts_that_say_the_same_are_told_apart_by_the_prompt() -> None:
    rows = [kept([2], [7, 0], -2.0), kept([1], [7, 0], -1.0)]
    order = found(trainer_rendering(a=[1], b=[2]), ["a", "b"], [[7], [7]], iter(rows))
    assert marks(order) == [-1.0, -2.0]


def test_a_rollout_whose_row_is_not_certain_has_none() -> None:
    rows = [kept([2], [7], -2.0), kept([1], [7], -1.0)]
    order = found(trainer_rendering(a=[3], b=[3]), ["a", "b", "c"], [[7], [7], [9]], iter(rows))
    assert marks(order) == [None, None, None]
