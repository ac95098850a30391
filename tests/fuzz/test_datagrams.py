"""Datagrams that nobody sent: made up, or genuine ones changed, cut, lengthened, repeated.

Nothing of them raises, changes anything, or is answered; with a valid mac1, which everybody who knows the
node's key can make, at most the handshake's own answers go out, within their limits.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.crypto.link import LinkInitiator
from anonnet.crypto.suite import ANONNET_2026
from anonnet.proto import orders as o
from anonnet.proto.engine import Engine
from anonnet.spec import FORMATS, NARROW, WIDE, DatagramType
from anonnet.wire.cell import CELL_HEADER
from anonnet.wire.datagram import HEADER
from anonnet.wire.handshake import MACS_LEN, LinkOffer, fragment, mac, mac1_key, tai64n
from tests.fuzz.rig import LEFT, PROFILE, START, Rig

from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # isort: skip

LENGTHS = sorted({fmt.datagram_len for fmt in FORMATS.values()})
MAX_LEN = 2048


@pytest.fixture(scope="module")
def rig(engine: Engine) -> Rig:
    rig = Rig(engine)  # it has heard of its neighbour later than the corpus was made: that is a recording
    rig.node._guard.accept(rig.keys["left"].link_public, tai64n(START + 3600 * 10**9))
    return rig


def corpus(rig: Rig) -> list[bytes]:
    """Genuine datagrams of every type and format, to this node, from its neighbour or in its name."""
    node, left = rig.keys["node"], rig.keys["left"]
    random = Random(3).randbytes
    genuine = []
    schedule = PROFILE.schedule("raw", 4).mirrored
    for fmt in (WIDE, NARROW):
        offer = LinkOffer(
            tai64n(START), 7, fmt.code, 1, schedule.tick_ns, schedule.cells_out, schedule.cells_in
        )
        first = LinkInitiator(ANONNET_2026, left.link, node.link_public, offer.encode()).message
        key = mac1_key(node.link_public)
        genuine += fragment(first, fmt, DatagramType.INITIATION, 7, 99, key, None, random)
        genuine += fragment(first[:1168], fmt, DatagramType.RESPONSE, 8, 98, key, None, random)
        genuine.append(bytes([DatagramType.COOKIE]) + genuine[-1][1:])
    start = next(start for start in rig.plane._sessions)
    for counter, route in ((1, 0), (2, 1), (3, 256), (2**40, 1)):
        genuine.append(sealed(start, counter, route))
    return genuine


def sealed(start: int, counter: int, route: int) -> bytes:
    nonce = HEADER.pack(start, counter)
    cell = CELL_HEADER.pack(route, 0) + bytes(WIDE.body_len)
    return nonce + AESGCM(bytes([LEFT]) * 32).encrypt(nonce, cell, None)


MUTATION = st.tuples(
    st.integers(0, 1000),  # which of the corpus
    st.lists(st.tuples(st.integers(0, 40) | st.integers(0, MAX_LEN), st.integers(1, 255)), max_size=4),
    st.sampled_from(["same"] * 6 + ["cut", "longer", "other"]),
    st.integers(0, MAX_LEN),
)


def mutate(genuine: list[bytes], mutation: tuple[int, list[tuple[int, int]], str, int]) -> bytes:
    which, changes, size, length = mutation
    data = bytearray(genuine[which % len(genuine)])
    for at, change in changes:
        data[at % len(data)] ^= change
    if size == "cut":
        del data[length % len(data) :]
    elif size == "longer":
        data += bytes(length % 200)
    elif size == "other":
        data = (data + bytes(MAX_LEN))[: LENGTHS[length % len(LENGTHS)]]
    return bytes(data[:MAX_LEN])


def untouched(rig: Rig, data: bytes, allowed: type[o.Order] | None) -> None:
    """Feed a datagram to both cores; check that nothing of it is left."""
    before = rig.state()
    reports = rig.datagram(data)
    assert all(isinstance(report, o.HandshakeSeen) for report in reports)
    assert len(reports) <= 1
    for report in reports:
        orders = rig.tell(report)
        assert all(allowed is not None and isinstance(order, allowed) for order in orders)
    rig.plane.strays.clear()
    assert rig.state() == before
    rig.sound()


@pytest.fixture(scope="module")
def genuine(rig: Rig) -> list[bytes]:
    return corpus(rig)


@given(mutation=MUTATION)
@settings(max_examples=15_000)  # of each engine
def test_changed_datagrams(
    rig: Rig, genuine: list[bytes], mutation: tuple[int, list[tuple[int, int]], str, int]
) -> None:
    data = mutate(genuine, mutation)
    if data in genuine and data[0] == DatagramType.DATA:
        return  # `test_the_control` is about those
    key = mac1_key(rig.keys["node"].link_public)
    valid = len(data) in LENGTHS and data[-MACS_LEN:-16] == mac(key, data[:-MACS_LEN])
    untouched(rig, data, o.SendHandshake if valid else None)


@given(seed=st.integers(0, 2**64), length=st.sampled_from([*LENGTHS, *LENGTHS]) | st.integers(0, MAX_LEN),
       kind=st.integers(0, 255) | st.integers(0, 5))  # fmt: skip
@settings(max_examples=9_000)
def test_random_datagrams(rig: Rig, seed: int, length: int, kind: int) -> None:
    data = (bytes([kind]) + Random(seed).randbytes(length))[:length]
    untouched(rig, data, None)


@given(
    kind=st.integers(0, 5), index=st.integers(0, 2**24 - 1), message_id=st.integers(0, 9),
    part=st.integers(0, 9), parts=st.integers(0, 9), size=st.integers(0, 1300), wide=st.booleans(),
    port=st.integers(0, 200), pause=st.integers(0, 300_000_000),
)  # fmt: skip
@settings(max_examples=9_000)
def test_fragments_with_a_valid_mac1(
    rig: Rig, kind: int, index: int, message_id: int, part: int, parts: int, size: int, wide: bool, port: int,
    pause: int,
) -> None:  # fmt: skip
    """What somebody can do who knows the node's key: fill its memory of unfinished messages, and no more."""
    fmt = WIDE if wide else NARROW
    full = fmt.datagram_len - 12 - MACS_LEN
    length = full if part + 1 < parts else min(size, full)
    head = (kind << 24 | index).to_bytes(4, "big") + message_id.to_bytes(4, "big")
    data = head + bytes([part, parts]) + length.to_bytes(2, "big") + Random(index).randbytes(full)
    data += mac(mac1_key(rig.keys["node"].link_public), data) + bytes(16)
    rig.now += pause
    rig.source = o.Endpoint("raw", "10.66.0.6", port)
    untouched(rig, data, o.SendHandshake)


