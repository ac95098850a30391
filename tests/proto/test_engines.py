"""The native engine and its reference, Python: the same bytes, the same decisions, whatever comes.

caller ==LEFT== relay ==RIGHT== exit       each a pair of planes, one of each engine, told the same
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP

import anonnet
from anonnet import native
from anonnet.crypto.onion import LayerKeys
from anonnet.errors import OperatorError
from anonnet.proto import engine as engines
from anonnet.proto import orders as o
from anonnet.proto.engine import NATIVE, PYTHON, Engine
from anonnet.proto.inbox import STRIDE, Inbox
from anonnet.proto.plane import Plane
from anonnet.spec import HEADER_LEN, INNER4_CALLER, NARROW, SLOT_MASK, TAG_LEN, WIDE, Format
from anonnet.wire.cell import CellRow, rows

FORMAT = st.sampled_from([NARROW, WIDE])
SLOT = st.integers(0, SLOT_MASK)
SEED = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def fast() -> Engine:
    """The native engine."""
    if NATIVE is None:
        pytest.fail(f"{native.trouble}: {native.HINT}", pytrace=False)
    return NATIVE


def keys(random: Random) -> LayerKeys:
    return LayerKeys(*(random.randbytes(32) for _ in range(3)))


def random_row(fmt: Format, random: Random) -> CellRow:
    row = rows(fmt, 1)[0]
    row.cell[:] = random.randbytes(fmt.cell_len)
    return row


# -- the parts ----------------------------------------------------------------------------------------


def test_both_know_the_same_numbers() -> None:
    from anonnet import spec  # noqa: PLC0415
    from anonnet.crypto.replay import WINDOW  # noqa: PLC0415
    from anonnet.proto.slots import MOST_OWED  # noqa: PLC0415

    own = {"STRIDE": STRIDE, "WINDOW": WINDOW, "RATE_UNIT": o.RATE_UNIT, "MOST_OWED": MOST_OWED}
    assert native.module is not None
    for name, value in native.module.CONSTANTS.items():
        assert value == own.get(name, getattr(spec, name, None)), name


@given(fmt=FORMAT, slot=SLOT, seed=SEED)
def test_layers(fast: Engine, fmt: Format, slot: int, seed: int) -> None:
    """Into another row, in place, and back."""
    key = keys(Random(seed))
    seen = []
    for engine in (PYTHON, fast):
        layer, row, target = engine.layer(key), random_row(fmt, Random(seed)), rows(fmt, 1)[0]
        plain = bytes(row.body)
        left = layer.encipher(slot, random_row(fmt, Random(seed)), target)
        assert left == bytes(target.left)
        assert layer.encipher(slot, row, row) == left
        assert row.body == target.body
        cipher = bytes(row.body)
        assert layer.decipher(slot, row) == plain[:16]
        assert row.body == plain
        seen.append(cipher)
    assert seen[0] == seen[1]


@given(fmt=FORMAT, slot=SLOT, seed=SEED, hops=st.integers(1, 5), target=st.integers(0, 7))
def test_onions(fast: Engine, fmt: Format, slot: int, seed: int, hops: int, target: int) -> None:
    """A caller wraps for some hop; peels what some hop, or none, wrote."""
    found = []
    for engine in (PYTHON, fast):
        random = Random(seed)
        onion, layers = engine.onion(), []
        for _ in range(hops):
            key, offset = keys(random), random.getrandbits(32)
            onion.add(engine.layer(key), offset)
            layers.append((engine.layer(key), offset))
        row = random_row(fmt, random)
        onion.wrap(target + 1, slot, row)
        wrapped = bytes(row.body)
        back = random_row(fmt, random)
        if target < hops:
            back.left[:] = bytes(16)
            for layer, offset in reversed(layers[: target + 1]):
                layer.encipher((slot + offset) & SLOT_MASK, back, back)
        found.append((wrapped, onion.peel(slot, back), bytes(back.body)))
        assert found[-1][1] == (target if target < hops else -1)
    assert found[0] == found[1]


@given(fmt=FORMAT, seed=SEED, flip=st.none() | st.integers(0, 2**16))
def test_what_one_seals_the_other_opens(fast: Engine, fmt: Format, seed: int, flip: int | None) -> None:
    random = Random(seed)
    key, nonce, cell = random.randbytes(32), random.randbytes(HEADER_LEN), random.randbytes(fmt.cell_len)
    sealed = []
    for engine in (PYTHON, fast):
        out = memoryview(bytearray(fmt.cell_len + TAG_LEN))
        assert engine.sealer(key)(memoryview(nonce), memoryview(cell), None, out) == len(out)
        sealed.append(out)
    assert sealed[0] == sealed[1]
    if flip is not None:
        sealed[0][flip % len(sealed[0])] ^= 1 + flip % 255
    for engine in (PYTHON, fast):
        plain = memoryview(bytearray(fmt.cell_len))
        open_ = engine.opener(key)
        if flip is None:
            assert open_(memoryview(nonce), sealed[0], None, plain) == fmt.cell_len
            assert plain == cell
        else:
            with pytest.raises(InvalidTag):
                open_(memoryview(nonce), sealed[0], None, plain)
            assert engine is PYTHON or not any(plain), "nobody may see what was not authenticated"


@given(start=SLOT, steps=st.lists(st.integers(-5, 5) | st.integers(-3000, 3000) | SLOT, max_size=60))
def test_slot_windows(fast: Engine, start: int, steps: list[int]) -> None:
    one, other = PYTHON.slot_window(), fast.slot_window()
    slot = start
    for step in steps:
        slot = (slot + step) & SLOT_MASK
        assert one.accept(slot) == other.accept(slot)
        assert (one.received, one.missing) == (other.received, other.missing)


@given(
    per_tick=st.floats(0.001, 25), start=st.none() | SLOT,
    acts=st.lists(
        st.tuples(st.sampled_from(["put", "put", "claim", "take", "take", "skip", "wait"]),
                  st.integers(-8, 40) | st.integers(0, SLOT_MASK)),
        max_size=120,
    ),
)  # fmt: skip
@settings(max_examples=300)
def test_queues(fast: Engine, per_tick: float, start: int | None, acts: list[tuple[str, int]]) -> None:
    """Any order of everything that a queue can be asked."""
    pair = [engine.queue(NARROW, per_tick) for engine in (PYTHON, fast)]
    tick = 0

    def same(act: Callable[[Any], Any]) -> None:
        results = [act(queue) for queue in pair]
        assert results[0] == results[1]

    def put(queue: Any, slot: int, commit: bool) -> bool:
        row = queue.claim(slot)
        if row is not None:
            row.body[:4] = slot.to_bytes(4, "big")
            if commit:
                queue.commit(slot)
        return row is not None

    def take(queue: Any) -> tuple[int, bytes | None] | None:
        item = queue.take(tick)
        return item and (item[0], item[1] and bytes(item[1].body[:4]))

    if start is not None:
        same(lambda queue: queue.start(start))
    for act, number in acts:
        slot = (pair[0].next + number) & SLOT_MASK
        if act in ("put", "claim"):
            same(lambda queue, slot=slot, act=act: put(queue, slot, act == "put"))  # type: ignore[misc]
        elif act == "take":
            same(take)
        elif act == "skip":
            same(lambda queue, number=number: queue.skip(abs(number) * 7))  # type: ignore[misc]
        else:
            tick += abs(number) % 400
        for name in ("next", "prefill", "received", "missing", "slips"):
            assert getattr(pair[0], name) == getattr(pair[1], name), name


# -- whole planes -------------------------------------------------------------------------------------

LEFT, RIGHT, ROUTE, ROUTE_ID = 1, 2, 5, 300
TICK = 5_000_000
CELLS = 6
RATE = CELLS * o.RATE_UNIT // TICK
HERE = o.Endpoint("raw", "192.0.2.1", 0)
POOL4, POOL6 = bytes([100, 127, 0, 9]), bytes(15) + b"\x09"


class Twins:
    """Two planes that are told the same; whatever differs fails."""

    def __init__(self, seed: int, fast: Engine) -> None:
        self.planes = [Plane(0, Random(seed).randbytes, engine=engine) for engine in (PYTHON, fast)]
        self.now = 0
        self._source = HERE

    def obey(self, order: o.Order) -> None:
        for plane in self.planes:
            plane.obey(order)

    def packets(self, role: str, packet: bytes) -> None:
        for plane in self.planes:
            plane.packets(role, [bytearray(packet)])

    def receive(self, datagrams: list[bytes], source: o.Endpoint = HERE) -> None:
        for plane in self.planes:
            inbox = Inbox(max(1, len(datagrams)), 0, lambda _: source)
            for index, datagram in enumerate(datagrams):
                inbox.memory[index * STRIDE : index * STRIDE + len(datagram)] = datagram
            inbox.lengths = [len(datagram) for datagram in datagrams]
            plane.receive(inbox, self.now)

    def tick(self, late: int = 0) -> dict[int, list[bytes]]:
        """Let a tick go by, or several; return what went out over each link."""
        sent = []
        for plane in self.planes:
            (beat,) = plane.beats.values()
            links = plane.prepare(beat)
            self.now = beat.deadline + late
            sent.append([(k.handle, [bytes(v) for v in k.outbox.views[: k.ready]]) for k in links])
            plane.emitted(beat, links, self.now)
        assert sent[0] == sent[1]
        return dict(sent[0])

    def compare(self) -> list[o.Report]:
        """Look at all else that a plane does; return what it reported."""
        reports = [list(plane.reports) for plane in self.planes]
        assert reports[0] == reports[1]
        views = [
            (
                msgspec.structs.replace(plane._stats(self.now), engine=""),
                plane.to_tun, plane.strays, plane._intake.unknown,
                [(list(k.sessions), k.endpoint, k.last_received, [x.credit for x in k.lanes], len(k.control))
                 for k in plane.links.values()],
            )
            for plane in self.planes
        ]  # fmt: skip
        assert views[0] == views[1]
        for plane in self.planes:
            plane.reports.clear()
            for packets in plane.to_tun.values():
                packets.clear()
        return reports[0]


class Chain:
    """Caller, relay and exit, and the bad network between them."""

    def __init__(self, fast: Engine, seed: int, fmt: Format) -> None:
        self.random = Random(seed)
        self.fmt = fmt
        self.caller, self.relay, self.exit = (Twins(seed + n, fast) for n in range(3))
        self.loss = 0.0
        self.delivered = 0
        self._late: list[tuple[Twins, bytes]] = []
        self.join(self.caller, self.relay, LEFT)
        self.join(self.relay, self.exit, RIGHT)
        self.lay()

    def join(self, one: Twins, other: Twins, link: int) -> None:
        for twins in (one, other):
            twins.obey(o.AddLink(link, self.fmt.code, HERE, TICK, CELLS, CELLS))
        self.rekey(one, other, link, confirm=False)

    def rekey(self, one: Twins, other: Twins, link: int, confirm: bool) -> None:
        index, there, back = self.random.getrandbits(24), self.random.randbytes(32), self.random.randbytes(32)
        one.obey(o.SetSession(link, index, index, there, back, confirm=False))
        other.obey(o.SetSession(link, index, index, back, there, confirm=confirm))

    def lay(self) -> None:
        """A route of two hops that owns most slots."""
        self.caller.obey(o.AddCallerRoute(ROUTE, LEFT, ROUTE_ID, RATE * 5 // 6, RATE * 5 // 6))
        self.hops = []
        for twins, link, shift in ((self.relay, LEFT, 7), (self.exit, RIGHT, 11)):
            forward, backward = keys(self.random), keys(self.random)
            twins.obey(
                o.AddRelayRoute(ROUTE, link, ROUTE_ID, RATE * 5 // 6, RATE * 5 // 6, forward, backward, shift)
            )
            self.hops.append((forward, backward, shift))
        self.caller.obey(o.AddHop(ROUTE, *self.hops[0], 0))

    def extend(self) -> None:
        """The relay goes on to the exit; a circuit begins when it has told the shift of what comes back."""
        self.relay.obey(o.ExtendRelayRoute(ROUTE, RIGHT, ROUTE_ID))

    def open(self, shift: int) -> None:
        self.caller.obey(o.AddHop(ROUTE, *self.hops[1], shift))
        self.caller.obey(o.OpenCircuit(ROUTE, 1))
        self.exit.obey(o.OpenCircuit(ROUTE, 1, POOL4, POOL6))
        for twins in (self.caller, self.exit):
            twins.obey(o.UseRoute(ROUTE))

    def end(self) -> None:
        for twins in (self.caller, self.relay, self.exit):
            twins.obey(o.RemoveRoute(ROUTE))

    def tick(self, late: int = 0) -> None:
        """A tick of everybody; what was sent arrives, by the network's mercy."""
        sent = {twins: twins.tick(late if twins is self.relay else 0)
                for twins in (self.caller, self.relay, self.exit)}  # fmt: skip
        came: dict[Twins, list[bytes]] = {self.caller: [], self.relay: [], self.exit: []}
        for twins, datagram in self._late:
            came[twins].append(datagram)
        self._late.clear()
        for source, link, target in (
            (self.caller, LEFT, self.relay), (self.relay, LEFT, self.caller),
            (self.relay, RIGHT, self.exit), (self.exit, RIGHT, self.relay),
        ):  # fmt: skip
            for datagram in sent[source].get(link, []):
                came[target] += self.carry(target, datagram)
        for twins, datagrams in came.items():
            twins.receive(datagrams)
            for report in twins.compare():
                self.hear(twins, report)

    def hear(self, twins: Twins, report: o.Report) -> None:
        if isinstance(report, o.ControlSeen) and twins is self.relay:
            self.delivered += 1
        elif isinstance(report, o.Joined):
            self.open(report.backward_shift)

    def carry(self, target: Twins, datagram: bytes) -> Iterator[bytes]:
        random = self.random
        if random.random() >= self.loss:
            yield datagram
            return
        fate = random.choice(["drop", "twice", "late", "harm", "cut", "noise", "other"])
        if fate == "twice":
            yield from (datagram, datagram)
        elif fate == "late":
            self._late.append((target, datagram))
        elif fate == "harm":
            harmed = bytearray(datagram)
            harmed[random.randrange(len(harmed))] ^= 1 << random.randrange(8)
            yield bytes(harmed)
        elif fate == "cut":
            yield datagram[: random.randrange(len(datagram))]
        elif fate == "noise":
            yield bytes([random.randrange(6)]) + random.randbytes(len(datagram) - 1)
        elif fate == "other":
            other = NARROW if self.fmt is WIDE else WIDE
            yield (datagram + bytes(WIDE.datagram_len))[: other.datagram_len]


