"""gapscope, the profiler for agentic RL.

```python
import gapscope as gs

report = gs.audit("run.jsonl")
report["all_wrong_tool_group_rate"].value
```
"""

from gapscope.audit import audit
from gapscope.axpo.prefixes import Confidence, Prefix, prefixes
from gapscope.config import Settings
from gapscope.demo import write_demo
from gapscope.doctor import Diagnosis, diagnose
from gapscope.errors import (
    CorrectnessError,
    EndpointError,
    GapscopeError,
    InputError,
    NothingScanned,
    RecordError,
    SettingsError,
    StoreError,
    TokenizerError,
    UnknownName,
)
from gapscope.gate import Limit, judge
from gapscope.ingest import ingest, open_store, read
from gapscope.metrics import METRICS
from gapscope.parsers import PARSERS
from gapscope.planning import ReadOptions
from gapscope.report import Measurement, Report, Verdict
from gapscope.rollouts import Refused, Rollout

__all__ = [
    "METRICS",
    "PARSERS",
    "Confidence",
    "CorrectnessError",
    "Diagnosis",
    "EndpointError",
    "GapscopeError",
    "InputError",
    "Limit",
    "Measurement",
    "NothingScanned",
    "Prefix",
    "ReadOptions",
    "RecordError",
    "Refused",
    "Report",
    "Rollout",
    "Settings",
    "SettingsError",
    "StoreError",
    "TokenizerError",
    "UnknownName",
    "Verdict",
    "audit",
    "diagnose",
    "ingest",
    "judge",
    "open_store",
    "prefixes",
    "read",
    "write_demo",
]
