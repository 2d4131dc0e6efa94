"""Where code that a model wrote runs: cut off from secrets, network and files, and within limits."""

from gapscope.sandbox.isolation import Isolation, strongest
from gapscope.sandbox.levels import LEVELS, Level
from gapscope.sandbox.limits import Limits
from gapscope.sandbox.sandboxed import NotStarted, Ran, Sandboxed, start

__all__ = ["LEVELS", "Isolation", "Level", "Limits", "NotStarted", "Ran", "Sandboxed", "start", "strongest"]