def packet(random: Random, source: str, target: str) -> bytes:
    body = random.randbytes(random.randrange(0, 1400))
    return bytes(IP(src=source, dst=target) / UDP(sport=4000, dport=5000) / body)


OTHERS = ("bad", "good", "stall", "out", "in", "signal", "answer", "control", "rekey", "swap", "relay")
ACT = st.sampled_from(("tick",) * 8 + OTHERS)


def act(chain: Chain, what: str) -> None:  # noqa: PLR0912
    random = chain.random
    if what in ("bad", "good"):
        chain.loss = 0.2 if what == "bad" else 0.0
    elif what == "stall":
        chain.tick(late=random.randrange(20 * TICK))
    elif what == "out":
        chain.caller.packets("caller", packet(random, INNER4_CALLER, "198.51.100.7"))
    elif what == "in":
        chain.exit.packets("exit", packet(random, "198.51.100.7", "100.127.0.9"))
    elif what == "signal":
        chain.caller.obey(o.SendSignal(ROUTE, random.randrange(2), [random.randbytes(99)]))
    elif what == "answer":
        for twins in (chain.relay, chain.exit):
            twins.obey(o.SendSignal(ROUTE, 0, [random.randbytes(99)]))
    elif what == "control":
        frame = random.randbytes(random.randrange(chain.fmt.body_len))
        for twins, link in ((chain.caller, LEFT), (chain.relay, RIGHT)):
            twins.obey(o.SendControl(link, [frame, frame]))
    elif what == "rekey":
        chain.rekey(chain.caller, chain.relay, LEFT, confirm=True)
    elif what == "swap":
        chain.rekey(chain.exit, chain.relay, RIGHT, confirm=False)
    elif what == "relay":
        chain.end()
        chain.lay()
        chain.extend()
    else:
        chain.tick()


