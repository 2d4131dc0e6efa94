"""What all tests share: the flag for golden files, an audit that knows no settings, and rows as verl writes them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from few_metrics import measure_only

import gapscope as gs
from gapscope.metrics import accuracy, groups

LOW = gs.Settings(min_groups=1, min_rollouts=1, min_informative=1, min_steps=2)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Golden files change by this flag alone, and are read before they are committed."""
    parser.addoption("--write-golden", action="store_true", help="write tests/parsers/golden anew")


@pytest.fixture(scope="session")
def samples() -> Path:
    return Path(__file__).parent.parent / "sample_logs"


@pytest.fixture(scope="session")
def audit() -> Callable[..., gs.Report]:
    """Audit logs in this process, with as little evidence as there is."""

    def run(*logs: Path | str, jobs: int = 1, **options: Any) -> gs.Report:
        return gs.audit([str(log) for log in logs], settings=LOW, jobs=jobs, **options)

    return run


@pytest.fixture
def few_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no more than accuracy and groups, which is quicker, where it is the rows that are tried."""
    measure_only(monkeypatch, accuracy, groups)


@pytest.fixture(scope="session")
def legacy() -> Callable[..., dict[str, Any]]:
    """A row of verl's legacy trainer, which may be changed key by key; `...` takes a key away."""

    def row(**changes: Any) -> dict[str, Any]:
        whole = {"input": "user\nWhat is 2+2?\nassistant\n", "output": "It is 4.", "gts": "4", "score": 1.0, "step": 3}
        return {key: value for key, value in (whole | changes).items() if value is not ...}

    return row


@pytest.fixture(scope="session")
def v1(legacy: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A row of verl's V1 trainer, likewise."""
    return lambda uid="group_0_0", **changes: legacy(uid=uid, **changes)


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """Write a log of rows, of lines that are there already, or of bytes as they are."""

    def write(rows: Iterable[Any] | bytes, name: str = "3.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(rows, bytes):
            lines = (row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows)
            rows = b"".join(line + b"\n" for line in lines)
        path.write_bytes(rows)
        return path

    return write
