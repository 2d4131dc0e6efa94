"""Every error that a user can cause.

GapscopeError
├── InputError            the logs: nothing there, unreadable, not rollouts
│   └── NothingScanned    everything was readable and no rollout was in it
├── CorrectnessError      no rule says which rollouts are correct
├── StoreError            a store is missing, foreign, older or locked
├── SettingsError         a flag or a line of gapscope.toml has no meaning
├── TokenizerError        a tokenizer that is not there, cannot be read, or is not the one of the log
├── EndpointError         a model server that is down, refuses, or answers something else
├── PlanError             a log of which no plan can be made, or a plan that is edited, broken or of another log
├── RecordError           what a training loop wants recorded contradicts itself, or cannot be written
└── UnknownName           a metric, parser, schema or field that does not exist

A row that cannot be read is not an error: it is a `Refused`, stored and counted.
"""

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


_MOST_NAMES = 15


class GapscopeError(Exception):
    """Something the user can put right: what happened, with the value, and what to do (`hint`)."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class InputError(GapscopeError):
    """Logs that are not there, cannot be read, or hold something else than rollouts."""


class NothingScanned(InputError):
    """The logs could be read, and there was no rollout to judge in them."""


class CorrectnessError(GapscopeError):
    """The log has rewards, and nothing says which of them mean a correct answer."""


class StoreError(GapscopeError):
    """A store that is missing, foreign, of another version, or in use."""


class SettingsError(GapscopeError):
    """A flag, an argument or a line of the settings file that has no meaning."""


class TokenizerError(GapscopeError):
    """A tokenizer that is not there, cannot be read, or does not know the token ids of the log."""


class EndpointError(GapscopeError):
    """A model server that cannot be reached, refuses a request, or answers something else than it should."""


class PlanError(GapscopeError):
    """A log of which no plan can be made, or a plan that was edited, is broken, or belongs to another log."""


class RecordError(GapscopeError):
    """A rollout that contradicts itself, or a file that it cannot be written to."""


class UnknownName(GapscopeError):
    """A name that does not exist; the nearest existing ones are in the hint."""

    def __init__(self, kind: str, name: str, known: "Iterable[str]") -> None:
        names = sorted(set(known))
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            hint = f"Did you mean {' or '.join(near)}?"
        elif len(names) > _MOST_NAMES:
            hint = f"None of {len(names)} names is near it; the first ones are {', '.join(names[:_MOST_NAMES])}."
        else:
            hint = f"Known: {', '.join(names) or 'none'}."
        super().__init__(f"unknown {kind} {name!r}", hint=hint)
        self.name = name
