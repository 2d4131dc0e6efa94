"""The file that a run leads to: all rollouts of the planned steps, and behind them the continuations in plan order.

It is written beside its place and moved there when it is whole, so that what is there is never half of a log.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from gapscope.axpo.continuations import originals
from gapscope.errors import RecordError
from gapscope.plans import Header
from gapscope.recorders.writer import RolloutWriter
from gapscope.resampler.journal import unwritten
from gapscope.rollouts import Rollout


class ResampledLog:
    """A resampled log in the making; unless it is finished, nothing is left of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.part")

    def __enter__(self) -> Self:
        """Begin.

        Raises:
            RecordError: it cannot be written.

        """
        with self._writing():
            self._part.unlink(missing_ok=True)
            self._writer = RolloutWriter(self._part)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._part.unlink(missing_ok=True)

    def sources(self, header: Header) -> Iterator[Rollout]:
        """The rollouts of the planned steps, each written as it comes.

        Raises:
            RecordError: one cannot be written.
            GapscopeError: as `originals` does.

        """
        for rollout in originals(header):
            self._write(rollout)
            yield rollout

    def finish(self, continuations: Iterable[Rollout]) -> None:
        """Write the continuations behind their sources, and put the log in its place.

        Raises:
            RecordError: it cannot be written.

        """
        for rollout in continuations:
            self._write(rollout)
        with self._writing():
            self._part.replace(self.path)

    def _write(self, rollout: Rollout) -> None:
        with self._writing():
            self._writer.write(rollout)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What cannot be written is the log, wherever it is in the making."""
        try:
            yield
        except OSError as error:
            raise unwritten(self.path, error) from None
        except RecordError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise unwritten(self.path, error.__cause__) from None
