"""What failed for one of many: the others go on, and failures are counted by reason."""


class Failure(Exception):
    """`reason` is the same for all of its kind, by which they are counted; `detail` is what is known of this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
