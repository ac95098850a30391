"""Which pool addresses an exit has given to which circuit.

An address is not given out again before all others were, so that late packets of an old connection
find nobody rather than a stranger.
"""

from __future__ import annotations

from collections import deque
from ipaddress import IPv4Network, IPv6Network
from typing import Final

MAX_CIRCUITS: Final = 16_384


class ExitPool:
    """Pairs of an IPv4 and an IPv6 address, packed, one for each circuit that ends here."""

    def __init__(self, pool4: IPv4Network, pool6: IPv6Network) -> None:
        count = min(MAX_CIRCUITS, pool4.num_addresses - 3, pool6.num_addresses - 3)
        base4, base6 = int(pool4.network_address), int(pool6.network_address)
        self._free = deque(
            ((base4 + n).to_bytes(4, "big"), (base6 + n).to_bytes(16, "big")) for n in range(2, count + 2)
        )
        self._taken: dict[int, tuple[bytes, bytes]] = {}

    def take(self, circuit: int) -> tuple[bytes, bytes] | None:
        """Give a circuit its addresses; None when all are taken."""
        if not self._free or circuit in self._taken:
            return None
        self._taken[circuit] = addresses = self._free.popleft()
        return addresses

    def give_back(self, circuit: int) -> None:
        """The circuit has ended."""
        addresses = self._taken.pop(circuit, None)
        if addresses is not None:
            self._free.append(addresses)
