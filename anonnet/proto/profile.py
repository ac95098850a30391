"""Link profiles: a format and a rate each way, and the schedule that follows (docs/protocol.md section 4).

A rate counts whole IP packets on the wire. The schedule is the tick and a whole number of cells per tick
each way: the slower direction sets the tick, so that its rate is met exactly; the faster direction gets as
many whole cells as fit. An echo takes some seven ticks, so they are as short as their cost allows: 5 ms, or
down to 2 ms where 20 cells still share one. What a relay does once a tick is some 180 us, so ticks of 1 ms
are for those who ask for them; and a host that stands still for longer than a tick loses it, so ticks of
4 ms are for those whose hosts do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from anonnet.errors import OperatorError
from anonnet.spec import FORMATS, NARROW, WIDE, Format

LONG_TICK_NS: Final = 5_000_000  # what ticks are by themselves: no longer than this, ...
SHORT_TICK_NS: Final = 2_000_000  # ... no shorter, ...
TICK_CELLS: Final = 20  # ... and in between as long as so many cells of the slower direction take
TICKS_NS: Final = (1_000_000, 50_000_000)  # what may be asked for
NARROW_BELOW: Final = 128_000  # bit/s: slower links carry narrow cells unless told otherwise
SECOND_NS: Final = 1_000_000_000
OVERHEAD: Final = {("raw", 4): 20, ("raw", 6): 40, ("udp", 4): 28, ("udp", 6): 48}  # bytes before a datagram

NAMED: Final = {
    "modem": "33.6k",
    "isdn": "64k",
    "adsl": "1m/8m",  # the subscriber's end: out / in
    "adsl-isp": "8m/1m",  # the other end of it
    "t1": "1.544m",
    "10m": "10m",
    "t3": "44.736m",
    "100m": "100m",
}
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:bit|bps)?", re.IGNORECASE)
_TICK: Final = re.compile(r"(\d+(?:\.\d+)?)ms")
_UNIT: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_HINT: Final = f"name one of {', '.join(NAMED)}, or a rate such as 2m, 1m/8m (out/in), 56k:narrow or 100m:1ms"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a link sends and expects: `cells_out` and `cells_in` datagrams every `tick_ns`."""

    tick_ns: int
    cells_out: int
    cells_in: int

    @property
    def mirrored(self) -> Schedule:
        """The same link as its other end sees it."""
        return Schedule(self.tick_ns, self.cells_in, self.cells_out)


@dataclass(frozen=True, slots=True)
class Profile:
    """What an operator chose for a link; rates in bit/s of whole IP packets.

    A `wanted_tick_ns` of 0 means: what follows from the rates.
    """

    name: str
    format: Format
    rate_out: int
    rate_in: int
    wanted_tick_ns: int = 0

    def schedule(self, transport: str, ip_version: int) -> Schedule:
        """Derive the schedule for a transport (`raw`, `udp`) over IPv4 or IPv6."""
        bits = 8 * (OVERHEAD[transport, ip_version] + self.format.datagram_len)
        slower, faster = sorted((self.rate_out, self.rate_in))
        wanted = self.wanted_tick_ns
        if not wanted:
            wanted = min(max(SHORT_TICK_NS, TICK_CELLS * bits * SECOND_NS // slower), LONG_TICK_NS)
        few = max(1, round(slower * wanted / SECOND_NS / bits))
        tick_ns = round(few * bits * SECOND_NS / slower)
        many = few if faster == slower else max(few, int(faster * tick_ns / SECOND_NS / bits))
        out_is_slower = self.rate_out == slower
        return Schedule(tick_ns, few if out_is_slower else many, many if out_is_slower else few)


def parse_profile(text: str) -> Profile:
    """Read a profile's name or a free rate (`2m`, `1m/8m`, `56k:narrow`, `t3:1ms`); raise OperatorError."""
    name, *options = text.split(":")
    rates = NAMED.get(name, name)
    values = []
    for part in rates.split("/"):
        match = _RATE.fullmatch(part.strip())
        if match is None:
            raise OperatorError(f"unknown link profile {text!r}", _HINT)
        values.append(int(float(match[1]) * _UNIT[match[2].lower()]))
    if len(values) > 2 or not all(9_600 <= value <= 10_000_000_000 for value in values):
        raise OperatorError(f"link profile {text!r} is out of range", "rates go from 9600 bit/s to 10 Gbit/s")
    fmt, wanted_tick_ns = NARROW if min(values) < NARROW_BELOW else WIDE, 0
    for option in options:
        if match := _TICK.fullmatch(option):
            wanted_tick_ns = round(float(match[1]) * 1_000_000)
            if not TICKS_NS[0] <= wanted_tick_ns <= TICKS_NS[1]:
                raise OperatorError(
                    f"tick of link profile {text!r} is out of range", "ticks last 1 ms to 50 ms"
                )
        elif option in FORMATS:
            fmt = FORMATS[option]
        else:
            raise OperatorError(f"profile {text!r}: {option!r} is neither a cell format nor a tick", _HINT)
    return Profile(text, fmt, values[0], values[-1], wanted_tick_ns)
