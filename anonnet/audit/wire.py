"""What a link looks like from outside: datagrams per tick, their lengths, and two times compared.

The observer knows the tick, for it is in every profile, but not where a tick starts: `per_tick` finds that
from the arrivals themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anonnet.audit.pcap import Ints, Trace
from anonnet.spec import IP_PROTOCOL, UDP_PORT

UDP: Final = 17


@dataclass(frozen=True, slots=True)
class Stream:
    """One direction of one link during some time.

    counts: datagrams in each whole tick between the first and the last. starts: ns since the epoch at which
    each begins. lengths: number of datagrams of each length of IP packet, in bytes.
    """

    counts: Ints
    starts: Ints
    lengths: dict[int, int]
    total: int
    tick_ns: int

    @property
    def histogram(self) -> dict[int, int]:
        """Return how many ticks had how many datagrams."""
        values, ticks = np.unique(self.counts, return_counts=True)
        return {int(value): int(n) for value, n in zip(values, ticks, strict=True)}

    @property
    def per_second(self) -> float:
        """Return datagrams a second, over whole ticks."""
        return float(self.counts.mean()) * 1e9 / self.tick_ns if len(self.counts) else 0.0

    def without(self, stalls: Sequence[tuple[int, int]]) -> Stream:
        """Return the stream less the ticks in which the machine itself stood still (begin, end; epoch ns).

        Only what can move a batch into another tick counts, and takes that tick's neighbours with it.
        """
        kept = np.ones(len(self.starts), bool)
        for begin, end in stalls:
            if end - begin > self.tick_ns // 3:
                kept &= (self.starts + 2 * self.tick_ns < begin) | (self.starts - self.tick_ns > end)
        return replace(self, counts=self.counts[kept], starts=self.starts[kept])

    def exact(self, cells_per_tick: int) -> float:
        """Return the share of ticks that had exactly so many datagrams."""
        return float((self.counts == cells_per_tick).mean()) if len(self.counts) else 0.0


def is_link(trace: Trace, ip_protocol: int = IP_PROTOCOL, udp_port: int = UDP_PORT) -> NDArray[np.bool_]:
    """Return a mask of link datagrams: raw ones, by their protocol, or UDP ones, by either port."""
    udp = (trace.proto == UDP) & ((trace.sport == udp_port) | (trace.dport == udp_port))
    result: NDArray[np.bool_] = (trace.proto == ip_protocol) | udp
    return result


def stream(trace: Trace, tick_ns: int) -> Stream:
    """Count one direction of a link, already selected (`trace.between(..)`), by ticks."""
    values, numbers = np.unique(trace.length, return_counts=True)
    lengths = {int(value): int(n) for value, n in zip(values, numbers, strict=True)}
    counts, starts = per_tick(trace.time, tick_ns)
    return Stream(counts, starts, lengths, len(trace), tick_ns)


def per_tick(times: Ints, tick_ns: int) -> tuple[Ints, Ints]:
    """Count arrivals (ns, ascending) in each whole tick, and return the ticks' starts (ns).

    Ticks are cut half a tick away from the mean (circular) of all arrivals, where a batch has most room for
    its jitter. The first and last tick, which the capture may have cut, are left out.
    """
    empty = np.zeros(0, np.int64)
    if len(times) < 2:
        return empty, empty
    origin = int(times[0])
    offsets = times - origin
    angles = (offsets % tick_ns) * (2 * np.pi / tick_ns)
    mean = float(np.arctan2(np.sin(angles).mean(), np.cos(angles).mean()))
    cut = round((mean / (2 * np.pi) + 0.5) * tick_ns)
    ticks = (offsets - cut) // tick_ns
    counts = np.bincount(ticks - ticks[0]).astype(np.int64)[1:-1]
    first = origin + cut + (int(ticks[0]) + 1) * tick_ns
    return counts, first + np.arange(len(counts), dtype=np.int64) * tick_ns


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim about the wire, whether it held, and the numbers that show it."""

    held: bool
    claim: str
    numbers: str


def compare(idle: Stream, loaded: Stream, cells_per_tick: int, tolerance: float = 0.001) -> list[Finding]:
    """Judge whether an observer could tell a loaded time from an idle one by counts and lengths."""
    a, b = idle.per_second, loaded.per_second
    difference = abs(a - b) / max(a, b, 1e-9)
    sizes = sorted(idle.lengths | loaded.lengths)
    shares = [100 * one.exact(cells_per_tick) for one in (idle, loaded)]
    return [
        Finding(
            bool(idle.total and loaded.total) and difference <= tolerance,
            f"as many datagrams a second, to within {tolerance:.1%}",
            f"{a:.2f} idle, {b:.2f} loaded, {difference:.3%} apart",
        ),
        Finding(
            len(sizes) == 1, "all datagrams of one length", ", ".join(f"{n} bytes" for n in sizes) or "none"
        ),
        Finding(
            min(shares) >= 100 * (1 - tolerance),
            f"{cells_per_tick} datagrams in every tick",
            f"{shares[0]:.2f}% of ticks idle, {shares[1]:.2f}% loaded",
        ),
    ]


def nothing_else(trace: Trace, hosts: Sequence[str]) -> Finding:
    """Judge whether `hosts` (addresses or networks) exchange anything but link datagrams."""
    inner = np.zeros((2, len(trace)), bool)
    for host in hosts:
        inner |= np.stack([trace.sent_from(host), trace.sent_to(host)])
    others = trace.where(inner.all(axis=0) & ~is_link(trace))
    found = sorted({int(proto) for proto in others.proto})
    numbers = f"{len(others)} of IP protocol {', '.join(map(str, found))}" if found else "none"
    return Finding(not len(others), "nothing but link datagrams between neighbours", numbers)


def never_meet(trace: Trace, one: Sequence[str], other: Sequence[str]) -> Finding:
    """Judge whether no packet goes straight between two hosts, each given by its addresses."""
    met = np.zeros(len(trace), bool)
    for a in one:
        for b in other:
            met |= trace.sent_from(a) & trace.sent_to(b) | trace.sent_from(b) & trace.sent_to(a)
    return Finding(not met.any(), f"nothing between {one[0]} and {other[0]}", f"{int(met.sum())} packets")
