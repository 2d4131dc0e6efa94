"""How far hostile code may go."""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of one sandbox.

    `seconds` are for one call, by the clock. `memory_mb` (MiB) is for all processes together, besides what lies in the
    scratch folder; `processes` counts threads too. `output_chars` is how much of what a call prints is kept. `file_mb`
    is the largest file, `scratch_mb` the size of the whole scratch folder.
    """

    seconds: float = 12.0
    memory_mb: int = 1024
    processes: int = 32
    output_chars: int = 20_000
    file_mb: int = 64
    scratch_mb: int = 256
