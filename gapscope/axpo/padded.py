"""A training batch padded to one length, in the names, shapes and types that verl or TRL train on: one `.npz` file.

N rows, prompts padded on their left to P tokens and outputs on their right to T, with id 0 where the attention mask is
0. `np.load` reads it without pickle. What the loss counts is the mask of AXPO: tokens of tools, the rest of a selected
source behind its branch point, and the copy of the prefix in a continuation are 0 in it. Tokens outside of it have 0.0
as advantage, and as log-prob where the log has none: both trainers multiply by the mask.

**verl** (0.9): `prompts` (N, P), `responses` (N, T), `input_ids`, `attention_mask`, `position_ids` (N, P + T) and
`response_mask` (N, T) are int64; `old_log_probs`, `advantages`, `returns` (equal to them), `token_level_scores` and
`token_level_rewards` (the reward on the last token) (N, T) and `weight` (N,) are float32; `uid`, what each row was
compared with, `rollout_id`, `parent_id` ("" for none) and `term` (N,) are texts.

    import numpy as np, torch
    from verl import DataProto

    arrays = dict(np.load("batch.npz"))
    texts = {name: array.astype(object) for name, array in arrays.items() if array.dtype.kind == "U"}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name not in texts}
    batch = DataProto.from_dict(tensors=tensors, non_tensors=texts)

The advantages are there already: `compute_advantage` is not to be called. verl's loss is Eq. 6 but for its second bound
on negative advantages (`clip_ratio_c`, by default where the ratio is above 3).

**TRL** (1.16): `prompt_ids`, `prompt_mask` (N, P), `completion_ids`, `completion_mask` (N, T, 1 for all tokens that are
no padding) and `tool_mask` (N, T, the mask of the loss) are int64; `old_per_token_logps` (N, T), `advantages` and
`weight` (N,) float32; `num_items_in_batch` () counts the trained tokens; `group_id`, `rollout_id`, `parent_id` and
`term` (N,) are texts.

    arrays = dict(np.load("batch.npz"))
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind != "U"}
    loss = trainer._compute_loss(model, inputs)

**Weighting.** A trainer sums up tokens by its own setting and reads no `weight`; over a batch taken as a whole

| weighting       | verl `loss_agg_mode`  | TRL `loss_type` |
|-----------------|-----------------------|-----------------|
| `per_term_mean` | `seq-mean-token-mean` | `grpo`          |
| `token_mean`    | `token-mean`          | `dapo`, `bnpo`  |

are the same, if no session has several rows. Any weighting at all, in mini-batches as well, is had by folding it into
the advantages and having the tokens summed up, for the clipped term grows with its advantage:

    batch.batch["advantages"] *= batch.batch["weight"][:, None]                 # verl, loss_agg_mode: token-sum
    inputs["advantages"] = inputs["advantages"] * inputs["weight"]              # TRL, loss_type: dapo
    inputs["num_items_in_batch"] = torch.tensor(1.0)

A KL or an entropy term is not weighed with it.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gapscope.axpo.batch_file import batches

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

PaddedFor = Literal["verl", "trl"]

_CELLS_AT_ONCE = 1_000_000
"""Numbers of an array that are in memory at a time."""


class Shape(NamedTuple):
    """How large a batch is: rows, the longest prompt and the longest output, and the tokens that are trained on."""

    rows: int
    prompt: int
    response: int
    trained: int


class _Rows(NamedTuple):
    """Some rows of a batch, their tokens in one array: `owner` is the row of each, `place` where in the row it is.

    What is made of them is of the type `kind`.
    """

    kind: str
    record: "pa.RecordBatch"
    shape: Shape
    n_prompt: "NDArray[Any]"
    lengths: "NDArray[Any]"
    owner: "NDArray[Any]"
    place: "NDArray[Any]"

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def tokens(self, column: str, missing: float) -> "NDArray[Any]":
        """The values of a list column, flat, with `missing` where there is none."""
        values = self.record.column(column).flatten()
        if values.null_count:
            values = values.fill_null(missing)
        array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return array

    def both(self, column: str) -> "NDArray[Any]":
        """A list column, prompts to the left of column `shape.prompt` and outputs to the right of it."""
        import numpy as np

        padded = np.zeros((self.rows, self.shape.prompt + self.shape.response), dtype=self.kind)
        padded[self.owner, self.place] = self.tokens(column, 0)
        return padded

    def prompt(self, column: str) -> "NDArray[Any]":
        return self.both(column)[:, : self.shape.prompt]

    def response(self, column: str) -> "NDArray[Any]":
        return self.both(column)[:, self.shape.prompt :]

    def attention(self) -> "NDArray[Any]":
        """1 where there is a token."""
        import numpy as np

        mask = np.zeros((self.rows, self.shape.prompt + self.shape.response), dtype=self.kind)
        mask[self.owner, self.place] = 1
        return mask

    def positions(self) -> "NDArray[Any]":
        """How many tokens are before each place, as verl numbers them."""
        import numpy as np

        places: NDArray[Any] = np.maximum(np.cumsum(self.attention(), axis=1) - 1, 0)
        return places

    def last(self, column: str) -> "NDArray[Any]":
        """A value of each row, on the last token of its output, and 0 elsewhere."""
        import numpy as np

        padded = np.zeros((self.rows, self.shape.response), dtype=self.kind)
        padded[np.arange(self.rows), self.lengths - self.n_prompt - 1] = self.record.column(column).to_numpy()
        return padded


class _Array(NamedTuple):
    """An array of the file: the columns that it is made of, its width in columns, and how."""

    name: str
    columns: tuple[str, ...]
    width: Literal["prompt", "response", "both"]
    kind: str
    made: Callable[[_Rows], "NDArray[Any]"]


def _ids(name: str, width: Literal["prompt", "response", "both"]) -> _Array:
    made = {"prompt": _Rows.prompt, "response": _Rows.response, "both": _Rows.both}[width]
    return _Array(name, ("token_ids",), width, "<i8", lambda rows: made(rows, "token_ids"))


def _of_response(name: str, column: str, kind: str) -> _Array:
    return _Array(name, (column,), "response", kind, lambda rows: rows.response(column))


_VERL = (
    _ids("prompts", "prompt"),
    _ids("responses", "response"),
    _ids("input_ids", "both"),
    _Array("attention_mask", (), "both", "<i8", _Rows.attention),
    _Array("position_ids", (), "both", "<i8", _Rows.positions),
    _of_response("response_mask", "response_mask", "<i8"),
    _of_response("old_log_probs", "old_logprobs", "<f4"),
    _of_response("advantages", "advantages", "<f4"),
    _of_response("returns", "advantages", "<f4"),
    _Array("token_level_scores", ("reward",), "response", "<f4", lambda rows: rows.last("reward")),
    _Array("token_level_rewards", ("reward",), "response", "<f4", lambda rows: rows.last("reward")),
)
_TRL = (
    _ids("prompt_ids", "prompt"),
    _Array("prompt_mask", (), "prompt", "<i8", lambda rows: rows.attention()[:, : rows.shape.prompt]),
    _ids("completion_ids", "response"),
    _Array("completion_mask", (), "response", "<i8", lambda rows: rows.attention()[:, rows.shape.prompt :]),
    _of_response("tool_mask", "response_mask", "<i8"),
    _of_response("old_per_token_logps", "old_logprobs", "<f4"),
)


def write_padded(
    source: Path, target: Path, to: PaddedFor, shape: Shape, flat: "Iterable[tuple[float, float]]"
) -> None:
    """Write a batch, which is there as Parquet, as that trainer's arrays; `flat` are advantage and weight of each row.

    Each array is made by reading its columns again, so that no whole one is ever in memory.
    """
    import numpy as np

    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for array in _VERL if to == "verl" else _TRL:
            width = {"prompt": shape.prompt, "response": shape.response}.get(array.width, shape.prompt + shape.response)
            _write(archive, array.name, np.dtype(array.kind), (shape.rows, width), _parts(source, array, shape))
        advantages, weights = np.array(list(flat), dtype=np.float32).reshape(-1, 2).T
        small: dict[str, NDArray[Any]] = {"weight": weights}
        if to == "trl":
            small |= {"advantages": advantages, "num_items_in_batch": np.array(shape.trained, dtype=np.int64)}
        names = {name: name for name in ("rollout_id", "parent_id", "term")}
        names |= {"uid" if to == "verl" else "group_id": "group_id"}
        small |= {name: np.array(list(_texts(source, column)), dtype=np.str_) for name, column in names.items()}
        for name, values in small.items():
            _write(archive, name, values.dtype, values.shape, [np.ascontiguousarray(values)])


def _texts(source: Path, column: str) -> Iterator[str]:
    for record in batches(source, [column], 8192):
        yield from (text or "" for text in record.column(column).to_pylist())


def _parts(source: Path, array: _Array, shape: Shape) -> Iterator["NDArray[Any]"]:
    """An array, some rows at a time."""
    import numpy as np

    at_once = max(1, _CELLS_AT_ONCE // (shape.prompt + shape.response))
    # The mask takes the least room of the columns that say how long a row is.
    columns = list(dict.fromkeys(("prompt_length", "response_mask", *array.columns)))
    for record in batches(source, columns, at_once):
        lengths = record.column("response_mask").value_lengths().to_numpy()
        n_prompt = record.column("prompt_length").to_numpy()
        owner = np.repeat(np.arange(len(lengths)), lengths)
        starts = np.cumsum(lengths) - lengths
        place = np.arange(len(owner)) - np.repeat(starts + n_prompt, lengths) + shape.prompt
        made = array.made(_Rows(array.kind, record, shape, n_prompt, lengths, owner, place))
        yield np.ascontiguousarray(made, dtype=np.dtype(array.kind))


def _write(
    archive: zipfile.ZipFile, name: str, kind: "np.dtype[Any]", shape: Sequence[int], parts: Iterable["NDArray[Any]"]
) -> None:
    from numpy.lib import format as npy

    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": tuple(shape)}
        npy.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(part.data.cast("B") if part.size else b"")
