"""What the native engine takes it gives back: cells, routes, keys and mistakes leave no memory behind."""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from anonnet import native
from anonnet.bench.parts import CELLS, Chain, tick
from anonnet.bench.planes import layer_keys
from anonnet.proto import orders as o
from anonnet.proto.engine import NATIVE, Engine
from anonnet.proto.inbox import STRIDE, Inbox, Outbox
from anonnet.proto.plane import Plane
from anonnet.proto.profile import parse_profile
from anonnet.spec import NARROW, WIDE
from anonnet.wire.cell import rows

FULL: Final = bool(os.environ.get("ANONNET_FULL"))
MANY: Final = 1_000_000 if FULL else 100_000  # cells
GOES: Final = 1000
PAGE: Final = os.sysconf("SC_PAGESIZE")
SLACK: Final = 1 << 20  # bytes: what the allocators keep at hand


@pytest.fixture(scope="module", autouse=True, params=[1, 2], ids="{}-threads".format)
def fast(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The native engine, with threads."""
    if NATIVE is None:
        pytest.fail(f"{native.trouble}: {native.HINT}", pytrace=False)
    NATIVE.threads(request.param)
    yield NATIVE
    NATIVE.threads(1)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@contextmanager
def uncollected() -> Iterator[None]:
    """As in a data plane: nobody collects garbage."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def growth(work: Callable[[], object]) -> int:
    """Return by how many blocks `work` makes memory grow in GOES goes, once it is warm."""
    for _ in range(50):
        work()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(GOES):
        work()
    gc.collect()  # exceptions are garbage with their frames
    return sys.getallocatedblocks() - before


def test_cells_leave_nothing(fast: Engine) -> None:
    chain = Chain(WIDE, fast)

    def forward() -> None:
        now = chain.feed()
        chain.forward(now)
        chain.drain(now)
        for plane in (chain.caller, chain.relay, chain.exit):
            plane.reports.clear()

    for _ in range(50):
        forward()
    with uncollected():
        blocks, memory = sys.getallocatedblocks(), resident()
        for _ in range(MANY // (2 * CELLS)):
            forward()
        assert sys.getallocatedblocks() - blocks < MANY // 100, "less than one in two ticks"
        assert resident() - memory < SLACK
    (stats,) = chain.relay._stats(0).routes
    assert stats.received > 0.9 * MANY


def test_routes_and_keys_leave_nothing(fast: Engine) -> None:
    """Routes through a relay, made, used and ended, and sessions replaced."""
    chain = Chain(WIDE, fast)
    relay = chain.relay
    index = 9

    def live() -> None:
        nonlocal index
        index += 1
        relay.obey(o.AddRelayRoute(2, 1, 400, 1000, 1000, layer_keys(), layer_keys(), 3))
        relay.obey(o.ExtendRelayRoute(2, 2, 400))
        relay.links[2].routes[400](5, rows(WIDE, 1)[0], 0)
        tick(relay)
        relay.obey(o.RemoveRoute(2))
        relay.obey(o.SetSession(1, index, index, os.urandom(32), os.urandom(32), confirm=False))
        relay.reports.clear()

    with uncollected():
        for _ in range(50):
            live()
        blocks, memory = sys.getallocatedblocks(), resident()
        for _ in range(GOES):
            live()
        assert sys.getallocatedblocks() - blocks < GOES // 2, "less than one in two goes"
        assert resident() - memory < SLACK


def test_what_is_refused_leaves_nothing(fast: Engine) -> None:
    """Datagrams of strangers, forged and cut ones, and every call with wrong arguments."""
    chain = Chain(NARROW, fast)
    inbox = Inbox(4, 0, lambda _: o.Endpoint("raw", "192.0.2.1", 0))
    start = next(iter(chain.relay._sessions))
    inbox.memory[:] = os.urandom(len(inbox.memory))
    inbox.memory[:4] = inbox.memory[STRIDE : STRIDE + 4] = start.to_bytes(4, "big")
    layer, queue, onion = fast.layer(layer_keys()), fast.queue(NARROW, 3.0), fast.onion()
    row, wide, short = rows(NARROW, 1)[0], rows(WIDE, 1)[0], memoryview(bytearray(3))
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    inlet = fast.inlet(layer, None, nothing, None)
    inlet.queue = queue
    filler = fast.filler(Outbox(NARROW, 1), [], deque(), nothing, short)
    module = native.module
    assert module is not None
    wrong: list[Callable[[], object]] = [
        lambda: fast.layer((b"", b"", b"")),  # type: ignore[arg-type]
        lambda: fast.sealer(b"short"),
        lambda: fast.sealer(bytes(32))(short, short, None, short),
        lambda: fast.opener(bytes(32))(short, short, None, short),
        lambda: layer.encipher(-1, row, row),
        lambda: layer.encipher(1 << 32, row, row),
        lambda: layer.encipher(1, row, wide),
        lambda: layer.decipher(1, object()),  # type: ignore[arg-type]
        lambda: onion.add(layer, 1 << 40),
        lambda: onion.add(None, 1),  # type: ignore[arg-type]
        lambda: onion.peel("x", row),  # type: ignore[arg-type]
        lambda: queue.claim("x"),  # type: ignore[arg-type]
        lambda: module.ForwardQueue(NARROW, 7, 1, 1, 3, 1.0, 1.0, 1, 9, 1.0, 1.0, 3, spacing=9),
        lambda: module.ForwardQueue(None, 8, 1, 1, 3, 1.0, 1.0, 1, 9, 1.0, 1.0, 3, spacing=9),
        lambda: inlet(1, wide, 0),
        lambda: setattr(inlet, "queue", row),
        lambda: fast.lane(1, 1 << 62, 1 << 62, nothing, nothing),
        lambda: fast.session(None, 5, fast.opener(bytes(32)), True),  # type: ignore[arg-type]
        lambda: fast.session(None, 256, nothing, True),  # type: ignore[arg-type]
        lambda: fast.intake({256: wide}, nothing, nothing, nothing),
        lambda: fast.filler(None, [], deque(), nothing, short),  # type: ignore[arg-type]
        lambda: fast.filler(Outbox(NARROW, 1), (), deque(), nothing, short),
        lambda: filler.use(nothing, 0),
        lambda: filler.use(fast.sealer(bytes(32)), 1 << 32),
        lambda: fast.fill([filler], 0),
        lambda: fast.fill([None], 0),  # type: ignore[list-item]
        lambda: fast.fill(None, 0),  # type: ignore[arg-type]
        lambda: fast.replay_window().accept(-1),
    ]

    def refuse() -> None:
        inbox.lengths = [NARROW.datagram_len, NARROW.datagram_len - 1, NARROW.datagram_len, WIDE.datagram_len]
        chain.relay.receive(inbox, 0)
        inbox.lengths = [STRIDE + 1]
        with pytest.raises(ValueError, match="inbox"):
            chain.relay.receive(inbox, 0)
        chain.relay.reports.clear()
        for call in wrong:
            with pytest.raises((ValueError, TypeError, OverflowError, AttributeError)):
                call()

    assert growth(refuse) < GOES // 2
    assert chain.relay.links[1].forged >= GOES


def test_a_callback_that_fails_is_heard_and_costs_nothing(fast: Engine) -> None:
    """Whatever Python raises in between comes out where it was called, also from inside of a batch."""
    chain = Chain(NARROW, fast)
    relay = chain.relay

    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    routes, (lane, *_others) = relay.links[1].routes, relay.links[1].lanes
    route_id = next(iter(routes))
    honest = routes[route_id], lane.take

    def stumble() -> None:
        now = chain.feed()
        routes[route_id], lane.take = fail, fail
        with pytest.raises(RuntimeError, match="on purpose"):
            chain.forward(now)
        with pytest.raises(RuntimeError, match="on purpose"):
            tick(relay)
        routes[route_id], lane.take = honest
        relay.reports.clear()
        chain.caller.reports.clear()
        chain.exit.reports.clear()

    assert growth(stumble) < GOES // 2


def test_a_link_takes_little(fast: Engine) -> None:
    """A hundred links of 100m, each with three receive keys: at most 200 kB each in the data plane."""
    schedule = parse_profile("100m").schedule("udp", 4)
    here = o.Endpoint("udp", "192.0.2.1", 1)
    plane = Plane(0, os.urandom, engine=fast)
    keys = count(1)

    def add(link: int) -> None:
        plane.obey(o.AddLink(link, WIDE.code, here, schedule.tick_ns, schedule.cells_out, schedule.cells_in))
        for _ in range(3):
            index = next(keys)
            plane.obey(o.SetSession(link, index, index, os.urandom(32), os.urandom(32), confirm=False))
        tick(plane)

    for link in range(1, 11):
        add(link)
    before = resident()
    for link in range(11, 111):
        add(link)
    assert resident() - before < 100 * 200_000
