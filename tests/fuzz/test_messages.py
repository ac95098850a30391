"""What a neighbour, a caller and the hops of a route may say, sense or nonsense, well framed or not.

Nothing raises, in control or in the data plane that carries out what control orders. It costs the speaker's
own link or route at most: the other link, its routes and its promises stay.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.ids import NodeId, RouteId
from anonnet.proto import orders as o
from anonnet.proto.link import LinkState
from anonnet.wire import control, signal
from anonnet.wire.control import Reason
from tests.fuzz.rig import LEFT, PROFILE, RIGHT, Channel, Rig

REASON = st.sampled_from(Reason)
ROUTE = st.integers(256, 270) | st.integers(256, 2**32 - 1)
RATE = st.integers(1, 3000) | st.integers(1, 2**32 - 1)
BYTES = st.integers(1, 2000).map(lambda n: Random(n).randbytes(n)) | st.just(b"greeting")
TOKEN = st.integers(0, 2**64 - 1)
CREATE = st.builds(control.Create, ROUTE, RATE, RATE, st.sampled_from([1, 2]), BYTES)
CONTROL = (
    CREATE | CREATE
    | st.builds(control.Created, ROUTE, BYTES)
    | st.builds(control.Refused, ROUTE, REASON)
    | st.builds(control.Destroy, ROUTE, REASON)
    | st.builds(control.Rekey, st.integers(0, 2**24 - 1), BYTES)
    | st.builds(control.Rekeyed, BYTES)
    | st.builds(control.Bye, REASON)
    | st.builds(control.Echo, TOKEN)
    | st.builds(control.EchoReply, TOKEN)
)  # fmt: skip
NEXT = st.sampled_from(["node", "left", "right", "nobody"])
SIGNAL = (
    st.tuples(NEXT, BYTES)  # an EXTEND, to be made with a node id of this very run
    | st.builds(signal.Extended, st.integers(0, 2**32 - 1), BYTES)
    | st.builds(signal.ExtendRefused, REASON)
    | st.builds(signal.Open, st.sampled_from([bytes(32), b"s" * 32]))
    | st.builds(signal.Opened, st.integers(0, 2**32 - 1))
    | st.builds(signal.OpenRefused, REASON)
    | st.builds(signal.Echo, TOKEN)
    | st.builds(signal.EchoReply, TOKEN)
    | st.builds(signal.Joined)
    | st.builds(signal.Arrange, st.integers(0, 14))
    | st.builds(signal.Drain)
    | st.builds(signal.Drained)
    | st.builds(signal.End, REASON)
)
CHANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 255)), max_size=2)
LAYER = st.sampled_from(["message"] * 3 + ["frame", "noise"])  # what the changes are made to


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    out = bytearray(data)
    for at, change in changes:
        out[at % len(out)] ^= change
    return bytes(out)


def frames_of(channel: Channel, message: bytes, layer: str, changes: list[tuple[int, int]]) -> list[bytes]:
    """Frame a message, harmed at one layer or another."""
    if layer == "message":
        return channel.cut(changed(message, changes))
    if layer == "noise":
        return [Random(message).randbytes(len(message))]
    return [changed(frame, changes) for frame in channel.cut(message)]


@pytest.fixture(scope="module")
def rig() -> Rig:
    rig = Rig()
    rig.own_route(opened=False)
    return rig


def other_side(rig: Rig) -> tuple[object, ...]:
    """What the left neighbour's words must not touch."""
    right = rig.neighbour(RIGHT)
    own = {handle for handle in right.routes.values() if handle in rig.node.caller.routes}
    return rig.link(RIGHT).state, rig.link(RIGHT)._rekeying._channel, own


@given(said=st.lists(st.tuples(CONTROL, LAYER, CHANGES), min_size=1, max_size=3))
@settings(max_examples=25_000)
def test_what_a_neighbour_says(
    rig: Rig, said: list[tuple[control.ControlMessage, str, list[tuple[int, int]]]]
) -> None:
    rig.fresh()
    if all(route.deadline < rig.now + 10**9 for route in rig.node.caller.routes.values()):
        rig.end_own_routes()
        rig.own_route(opened=False)
    before = other_side(rig)
    for message, layer, changes in said:
        sensible = message
        if isinstance(message, control.Create) and message.handshake == b"greeting":
            route = message.route & 0x7FFFFFFF | rig.parity(LEFT)  # one that will be accepted, if it is free
            sensible = rig.create(LEFT, max(route, 256), message.forward_rate)
        for frame in frames_of(rig.channels[LEFT], control.encode(sensible), layer, changes):
            rig.tell(o.ControlSeen(LEFT, frame))
    rig.wait()
    rig.sound()
    assert other_side(rig) == before
    assert (rig.link(LEFT).state is LinkState.UP) == rig.neighbour(LEFT).up


@given(said=st.lists(st.tuples(SIGNAL, LAYER, CHANGES), min_size=1, max_size=3),
       answer=CONTROL, joined=st.booleans())  # fmt: skip
@settings(max_examples=15_000)
def test_what_a_caller_says(
    rig: Rig, said: list[tuple[object, str, list[tuple[int, int]]]], answer: control.ControlMessage,
    joined: bool,
) -> None:  # fmt: skip
    """To a hop that is its own, while the neighbour beyond says what it likes about the route."""
    rig.end_own_routes()
    rig.fresh()
    handle = rig.relay_route()
    before = other_side(rig), set(rig.node.relay.routes) - {handle}
    channel = Channel(PROFILE.format.content_len)
    for message, layer, changes in said:
        for frame in frames_of(channel, signal.encode(filled(rig, message)), layer, changes):
            rig.tell(o.SignalSeen(handle, 0, frame))
    rig.wait()
    route = rig.node.relay.routes.get(handle)
    if route is not None and route.onward_id is not None and hasattr(answer, "route"):
        object.__setattr__(answer, "route", route.onward_id)
        rig.say(RIGHT, control.encode(answer))
        if joined and isinstance(answer, control.Created):
            rig.tell(o.Joined(handle, 5))
        rig.wait()
    rig.sound()
    assert rig.link(LEFT).state is LinkState.UP
    assert (other_side(rig), set(rig.node.relay.routes) - {handle}) == before
    rig.node.relay.end(handle, Reason.NONE)
    rig.settle()
    rig.sound()


