"""What is asked of the kernel, mostly by system calls that Python has no function for; all raise OSError."""

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_REMOUNT = 0x20
MNT_DETACH = 2

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 5, 6, 7, 19, 21

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_CAPABILITY_VERSION_3 = 0x20080522
_MOUNT_SETATTR = 442  # the same number on every architecture, as all system calls since Linux 5.1
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY_NOSUID_NODEV = 0x7

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def system_call(number: int, *arguments: int | bytes | None) -> int:
    """A system call by its number; an integer is passed as a long."""
    return _call(
        "syscall",
        ctypes.c_long(number),
        *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments),
    )


def _prctl(option: int, *arguments: int) -> int:
    numbers = (*arguments, 0, 0, 0, 0)[:4]
    return _call("prctl", ctypes.c_int(option), *map(ctypes.c_ulong, numbers))


def unshare(flags: int) -> None:
    """Leave the namespaces of the parent (unshare(2))."""
    _call("unshare", ctypes.c_int(flags))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Put a file system, or with MS_BIND a part of one, at a place in the tree (mount(2))."""
    _call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        kind and kind.encode(),
        ctypes.c_ulong(flags),
        data and data.encode(),
    )


def unmount(target: str) -> None:
    """Detach a mount and all below it (umount2(2))."""
    _call("umount2", os.fsencode(target), ctypes.c_int(MNT_DETACH))


def read_only(target: str) -> None:
    """Make a mount and all below it read-only, without devices and set-user-id programs (mount_setattr(2))."""
    attributes = ctypes.create_string_buffer(
        _MOUNT_ATTR_RDONLY_NOSUID_NODEV.to_bytes(8, "little") + bytes(24),
        32,
    )
    _call(
        "syscall",
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(32),
    )


def pivot_root(new: str, old: str) -> None:
    """Make a mount the root of the tree; the old root is then at `old` (pivot_root(2))."""
    _call("pivot_root", os.fsencode(new), os.fsencode(old))


def set_host_name(name: bytes) -> None:
    """sethostname(2)."""
    _call("sethostname", name, ctypes.c_size_t(len(name)))


def die_with_parent() -> None:
    """SIGKILL for this process when its parent dies. Forgotten when the user id changes: call it after that."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Make this process the parent of descendants that lose theirs."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_readable_by_peers(*, readable: bool) -> None:
    """Whether processes of the same user may read this one's memory and environment."""
    _prctl(_PR_SET_DUMPABLE, int(readable))


def no_new_privileges() -> None:
    """No program that is started from here on gains anything by its set-user-id bit."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def keep_capabilities(*kept: int) -> None:
    """Give up all capabilities but these, and for good what a program could gain by being started."""
    for capability in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # past the last one there is, or without the right to drop any
            break
    mask = sum(1 << capability for capability in kept)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    _call("capset", header, sets)


def become(user: int) -> None:
    """Be another user from here on, in a group of the same number and no other."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def effective_capabilities() -> int:
    """The capabilities in force, as a mask."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def filter_system_calls(program: bytes) -> None:
    """Put a filter (classic BPF, 8 bytes an instruction) before every further system call, for good."""
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.addressof(buffer))
    _call("prctl", ctypes.c_int(_PR_SET_SECCOMP), ctypes.c_ulong(2), ctypes.byref(described))
