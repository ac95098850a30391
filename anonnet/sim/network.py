"""What lies between the nodes of a simulated network, and what an observer of its wires sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from anonnet.sim.clock import MS
from anonnet.spec import DatagramType
from anonnet.wire.datagram import HEADER

Wire = tuple[str, str]  # addresses: one direction of one link


class Sent(NamedTuple):
    """One datagram as a wire observer sees it: `kind` and `counter` stand open in its header."""

    at: int
    source: str
    target: str
    length: int
    kind: int
    counter: int


Fate = Callable[[Random, bytes], Sequence[int]]  # delays in ns of the copies that arrive
Alter = Callable[[Random, bytes], bytes]  # what arrives in the place of a copy


def steady(_random: Random, _datagram: bytes) -> Sequence[int]:
    """Every datagram arrives after two milliseconds."""
    return (2 * MS,)


@dataclass
class Network:
    """`fates` overrides `fate` for one wire; `alters` changes what arrives over it."""

    random: Random
    fate: Fate = steady
    fates: dict[Wire, Fate] = field(default_factory=dict)
    alters: dict[Wire, Alter] = field(default_factory=dict)
    trace: list[Sent] | None = None

    def arrivals(self, wire: Wire, datagram: bytes, now: int) -> list[tuple[int, bytes]]:
        """Return the copies of a datagram that arrive, and when."""
        if self.trace is not None:
            word, counter = HEADER.unpack_from(datagram)
            kind = word >> 24  # what follows a handshake's type is random, and of no meaning to an observer
            shown = counter if kind == DatagramType.DATA else 0
            self.trace.append(Sent(now, *wire, len(datagram), kind, shown))
        delays = self.fates.get(wire, self.fate)(self.random, datagram)
        alter = self.alters.get(wire)
        if alter is None:
            return [(now + delay, datagram) for delay in delays]
        return [(now + delay, alter(self.random, datagram)) for delay in delays]
