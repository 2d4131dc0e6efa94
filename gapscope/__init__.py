"""gapscope, the profiler for agentic RL.

```python
import gapscope as gs

report = gs.audit("run.jsonl")
report["all_wrong_tool_group_rate"].value
```
"""

from gapscope.audit import audit
from gapscope.axpo.continuations import continuation, originals
from gapscope.axpo.export import export
from gapscope.axpo.exported import Exported
from gapscope.axpo.plan import plan
from gapscope.axpo.plan_file import read_plan
from gapscope.axpo.prefixes import Confidence, Prefix, prefixes
from gapscope.axpo.recovery import recovery
from gapscope.config import Settings
from gapscope.demo import write_demo
from gapscope.doctor import Diagnosis, diagnose
from gapscope.errors import (
    CorrectnessError,
    EndpointError,
    GapscopeError,
    InputError,
    NothingScanned,
    PlanError,
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
from gapscope.plan_options import PlanOptions
from gapscope.planning import ReadOptions
from gapscope.plans import Plan, PlannedPrefix
from gapscope.recoveries import Recovery
from gapscope.report import Measurement, Report, Verdict
from gapscope.resampler.resample import resample
from gapscope.resampler.resampling import Resampling
from gapscope.rollouts import Refused, Rollout

__all__ = [
    "METRICS",
    "PARSERS",
    "Confidence",
    "CorrectnessError",
    "Diagnosis",
    "EndpointError",
    "Exported",
    "GapscopeError",
    "InputError",
    "Limit",
    "Measurement",
    "NothingScanned",
    "Plan",
    "PlanError",
    "PlanOptions",
    "PlannedPrefix",
    "Prefix",
    "ReadOptions",
    "RecordError",
    "Recovery",
    "Refused",
    "Report",
    "Resampling",
    "Rollout",
    "Settings",
    "SettingsError",
    "StoreError",
    "TokenizerError",
    "UnknownName",
    "Verdict",
    "audit",
    "continuation",
    "diagnose",
    "export",
    "ingest",
    "judge",
    "open_store",
    "originals",
    "plan",
    "prefixes",
    "read",
    "read_plan",
    "recovery",
    "resample",
    "write_demo",
]
