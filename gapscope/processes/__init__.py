"""Functions that are called in processes of their own, so that one that hangs or dies costs one call.

`multiprocessing` would import the caller's `__main__` again in every process, which breaks scripts and notebooks
that call gapscope at their top level. So a process is a plain interpreter that runs `serve.py`.
"""

from gapscope.processes.pool import Processes
from gapscope.processes.process import CallFailed, Reason

__all__ = ["CallFailed", "Processes", "Reason"]
