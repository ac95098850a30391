"""Giving up privileges, and clinging to the machine: real time, locked memory.

Order matters: scheduling and memory limits are set as root, then identity is given up for good. What a
process keeps afterwards is its open descriptors.
"""

from __future__ import annotations

import ctypes
import gc
import grp
import os
import pwd
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anonnet.errors import OperatorError

PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_PDEATHSIG: Final = 1
PR_GET_PDEATHSIG: Final = 2
PR_SET_NAME: Final = 15
PR_SET_NO_NEW_PRIVS: Final = 38
MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4  # Linux 4.4
CAP_IPC_LOCK: Final = 14
CAP_SYS_NICE: Final = 23
CAPABILITY_VERSION_3: Final = 0x20080522

_KERNELS: Final = (["[vvar]"], ["[vvar_vclock]"], ["[vsyscall]"])  # not ours to lock

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class User:
    """An unprivileged account."""

    name: str
    uid: int
    gid: int


def find_user(name: str) -> User:
    """Look an account up; OperatorError if it is not there or is root."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        hint = f"create it (useradd --system --shell /usr/sbin/nologin {name}) or set node.user"
        raise OperatorError(f"there is no user {name!r} to run as", hint) from None
    if entry.pw_uid == 0:
        raise OperatorError(f"user {name!r} is root", "set node.user to an unprivileged account")
    grp.getgrgid(entry.pw_gid)
    return User(name, entry.pw_uid, entry.pw_gid)


def become(user: User | None, *, keep_lock: bool = False) -> None:
    """Drop to an unprivileged account for good; without one (not started as root) only seal what we have.

    With `keep_lock`, CAP_IPC_LOCK alone survives: memory that is mapped later is locked too, which the
    account's RLIMIT_MEMLOCK would forbid.
    """
    if user is not None:
        on_death = ctypes.c_int()
        _libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(on_death), 0, 0, 0)
        _libc.prctl(PR_SET_KEEPCAPS, int(keep_lock), 0, 0, 0)
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        die_with_parent(on_death.value)  # a change of identity has cleared it
        if keep_lock:
            _hold_only(1 << CAP_IPC_LOCK)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # no core file, no ptrace: keys are in memory


def _hold_only(capabilities: int) -> None:
    """Set effective and permitted capabilities (capset(2)), nothing inheritable."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def be_called(name: str) -> None:
    """Take a name for lists of processes, at most 15 letters; a child has it too."""
    _libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def die_with_parent(signal_number: int) -> None:
    """Be sent a signal when the parent ends, however it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def require_cling(priority: int, lock_memory: bool) -> None:
    """OperatorError unless `cling` may do as much; to be asked before anything is begun."""
    if lock_memory and not _holds(CAP_IPC_LOCK) and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != -1:
        hint = "grant CAP_IPC_LOCK or set data_plane.lock_memory = false"
        raise OperatorError("may not lock memory", hint)
    if priority and not _holds(CAP_SYS_NICE) and resource.getrlimit(resource.RLIMIT_RTPRIO)[0] < priority:
        hint = "grant CAP_SYS_NICE or set data_plane.realtime_priority = 0"
        raise OperatorError("may not use real-time scheduling", hint)


def _holds(capability: int) -> bool:
    """Whether a capability is effective (capget(2))."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _libc.capget(header, data)
    return bool(data[3 * (capability // 32)] >> capability % 32 & 1)


def cling(priority: int, lock_memory: bool, libraries: Sequence[str] | None = None) -> None:
    """SCHED_FIFO, locked memory, frozen garbage collector: what `require_cling` found to be allowed.

    With `libraries`, parts of paths, other files are locked page by page, as they are used: most is never.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    if lock_memory:
        if libraries is None:
            _lock(_libc.mlockall(MCL_CURRENT | MCL_FUTURE))
        else:
            _lock(_libc.mlockall(MCL_CURRENT | MCL_ONFAULT))
            _lock(_libc.mlockall(MCL_FUTURE))
            _lock_whole(libraries)
    if priority:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))


def settle() -> None:
    """Give back what beginning took: garbage, then the C library's free pages. Collect nothing else any more.

    To be done before a fork, too: else a child's first collection writes on all pages that it shares.
    """
    gc.collect()
    gc.freeze()
    if trim := getattr(_libc, "malloc_trim", None):  # glibc
        trim(0)


def _lock_whole(libraries: Sequence[str]) -> None:
    """Lock what is no file's, and these libraries, to the last page."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, rights, _, _, inode, *path = line.split(maxsplit=5)
        ours = inode == "0" or any(name in path[0] for name in libraries)
        if ours and rights.startswith("r"):
            start, end = (int(number, 16) for number in where.split("-"))
            if _libc.mlock(ctypes.c_void_p(start), ctypes.c_size_t(end - start)) and path[:1] not in _KERNELS:
                _lock(-1)


def _lock(failed: int) -> None:
    if failed:
        raise OperatorError("cannot lock memory", os.strerror(ctypes.get_errno()))
