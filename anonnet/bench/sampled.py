"""Where another process's CPU time goes: in the kernel, in ciphers, or in what is its own.

perf_event_open(2) interrupts a process whenever it has used so much CPU time and notes where it was: what
`perf record -e cpu-clock` does, without having to be installed. Whatever is neither the kernel's nor a cipher
library's is the process's own, so what these use of the C library counts as that, too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anonnet.errors import OperatorError

PERIOD_NS: Final = 199_999  # of CPU time from sample to sample: in step with no tick
PAGES: Final = 128  # of the ring, for 32,768 samples, 6.5 s of CPU time
CIPHERS: Final = ("/libcrypto.", "/cryptography/")  # in their path: the native engine's, Python's

_SYSCALL: Final = {"x86_64": 298, "aarch64": 241}  # perf_event_open's number
_ATTR: Final = struct.Struct("=IIQQQQQII8x")  # struct perf_event_attr, as far as it went at first
_SOFTWARE, _CPU_CLOCK, _SAMPLE_IP = 1, 0, 1
_HEAD: Final = struct.Struct("=IHH")  # of a record: type, misc, size
_SAMPLE: Final = 9
_CPU_MODE, _IN_KERNEL = 7, 1
_DATA_HEAD_AT: Final = 1024  # in struct perf_event_mmap_page

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Shares:
    """What a process spent its CPU time on, of 1 in all."""

    kernel: float
    ciphers: float
    own: float
    samples: int


class Sampler:
    """Samples of one process, from now until it is closed. OperatorError where the kernel does not let us."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        attr = _ATTR.pack(_SOFTWARE, _ATTR.size, _CPU_CLOCK, PERIOD_NS, _SAMPLE_IP, 0, 0, 0, 0)
        number = _SYSCALL.get(platform.machine())
        fd = -1 if number is None else _libc.syscall(number, attr, pid, -1, -1, 0)
        if fd < 0:
            reason = os.strerror(ctypes.get_errno()) if number else "an unknown machine"
            raise OperatorError(f"perf_event_open: {reason}", "see kernel.perf_event_paranoid, seccomp")
        try:
            self._ring = mmap.mmap(fd, (1 + PAGES) * mmap.PAGESIZE)
        finally:
            os.close(fd)
        self._began = 0  # in bytes of the ring

    def begin_anew(self) -> None:
        """Count only what is sampled from now on."""
        self._began = self._end()

    def close(self) -> None:
        """End sampling."""
        self._ring.close()

    def shares(self) -> Shares:
        """Count what has been sampled; RuntimeError if that is nothing."""
        ciphers = _mapped(self._pid, CIPHERS)
        counts = {"kernel": 0, "ciphers": 0, "own": 0}
        for address in self._samples():
            if address is None:
                counts["kernel"] += 1
            else:
                counts["ciphers" if any(address in part for part in ciphers) else "own"] += 1
        total = sum(counts.values())
        if not total:
            raise RuntimeError("no samples")
        return Shares(**{name: count / total for name, count in counts.items()}, samples=total)

    def _samples(self) -> Iterator[int | None]:
        """Where the process was, None in the kernel; a full ring has the first samples and no more."""
        at, end = (mmap.PAGESIZE + offset for offset in (self._began, self._end()))
        while at < end:
            kind, misc, size = _HEAD.unpack_from(self._ring, at)
            if kind == _SAMPLE:
                (address,) = struct.unpack_from("=Q", self._ring, at + _HEAD.size)
                yield None if misc & _CPU_MODE == _IN_KERNEL else address
            at += size

    def _end(self) -> int:
        return int(struct.unpack_from("=Q", self._ring, _DATA_HEAD_AT)[0])


def _mapped(pid: int, names: tuple[str, ...]) -> list[range]:
    """Where libraries are in a process's memory whose path contains one of these."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if any(name in line for name in names):
            start, end = (int(part, 16) for part in line.split(maxsplit=1)[0].split("-"))
            found.append(range(start, end))
    return found
