"""Threads of the native engine: a relay with many routes, and neighbours that send what they like."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.crypto.onion import OnionLayer
from anonnet.proto import orders as o
from anonnet.proto.engine import PYTHON, Engine
from anonnet.spec import ROUTE_CONTROL, ROUTE_NULL, SLOT_MASK, TAG_LEN, WIDE, DatagramType, Kind
from anonnet.wire.cell import CELL_HEADER, CellRow, rows
from anonnet.wire.datagram import HEADER, word
from tests.proto.twins import HERE, LEFT, RIGHT, SEED, TICK, Twins, layer_keys

ROUTES = 7
CELLS = 40  # a tick and link: more than a thread takes at once
RATE = CELLS * o.RATE_UNIT // TICK // ROUTES
FIRST_ID = 256


class Neighbours:
    """Of one relay, on its left and right: they have its keys, and send it any cells they like."""

    def __init__(self, crew: Engine, seed: int) -> None:
        self.random = random = Random(seed)
        self.relay = Twins(seed, crew)
        self._sealers = {}
        self._counters = {link: count() for link in (LEFT, RIGHT)}
        for link in (LEFT, RIGHT):
            key = random.randbytes(32)
            self._sealers[link] = PYTHON.sealer(key)
            self.relay.obey(o.AddLink(link, WIDE.code, HERE, TICK, CELLS, CELLS))
            self.relay.obey(o.SetSession(link, link, link, random.randbytes(32), key, confirm=False))
        self._forward: dict[int, OnionLayer] = {}
        for route in range(ROUTES):
            self.lay(route)
        self._slots = {(link, route): 1000 * route for link in (LEFT, RIGHT) for route in range(ROUTES)}

    def lay(self, route: int) -> None:
        """Lay a route over both links, with fresh keys."""
        forward, backward = layer_keys(self.random), layer_keys(self.random)
        self._forward[route] = PYTHON.layer(forward)
        self.relay.obey(o.AddRelayRoute(route, LEFT, FIRST_ID + route, RATE, RATE, forward, backward, 9))
        self.relay.obey(o.ExtendRelayRoute(route, RIGHT, FIRST_ID + route))

    def datagram(self, link: int, what: str) -> bytes:
        """Make one: the next cell of a route, a cell of the slot before, a signal, control, a null, noise."""
        row = rows(WIDE, 1)[0]
        row.cell[:] = self.random.randbytes(WIDE.cell_len)
        route = self.random.randrange(ROUTES)
        slot = self._slots[link, route]
        if what == "again":
            slot -= 1
        else:
            self._slots[link, route] += 1
        if what == "signal" and link == LEFT:
            self._sign(route, slot, row)
        route_id = {"control": ROUTE_CONTROL, "null": ROUTE_NULL}.get(what, FIRST_ID + route)
        CELL_HEADER.pack_into(row.cell, 0, route_id, slot & SLOT_MASK)
        nonce = HEADER.pack(word(DatagramType.DATA, link), next(self._counters[link]))
        sealed = bytearray(WIDE.cell_len + TAG_LEN)
        self._sealers[link](memoryview(nonce), row.cell, None, memoryview(sealed))
        if what == "noise":
            sealed[self.random.randrange(len(sealed))] ^= 1
        return nonce + bytes(sealed)

    def _sign(self, route: int, slot: int, row: CellRow) -> None:
        """Make it a cell that the relay recognises: a signal for itself."""
        row.body[:] = bytes(WIDE.body_len)
        row.set_payload_header(Kind.SIGNAL, 0, 0)
        row.content[:] = self.random.randbytes(len(row.content))
        self._forward[route].decipher(slot & SLOT_MASK, row)


KINDS = ("next",) * 12 + ("again", "signal", "control", "null", "noise")


@given(seed=SEED, bursts=st.lists(st.integers(0, 300), min_size=1, max_size=4))
@settings(max_examples=25)
def test_a_busy_relay(crew: Engine, seed: int, bursts: list[int]) -> None:
    """More than a batch at once, of many routes, some of whose cells are not to go on, or came before."""
    neighbours = Neighbours(crew, seed)
    random, relay = neighbours.random, neighbours.relay
    for burst in bursts:
        links = [random.choice((LEFT, RIGHT)) for _ in range(burst)]
        relay.receive([neighbours.datagram(link, random.choice(KINDS)) for link in links])
        relay.compare()
        relay.tick()
        relay.compare()


@given(seed=SEED, bursts=st.lists(st.integers(0, 200), min_size=2, max_size=6))
@settings(max_examples=25)
def test_routes_that_come_and_go(crew: Engine, seed: int, bursts: list[int]) -> None:
    """Between two bursts some routes end, some come, some end and come again under the same number."""
    neighbours = Neighbours(crew, seed)
    random, relay = neighbours.random, neighbours.relay
    there = set(range(ROUTES))
    for burst in bursts:
        links = [random.choice((LEFT, RIGHT)) for _ in range(burst)]
        relay.receive([neighbours.datagram(link, random.choice(KINDS)) for link in links])
        relay.tick()
        relay.compare()
        for route in random.sample(sorted(there), random.randint(0, len(there))):
            relay.obey(o.RemoveRoute(route))
            there.remove(route)
        for route in random.sample(range(ROUTES), random.randint(0, ROUTES)):
            if route not in there:
                neighbours.lay(route)
                there.add(route)
        assert {report.route for report in relay.planes[1]._stats(0).routes} == there


def test_the_busy_relay_is_busy(crew: Engine) -> None:
    """What the other test compares does happen: cells go on, signals are recognised in the midst of them."""
    neighbours = Neighbours(crew, 1)
    relay = neighbours.relay
    relay.receive([neighbours.datagram(LEFT, kind) for kind in KINDS * 20])
    reports = relay.compare()
    assert sum(isinstance(report, o.SignalSeen) for report in reports) == 20
    assert sum(isinstance(report, o.ControlSeen) for report in reports) == 20
    assert sum(route.received for route in relay.planes[1]._stats(0).routes) > 200
    assert relay.planes[1].links[LEFT].forged == 20


# -- the threads themselves ---------------------------------------------------------------------------


@pytest.fixture
def alone(fast: Engine) -> Iterator[Engine]:
    """The native engine on one thread; whatever threads it is given, it has one in the end."""
    fast.threads(1)
    yield fast
    fast.threads(1)


def names() -> list[str]:
    """Return the names of this process's threads."""
    return sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))