def test_the_control_genuine_datagrams_do_change_something(engine: Engine) -> None:
    """The same corpus, unchanged: an initiation opens a link anew, sealed cells are taken in."""
    rig = Rig(engine)
    genuine = corpus(rig)
    before = rig.state()
    for data in genuine[:2]:
        for report in rig.datagram(data):
            orders = rig.tell(report)
    assert any(isinstance(order, o.SetSession) for order in orders)
    assert rig.state() != before
    rig = Rig(engine)
    taken = [rig.datagram(data) for data in corpus(rig)[-4:]]
    assert sum(isinstance(report, o.ControlSeen) for reports in taken for report in reports) == 2
    assert [rig.datagram(data) for data in corpus(rig)[-4:]] != taken, "once only"


def test_a_flood_is_held_in_bounds(engine: Engine) -> None:
    """Nobody drains the reports: neither strangers nor a neighbour fill the memory."""
    rig = Rig(engine)
    start = next(iter(rig.plane._sessions))
    handshake = corpus(rig)[0]
    for counter in range(3 * o.MAX_REPORTS):
        for data in (handshake, sealed(start, counter, 1)):
            rig.inbox.memory[: len(data)] = data
            rig.inbox.lengths = [len(data)]
            rig.plane.receive(rig.inbox, rig.now)
    assert o.MAX_REPORTS <= len(rig.plane.reports) <= o.MAX_REPORTS + 4
