"""A training batch as Parquet: one row for each sequence, written as the rows come, in groups of bounded size.

| column          | type          | what it is                                                                        |
|-----------------|---------------|-----------------------------------------------------------------------------------|
| `term`          | string        | `rollout`, `prefix` of a selected source, or `continuation`                       |
| `run`, `step`   | string, int64 | the training step, null where the log names none                                  |
| `group_id`      | string        | what the advantage is relative to; that of a continuation is the prefix           |
| `rollout_id`    | string        | null where the log has none                                                       |
| `parent_id`     | string        | the source of a continuation, else null                                           |
| `reward`        | double        | 0 or 1: the verdict, or that of Eq. 3 for a prefix                                |
| `weight`        | double        | of each trained token; the objective is the sum of weight · clipped term          |
| `prompt_length` | int32         | tokens before the first output                                                    |
| `token_ids`     | list<int32>   | prompt and output, as they were sampled                                           |
| `response_mask` | list<bool>    | true for tokens that are trained on, each of them in one row                      |
| `advantages`    | list<double>  | null where the mask is false                                                      |
| `old_logprobs`  | list<double>  | natural, of the policy that sampled; null where the log has none, never 0.0       |

The lists of a row are of one length. What was chosen is JSON in the file's metadata, under `gapscope.batch`:
`pyarrow.parquet.read_schema("batch.parquet").metadata[b"gapscope.batch"]`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from gapscope.axpo.sequences import TokenSequence
from gapscope.axpo.training_rows import Training
from gapscope.report import Scalar

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy import bool_
    from numpy.typing import NDArray

_TOKENS_AT_ONCE = 200_000
_ROWS_AT_ONCE = 8192


class About(NamedTuple):
    """Whose row it is."""

    run: str | None
    step: int | None
    group_id: str | None
    rollout_id: str | None
    parent_id: str | None


class BatchWriter:
    """Writes rows, all but their weights, which are known only when there is no further row."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = _schema()
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[tuple[About, Training, TokenSequence]] = []
        self._tokens = 0

    def add(self, about: About, training: Training, tokens: TokenSequence) -> None:
        """Take one row."""
        self._rows.append((about, training, tokens))
        self._tokens += len(tokens.ids)
        if self._tokens >= _TOKENS_AT_ONCE or len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(_table(self._rows, self._schema))
        self._rows, self._tokens = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()


def with_weights(source: Path, target: Path, weights: Sequence[float], about: Mapping[str, Scalar]) -> None:
    """Write the batch again with the weight of each row, and with what was chosen in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as batch:
        place = batch.schema_arrow.get_field_index("reward") + 1
        weight = pa.field("weight", pa.float64(), nullable=False)
        schema = batch.schema_arrow.insert(place, weight).with_metadata({"gapscope.batch": json.dumps(dict(about))})
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            done = 0
            for group in range(batch.num_row_groups):
                table = batch.read_row_group(group)
                own = pa.array(weights[done : done + table.num_rows], pa.float64())
                writer.write_table(table.add_column(place, weight, own).cast(schema))
                done += table.num_rows


def batches(path: Path, columns: list[str], rows: int) -> Iterator["pa.RecordBatch"]:
    """Some columns of a batch, so many rows at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as batch:
        yield from batch.iter_batches(batch_size=rows, columns=columns, use_threads=False)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    def of(name: str, kind: "pa.DataType") -> "pa.Field":
        return pa.field(name, kind, nullable=False)

    return pa.schema(
        [
            of("term", pa.string()),
            ("run", pa.string()),
            ("step", pa.int64()),
            ("group_id", pa.string()),
            ("rollout_id", pa.string()),
            ("parent_id", pa.string()),
            of("reward", pa.float64()),
            of("prompt_length", pa.int32()),
            of("token_ids", pa.list_(pa.int32())),
            of("response_mask", pa.list_(pa.bool_())),
            of("advantages", pa.list_(pa.float64())),
            of("old_logprobs", pa.list_(pa.float64())),
        ]
    )


def _table(rows: list[tuple[About, Training, TokenSequence]], schema: "pa.Schema") -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    lengths = [len(tokens.ids) for _, _, tokens in rows]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    trained = np.concatenate([tokens.trained for _, _, tokens in rows])
    logprobs = np.concatenate([tokens.logprobs for _, _, tokens in rows])
    advantages = np.repeat([training.advantage for _, training, _ in rows], lengths)

    def lists(values: "NDArray[Any]", missing: "NDArray[bool_] | None" = None) -> "pa.ListArray":
        return pa.ListArray.from_arrays(offsets, pa.array(values, mask=missing))

    columns = {
        "term": [training.term for _, training, _ in rows],
        **{name: [getattr(about, name) for about, _, _ in rows] for name in About._fields},
        "reward": [training.reward for _, training, _ in rows],
        "prompt_length": [tokens.n_prompt for _, _, tokens in rows],
        "token_ids": lists(np.concatenate([tokens.ids for _, _, tokens in rows])),
        "response_mask": lists(trained),
        "advantages": lists(advantages, ~trained),
        "old_logprobs": lists(logprobs, ~np.isfinite(logprobs)),
    }
    return pa.table(columns, schema=schema)