@given(fmt=FORMAT, seed=SEED, acts=st.lists(ACT, max_size=60))
@settings(max_examples=200)
def test_planes(fast: Engine, fmt: Format, seed: int, acts: list[str]) -> None:
    """Routes come and go, packets, signals, control pass, keys change, cells are lost, harmed, repeated."""
    chain = Chain(fast, seed, fmt)
    for _ in range(3):
        chain.tick()
    chain.extend()
    for what in acts:
        act(chain, what)
    for twins in (chain.caller, chain.relay, chain.exit):
        twins.obey(o.DropSession(LEFT if twins is not chain.exit else RIGHT))
        twins.compare()


def test_the_control_packets_do_pass(fast: Engine) -> None:
    """The same chain, without harm: what one end sends comes out of the other, and control is heard."""
    chain = Chain(fast, 1, WIDE)
    chain.extend()
    received: list[bytes] = []
    sent = [packet(Random(n), INNER4_CALLER, "198.51.100.7") for n in range(20)]
    tuns = chain.exit.planes[1].to_tun
    compare = chain.exit.compare

    def watch() -> list[o.Report]:
        received.extend(bytes(one) for one in tuns["exit"])
        return compare()

    chain.exit.compare = watch  # type: ignore[method-assign]
    act(chain, "control")
    for _ in range(10):
        chain.tick()
    for one in sent:
        chain.caller.packets("caller", one)
        for _ in range(3):
            chain.tick()
    for _ in range(10):
        chain.tick()
    assert [one[28:] for one in received] == [one[28:] for one in sent]
    assert chain.delivered == 2
    (stats,) = chain.relay.planes[1]._stats(0).routes
    assert stats.received > 200