def filled(rig: Rig, message: object) -> signal.SignalMessage:
    """An EXTEND needs a node id, and at times a greeting that the next hop would like."""
    if isinstance(message, tuple):
        name, handshake = message
        node_id = rig.keys[name].node_id if name in rig.keys else NodeId(bytes(20))
        return signal.Extend(node_id, handshake)
    return message  # type: ignore[return-value]


@given(said=st.lists(st.tuples(SIGNAL, st.integers(0, 2), LAYER, CHANGES), min_size=1, max_size=3),
       opened=st.booleans(), first=st.none() | CONTROL)  # fmt: skip
@settings(max_examples=10_000)
def test_what_the_hops_of_our_own_route_say(
    rig: Rig, said: list[tuple[object, int, str, list[tuple[int, int]]]], opened: bool,
    first: control.ControlMessage | None,
) -> None:  # fmt: skip
    rig.end_own_routes()
    rig.fresh()
    route = rig.own_route(opened)
    if first is not None and hasattr(first, "route"):
        object.__setattr__(first, "route", route.route_id)
        rig.say(RIGHT, control.encode(first))
    channels = [Channel(PROFILE.format.content_len) for _ in range(3)]
    if opened:
        channels[0].cut(bytes(1200))  # what EXTENDED took
    for message, hop, layer, changes in said:
        data = signal.encode(filled(rig, message))
        for frame in frames_of(channels[hop], data, layer, changes):
            rig.tell(o.SignalSeen(route.handle, hop, frame))
    rig.wait()
    rig.sound()
    assert rig.link(LEFT).state is LinkState.UP
    assert rig.link(RIGHT).state is LinkState.UP
    rig.node.caller.end(route.handle, Reason.NONE)
    rig.settle()
    rig.sound()
    assert not rig.node.caller.routes


# -- the control: what makes sense is acted upon --------------------------------------------------


def test_the_control_sense_is_acted_upon() -> None:
    rig = Rig()
    handle = rig.relay_route()
    assert handle in rig.plane._routes
    channel = Channel(PROFILE.format.content_len)
    for frame in channel.cut(signal.encode(signal.Open(bytes(32)))):
        rig.tell(o.SignalSeen(handle, 0, frame))
    assert len(rig.plane._circuits) == 1
    own = rig.own_route(opened=True)
    assert own.state.value == "opening"
    rig.say(LEFT, control.encode(control.Bye(Reason.STOPPING)))
    assert rig.link(LEFT).state is not LinkState.UP
    assert handle not in rig.plane._routes
    assert own.handle in rig.plane._routes


def test_a_million_echoes_unacknowledged_cost_the_link_not_the_memory() -> None:
    """A neighbour that asks and never takes in an answer: the answers are bounded, then the link goes."""
    rig = Rig()
    rig.deaf = True
    channel = rig.channels[LEFT]
    asked = 0
    while rig.link(LEFT).state is LinkState.UP:
        for frame in channel.cut(control.encode(control.Echo(asked))):
            rig.tell(o.ControlSeen(LEFT, frame))
        asked += 1
        assert asked < 10_000
    assert asked > 1000
    assert "too slowly" in rig.link(LEFT).trouble
    assert rig.link(RIGHT).state is LinkState.UP
    assert RouteId(0) not in rig.neighbour(LEFT).routes


def test_a_caller_that_extends_for_ever_costs_its_route_not_a_link() -> None:
    """Refusals come from a batch, outside of what takes in the caller's frames."""
    rig = Rig()
    handle = rig.relay_route()
    channel = Channel(PROFILE.format.content_len)
    asked = 0
    while handle in rig.node.relay.routes:
        for frame in channel.cut(signal.encode(signal.Extend(NodeId(bytes(20)), b"x"))):
            rig.tell(o.SignalSeen(handle, 0, frame))
        rig.wait()
        asked += 1
        assert asked < 10_000
    assert asked > 1000
    assert all(link.state is LinkState.UP for link in rig.node.links.values())


@pytest.mark.parametrize("second", ["CREATED", "REFUSED"])
def test_a_hop_that_answers_twice_ends_the_route(second: str) -> None:
    """Else each answer would leave a lane, and the link promise what it has not."""
    rig = Rig()
    handle = rig.relay_route()
    channel = Channel(PROFILE.format.content_len)
    extend = signal.Extend(rig.keys["right"].node_id, b"greeting")
    for frame in channel.cut(signal.encode(extend)):
        rig.tell(o.SignalSeen(handle, 0, frame))
    rig.wait()
    route_id = rig.node.relay.routes[handle].onward_id
    assert route_id is not None
    rig.say(RIGHT, control.encode(control.Created(route_id, b"reply")))
    rig.sound()
    assert len(rig.plane.links[RIGHT].lanes) == 1
    refused = control.Refused(route_id, Reason.NO_SLOTS)
    rig.say(RIGHT, control.encode(control.Created(route_id, b"x") if second == "CREATED" else refused))
    rig.sound()
    assert handle not in rig.node.relay.routes
    assert not rig.plane.links[RIGHT].lanes
    assert all(link.state is LinkState.UP for link in rig.node.links.values())
