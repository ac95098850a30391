"""What control tells the data plane (orders) and what it hears back (reports).

Two closed unions of msgspec structs; the daemon sends them as MessagePack over a socket pair, the
simulator passes them as objects. Times are int nanoseconds, rates millicells per second, keys 32 bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from anonnet.crypto.onion import LayerKeys
from anonnet.proto.isolation import Isolation

MAX_REPORTS = 4096  # beyond this, what others sent is not reported
RATE_UNIT = 1000 * 1_000_000_000  # a rate times a tick length, in these, is cells


class Endpoint(NamedTuple):
    """Where datagrams of a link go: `raw` (port 0) or `udp`, an address in text, a port."""

    transport: str
    address: str
    port: int

    @property
    def ip_version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4


class Order(msgspec.Struct, frozen=True, tag=True):
    """Base of all orders."""

    def __repr__(self) -> str:  # orders carry keys, and a repr ends up in a log
        return type(self).__name__


class AddLink(Order, frozen=True):
    """Start the schedule of a link; it stays silent until it has a session."""

    link: int
    format_code: int
    endpoint: Endpoint
    tick_ns: int
    cells_out: int
    cells_in: int


class SetSession(Order, frozen=True):
    """Give a link fresh keys, and an endpoint if that may have changed.

    With `confirm`, keep sending on the old keys, if there are any, until the peer uses the new.
    """

    link: int
    local_index: int
    remote_index: int
    send_key: bytes
    receive_key: bytes
    confirm: bool
    endpoint: Endpoint | None = None


class DropSession(Order, frozen=True):
    """The neighbour is dead: forget keys and routes, send nothing but handshakes."""

    link: int


class RemoveLink(Order, frozen=True):
    """Forget a link altogether."""

    link: int


class SendControl(Order, frozen=True):
    """Queue control cell bodies on a link; each at most the format's body length."""

    link: int
    frames: list[bytes]


class SendHandshake(Order, frozen=True):
    """Queue whole handshake datagrams, sent in the link's own slots."""

    link: int
    datagrams: list[bytes]
    endpoint: Endpoint | None = None  # answer here; None: the link's own endpoint


class AddRelayRoute(Order, frozen=True):
    """This node becomes a hop: route `route_id` on `link` leads towards the caller."""

    route: int
    link: int
    route_id: int
    forward_rate: int
    backward_rate: int
    forward: LayerKeys
    backward: LayerKeys
    slot_shift: int


class ExtendRelayRoute(Order, frozen=True):
    """The route goes on over `link` as `route_id`."""

    route: int
    link: int
    route_id: int


class AddCallerRoute(Order, frozen=True):
    """This node is the caller of a route that begins with `route_id` on `link`."""

    route: int
    link: int
    route_id: int
    forward_rate: int
    backward_rate: int


class AddHop(Order, frozen=True):
    """A caller's route has grown by a hop. `backward_shift` is what the hop before it announced."""

    route: int
    forward: LayerKeys
    backward: LayerKeys
    slot_shift: int
    backward_shift: int


class SendSignal(Order, frozen=True):
    """Queue signalling frames on a route: to hop `hop` from the caller, or to the caller from here."""

    route: int
    hop: int
    frames: list[bytes]


class OpenCircuit(Order, frozen=True):
    """Bind a route to a circuit, made if it is new: data that comes over the route is taken in.

    At the exit, pool addresses (packed) say which packets are the circuit's. At the caller, `number` is which
    of the host's circuits it is, from 1 on.
    """

    route: int
    circuit: int
    pool4: bytes = b""
    pool6: bytes = b""
    number: int = 1


class UseRoute(Order, frozen=True):
    """The other end has joined the route to the circuit too: its slots may carry data from now on."""

    route: int


class ArrangeCircuit(Order, frozen=True):
    """Send over the circuit's routes in another way (proto.redundancy): 0 stripe, 1 mirror, more k of n."""

    circuit: int
    shares: int


