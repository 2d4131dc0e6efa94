"""What fails among many that go on at once: one alone, counted by reason, or all of them for one cause."""

from gapscope.errors import GapscopeError


class Failure(Exception):
    """`reason` is the same for all of its kind, by which they are counted; `detail` is what is known of this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def cause_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the work; of several one that the user can do something about."""
    cause: BaseException = failures.subgroup(GapscopeError) or failures
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause
