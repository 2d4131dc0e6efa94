"""Audits of no more than what is looked at: an audit of a small log is little but the queries of its metrics."""

from importlib import import_module
from types import ModuleType

import pytest


def measure_only(patch: pytest.MonkeyPatch, *metrics: ModuleType) -> None:
    """Let audits measure these metrics, by their modules, and find nothing in them."""
    audit = import_module("gapscope.audit")
    patch.setattr(audit, "METRICS", tuple(metric.METRIC for metric in metrics))
    patch.setattr(audit, "find", lambda _: [])