def test_threads_come_and_go(alone: Engine) -> None:
    before = names()
    assert alone.threads(3) == 3
    assert [name for name in names() if name not in before] == ["crew-1", "crew-2"]
    assert alone.threads(2) == 2
    assert [name for name in names() if name not in before] == ["crew-1"]
    assert alone.threads(1) == 1
    assert names() == before
    for wrong in (0, -1, 65):
        with pytest.raises(ValueError, match="threads"):
            alone.threads(wrong)
    assert PYTHON.threads(8) == 1


def test_keys_of_fewer_threads_work_on_more(alone: Engine) -> None:
    """As when threads are had after a link is up: what is not fit for all is one's."""
    neighbours = Neighbours(alone, 2)
    assert alone.threads(3) == 3
    for _ in range(5):
        neighbours.relay.receive([neighbours.datagram(LEFT, "next") for _ in range(200)])
        neighbours.relay.tick()
        neighbours.relay.compare()


CHILD = """
import os, sys
from anonnet.proto.engine import NATIVE as engine
from tests.proto.test_engine_crew import Neighbours, LEFT
engine.threads(3)
if len(sys.argv) > 1:
    pid = os.fork()
    if pid:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
relay = Neighbours(engine, 3)
for _ in range(20):
    relay.relay.receive([relay.datagram(LEFT, "next") for _ in range(200)])
    relay.relay.tick()
    relay.relay.compare()
os._exit(7)
"""


@pytest.mark.parametrize("how", ["fork", "one core", "no more threads"])
def test_without_its_workers_one_thread_does_it_all(fast: Engine, how: str) -> None:
    """A fork's child has none; on one core they hardly run; and they may not be had at all."""
    before = {
        "fork": "",
        "one core": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "no more threads": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)); "
                           "os.setresuid(65534, 65534, 65534) if os.geteuid() == 0 else None",
    }[how]  # fmt: skip
    script = CHILD.replace("engine.threads(3)", f"{before}\nhad = engine.threads(3)")
    if how == "no more threads":
        script = script.replace("os._exit(7)", "os._exit(7 if had == 1 else 8)")
    arguments = ["fork"] if how == "fork" else []
    done = subprocess.run([sys.executable, "-c", script, *arguments], timeout=60, check=False)
    assert done.returncode == 7


def test_they_take_no_signals(alone: Engine) -> None:
    """Python's handlers run in the thread that has Python; a blocked call there must be interrupted."""
    alone.threads(3)
    threads = {}
    for path in Path("/proc/self/task").glob("*/status"):
        status = dict(line.split(":", 1) for line in path.read_text().splitlines())
        threads[int(status["Pid"])] = status["Name"].strip(), int(status["SigBlk"], 16)
    _, first = threads[os.getpid()]  # by its number: a sanitizer's thread has the same name
    workers = [blocked for name, blocked in threads.values() if name in ("crew-1", "crew-2")]
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM):
        bit = 1 << (number - 1)
        assert all(blocked & bit for blocked in workers)
        assert not first & bit
