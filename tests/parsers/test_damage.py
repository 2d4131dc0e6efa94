"""Files of every format that are cut off, emptied, changed byte by byte, or a bomb: every row is accounted for."""

import gzip
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import SAMPLE_OF, logs, options

import gapscope as gs
from gapscope.alignment import Aligner
from gapscope.detect import Detected, detect
from gapscope.dialects import DIALECTS
from gapscope.outcomes import ErrorMarkers
from gapscope.sources import describe
from gapscope.store.batch import BatchBuilder

pytestmark = pytest.mark.slow

LOW = gs.Settings(min_groups=1, min_rollouts=1, min_informative=1, min_steps=2)
MOST_MEGABYTES = 400
"""What all examples of one format together may add to the memory of the process."""

edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "delete", "insert", "cut off"]), st.floats(0, 1), st.binary(min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=3,
)
Edits = list[tuple[str, float, bytes]]


def damaged(content: bytes, changes: Edits) -> bytes:
    for what, place, data in changes:
        at = int(place * len(content))
        if what == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ data[0]]) + content[at + 1 :]
        elif what == "delete":
            content = content[:at] + content[at + len(data) ** 3 :]
        elif what == "insert":
            content = content[:at] + data + content[at:]
        else:
            content = content[:at]
    return content


@cache
def main_file(name: str) -> Path:
    """The file of a sample that is damaged, relative to the sample's folder."""
    return Path(logs(name)[0].path).relative_to(SAMPLE_OF[name])


def place(folder: Path, name: str, content: bytes) -> Path:
    """The main file of a sample with this content, and beside it what lies beside it."""
    whole = folder / name
    shutil.copytree(SAMPLE_OF[name], whole)
    path = whole / main_file(name)
    path.write_bytes(content)
    return path


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("name", SAMPLE_OF)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(changes=edits)
def test_of_a_damaged_file_every_row_is_a_rollout_or_a_refusal(name: str, changes: Edits) -> None:
    before = megabytes()
    content = damaged((SAMPLE_OF[name] / main_file(name)).read_bytes(), changes)
    builder = BatchBuilder(Aligner(DIALECTS[0], ErrorMarkers()), keep_texts=True)
    count = 0
    with TemporaryDirectory() as folder, suppress(gs.GapscopeError):
        for record in gs.read(str(place(Path(folder), name, content)), options(name)):
            builder.add(record)
            count += 1
    batch = builder.finish(lines=0, end=None)
    assert batch.rows + len(batch.refused) == count
    assert megabytes() - before < MOST_MEGABYTES


@pytest.mark.parametrize("name", SAMPLE_OF)
def test_of_a_file_that_is_cut_off_every_row_is_accounted_for(name: str, few_metrics: None, tmp_path: Path) -> None:
    whole = (SAMPLE_OF[name] / main_file(name)).read_bytes()
    kept = []
    for number, share in enumerate([1.0, 0.97, 0.5]):
        path = place(tmp_path / str(number), name, whole[: int(share * len(whole))])
        try:
            rows = gs.audit(str(path), settings=LOW, mapping=options(name).mapping).rows
        except gs.InputError:
            kept.append(0)
            continue
        assert rows.read == rows.kept + rows.refused + rows.padding + rows.excluded + rows.duplicate
        kept.append(rows.kept)
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0


@pytest.mark.parametrize("name", SAMPLE_OF)
def test_an_empty_file_of_any_name_is_an_empty_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / main_file(name).name
    path.write_bytes(b"")
    with pytest.raises(gs.NothingScanned, match="an empty file"):
        gs.audit(str(path), settings=LOW)


@pytest.mark.parametrize("name", SAMPLE_OF)
def test_a_file_of_another_format_with_a_similar_name_is_told_by_what_is_in_it(name: str, tmp_path: Path) -> None:
    """verl's rows, under every path that a trainer writes."""
    path = tmp_path / main_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SAMPLE_OF["verl-v1"] / "6.jsonl", path)
    detected = detect(describe(str(path), str(path)))
    assert isinstance(detected, Detected)
    assert detected.parser.name == "verl-v1"


GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
BOMB = """
import resource, sys
import gapscope as gs
try:
    print(gs.audit(sys.argv[1]).rows)
except gs.GapscopeError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def gzipped(start: bytes, filler: bytes, times: int) -> bytes:
    """One member of gzip, of which the filler is compressed once: behind a full flush it is the same each time."""
    packer = zlib.compressobj(wbits=-15)
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    repeated = packer.compress(filler) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = zlib.crc32(start)
    for _ in range(times):
        checksum = zlib.crc32(filler, checksum)
    ending = struct.pack("<II", checksum, (len(start) + times * len(filler)) % 2**32)
    return GZIP_HEADER + first + repeated * times + packer.flush() + ending


def test_what_is_gzipped_in_parts_is_one_log() -> None:
    assert gzip.decompress(gzipped(b"start", b"ab", 3)) == b"startababab"


@pytest.mark.parametrize("start", [b'{"input": "', b"[", b"[[[[", b"PAR1", b"question,answer\n"])
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_it_fills_the_memory(kind: str, start: bytes, tmp_path: Path) -> None:
    """A gigabyte of one character, in a compressed file of a megabyte at most."""
    path = tmp_path / "6.jsonl"
    filler = start[-1:] * 2**20
    if kind == "gzip":
        path.write_bytes(gzipped(start, filler, 1024))
    else:
        with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as stream:
            stream.write(start)
            for _ in range(1024):
                stream.write(filler)
    assert path.stat().st_size < 2**21
    result = subprocess.run(
        [sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True, timeout=100
    )
    said, peak = result.stdout.rsplit("\n", 2)[0], int(result.stdout.split()[-1])
    assert "cannot be audited" in said or "nothing to audit" in said
    assert peak < 700


def test_a_decompressed_member_after_the_first_counts_too(tmp_path: Path) -> None:
    """Appending writers make files of many gzip members."""
    lines = (SAMPLE_OF["verl-v1"] / "6.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "6.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(lines[:16])) + gzip.compress(b"".join(lines[16:])))
    assert gs.audit(str(path), settings=LOW).rows.kept == 32
