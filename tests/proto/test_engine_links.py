"""Many links at a time, their datagrams mixed in one burst; links come, go and change keys between ticks."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.proto import orders as o
from anonnet.proto.engine import PYTHON, Engine
from anonnet.proto.plane import Plane
from anonnet.spec import NARROW, WIDE
from tests.proto.twins import HERE, SEED, THERE, TICK, Twins, layer_keys

CELLS = 3  # of a link in a tick
RATE = o.RATE_UNIT // TICK  # of a route: a cell a tick
ROUTES = 2  # from each link to the one after it
ACTS = st.lists(st.sampled_from(["add", "remove", "rekey", "drop", "late"]), min_size=4, max_size=12)


class Many:
    """A relay, once of each engine, and a neighbour for each of its links that fills all of its slots."""

    def __init__(self, seed: int, fast: Engine) -> None:
        self.random = Random(seed)
        self.relay = Twins(seed, fast)
        self.ends: dict[int, Plane] = {}
        self.made = self.spoilt = 0

    def add(self) -> None:
        self.made += 1
        link = self.made
        fmt = NARROW if link % 4 == 0 else WIDE
        end = self.ends[link] = Plane(0, self.random.randbytes, engine=PYTHON)
        for plane, endpoint in ((self.relay, HERE), (end, THERE)):
            plane.obey(o.AddLink(link, fmt.code, endpoint, TICK, CELLS, CELLS))
        self.rekey(link)
        for index in range(ROUTES):
            self.lay(link, ROUTES * link + index)

    def lay(self, link: int, route: int) -> None:
        """Lay a route from a neighbour over the relay, to wherever; it has nothing to say."""
        forward, backward = layer_keys(self.random), layer_keys(self.random)
        self.relay.obey(o.AddRelayRoute(route, link, 300 + route, RATE, RATE, forward, backward, 7))
        self.ends[link].obey(o.AddCallerRoute(route, link, 300 + route, RATE, RATE))
        self.ends[link].obey(o.AddHop(route, forward, backward, 7, 0))
        onward = next((other for other in self.ends if other % 4 and other != link), None)
        if onward is not None and link % 4:
            self.relay.obey(o.ExtendRelayRoute(route, onward, 300 + route))

    def rekey(self, link: int) -> None:
        there, back = self.random.randbytes(32), self.random.randbytes(32)
        index = self.random.randrange(2**24)
        self.ends[link].obey(o.SetSession(link, index, index, there, back, confirm=False))
        self.relay.obey(o.SetSession(link, index, index, back, there, confirm=True))

    def remove(self, link: int) -> None:
        for index in range(ROUTES):
            self.relay.obey(o.RemoveRoute(ROUTES * link + index))
        self.relay.obey(o.DropSession(link))
        self.relay.obey(o.RemoveLink(link))
        del self.ends[link]

    def drop(self, link: int) -> None:
        self.relay.obey(o.DropSession(link))

    def tick(self, late: int = 0) -> None:
        """Let all neighbours' datagrams come in one burst, in any order, some of them spoilt; then send."""
        datagrams = []
        for end in self.ends.values():
            (beat,) = end.beats.values()
            datagrams += [
                self.spoil(bytes(view))
                for link in end.prepare(beat)
                for view in link.outbox.views[: link.ready]
            ]
            end.emitted(beat, beat.deadline)
        self.random.shuffle(datagrams)
        self.relay.receive(datagrams)
        for link, sent in self.relay.tick(late).items():
            assert len(sent) in (0, CELLS), link
        self.relay.compare()

    def spoil(self, datagram: bytes) -> bytes:
        spoilers: list[Callable[[], bytes]] = [
            lambda: datagram[:-1] + bytes([datagram[-1] ^ 1]),  # forged
            lambda: datagram[: self.random.randrange(len(datagram))],  # short, maybe empty
            lambda: self.random.randbytes(len(datagram)),  # a stranger's, maybe a handshake
            lambda: datagram[:1] + self.random.randbytes(3) + datagram[4:],  # of no session
        ]
        if self.random.randrange(8):
            return datagram
        self.spoilt += 1
        return self.random.choice(spoilers)()


def play(many: Many, acts: list[str]) -> None:
    for _ in range(6):
        many.add()
    for act in acts:
        many.tick()
        link = many.random.choice(list(many.ends))
        if act == "add":
            many.add()
        elif act == "late":
            many.tick(late=3 * TICK)
        elif len(many.ends) > 2:
            getattr(many, act)(link)
    many.tick()
    many.tick()


@given(seed=SEED, acts=ACTS)
@settings(max_examples=25)
def test_links_come_and_go(crew: Engine, seed: int, acts: list[str]) -> None:
    play(Many(seed, crew), acts)


def test_the_control_their_cells_do_go_on(crew: Engine) -> None:
    many = Many(1, crew)
    play(many, ["add", "rekey", "remove", "late", "drop", "add"] * 3)
    assert many.spoilt > 20
    stats = many.relay.planes[1]._stats(0)
    assert sum(route.received for route in stats.routes) > 100
    assert sum(link.cells_received for link in stats.links) > 200
    assert sum(link.forged for link in stats.links) > 2
