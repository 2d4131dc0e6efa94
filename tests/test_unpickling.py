"""Pickles are read as data: what they hold comes out, what they ask for is not done, and all of it is bounded."""

import collections
import datetime as dt
import enum
import io
import os
import pickle
import random
import resource
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gapscope.errors import InputError
from gapscope.unpickling import Array, Blob, Foreign, PickleRefused, pickled_rows, rows, saved_tensor

TENSORS = Path(__file__).parent / "unpickling" / "tensors.pt"  # written by torch 2.13.0 and numpy 2.4.6
CANARY = "/tmp/gapscope-canary"
PROTOCOLS = range(6)


def read(content: bytes, limit: int | None = None) -> list[dict[str, Any]]:
    return list(rows(io.BytesIO(content), limit=limit))


def value(content: bytes) -> Any:
    """The value of the key `v` of a pickle that holds nothing else."""
    (row,) = read(content)
    return row["v"]


def refused(content: bytes) -> str:
    with pytest.raises(PickleRefused) as caught:
        read(content)
    return caught.value.message


def text(content: str) -> bytes:
    raw = content.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def under_v(opcodes: bytes, protocol: int = 4) -> bytes:
    """A pickle of `{"v": …}`, the value given by opcodes."""
    return bytes([0x80, protocol]) + b"}" + text("v") + opcodes + b"s."


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    """Every hostile sample would leave a file behind; none may be there afterwards."""
    assert not os.path.exists(CANARY)
    yield
    assert not os.path.exists(CANARY)


# Data comes out as it went in


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_items_of_a_list_in_a_dictionary_come_one_by_one_with_the_scalars_before_it(protocol: int) -> None:
    samples = [{"index": 0, "tokens": [1, 300, 70_000, -1]}, {"index": 1, "status": "ok"}, {}]
    whole = {"rollout_id": 5, "metadata": {}, "samples": samples, "after": 1}
    assert read(pickle.dumps(whole, protocol)) == [{"rollout_id": 5, "samples": [sample]} for sample in samples]
    assert read(pickle.dumps({"samples": samples}, protocol)) == [{"samples": [sample]} for sample in samples]
    assert read(pickle.dumps({"samples": samples[:1]}, protocol)) == [{"samples": samples[:1]}]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_list_of_dictionaries_gives_them_one_by_one(protocol: int) -> None:
    items = [{"a": 1}, {"a": [{"b": 2}]}, {"a": {}}]
    assert read(pickle.dumps(items, protocol)) == items
    assert read(pickle.dumps(items, protocol), limit=2) == items[:2]
    assert read(pickle.dumps(items[:1], protocol)) == items[:1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_dictionary_that_is_about_no_list_is_one_row(protocol: int) -> None:
    whole = {"samples": [], "columns": {"a": [1, 2], "b": ["x", "y"]}, "nested": {"only": [{"a": 1}]}, "n": None}
    assert read(pickle.dumps(whole, protocol)) == [whole]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_items_than_one_batch_of_the_pickler_come_in_order(protocol: int) -> None:
    samples = [{"i": i, "shared": "x" * 10, "one": {"key": i}} for i in range(2501)]
    assert [row["samples"][0] for row in read(pickle.dumps({"samples": samples}, protocol))] == samples


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_several_pickles_in_one_file_follow_one_another(protocol: int) -> None:
    records = [{"step": 1}, {"step": 2, "samples": [{"a": 1}, {"a": 2}]}]
    content = b"".join(pickle.dumps(record, protocol) for record in records)
    assert read(content) == [{"step": 1}, {"step": 2, "samples": [{"a": 1}]}, {"step": 2, "samples": [{"a": 2}]}]


class Status(enum.Enum):
    DONE = "completed"


class Point(NamedTuple):
    x: int
    y: str


class Plain:
    def __init__(self) -> None:
        self.a = 1


class Listing(list[int]):
    pass


class Mapping(dict[str, int]):
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_json_does_not_know_becomes_plain_data_or_a_record(protocol: int) -> None:
    def read_back(content: Any) -> Any:
        return value(pickle.dumps({"v": content}, protocol))

    assert read_back((1, (2, 3, 4, 5), ())) == [1, [2, 3, 4, 5], []]
    assert read_back({3}) == [3]
    assert read_back(frozenset({"a"})) == ["a"]
    assert read_back(collections.OrderedDict(a=1, b=2)) == {"a": 1, "b": 2}
    assert read_back(collections.defaultdict(list, a=[1])) == {"a": [1]}
    assert read_back(collections.Counter("aa")) == {"a": 2}
    assert read_back(collections.deque([1, 2])) == [1, 2]
    assert read_back(b"\x00\xff") == b"\x00\xff"
    assert read_back(bytearray(b"\x00\xff")) == b"\x00\xff"
    assert read_back(b"") == b""
    assert read_back({2: "a", None: "b", True: "c", 0.5: "d", ("e", 1): "f"}) == {
        "2": "a",
        "true": "c",
        "null": "b",
        "0.5": "d",
        "('e', 1)": "f",
    }
    assert read_back([2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**5000]) == [2**63 - 1, -(2**63), None, None, None]
    done = read_back(Status.DONE)
    assert (done.name.rpartition(".")[2], done.value) == ("Status", "completed")
    assert read_back({Status.DONE: 1}) == {"completed": 1}
    plain = read_back(Plain())
    assert (plain.name.rpartition(".")[2], plain.state, plain.value) == ("Plain", {"a": 1}, None)
    if protocol > 1:
        assert read_back(Point(1, "b")).arguments == [1, "b"]
    assert read_back(dt.date(2026, 8, 1)).name == "datetime.date"
    assert (read_back(os.system).name, read_back(os.system).arguments) == ("posix.system", None)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_items_of_subclasses_of_list_and_dict_stay_beside_their_class(protocol: int) -> None:
    listing = value(pickle.dumps({"v": Listing([1, 2, 3])}, protocol))
    mapping = value(pickle.dumps({"v": Mapping(a=1, b=2)}, protocol))
    assert (listing.items, listing.entries) == ([1, 2, 3], None)
    assert (mapping.items, mapping.entries) == (None, {"a": 1, "b": 2})


def test_text_that_cannot_be_written_again_is_replaced() -> None:
    for protocol in PROTOCOLS:
        (row,) = read(pickle.dumps({"v": "a\ud83d", "w": "line\n\\u0041é😀\x1a\0"}, protocol))
        row["v"].encode()
        assert row["v"].startswith("a")
        assert row["w"] == "line\n\\u0041é😀\x1a\0"


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.lists(st.integers(0, 2**17), max_size=30),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
    max_leaves=30,
)


