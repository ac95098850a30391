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
    size: int  # KiB
    rss: int
    flags: tuple[str, ...]  # proc(5), VmFlags: "lo" is locked


def mappings(pid: int) -> list[Mapping]:
    """Read /proc/PID/smaps."""
    found = []
    path, size, rss = "", 0, 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            path = " ".join(rest[4:])
        elif name == "Size:":
            size = int(rest[0])
        elif name == "Rss:":
            rss = int(rest[0])
        elif name == "VmFlags:":
            found.append(Mapping(path, size, rss, tuple(rest)))
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
    special = {"[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"}
    found_mappings = mappings(process)
    unlocked = {mapping.path for mapping in found_mappings if "lo" not in mapping.flags}
    assert unlocked <= special, "all is locked that is in memory or will be, stacks too"
    for mapping in found_mappings:
        ours = any(name in mapping.path for name in dataplane.LIBRARIES) or not mapping.path.startswith("/")
        if ours and "rd" in mapping.flags and mapping.path not in special:
            assert mapping.rss == mapping.size, f"{mapping.path} is there to the last page"
    there = sum(mapping.rss for mapping in found_mappings if "/cryptography/" in mapping.path)
    assert there < 2000, "what is not used is not there"