class DrainRoute(Order, frozen=True):
    """Put no more data on a route of a circuit: it is to end, and what is on its way must arrive first."""

    route: int


class CloseCircuit(Order, frozen=True):
    """Forget a circuit, if any route opened it; its routes are removed on their own."""

    circuit: int


class Isolate(Order, frozen=True):
    """Keep the host's packets apart by this, in so many circuits (proto.isolation)."""

    by: Isolation
    circuits: int


class RemoveRoute(Order, frozen=True):
    """Give back a route's slots and forget its keys."""

    route: int


class AttachTun(Order, frozen=True):
    """Carry packets of a TUN whose descriptor comes with this order (`caller` or `exit`)."""

    role: str


class DetachTun(Order, frozen=True):
    """Close that TUN."""

    role: str


class Stop(Order, frozen=True):
    """End the data plane."""


AnyOrder = (
    AddLink | SetSession | DropSession | RemoveLink | SendControl | SendHandshake | AddRelayRoute
    | ExtendRelayRoute | AddCallerRoute | AddHop | SendSignal | OpenCircuit | UseRoute | ArrangeCircuit
    | DrainRoute | CloseCircuit | Isolate
    | RemoveRoute | AttachTun | DetachTun | Stop
)  # fmt: skip


class Report(msgspec.Struct, frozen=True, tag=True):
    """Base of all reports."""


class HandshakeSeen(Report, frozen=True):
    """A datagram of a handshake type; nothing in it is authenticated."""

    source: Endpoint
    datagram: bytes


class ControlSeen(Report, frozen=True):
    """A control cell's body, authenticated by the link."""

    link: int
    frame: bytes


class SignalSeen(Report, frozen=True):
    """A signalling frame: from hop `hop` at the caller, from the caller (hop 0) at a hop."""

    route: int
    hop: int
    frame: bytes


class Confirmed(Report, frozen=True):
    """The neighbour uses the newest session."""

    link: int


class Roamed(Report, frozen=True):
    """A neighbour's authenticated datagrams now come from elsewhere."""

    link: int
    endpoint: Endpoint


class Joined(Report, frozen=True):
    """First cell came back from beyond this hop: the shift to announce to the caller."""

    route: int
    backward_shift: int


class RouteGone(Report, frozen=True):
    """Too many cells of a route are missing at its end: for too long a run, or too large a share."""

    route: int


class LinkStats(msgspec.Struct, frozen=True):
    """Counters of a link since its start, in cells, ticks and nanoseconds."""

    link: int
    cells_sent: int
    cells_received: int
    cells_missed: int
    late_ticks: int
    skipped_ticks: int
    forged: int
    last_received: int
    send_error: int  # errno of the last emission, 0 if all went out


class RouteStats(msgspec.Struct, frozen=True):
    """Counters of a route at this node, in cells (forward, backward) and packets."""

    route: int
    received: int
    missing: int
    slips: int


class Stats(Report, frozen=True):
    """Everything counted, twice a second."""

    now: int
    links: list[LinkStats]
    routes: list[RouteStats]
    packets_dropped: int
    tun_packets: int
    engine: str = ""  # what its hot path is made of: proto.engine
    keys: list[int] = []  # what is kept apart in each of the host's circuits, in order of number


class Fault(Report, frozen=True):
    """The data plane could not do as it was told (a lost TUN, a route unknown)."""

    text: str


class Reports(list[Report]):
    """Reports that wait for control. What others send may be dropped: they will send it again."""

    def offer(self, report: HandshakeSeen | ControlSeen | SignalSeen) -> None:
        """Add what came from elsewhere, if there is room."""
        if len(self) < MAX_REPORTS:
            self.append(report)


AnyReport = HandshakeSeen | ControlSeen | SignalSeen | Confirmed | Roamed | Joined | RouteGone | Stats | Fault
