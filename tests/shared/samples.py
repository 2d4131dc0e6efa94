"""The samples of all formats, and how each is read."""

import os
from pathlib import Path

import gapscope as gs
from gapscope.files import LogFile
from gapscope.parsers import PARSERS
from gapscope.planning import ReadOptions, recognise_files
from gapscope.sources import find

SAMPLES = Path(__file__).parent.parent.parent / "sample_logs"
SAMPLE_OF = {parser.name: SAMPLES / parser.name for parser in PARSERS}
MAPPING = {"response": "choice.text", "prompt": "question", "reward": "$.scores.total", "group": "meta['qid']"}


def options(name: str) -> ReadOptions:
    """How a sample is read: what is read by a mapping needs one."""
    return ReadOptions(mapping=MAPPING) if name == "mapped" else ReadOptions()


def logs(name: str) -> list[LogFile]:
    """The files of a sample that hold its rollouts, and not what lies beside them."""
    files = find([str(SAMPLE_OF[name])])[0]
    planned, _ = recognise_files(files, options(name), explicit=set())
    return [file for file, _ in planned]


def rollouts(name: str) -> list[gs.Rollout]:
    """The records of a sample, with places relative to its folder; a refused row is an error."""
    found = []
    for record in gs.read([str(SAMPLE_OF[name])], options(name)):
        assert isinstance(record, gs.Rollout), record
        file = os.path.relpath(record.source.file, SAMPLE_OF[name])
        record.source = type(record.source)(file, record.source.line, record.source.offset)
        record.run = None if record.run is None else os.path.relpath(record.run, SAMPLE_OF[name])
        found.append(record)
    return found