# -- which one is used --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "configured", "name"),
    [("", None, "native"), ("", False, "python"), ("", True, "native"), ("true", False, "native"),
     ("false", True, "python"), ("auto", False, "native")],
)  # fmt: skip
def test_choice(
    fast: Engine, monkeypatch: pytest.MonkeyPatch, override: str, configured: bool | None, name: str
) -> None:
    monkeypatch.setenv(native.OVERRIDE, override)
    assert engines.choose(wanted=configured).name == name


def test_without_it_python_does_its_work_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.OVERRIDE, raising=False)
    monkeypatch.setattr(engines, "NATIVE", None)
    monkeypatch.setattr(native, "trouble", "no compiler")
    assert engines.choose().name == engines.choose(wanted=False).name == "python"
    with pytest.raises(OperatorError, match="no compiler"):
        engines.choose(wanted=True)


def test_what_cannot_be_loaded_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(anonnet, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "anonnet._native", None)
    module, trouble = native._load()
    assert module is None
    assert "cannot be loaded" in trouble


def test_a_stale_build_is_noticed(fast: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert native._load()[1] == ""
    (tmp_path / "aead.c").write_text("something else")
    module = sys.modules[native.sources.__module__]
    monkeypatch.setattr(module, "__file__", str(tmp_path / "sources.py"))
    loaded, trouble = native._load()
    assert loaded is None
    assert "other sources" in trouble
