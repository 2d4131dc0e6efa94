"""Which files can be opened where there is no root of its own: Landlock, which needs no privilege."""

import os
import struct
from collections.abc import Iterable

from . import kernel

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version; 16 from the fifth on
_SCOPED_VERSION, _SCOPES = 6, 3  # abstract sockets, signals
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


def version() -> int:
    """The version of Landlock that the kernel has.

    Raises:
        OSError: it has none, or it is switched off.

    """
    return kernel.system_call(_CREATE, None, 0, _VERSION_FLAG)


def signals_stay_inside() -> bool:
    """Whether the rules also keep signals from processes that are not under them."""
    return version() >= _SCOPED_VERSION


def allow_only(*, read: Iterable[str], use: Iterable[str], write: str) -> None:
    """Open nothing from here on but `read` (also to run), `use` (devices), and all in the folder `write`."""
    known = version()
    everything = (1 << _ACCESS_BITS.get(known, 16)) - 1
    attributes = struct.pack("=QQQ", everything, 0, _SCOPES if known >= _SCOPED_VERSION else 0)
    rules = kernel.system_call(_CREATE, attributes, 24 if known >= _SCOPED_VERSION else 8, 0)
    for path in read:
        _allow(rules, path, (_EXECUTE | _READ_FILE | _READ_DIR) & everything)
    for path in use:
        _allow(rules, path, (_READ_FILE | _WRITE_FILE) & everything)
    _allow(rules, write, everything)
    kernel.system_call(_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        below = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what this user cannot reach needs no rule
        return
    if not os.path.isdir(path):
        access &= _ON_FILES
    kernel.system_call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, below), 0)
    os.close(below)
