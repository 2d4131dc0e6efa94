"""What an interpreter reads of the machine: its own files and the system's libraries, and nothing that is anyone's."""

import asyncio
import os
from typing import NamedTuple

import msgspec

from gapscope.errors import SettingsError

_QUESTION = """
import site, sys, sysconfig
paths = sysconfig.get_paths()
folders = [f"{prefix}/{name}" for prefix in (sys.base_prefix, sys.base_exec_prefix) for name in ("bin", "lib", "lib64")]
folders += [f"{sys.prefix}/bin", f"{sys.prefix}/pyvenv.cfg"]
folders += [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")] + site.getsitepackages()
users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
import json
print(json.dumps({"executable": sys.executable, "library": paths["stdlib"], "folders": folders, "users": users}))
"""

_SYSTEM = (
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
)
_STORES = ("/nix/store", "/gnu/store")  # whose programs name their libraries by path
_SECONDS = 30


class Interpreter(NamedTuple):
    """A Python with all that it reads.

    It does not start without what it `needs`, its program and its library. `path` is what a sandbox adds to its
    sys.path: the user's own packages.
    """

    executable: str
    needs: tuple[str, ...]
    read: tuple[str, ...]
    path: tuple[str, ...]


class _Told(msgspec.Struct):
    executable: str
    library: str
    folders: list[str]
    users: list[str]


async def interpreter(python: str) -> Interpreter:
    """What that interpreter says of itself.

    Raises:
        SettingsError: it is no interpreter, or does not answer.

    """
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            "-P",
            "-c",
            _QUESTION,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        message = f"no Python at {python}: {error.strerror}"
        raise SettingsError(message, hint="give the path of an interpreter") from None
    try:
        async with asyncio.timeout(_SECONDS):
            answer, complaint = await process.communicate()
        told = msgspec.json.decode(answer, type=_Told)
    except (TimeoutError, msgspec.DecodeError):
        if process.returncode is None:
            process.kill()
            await process.wait()
        said = complaint.decode(errors="replace").strip()[-300:] if process.returncode else "it does not answer"
        message = f"{python} is no Python that works: {said}"
        raise SettingsError(message, hint="give the path of an interpreter of Python 3.11 or newer") from None
    return _all_it_reads(told)


def _all_it_reads(told: _Told) -> Interpreter:
    stores = [store for store in _STORES if os.path.realpath(told.executable).startswith(store)]
    return Interpreter(
        told.executable,
        (os.path.realpath(told.executable), os.path.realpath(told.library)),
        _outermost([*_SYSTEM, *stores, *told.folders, *told.users]),
        tuple(path for path in told.users if os.path.isdir(path)),
    )


def _outermost(paths: list[str]) -> tuple[str, ...]:
    """Those that exist, under the name they go by and under their real one, without any that lies in another."""
    names = {os.path.abspath(path) for path in paths if os.path.exists(path)}
    names |= {os.path.realpath(path) for path in names}
    kept: list[str] = []
    for name in sorted(names):
        if not any(name.startswith(f"{folder}/") for folder in kept):
            kept.append(name)
    return tuple(kept)
