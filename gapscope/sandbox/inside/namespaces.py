"""A root of its own, with no network and no other process in it: what bubblewrap does, where it is not installed."""

import _socket  # `socket` takes more time to import than all else here
import contextlib
import fcntl
import os
import signal
import struct
import sys

from . import kernel
from .agreed import DEVICES

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than a sandbox to make
if TYPE_CHECKING:
    from typing import NoReturn

_FLAGS = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def enter(*, host: int, user: int | None, read: list[tuple[str, str]], scratch_bytes: int, files: int) -> None:
    """Return in a new process, the first one of its namespaces; the process that called waits for it and ends.

    `host` is the parent, and `user` the id that hostile code will have where this process is root. `read` are the
    files and folders that can be seen, with where. All that can be written is /tmp.

    Raises:
        OSError: the machine does not allow it.

    """
    kernel.die_with_parent()
    if os.getppid() != host:
        sys.exit("the process that asked for a sandbox is gone")
    if user is None or not kernel.effective_capabilities() >> kernel.CAP_SYS_ADMIN & 1:
        _become_root_of_nothing(user)
    else:
        kernel.unshare(_FLAGS)
    with contextlib.suppress(OSError):
        kernel.unshare(kernel.CLONE_NEWCGROUP)
    null = os.open(os.devnull, os.O_RDWR)  # now: the first process takes the root from under this one
    first = os.fork()
    if first:
        _wait_for(first, null)
    os.close(null)
    _set_up_loopback()
    kernel.set_host_name(b"sandbox")
    _new_root(read, scratch_bytes, files)


def _become_root_of_nothing(user: int | None) -> None:
    """Enter a user namespace, in which this process may do what only root may do outside."""
    if user is not None:
        kernel.become(user)
        kernel.set_readable_by_peers(readable=True)
        kernel.die_with_parent()
    own_user, own_group = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER | _FLAGS)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{own_user or 1000} {own_user} 1"),
        ("gid_map", f"{own_group or 1000} {own_group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as setting:
            setting.write(line)


def _wait_for(first: int, null: int) -> "NoReturn":
    """Stay for as long as the namespaces do; what ends this process ends them."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGKILL))
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    _, status = os.waitpid(first, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0x7F)


def _set_up_loopback() -> None:
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM, 0)
    fcntl.ioctl(any_socket.fileno(), _SIOCSIFFLAGS, struct.pack("=16sH14x", b"lo", _IFF_UP))
    any_socket.close()


def _new_root(read: list[tuple[str, str]], scratch_bytes: int, files: int) -> None:
    base = "/tmp"  # noqa: S108 (a folder that every machine has; what is in it stays as it is)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")
    os.mkdir(f"{base}/new")
    os.mkdir(f"{base}/old")
    kernel.mount("tmpfs", f"{base}/new", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755,size=1m")
    kernel.pivot_root(base, f"{base}/old")
    os.chdir("/new")
    os.umask(0)
    os.mkdir("tmp")
    scratch = f"mode=1777,size={scratch_bytes},nr_inodes={files}"
    kernel.mount("tmpfs", "tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, scratch)
    for source, target in read:
        _bind(f"/old{source}", target.lstrip("/"))
        kernel.read_only(target.lstrip("/"))
    for device in DEVICES:
        _bind(f"/old{device}", device.lstrip("/"))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"dev/{name}")
    os.symlink("/proc/self/fd", "dev/fd")
    os.symlink("/tmp", "dev/shm")  # noqa: S108 (of the new root)
    os.mkdir("proc")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "proc", "proc", flags)
    kernel.mount("none", ".", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | flags & ~kernel.MS_NOEXEC)
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/tmp")  # noqa: S108 (of the new root)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        with open(target, "x", encoding="ascii"):
            pass
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
