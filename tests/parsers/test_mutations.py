"""What parsers make of rows that somebody or something has changed: a rollout or a refusal, for each of them."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import SAMPLE_OF, logs, options

import gapscope as gs
from gapscope.alignment import Aligner
from gapscope.containers import head
from gapscope.dialects import DIALECTS
from gapscope.files import LogFile
from gapscope.outcomes import ErrorMarkers
from gapscope.parsers import parser_named
from gapscope.pieces import place_of
from gapscope.rollouts import Rollout, to_json
from gapscope.rows import Reading, Row
from gapscope.store.batch import BatchBuilder

pytestmark = pytest.mark.slow

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 7, 2**31, 2**63, -(2**70), 10**400])
    | st.sampled_from([0.0, 1.0, -0.5, 1e308])
    | st.sampled_from(
        ["", "a", "0", "True", "nan", "[1]", "assistant", "tool", "<tool_call>", "data:image/png;base64,AA"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)
changes = st.lists(
    st.tuples(st.sampled_from(["replace", "delete", "copy", "empty"]), st.integers(0, 10**6), json_values),
    min_size=1,
    max_size=4,
)
Changes = list[tuple[str, int, Any]]


@cache
def sample(name: str) -> tuple[LogFile, list[Row]]:
    file = logs(name)[0]
    return file, head(file, most=4, query=parser_named(name).query)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container inside a value, with every key or index of it."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else range(min(len(item), 6)) if isinstance(item, list) else ()
        for key in keys:
            yield item, key
            waiting.append(item[key])


def changed(value: dict[str, Any], edits: Changes) -> dict[str, Any]:
    value = deepcopy(value)
    for what, place, new in edits:
        found = list(places(value))
        if not found:
            break
        item, key = found[place % len(found)]
        if what == "replace":
            item[key] = deepcopy(new)
        elif what == "delete":
            del item[key]
        elif what == "copy":
            other, elsewhere = found[(place // 7) % len(found)]
            item[key] = deepcopy(other[elsewhere])
        else:
            item[key] = type(item[key])() if isinstance(item[key], (str, list, dict)) else None
    return value


@pytest.mark.parametrize("name", SAMPLE_OF)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(edits=changes)
def test_a_changed_row_is_read_or_refused(name: str, edits: Changes) -> None:
    file, rows = sample(name)
    parser = parser_named(name)
    place = place_of(file, parser)
    reading = Reading(
        file.path, DIALECTS[0], run=place.run, step=place.step, split=place.split, mapping=options(name).mapping
    )
    damaged = [row._replace(value=changed(row.value, edits)) for row in rows]
    records = list(parser.parse(iter(damaged), reading))
    assert records
    if not parser.whole_file:
        assert len(records) >= len(damaged)
    builder = BatchBuilder(Aligner(DIALECTS[0], ErrorMarkers()), keep_texts=True)
    for record in records:
        builder.add(record)
        if isinstance(record, Rollout):
            ends = [0, *(span.end for span in record.spans)]
            assert [span.start for span in record.spans] == ends[:-1]
            # Whoever writes the interchange form may leave the spans out.
            assert ends[-1] == len(record.output) or not (record.spans or name != "gapscope-rollout")
            assert json.loads(to_json(record))["format"] == record.format
    batch = builder.finish(lines=len(damaged), end=None)
    assert batch.rows + len(batch.refused) == len(records)


NEW = "key_of_a_later_version"


def of_a_later_version(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """A row with one more key: a column among columns, a text among texts, and one in each result of an evaluation."""
    if name == "tunix":
        return {**value, NEW: "new"}
    if name == "rlinf-eval":
        return {**value, "results": [{**result, NEW: "new"} for result in value["results"]]}
    lengths = {len(column) for column in value.values() if isinstance(column, list)}
    columns = all(isinstance(column, list) for column in value.values()) and len(lengths) == 1
    return {**value, NEW: [{"deep": [1, "two"]}] * lengths.pop() if columns else {"deep": [1, "two"]}}


@pytest.mark.parametrize("name", SAMPLE_OF)
def test_keys_of_a_later_version_are_kept(name: str) -> None:
    file, rows = sample(name)
    parser = parser_named(name)
    reading = Reading(file.path, DIALECTS[0], mapping=options(name).mapping)
    later = [row._replace(value=of_a_later_version(name, row.value)) for row in rows]
    records = [record for record in parser.parse(iter(later), reading) if isinstance(record, gs.Rollout)]
    assert records
    assert any(NEW in record.extra for record in records)
