"""The ways in which a machine can hold hostile code, strongest first."""

from typing import Literal

import msgspec

LevelName = Literal["bubblewrap", "namespaces", "landlock", "limits"]


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One way. `complete` says that nothing is `missing`; `needs` is what a machine must have for it."""

    name: LevelName
    holds: str
    missing: str | None = None
    needs: str

    @property
    def complete(self) -> bool:
        """Whether code is kept from secrets and the network, within its folder, and within all its limits."""
        return self.missing is None

    @property
    def about(self) -> str:
        """What it holds, and what it does not."""
        return f"{self.name}: {self.holds}" + (f"; but {self.missing}" if self.missing else "")


_OF_ITS_OWN = (
    "no network, no files but Python's own, no other processes, one scratch folder that ends with it, "
    "limits on time, memory, processes, files and output"
)

LEVELS: tuple[Level, ...] = (
    Level(name="bubblewrap", holds=_OF_ITS_OWN, needs="bubblewrap installed, and user namespaces or root"),
    Level(name="namespaces", holds=_OF_ITS_OWN, needs="Linux 5.12, and user namespaces or the capability SYS_ADMIN"),
    Level(
        name="landlock",
        holds="no network, no files but Python's own, limits on time, memory, processes, output and single files",
        missing="it sees which files exist, and the sum of its files is not limited",
        needs="Linux 5.13 with Landlock, and Python where every user can read it",
    ),
    Level(
        name="limits",
        holds="no network, limits on time, memory, processes, output and single files",
        missing=(
            "it reads and writes files as any other user may, or as you may unless you are root, sees other processes, "
            "and the sum of its files is not limited"
        ),
        needs="Linux on x86_64 or aarch64, and Python where every user can read it",
    ),
)
