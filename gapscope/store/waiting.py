"""Rows on their way into a table.

An INSERT costs about the same for a thousand rows as for fifty thousand, and so does making a frame for one row as for
a hundred: batches wait for others, and small ones as plain lists.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from gapscope.rollouts import Json

_FRAMED = 256
"""Rows from which on a batch is worth a frame of its own."""

_LISTED = 8192
"""Rows of small batches that wait as lists, which take more memory than a frame does."""

_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    **dict.fromkeys(("group_origin", "status", "finish_reason", "split", "run", "data_source"), pl.String),
    **dict.fromkeys(("rollout_id", "group_id", "parent_id", "prefix_id", "name", "outcome", "kind", "note"), pl.String),
    **dict.fromkeys(("raw", "arguments", "result", "ground_truth", "answer", "extra", "prompt"), pl.String),
    **dict.fromkeys(("path", "format", "dialect", "evidence", "syntax", "copy_of", "reason", "excerpt"), pl.String),
    **dict.fromkeys(("reward", "advantage", "value"), pl.Float64),
    **dict.fromkeys(("correct", "in_think", "truncated", "empty_result", "repeated", "spans.sampled"), pl.Boolean),
    **dict.fromkeys(("closed", "mixed", "retokenised", "has_ids"), pl.Boolean),
    **dict.fromkeys(("alignment", "logprob_source", "scored_by", "entropy_kind"), pl.String),
    **dict.fromkeys(("prob_sum", "logprob_sum", "logprob_min", "entropy_sum", "largest"), pl.Float64),
    **dict.fromkeys(("body_prob_sum", "body_logprob_sum", "body_logprob_min"), pl.Float64),
    **dict.fromkeys(("tag_entropy", "tag_upper", "tag_logprob"), pl.Float64),
    **dict.fromkeys(("after_entropy", "after_upper", "after_logprob"), pl.Float64),
    **dict.fromkeys(("logprobs", "trainer_logprobs"), pl.List(pl.Float64)),
    **dict.fromkeys(("token_arrays.entropies", "entropy_uppers"), pl.List(pl.Float64)),
    "ids": pl.List(pl.Int64),
    "strings": pl.List(pl.String),
    "token_arrays.sampled": pl.List(pl.Boolean),
}


class Waiting:
    """What waits for one table: columns of these names, and constants that are the same in all rows of a batch."""

    def __init__(self, table: str, names: Sequence[str], constants: Sequence[str]) -> None:
        self._schema = {
            name: _TYPES.get(f"{table}.{name}", _TYPES.get(name, pl.Int64)) for name in (*names, *constants)
        }
        self._frames: list[pl.DataFrame] = []
        self._lists: list[list[Json]] = [[] for _ in self._schema]

    def add(self, columns: Sequence[Sequence[Json]], constants: Mapping[str, Json]) -> None:
        """Take the columns of one batch."""
        rows = len(columns[0])
        if rows >= _FRAMED:
            whole = [*columns, *([value] * rows for value in constants.values())]
            self._frames.append(self._frame(whole))
            return
        for waiting, column in zip(self._lists, columns, strict=False):
            waiting.extend(column)
        for waiting, value in zip(self._lists[len(columns) :], constants.values(), strict=True):
            waiting.extend([value] * rows)
        if len(self._lists[0]) >= _LISTED:
            self._frame_lists()

    def taken(self) -> pl.DataFrame:
        """All that waits, as one frame; at least one row does."""
        self._frame_lists()
        return pl.concat(self._frames)

    def _frame_lists(self) -> None:
        if self._lists[0]:
            self._frames.append(self._frame(self._lists))
            self._lists = [[] for _ in self._schema]

    def _frame(self, columns: Sequence[Sequence[Json]]) -> pl.DataFrame:
        return pl.DataFrame(dict(zip(self._schema, columns, strict=True)), schema=self._schema)
