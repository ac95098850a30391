"""Inlets and outlets of many routes that come and go: the native engine's and its reference's do the same.

A native inlet knows whose cells came before and after its own (native/transit.c), and nobody owns that chain.
So routes end here in every order, between cells and amidst them, and get other queues. Under `make sanitize`
what points at an inlet that is gone is an error; without, it is a crash at best.
"""

from __future__ import annotations

import weakref
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.proto.engine import PYTHON, Engine
from anonnet.proto.transit import Inlet, Outlet
from anonnet.spec import NARROW, SLOT_MASK
from anonnet.wire.cell import CellRow, rows
from tests.proto.twins import SEED, layer_keys

Seen = tuple[str, int, int, bytes]  # what, route, slot or tick, body
PER_TICK = (0.9, 1.0, 3.0)
OTHERS = ("remove", "renew", "queue", "end", "signal", "mix", "trap")
ACTS = ("burst",) * 6 + ("tick",) * 4 + ("add",) * 3 + OTHERS
TRAPS = ("remove", "queue", "end", "add")


class Route:
    """One direction of a route."""

    inlet: Inlet
    outlet: Outlet

    def __init__(self, relay: Relay, number: int, random: Random) -> None:
        self.relay, self.number = relay, number
        self.slot = random.getrandbits(32)
        self.signals: list[bytes] = []
        keys = layer_keys(random)
        self.caller = PYTHON.layer(keys)
        take = Route.recognised if random.random() < 0.7 else None
        self.inlet = relay.engine.inlet(relay.engine.layer(keys), self, Route.end, take)
        self.outlet = relay.engine.outlet(
            number, random.getrandbits(32), relay.substitute, self, Route.originate, self.signals, Route.own
        )

    def end(self, slot: int, row: CellRow, _now: int) -> None:
        self.relay.note("end", self.number, slot, row)

    def recognised(self, row: CellRow, now: int) -> None:
        self.relay.note("recognised", self.number, now, row)

    def originate(self, tick: int) -> CellRow | None:
        return self.relay.blank(tick) if tick % 3 else None

    def own(self, slot: int) -> CellRow:
        del self.signals[0]
        return self.relay.blank(slot)

    def close(self) -> None:
        del self.inlet, self.outlet


class Relay:
    """Many of them, in one engine. What is drawn does not depend on the engine."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.random = Random(seed)
        self.routes: dict[int, Route] = {}
        self.order: list[int] = []  # in which their cells come
        self.seen: list[Seen] = []
        self.trap = ""  # what the next call from amidst a cell is to do
        self.ended: list[weakref.ref[Route]] = []
        self._number = self._tick = 0
        self._row = rows(NARROW, 1)[0]

    def blank(self, mark: int) -> CellRow:
        self._row.body[:] = (mark & SLOT_MASK).to_bytes(4, "big") * (NARROW.body_len // 4)
        return self._row

    def substitute(self) -> CellRow:
        return self.blank(len(self.seen))

    def note(self, what: str, number: int, slot: int, row: CellRow) -> None:
        self.seen.append((what, number, slot, bytes(row.body)))
        trap, self.trap = self.trap, ""
        if trap:
            self.act(trap)

    def act(self, what: str) -> None:
        getattr(self, what)()

    def some(self) -> Route | None:
        return self.routes[self.random.choice(self.order)] if self.order else None

    # -- what may happen --------------------------------------------------------------------------

    def burst(self) -> None:
        """A cell or two of each route, nearly always in the same order."""
        for number in list(self.order):
            for _ in range(self.random.choice((1, 1, 1, 2))):
                self._receive(number)

    def _receive(self, number: int) -> None:
        row, random = rows(NARROW, 1)[0], self.random
        row.cell[:] = random.randbytes(NARROW.cell_len)
        ours, again = random.random() < 0.15, random.random() < 0.1
        route = self.routes.get(number)
        if route is None:
            return  # gone in the midst of the burst
        route.slot = (route.slot + (0 if again else 1)) & SLOT_MASK
        if ours:
            row.left[:] = bytes(16)
            shift = 0 if route.inlet.queue is None else route.inlet.shift
            route.caller.decipher((route.slot - shift) & SLOT_MASK, row)
        route.inlet(route.slot, row, len(self.seen))

    def tick(self) -> None:
        self._tick += 1
        for number in list(self.order):
            row = self.routes[number].outlet(self._tick)
            if row is not None:
                self.seen.append(("out", number, self._tick, bytes(row.cell)))

    def add(self, number: int | None = None) -> None:
        if number is None:
            self._number += 1
            number = self._number
        route = self.routes[number] = Route(self, number, self.random)
        self.order.insert(self.random.randrange(len(self.order) + 1), number)
        if self.random.random() < 0.8:
            self._give_queue(route)

    def _give_queue(self, route: Route) -> None:
        queue = self.engine.queue(NARROW, self.random.choice(PER_TICK))
        if self.random.random() < 0.5:
            queue.start(route.slot)
        route.inlet.queue = route.outlet.queue = queue
        route.inlet.shift = self.random.choice((0, self.random.getrandbits(32)))

    def remove(self) -> int:
        route = self.some()
        if route is None:
            return 0
        self.order.remove(route.number)
        del self.routes[route.number]
        route.close()
        self.ended.append(weakref.ref(route))
        return route.number

    def renew(self) -> None:
        self.add(self.remove() or None)

    def queue(self) -> None:
        if (route := self.some()) is not None:
            self._give_queue(route)

    def end(self) -> None:
        if (route := self.some()) is not None:
            route.inlet.queue = route.outlet.queue = None

    def signal(self) -> None:
        if (route := self.some()) is not None:
            route.signals.append(b"")

    def mix(self) -> None:
        self.random.shuffle(self.order)


def both(fast: Engine, seed: int, acts: list[str]) -> Relay:
    """Let both engines do the same; return the native one's relay."""
    pair = [Relay(engine, seed) for engine in (PYTHON, fast)]
    for relay in pair:
        for _ in range(6):
            relay.add()
    for what in acts:
        for relay in pair:
            if what == "trap":
                relay.trap = relay.random.choice(TRAPS)
            else:
                relay.act(what)
        assert pair[0].seen == pair[1].seen
        for relay in pair:
            assert not any(route() for route in relay.ended), "a route that has ended is gone at once"
    return pair[1]


@given(seed=SEED, acts=st.lists(st.sampled_from(ACTS), max_size=60))
@settings(max_examples=100)
def test_routes_come_and_go(fast: Engine, seed: int, acts: list[str]) -> None:
    """In any order; a route may also end another, or itself, while a cell is with it."""
    both(fast, seed, acts)


def test_the_control_all_of_it_happens(fast: Engine) -> None:
    """What the other test compares: cells go on, end here, are recognised; many routes come and go."""
    random = Random(7)
    relay = both(fast, 7, random.choices(ACTS, k=1500))
    kinds = [what for what, *_ in relay.seen]
    assert min(kinds.count(what) for what in ("end", "recognised", "out")) > 200
    assert len(relay.ended) > 50
    assert len(relay.routes) > 20
