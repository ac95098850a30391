"""A relay that cheats as an adversary may write one: all is ours but what it does to cells in transit.

Run as `python -m tests.lab.cheat CONFIG ACT SHARE_PERCENT`. It cheats while the file CONFIG.active is there;
CONFIG.cheated says how many cells it has cheated on.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anonnet.node import keeper
from anonnet.node.config import load
from anonnet.proto import orders as o
from anonnet.proto.plane import Plane
from anonnet.wire.cell import CellRow

Receive = Callable[[int, CellRow, int], None]
REPORT_EVERY = 50  # cells

CONFIG = Path("/nowhere")
ACT = ""
SHARE = 0.0


class Cheat:
    """What is done to the cells of one direction of a route before the relay's honest code sees them."""

    def __init__(self, honest: Receive) -> None:
        self._honest = honest
        self._kept = b""
        self._chance = random.Random(ACT)

    def __call__(self, slot: int, row: CellRow, now: int) -> None:
        if self._chance.random() >= SHARE or not CheatingPlane.active:
            self._honest(slot, row, now)
            return
        CheatingPlane.count()
        body = row.body
        if ACT == "flip":
            place = self._chance.randrange(len(body))
            body[place] ^= 1 << self._chance.randrange(8)
        elif ACT in ("swap", "replay"):
            # swap: this cell's body goes out with the next one cheated on, and that one's with the one after.
            fresh = bytes(body)
            if self._kept:
                body[:] = self._kept
            if ACT == "swap" or not self._kept:
                self._kept = fresh
        elif ACT == "drop":
            return
        self._honest(slot, row, now)


class CheatingPlane(Plane):
    """A data plane whose routes in transit pass through a `Cheat`."""

    active = False
    cheated = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._counter = CONFIG.with_suffix(".cheated").open("w")

    @classmethod
    def count(cls) -> None:
        """One more cell was cheated on."""
        cls.cheated += 1

    def obey(self, order: o.Order) -> None:
        """Put a cheat before each direction of each route as it is made."""
        super().obey(order)
        if isinstance(order, o.AddRelayRoute | o.ExtendRelayRoute):
            routes = self.links[order.link].routes
            routes[order.route_id] = Cheat(routes[order.route_id])

    def emitted(self, *args: Any) -> None:
        """See from time to time whether to cheat, and say how often it was done."""
        super().emitted(*args)
        if int(args[-1] / 1e8) % 5 == 0:
            CheatingPlane.active = CONFIG.with_suffix(".active").exists()
            self._counter.seek(0)
            self._counter.write(f"{CheatingPlane.cheated}\n")
            self._counter.flush()


def main() -> int:
    """Run the node."""
    global CONFIG, ACT, SHARE
    CONFIG, ACT, SHARE = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]) / 100
    return keeper.run(load(CONFIG), debug=False, verbose=False, plane=CheatingPlane)


if __name__ == "__main__":
    sys.exit(main())
