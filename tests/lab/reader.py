"""A caller's program that notes when bytes came: `python -m tests.lab.reader ADDRESS FILE LOG`.

It downloads FILE of the lab's web host over one TCP connection until all is there or SIGTERM comes. LOG gets
an array of (monotonic ns, bytes in all) pairs, one for each read; the last line of its output is the
SHA-256 of what came. A connection that breaks is an error.
"""

from __future__ import annotations

import hashlib
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

PAIR: Final = struct.Struct("=qq")
PATIENCE: Final = 90.0  # seconds without a byte: longer than any stall that a test allows


class Reading:
    """What a reader wrote down, perhaps while it still reads."""

    def __init__(self, log: Path) -> None:
        raw = log.read_bytes()
        whole = len(raw) - len(raw) % PAIR.size
        pairs = np.frombuffer(raw[:whole], dtype=np.int64).reshape(-1, 2)
        self.at, self.count = pairs[:, 0], pairs[:, 1]

    @property
    def size(self) -> int:
        """Bytes so far."""
        return int(self.count[-1]) if len(self.count) else 0

    def longest_gap(self, begin: int, end: int) -> float:
        """Return the longest time (s) without a byte that has a part between two moments (ns)."""
        inside = self.at[(self.at > begin) & (self.at < end)]
        before = self.at[self.at <= begin][-1:]
        after = np.append(self.at[self.at >= end], end)[:1]
        return float(np.diff(np.concatenate([before, inside, after])).max(initial=0)) / 1e9

    def rate(self, begin: int, end: int) -> float:
        """Return the mean bit/s between two moments (ns)."""
        first, last = np.searchsorted(self.at, [begin, end])
        last = min(last, len(self.at) - 1)
        taken = self.at[last] - self.at[first]
        return float(8e9 * (self.count[last] - self.count[first]) / taken) if taken else 0.0


def main(address: str, name: str, log: Path) -> None:
    """Download."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    digest, count = hashlib.sha256(), 0
    with socket.create_connection((address, 80), PATIENCE) as sock, log.open("wb", buffering=0) as notes:
        sock.sendall(f"GET /{name} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += _read(sock)
        data = data.partition(b"\r\n\r\n")[2]
        while not stopped:
            count += len(data)
            digest.update(data)
            notes.write(PAIR.pack(time.monotonic_ns(), count))
            data = sock.recv(1 << 16)
            if not data:
                break
    print(count, digest.hexdigest())


def _read(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 16)
    if not data:
        raise ConnectionError("closed before the file began")
    return data


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