@given(st.dictionaries(st.text(max_size=8), plain, max_size=5), st.sampled_from(PROTOCOLS))
@settings(max_examples=150, deadline=None)
def test_any_plain_sample_is_read_as_it_is(sample: dict[str, Any], protocol: int) -> None:
    found = read(pickle.dumps({"rollout_id": 1, "samples": [sample, sample, {**sample, "n": 1}]}, protocol))
    assert [row["samples"][0] for row in found] == [sample, sample, {**sample, "n": 1}]
    assert read(pickle.dumps({"v": [1, sample]}, protocol)) == [{"v": [1, sample]}]


def test_numbers_are_read_across_the_chunks_of_the_file() -> None:
    mixed = [random.Random(1).choice([7, 300, 70_000, -5, 0.25, None, True, 2**40]) for _ in range(9)]
    numbers = [mixed[i % 9] for i in range(700_000)]
    for protocol in (2, 4):
        assert value(pickle.dumps({"v": numbers}, protocol)) == numbers
    long_text = "ü" * 1_500_000
    assert value(pickle.dumps({"v": ["a", long_text, 1]}, 4)) == ["a", long_text, 1]


def test_samples_share_values_through_the_memo_long_after_they_were_written() -> None:
    prompts = [f"prompt {i} " * 20 for i in range(40)]
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    samples = [
        {"index": i, "prompt": prompts[i // 20], "messages": messages[i // 20], "text": f"own {i} jjjj"}
        for i in range(800)
    ]
    samples.append({"prompt": prompts[0], "messages": messages[1]})
    for protocol in PROTOCOLS:
        assert [row["samples"][0] for row in read(pickle.dumps({"samples": samples}, protocol))] == samples


# PyTorch and numpy


def test_a_file_of_torch_is_read_without_torch() -> None:
    ((number, row),) = pickled_rows(str(TENSORS))
    assert number == 1
    listed = {key: item.tolist() if isinstance(item, Array) else item for key, item in row.items()}
    cube = np.arange(24.0).reshape(2, 3, 4)
    assert listed["float32"] == cube.tolist()
    assert listed["transposed"] == cube.transpose(2, 0, 1).tolist()
    assert listed["tail"] == cube[1, 1:, ::2].tolist()
    assert listed["expanded"] == [[1.5] * 3] * 2
    assert listed["bfloat16"] == [1.0, -2.5, 3.140625]
    assert listed["float16"] == [0.5]
    assert listed["int64"] == [[2**40, -1]]
    assert (listed["int32"], listed["uint8"], listed["uint16"]) == ([7], [255], [65535])
    assert listed["bool"] == [True, False, True]
    assert (listed["empty"], listed["scalar"], listed["parameter"]) == ([], 2.5, [1.0, 2.0])
    assert listed["numpy"] == [[0, 1, 2], [3, 4, 5]]
    assert listed["fortran"] == [[0, 1, 2], [3, 4, 5]]
    assert (listed["numpy_float"], listed["numpy_bool"]) == (0.5, True)
    assert (listed["objects"], listed["words"]) == (["a", {"b": 1}], ["ab", "c"])
    assert row["status"].value == "completed"
    assert (row["size"], row["set"], row["bytes"], row["ordered"]) == ([2, 3], [3], b"\x00\xff", {"a": 1})
    assert row["image"].picture().sha256 == "3ba35ee83f218013f8b83f08ae2c06c9d8e05a198d271c57c9e9a1771b44a211"
    assert row["status"].picture() is None


def test_a_row_of_an_array_is_found_without_reading_the_rest() -> None:
    ((_, row),) = pickled_rows(str(TENSORS))
    assert row["transposed"].row(1).tolist() == [[1.0, 5.0, 9.0], [13.0, 17.0, 21.0]]
    assert row["float32"].row(1).row(2).row(3).tolist() == 23.0
    assert row["objects"].row(1).tolist() == {"b": 1}
    assert len(row["transposed"]) == 4
    with pytest.raises(IndexError, match="row 4 of an array of 4 rows"):
        row["transposed"].row(4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", ["?", "<i2", ">i4", "<u8", "<f2", ">f8", "<U3"])
def test_arrays_of_numpy_are_read(protocol: int, code: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(code)
    read_back = value(pickle.dumps({"v": [array, array.T, array[:, 1:], array[0, 1]]}, protocol))
    assert read_back[0].tolist() == array.tolist()
    assert read_back[1].tolist() == array.T.tolist()
    assert read_back[2].tolist() == array[:, 1:].tolist()
    assert read_back[3] == array[0, 1].item()


def test_arrays_of_other_types_say_so_when_they_are_listed() -> None:
    array = value(pickle.dumps({"v": np.array(["2026-01-01"], dtype="M8[D]")}, 4))
    with pytest.raises(PickleRefused, match="an array of M8 cannot be read"):
        array.tolist()


def test_long_bytes_stay_in_their_file_until_they_are_read(tmp_path: Path) -> None:
    content = os.urandom(200_000)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"v": content, "array": np.arange(100_000), "w": 1}, 4))
    ((_, row),) = pickled_rows(str(path))
    assert isinstance(row["v"], Blob)
    assert row["v"].read() == content
    assert row["v"].read(10, 5) == content[10:15]
    assert row["array"].row(99_999).tolist() == 99_999
    assert row["w"] == 1
    path.write_bytes(b"")
    with pytest.raises(PickleRefused, match="has become shorter"):
        row["v"].read()
    path.unlink()
    with pytest.raises(PickleRefused, match="cannot be read any more"):
        row["array"].tolist()


class TrainingInputBatch(dict[str, Any]):
    """As SkyRL's class is pickled: by a function of its module and the state."""

    def __reduce__(self) -> Any:
        return _rebuild_tensor_batch, (type(self), {"batch_dict": dict(self), "batch_size": 2, "metadata": {"a": 1}})


def _rebuild_tensor_batch(kind: type, state: dict[str, Any]) -> None:
    open(CANARY, "w").close()


def payload(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"format": "numpy", "data": array.tobytes(), "shape": array.shape, "dtype": str(array.dtype)}


def test_a_batch_of_skyrl_is_one_row_of_arrays() -> None:
    sequences = np.arange(8).reshape(2, 4)
    bf16 = TENSORS.read_bytes()
    batch = TrainingInputBatch(
        sequences=payload(sequences),
        pixel_values={"format": "tensor_list", "items": [payload(np.ones((1, 2), dtype="f4"))]},
        logprobs={"format": "torch", "data": bf16},
        values=None,
    )
    (row,) = read(pickle.dumps(batch, 4))
    columns = row["batch_dict"]
    assert (row["batch_size"], row["metadata"]) == (2, {"a": 1})
    assert columns["sequences"].row(1).tolist() == [4, 5, 6, 7]
    assert columns["pixel_values"][0].tolist() == [[1.0, 1.0]]
    assert columns["values"] is None
    assert columns["logprobs"] == {"format": "torch", "data": bf16}
    assert saved_tensor(bf16) is None
    tensor = saved_tensor(TENSORS.with_name("bfloat16.pt").read_bytes())
    assert tensor is not None
    assert tensor.tolist() == [[1.0, -2.5], [0.5, 3.0], [0.0, 0.0]]


# Nothing is executed

SYSTEM = b"cposix\nsystem\n"
TOUCH = text(f"touch {CANARY}")

HOSTILE = {
    "reduce": SYSTEM + TOUCH + b"\x85R",
    "reduce with a named module": text("os") + text("system") + b"\x93" + TOUCH + b"\x85R",
    "a dotted name": text("os") + text("path.os.system") + b"\x93" + TOUCH + b"\x85R",
    "eval": b"cbuiltins\neval\n" + text(f"open({CANARY!r}, 'w')") + b"\x85R",
    "eval by its old name": b"c__builtin__\neval\n" + text(f"open({CANARY!r}, 'w')") + b"\x85R",
    "inst": b"(" + TOUCH + b"iposix\nsystem\n",
    "obj": b"(" + SYSTEM + TOUCH + b"o",
    "newobj": SYSTEM + TOUCH + b"\x85\x81",
    "newobj_ex": SYSTEM + TOUCH + b"\x85}\x92",
    "getattr": b"cbuiltins\ngetattr\n" + b"cos\nos\n" + text("system") + b"\x86R" + TOUCH + b"\x85R",
    "reconstructor": b"ccopyreg\n_reconstructor\n" + SYSTEM + b"c__builtin__\nobject\nN\x87R",
    "state of an instance": b"cposix\nDirEntry\n)\x81}" + text("__setstate__") + SYSTEM + b"sb",
    "state of a callable": SYSTEM + TOUCH + b"b",
    "a subclass of a list": SYSTEM + b")\x81(" + TOUCH + b"e",
    "a default factory": b"ccollections\ndefaultdict\n" + SYSTEM + b"\x85R",
    "numpy of another class": b"cnumpy.core.multiarray\n_reconstruct\n" + SYSTEM + b"K\x00\x85C\x01b\x87R",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_calls_of_foreign_code_become_records(name: str) -> None:
    found = value(under_v(HOSTILE[name]))
    assert isinstance(found, Foreign) or found == {}


def test_the_canary_would_have_seen_it() -> None:
    pickle.loads(under_v(HOSTILE["reduce"]))
    assert os.path.exists(CANARY)
    os.unlink(CANARY)


def test_an_object_that_defines_its_own_reduction_is_a_record() -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {CANARY}",)

    for protocol in PROTOCOLS:
        found = value(pickle.dumps({"v": Bad()}, protocol))
        assert (found.name.endswith(".system"), found.arguments) == (True, [f"touch {CANARY}"])


def test_no_module_is_imported() -> None:
    before = set(sys.modules)
    value(under_v(b"cantigravity\nfly\n" + b"cthis\ns\n" + b"\x86"))
    assert set(sys.modules) == before


# What is refused

REFUSED: dict[str, tuple[bytes, str]] = {
    "extension registry": (under_v(b"\x82\x01"), "opcode 0x82"),
    "persistent id as text": (under_v(b"P1\n"), "opcode 0x50"),
    "persistent id outside of torch": (under_v(text("1") + b"Q"), "a persistent id outside"),
    "out-of-band buffer": (under_v(b"\x97", 5), "opcode 0x97"),
    "pop": (under_v(b"NN0"), "opcode 0x30"),
    "dup": (under_v(b"N2"), "opcode 0x32"),
    "protocol": (b"\x80\x09N.", "pickle protocol 9"),
    "no opcode": (under_v(b"\xff"), "opcode 0xff"),
    "huge text": (under_v(b"\x8d" + struct.pack("<Q", 2**62)), "4,611,686,018,427,387,904 bytes are needed"),
    "huge bytes": (under_v(b"\x8e" + struct.pack("<Q", 2**40)), "bytes are needed"),
    "huge bytearray": (under_v(b"\x96" + struct.pack("<Q", 2**40), 5), "bytes are needed"),
    "huge integer": (under_v(b"\x8b" + struct.pack("<I", 2**31)), "bytes are needed"),
    "frame that lies": (
        b"\x80\x04\x95" + struct.pack("<Q", 10**9) + b"N.",
        "a frame reaches 999,999,998 bytes beyond the end",
    ),
    "list in itself": (under_v(b"]\x94h\x00a"), "used twice is changed, or contains itself"),
    "dictionary in itself": (b"\x80\x04}\x94" + text("v") + b"h\x00s.", "contains itself"),
    "lists in each other": (under_v(b"]\x94]\x94h\x00ah\x01h\x00h\x01aa"), "contains itself"),
    "object in itself": (under_v(b"cos\nA\n)\x81\x94h\x00b"), "contains itself"),
    "change of a part": (under_v(b"]\x94\x85h\x00K\x01a\x86"), "used twice is changed"),
    "memo slot": (under_v(b"h\x07"), "memo slot 7 is empty"),
    "far memo slot": (under_v(b"j\xff\xff\xff\x7f"), "memo slot 2147483647 is empty"),
    "odd pairs": (under_v(b"}(" + text("k") + b"u"), "does not fit"),
    "key that is a list of lists": (under_v(b"}]]aK\x01s"), "a key of type list"),
    "items of a number": (under_v(b"K\x01(NNe"), "items are added to int"),
    "keys of a list": (under_v(b"]" + text("k") + b"Ns"), "keys are set on list"),
    "state of a number": (under_v(b"K\x01Nb"), "a state of int"),
    "call of a number": (under_v(b"K\x01)R"), "a call of int"),
    "call without a tuple": (under_v(b"cos\nA\nNR"), "a call of Foreign"),
    "name that is no text": (under_v(b"K\x01K\x02\x93"), "a name that is no text"),
    "long name": (under_v(b"c" + b"a" * 2000 + b"\nb\n"), "a line is longer than 1,024 bytes"),
    "value below the mark": (under_v(b"K\x01(\x85"), "a value is missing"),
    "nothing there": (b"\x80\x04e.", "does not fit"),
    "two values": (b"\x80\x04}}.", "ends with 2 values"),
    "open mark": (b"\x80\x04}(.", "ends with 1 values"),
    "number": (b"\x80\x04K\x01.", "holds a int, and no rows"),
    "list of text": (pickle.dumps(["a"]), "holds a list, and no rows"),
    "text": (b'{"a": 1}\n', "opcode 0x7b"),
    "nothing": (b"", "the file is empty"),
    "rubbish behind": (pickle.dumps({"a": 1}) + b"\0\0", "opcode 0x00"),
    "torch before 1.6": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "before version 1.6"),
    "shape without bytes": (
        under_v(
            b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
            b"(K\x01J\x00\x00\x00\x7f\x85cnumpy\ndtype\n" + text("f8") + b"\x89\x88\x87R\x89C\x04abcdtb"
        ),
        "does not lie within its 4 bytes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_pickle_of_data_holds_is_refused(name: str) -> None:
    content, reason = REFUSED[name]
    assert reason in refused(content)


def test_every_cut_of_a_file_is_refused_after_what_was_whole() -> None:
    samples = [{"i": i, "text": "abc", "n": [1, 300, 70_000, 0.5]} for i in range(3)]
    for protocol in (0, 2, 4):
        content = pickle.dumps({"samples": samples}, protocol)
        seen = set()
        for end in range(1, len(content)):
            found = []
            with pytest.raises(PickleRefused):
                found.extend(rows(io.BytesIO(content[:end])))
            seen.add(len(found))
            assert found == [] or found[0] == {"samples": samples[:1]}
        stream = rows(io.BytesIO(content[:-1]))
        assert next(stream)["samples"] == samples[:1]


def test_deep_nesting_is_refused_however_it_is_written() -> None:
    deep: dict[str, bytes] = {
        "tuples": b"N" + b"\x85" * 100_000,
        "marks": b"(" * 1_000_000 + b"t" * 100_000,
        "lists": b"]" * 100_000 + b"a" * 99_999,
        "dictionaries": (b"}" + text("k")) * 100_000 + b"N" + b"s" * 100_000,
        "states": b"cos\nA\n" * 100_000 + b"b" * 99_999,
        "a key": b"}N" + b"\x85" * 100_000 + b"Ns",
        "a shape": b"cnumpy\nndarray\n" + b"N" + b"\x85" * 100_000 + b"\x86",
    }
    for name, opcodes in deep.items():
        message = refused(under_v(opcodes))
        assert "nested more than" in message or "a key of type list" in message, name


def test_a_bomb_of_shared_lists_is_refused_at_once() -> None:
    laughs = b"]\x94(" + b"N" * 100 + b"e"
    for level in range(40):
        laughs += b"]\x94(" + bytes([ord("h"), level]) * 50 + b"e"
    assert "out of proportion" in refused(under_v(b"(" + laughs + b"l"))
    nested = b")\x94" + b"".join(bytes([ord("h"), level, ord("h"), level]) + b"\x86\x94" for level in range(60))
    assert "out of proportion" in refused(under_v(b"(" + nested + b"l"))


def test_the_time_grows_with_the_size_alone() -> None:
    keys = b"K\x01N" + b"".join(text(str(n)) + b"](}e" for n in range(60_000))
    assert len(read(b"\x80\x04}(" + keys + b"u.")[0]) == 60_000
    line = b"V" + b"a" * 20_000_000 + b"\n"
    assert len(read(b"(dVv\n" + line + b"s.")[0]["v"]) == 20_000_000


def test_a_bomb_of_shared_text_is_refused() -> None:
    long_text = b"(X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"\x94"
    assert "out of proportion" in refused(under_v(long_text + b"h\x00" * 400_000 + b"l"))
    encode = text("latin1") + b"\x94c_codecs\nencode\n\x94"
    copies = long_text + encode + b"h\x02h\x00h\x01\x86R" * 1000
    assert "out of proportion" in refused(under_v(copies + b"l"))
    sets = b"(](" + b"N" * 100_000 + b"e\x94c__builtin__\nset\n\x94" + b"h\x01h\x00\x85R" * 1000
    assert "out of proportion" in refused(under_v(sets + b"l"))
    keys = b"(](" + (text("a" * 30)) * 8 + b"e\x94}(" + b"h\x00N" * 1000 + b"ul"
    assert len(read(under_v(keys))) == 1


def test_an_array_is_measured_before_it_is_listed() -> None:
    (row,) = read(tensor_file(shape=(2**20, 2**20), strides=(0, 0)))
    with pytest.raises(PickleRefused, match="too large to be listed"):
        row["v"].tolist()
    assert row["v"].row(5).row(7).tolist() == 1.5
    assert read(tensor_file(shape=(0, 2**40), strides=(1, 1)))[0]["v"].shape == (0, 2**40)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((3,), (1,), 0),
        ((1,), (1,), 2),
        ((2,), (2,), 0),
        ((1,), (1,), -1),
        ((2, 2), (1,), 0),
        ((-1,), (1,), 0),
        ((2**60,), (0,), 0),
        ((True,), (1,), 0),
        ((1,) * 40, (1,) * 40, 0),
        ((2,), (-1,), 1),
    ],
)
def test_a_tensor_outside_of_its_bytes_is_refused(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    message = refused(tensor_file(shape=shape, strides=strides, offset=offset))
    assert "does not lie within its 8 bytes" in message or "a shape that is none" in message


def tensor_file(
    *, shape: tuple[int, ...] = (2,), strides: tuple[int, ...] = (1,), offset: int = 0, count: int = 2, **members: bytes
) -> bytes:
    """A file of torch with a tensor of two floats, built by hand."""

    def numbers(*values: int) -> bytes:
        return pickle.dumps(tuple(values), 2)[2:-1].replace(b"q\x00", b"")

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + numbers(count)[:-1] + b"tQ"
    arguments = storage + numbers(offset)[:-1] + numbers(*shape) + numbers(*strides) + b"\x89N"
    content = under_v(b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR", 2)
    data = struct.pack("<2f", 1.5, 2.5)
    return zipped({"a/data.pkl": content, "a/byteorder": b"little", "a/data/0": data} | members)


def test_a_tensor_built_by_hand_is_read() -> None:
    assert read(tensor_file())[0]["v"].tolist() == [1.5, 2.5]
    assert read(tensor_file(shape=(1,), offset=1))[0]["v"].tolist() == [2.5]
    assert read(tensor_file(**{"a/byteorder": b"big", "a/data/0": struct.pack(">2f", 1.5, 2.5)}))[0]["v"].tolist() == [
        1.5,
        2.5,
    ]


# The zip


def overlapping() -> bytes:
    content = bytearray(zipped({"a/data.pkl": b"N.", "a/data/0": b"x" * 100, "a/data/1": b"y" * 100}))
    entries = [i for i in range(len(content)) if content.startswith(b"PK\x01\x02", i)]
    content[entries[2] + 42 : entries[2] + 46] = content[entries[1] + 42 : entries[1] + 46]
    return bytes(content)


def with_directory(*, start: int | None = None, size: int | None = None) -> bytes:
    content = bytearray(tensor_file())
    at = content.rfind(b"PK\x05\x06")
    if size is not None:
        content[at + 12 : at + 16] = struct.pack("<I", size)
    if start is not None:
        content[at + 16 : at + 20] = struct.pack("<I", start)
    return bytes(content)


ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut off": (lambda: tensor_file()[:-40], "the zip has no directory"),
    "no pickle": (lambda: zipped({"a/other": b""}), "holds no `data.pkl`"),
    "two pickles": (lambda: zipped({"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "holds 2 `data.pkl`"),
    "no zip": (lambda: b"PK\x03\x04 and nothing else", "the zip has no directory"),
    "path upwards": (lambda: zipped({"../data.pkl": b"N.", "a/../../data.pkl": b"N."}), "holds a NoneType"),
    "absolute path": (lambda: zipped({"/data.pkl": b"N."}), "holds no `data.pkl`"),
    "compressed": (
        lambda: zipped({"a/data.pkl": b"N" * 10**7}, zipfile.ZIP_DEFLATED),
        "is compressed or encrypted, which torch.save does not do",
    ),
    "short storage": (lambda: tensor_file(count=3), "does not lie within"),
    "negative count": (lambda: tensor_file(count=-1), "does not lie within"),
    "overlap": (overlapping, "the members of the zip overlap"),
    "directory beyond": (lambda: with_directory(size=2**31), "the directory of the zip is damaged"),
    "directory elsewhere": (lambda: with_directory(start=1), "the directory of the zip is damaged"),
    "member beyond": (
        lambda: tensor_file().replace(b"\x08\0\0\0\x08\0\0\0", b"\xff\xff\0\0\xff\xff\0\0"),
        "reaches beyond",
    ),
}


@pytest.mark.parametrize("name", ZIPS)
def test_a_zip_that_torch_did_not_write_is_refused(name: str) -> None:
    make, reason = ZIPS[name]
    assert reason in refused(make())


def test_a_zip_beyond_four_gigabytes_is_found_through_its_64_bit_fields() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open("a/data.pkl", "w", force_zip64=True) as member:
        member.write(pickle.dumps({"v": 1}))
    assert read(stream.getvalue()) == [{"v": 1}]


def test_the_message_names_the_file_and_what_could_be_read_is_given_first(tmp_path: Path) -> None:
    path = tmp_path / "3.pt"
    path.write_bytes(pickle.dumps({"samples": [{"a": 1}, {"a": 2}]})[:-2])
    stream = pickled_rows(str(path))
    assert next(stream) == (1, {"samples": [{"a": 1}]})
    with pytest.raises(InputError, match=r"3\.pt: the pickle is cut off"):
        list(stream)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        list(pickled_rows(str(tmp_path / "none.pt")))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        list(pickled_rows(str(tmp_path)))


# Bounds

SEEDS = [
    pickle.dumps(
        {"rollout_id": 1, "samples": [{"t": [1, 300, 0.5], "p": "ab", "m": {"k": (1, 2, 3, 4)}}] * 2}, protocol
    )
    for protocol in PROTOCOLS
] + [
    TENSORS.read_bytes(),
    pickle.dumps([np.arange(5), Status.DONE, {"a"}, b"x", Plain(), collections.OrderedDict(a=1)], 4),
    pickle.dumps(TrainingInputBatch(a=payload(np.arange(4))), 4),
    tensor_file(),
]


def survives(content: bytes) -> None:
    """Read everything there is; the only error is ours."""
    try:
        for row in rows(io.BytesIO(content)):
            listed(row)
    except PickleRefused:
        pass


def listed(item: Any) -> None:
    if isinstance(item, Array):
        try:
            if len(item) < 1000:
                item.tolist()
        except PickleRefused:
            pass
    elif isinstance(item, Foreign):
        item.picture()
        listed([item.arguments, item.state, item.items, item.entries])
    elif isinstance(item, dict):
        listed(list(item.values()))
    elif isinstance(item, list):
        for part in item:
            listed(part)


@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=3)), max_size=6), st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutations_of_real_pickles_never_raise_anything_else(
    seed: bytes, changes: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    content = bytearray(seed)
    for place, new in changes:
        at = place % len(content)
        content[at : at + data.draw(st.integers(0, 3))] = new
        if not content:
            content = bytearray(b"N")
    survives(bytes(content[: data.draw(st.integers(1, len(content)))]) if data.draw(st.booleans()) else bytes(content))


@given(
    st.lists(
        st.sampled_from(
            list(b"()]}\x8f.abdeghijlopqrstu\x80\x81\x85\x86\x87\x88\x90\x91\x92\x93\x94\x95NKMJGFIXVCBcRQ\0\1ab\n")
        ),
        max_size=60,
    )
)
@settings(max_examples=400, deadline=None)
def test_any_opcodes_never_raise_anything_else(codes: list[int]) -> None:
    survives(bytes(codes) + b".")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    peaks = []
    for count in (600, 2400):
        path = tmp_path / f"{count}.pt"
        made = [
            {
                "prompt": f"{i // 8}" * 50,
                "tokens": list(range(3000, 4000)),
                "response": f"{i}" * 2000,
                "n": [[0.5] * 50],
            }
            for i in range(count)
        ]
        path.write_bytes(pickle.dumps({"samples": made}, 2))
        del made
        tracemalloc.start()
        assert sum(len(row["samples"][0]["tokens"]) for _, row in pickled_rows(str(path))) == 1000 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20


def test_hostile_lengths_allocate_nothing() -> None:
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**33, limit[1]))
    try:
        for code in (b"\x8d", b"\x8e", b"\x96"):
            refused(under_v(code + struct.pack("<Q", 2**39), 5))
        for code in (b"X", b"B", b"\x8b"):
            refused(under_v(code + struct.pack("<I", 2**31 - 1)))
        assert value(under_v(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff\x86")) == [None, None]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
