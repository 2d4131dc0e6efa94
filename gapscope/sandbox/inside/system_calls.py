"""Which system calls hostile code may not make, as a seccomp filter.

Namespaces do not hold everything: AF_VSOCK passes through a network namespace, memory behind a memfd or a System V
segment belongs to no process, and every further namespace that code may make shows it more of the kernel.
"""

import os
import struct

from . import kernel

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL_PROCESS, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x40000000

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""By machine: its column below, and its AUDIT_ARCH."""

_NEVER = (
    # what reaches other processes
    (101, 117),  # ptrace
    (310, 270),  # process_vm_readv
    (311, 271),  # process_vm_writev
    (438, 438),  # pidfd_getfd
    (312, 272),  # kcmp
    (141, 140),  # setpriority
    (251, 30),  # ioprio_set
    # memory that no process is charged with
    (319, 279),  # memfd_create
    (447, 447),  # memfd_secret
    (278, 75),  # vmsplice
    (29, 194),  # shmget
    (30, 196),  # shmat
    (68, 186),  # msgget
    (64, 190),  # semget
    (240, 180),  # mq_open
    # namespaces and mounts
    (272, 97),  # unshare
    (308, 268),  # setns
    (165, 40),  # mount
    (166, 39),  # umount2
    (155, 41),  # pivot_root
    (161, 51),  # chroot
    (428, 428),  # open_tree
    (429, 429),  # move_mount
    (430, 430),  # fsopen
    (431, 431),  # fsconfig
    (432, 432),  # fsmount
    (433, 433),  # fspick
    (442, 442),  # mount_setattr
    (303, 264),  # name_to_handle_at
    (304, 265),  # open_by_handle_at
    # large parts of the kernel that no calculation needs
    (425, 425),  # io_uring_setup
    (323, 282),  # userfaultfd
    (321, 280),  # bpf
    (298, 241),  # perf_event_open
    (248, 217),  # add_key
    (249, 218),  # request_key
    (250, 219),  # keyctl
)
_ONLY_FOR_ITSELF = (
    (302, 261),  # prlimit64
    (203, 122),  # sched_setaffinity
    (142, 118),  # sched_setparam
    (144, 119),  # sched_setscheduler
    (314, 274),  # sched_setattr
)
_SIGNALS = (
    (62, 129),  # kill
    (200, 130),  # tkill
    (234, 131),  # tgkill
    (129, 138),  # rt_sigqueueinfo
    (297, 240),  # rt_tgsigqueueinfo
    (424, 424),  # pidfd_send_signal
)
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)

_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWCGROUP
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
)
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_KIND = 1, 5, 0xF

Instruction = tuple[int, int, int, int]


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """What is done at one system call; `then` ends with a verdict."""
    return [(_EQUAL, 0, len(then), number), *then]


def _refuse(error: int = _EPERM) -> Instruction:
    return (_RETURN, 0, 0, _ERROR | error)


def _load_argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def _only(values: tuple[int, ...]) -> list[Instruction]:
    """Allow what is loaded to be one of these values, and nothing else."""
    instructions = []
    for value in values:
        instructions += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [*instructions, _refuse()]


def program(machine: str, *, sockets: bool, signals: bool) -> bytes:
    """The filter. `sockets`: of its own network namespace; `signals`: to processes of its own PID namespace."""
    column, architecture = _ARCHITECTURES[machine]
    instructions: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        instructions += [(_AT_LEAST, 0, 1, _X32), _refuse()]
    for numbers in _NEVER if signals else _NEVER + _SIGNALS:
        instructions += _when(numbers[column], [_refuse()])
    for numbers in _ONLY_FOR_ITSELF:
        instructions += _when(numbers[column], [_load_argument(0), *_only((0,))])
    instructions += _when(_CLONE3[column], [_refuse(_ENOSYS)])  # its flags are out of reach; libc falls back to clone
    instructions += _when(
        _CLONE[column],
        [_load_argument(0), (_ANY_BIT, 0, 1, _NAMESPACES), _refuse(), (_RETURN, 0, 0, _ALLOW)],
    )
    families = (_AF_UNIX, _AF_INET, _AF_INET6) if sockets else ()
    instructions += _when(_SOCKET[column], [_load_argument(0), *_only(families)])
    # A pair of datagram sockets could still send to any other name.
    kinds = [_load_argument(1), (_AND, 0, 0, _SOCK_KIND), *_only((_SOCK_STREAM, _SOCK_SEQPACKET))]
    instructions += _when(_SOCKETPAIR[column], kinds)
    instructions.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def refuse_system_calls(*, sockets: bool, signals: bool) -> None:
    """Put the filter before all further system calls of this process and its children."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        message = f"no filter of system calls for {machine}"
        raise OSError(message)
    kernel.filter_system_calls(program(machine, sockets=sockets, signals=signals))
