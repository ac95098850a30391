"""The data plane with threads: each as unprivileged, as urgent and as fixed in memory as the first."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from anonnet.crypto.suite import ANONNET_2026
from anonnet.node import dataplane
from anonnet.node.privileges import CAP_IPC_LOCK, User
from anonnet.node.sections import Config
from anonnet.proto.engine import Engine

NOBODY = User("nobody", 65534, 65534)
THREADS = 3


@pytest.fixture
def process(fast: Engine) -> Iterator[int]:
    """A data plane of three threads, without links; ends when control goes away."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            ours.close()
            dataplane.run(Config(), ANONNET_2026, fast, THREADS, {}, its, NOBODY)
            code = 0
        finally:
            os._exit(code)
    its.close()
    yield pid
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def statuses(pid: int) -> dict[int, dict[str, str]]:
    """Return what the kernel says of each thread."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = (line.partition(":") for line in path.read_text().splitlines())
        found[int(path.parent.name)] = {name: value.strip() for name, _, value in lines}
    return found


class Mapping(NamedTuple):
    """A piece of a process's memory."""

    path: str
    rss: int  # KiB
    flags: tuple[str, ...]  # proc(5), VmFlags: "lo" is locked


def mappings(pid: int) -> list[Mapping]:
    """Read /proc/PID/smaps."""
    found = []
    path, rss = "", 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            path = " ".join(rest[4:])
        elif name == "Rss:":
            rss = int(rest[0])
        elif name == "VmFlags:":
            found.append(Mapping(path, rss, tuple(rest)))
    return found


@pytest.mark.root
def test_threads_are_what_the_first_one_is(process: int) -> None:
    deadline = time.monotonic() + 20
    while len(found := statuses(process)) < THREADS:
        assert time.monotonic() < deadline, f"only {len(found)} threads"
        time.sleep(0.01)
    assert len(found) == THREADS
    for thread, status in found.items():
        assert os.sched_getscheduler(thread) == os.SCHED_FIFO
        assert os.sched_getparam(thread).sched_priority == Config().data_plane.realtime_priority
        assert set(status["Uid"].split() + status["Gid"].split()) == {"65534"}
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 1 << CAP_IPC_LOCK
        assert status["NoNewPrivs"] == "1"
    unlocked, ciphers = set(), 0
    for mapping in mappings(process):
        if "lo" not in mapping.flags:
            unlocked.add(mapping.path)
        if dataplane.PYTHON_CIPHERS in mapping.path:
            ciphers += mapping.rss
    special = {"[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"}
    assert all(dataplane.PYTHON_CIPHERS in path for path in unlocked - special), "all else is, stacks too"
    assert unlocked - special
    assert ciphers < 5000, "most of what is not used is not there"
