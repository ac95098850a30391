"""The circuits that end at this exit: who they are, which pool addresses they have, which routes they use.

A circuit is named by a secret that its caller sends in the OPEN of each of its routes, so that a second
route joins the first. It outlives its routes by `LINGER_NS`, so that connections survive while the caller
builds another. An address is not given out again before all others were: late packets of an old connection
then find nobody rather than a stranger.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network
from typing import Final

MAX_CIRCUITS: Final = 16_384
MAX_ROUTES: Final = 9  # of one circuit: eight, and a successor beside them
LINGER_NS: Final = 60_000_000_000  # an outage of half a minute, and until links and routes are back


@dataclass
class ExitCircuit:
    """One circuit: its handle, its packed addresses, the handles of its routes."""

    handle: int
    name: bytes  # SHA-256 of the secret: look-ups then take a time that says nothing of it
    pool4: bytes
    pool6: bytes
    incarnation: int  # drawn when it was made, so that its caller can tell it from one made later
    routes: set[int] = field(default_factory=set)
    empty_since: int = 0


class ExitCircuits:
    """All circuits of this exit. Times are monotonic ns."""

    def __init__(self, pool4: IPv4Network, pool6: IPv6Network) -> None:
        count = min(MAX_CIRCUITS, pool4.num_addresses - 3, pool6.num_addresses - 3)
        base4, base6 = int(pool4.network_address), int(pool6.network_address)
        self._unused = (  # none is made before it is needed: all would be 2.7 MB
            ((base4 + n).to_bytes(4, "big"), (base6 + n).to_bytes(16, "big")) for n in range(2, count + 2)
        )
        self._free: deque[tuple[bytes, bytes]] = deque()  # given back, longest ago first
        self._by_name: dict[bytes, ExitCircuit] = {}
        self._of_route: dict[int, ExitCircuit] = {}

    def join(self, secret: bytes, route: int, handle: int, incarnation: int) -> ExitCircuit | None:
        """Bind a route to the circuit of that secret; None if there is no room.

        If there is none yet, it is made, with this handle and incarnation.
        """
        name = sha256(secret).digest()
        circuit = self._by_name.get(name)
        if circuit is None:
            addresses = next(self._unused, None) or (self._free.popleft() if self._free else None)
            if addresses is None:
                return None
            circuit = self._by_name[name] = ExitCircuit(handle, name, *addresses, incarnation)
        elif len(circuit.routes) >= MAX_ROUTES:
            return None
        circuit.routes.add(route)
        self._of_route[route] = circuit
        return circuit

    def circuit_of(self, route: int) -> int:
        """The handle of the circuit that a route has joined."""
        return self._of_route[route].handle

    def leave(self, route: int, now: int) -> None:
        """A route has ended; its circuit waits for another."""
        circuit = self._of_route.pop(route, None)
        if circuit is not None:
            circuit.routes.discard(route)
            circuit.empty_since = now

    def next_deadline(self) -> int | None:
        """When `expired` has something to tell."""
        return min((c.empty_since + LINGER_NS for c in self._by_name.values() if not c.routes), default=None)

    def expired(self, now: int) -> list[int]:
        """Forget circuits that no route came back to; return their handles."""
        over = [c for c in self._by_name.values() if not c.routes and now - c.empty_since >= LINGER_NS]
        for circuit in over:
            del self._by_name[circuit.name]
            self._free.append((circuit.pool4, circuit.pool6))
        return [circuit.handle for circuit in over]
