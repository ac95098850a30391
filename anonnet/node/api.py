"""The control socket's language; node.client speaks it for commands.

`run_dir/control.sock` is a Unix stream socket; each line is one JSON object with a `type`. A caller sends
one request and reads any number of `progress` lines, then one `done` or `failed`; then both close. Closing
early withdraws the request: an unfinished `up` is torn down. `up` carries the TUN device's descriptor with
its line (SCM_RIGHTS).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Struct

from anonnet.crypto.suite import DEFAULT_SUITE
from anonnet.errors import OperatorError

SOCKET_NAME: Final = "control.sock"
MAX_LINE: Final = 1 << 20  # bytes; more than any answer of a node with hundreds of links
SCHEMA: Final = 1

State = Literal["down", "connecting", "up", "blocked"]

# -- requests -------------------------------------------------------------------------------------


class GetStatus(Struct, frozen=True, tag="status"):
    """Answered by `Status`."""


class GetPeers(Struct, frozen=True, tag="peers"):
    """Answered by `Peers`."""


class GetCircuits(Struct, frozen=True, tag="circuits"):
    """Answered by `Circuits`."""


class GetInvite(Struct, frozen=True, tag="invite"):
    """Answered by `Invite`."""


class Up(Struct, frozen=True, tag="up"):
    """Build circuits and carry the TUN device's packets in them; answered by `Status` once all are up.

    The line carries one descriptor, the device's; without one, the daemon keeps the device it has, or
    fails. When already up with the same wishes, it answers at once. None means: as the configuration says.
    """

    exit: str | None = None  # a node id, or "auto"
    hops: int | None = None
    routes: int | None = None
    redundancy: str | None = None  # stripe, mirror or k-of-n
    wait: float = 60.0  # seconds until the daemon gives up
    circuits: int | None = None
    isolate: str | None = None  # off, destination or user
    distinct_exits: bool | Literal["auto"] | None = None
    exclude: tuple[str, ...] = ()  # node ids and networks, beside those of the configuration


class Down(Struct, frozen=True, tag="down"):
    """Close the circuit and let go of the TUN device; answered by `Status`. Links stay."""


class Ping(Struct, frozen=True, tag="ping"):
    """Send echoes to a node inside the network, one `Progress` each; answered by `Pinged`."""

    node: str  # a node id
    count: int = 4


class Debug(Struct, frozen=True, tag="debug"):
    """Build a test circuit, echo from each of its hops, and close it; answered by `Circuits`.

    With `runs`, as many at once; one `Progress` for each step of one, or for each end of many.
    """

    runs: int = 1


class Stop(Struct, frozen=True, tag="stop"):
    """End the daemon; answered by `Status` before it goes."""


Request = GetStatus | GetPeers | GetCircuits | GetInvite | Up | Down | Ping | Debug | Stop

# -- answers --------------------------------------------------------------------------------------


class RouteStatus(Struct, frozen=True):
    """One route of a circuit, as its caller sees it."""

    id: int
    hops: tuple[str, ...]  # node ids, first relay to exit
    state: str
    cells_per_tick: float


class CircuitStatus(Struct, frozen=True):
    """A circuit of which this node is the caller."""

    id: int  # 1 to the number of circuits; 0 is a test circuit
    exit: str  # empty while it has none
    routes: tuple[RouteStatus, ...]
    state: str = ""  # down, connecting or up
    trouble: str = ""  # why it is not up, for a person
    keys: int = 0  # destinations or users whose traffic goes through it, when isolating
    builds_left: int = 0  # routes that may be begun without waiting long
    next_build_s: float = 0  # how long a route that is missing must wait for that


class LinkStatus(Struct, frozen=True):
    """A link's schedule, and what it did since the daemon started."""

    peer: str
    state: str
    transport: str
    profile: str
    tick_us: float
    cells_per_tick: int
    cells_sent: int
    cells_received: int
    cells_missed: int
    late_ticks: int
    skipped_ticks: int
    trouble: str = ""  # why it is not up, for a person
    routes: int = 0  # that run over it
    promised_out: int = 0  # to them, of what this node sends; millicells per second
    promised_in: int = 0


class KeptStatus(Struct, frozen=True):
    """A guard or an exit that this host has drawn and keeps, in order of drawing."""

    id: str
    days_left: int
    state: Literal["up", "down", "failing", "unlisted"]  # failing: used for want of others only


class Status(Struct, frozen=True):
    """What `status --json` prints; fields may be added at the end, none renamed while `schema` is 1."""

    schema: int
    id: str | None  # None: the daemon is not running and its keys may not be read
    state: State
    exit: str | None
    circuits: tuple[CircuitStatus, ...]
    links: tuple[LinkStatus, ...]
    engine: str | None = None  # native or python: the inner loops of the data plane; None: not known yet
    guards: tuple[KeptStatus, ...] = ()  # none are drawn before the first circuit
    exits: tuple[KeptStatus, ...] = ()  # nor any when the exit is the operator's choice
    suite: str = DEFAULT_SUITE
    warnings: tuple[str, ...] = ()  # what the configuration asks for and had better not
    outside: tuple[str, ...] = ()  # what stays outside of the tunnel; only root is told
    watched: bool = False  # whether a warden puts right what others change
    lockdown: bool = False  # whether the host is blocked whenever it is not up
    socks: str = ""  # where a SOCKS proxy listens


class Circuits(Struct, frozen=True):
    """What `circuits --json` prints."""

    circuits: tuple[CircuitStatus, ...]


class PeerStatus(Struct, frozen=True):
    """A node that this one knows; `link` is the state of the link with it, None without one."""

    id: str
    name: str
    exit: bool
    addresses: tuple[str, ...]
    link: str | None


class Peers(Struct, frozen=True):
    """What `peers --json` prints."""

    peers: tuple[PeerStatus, ...]


class Invite(Struct, frozen=True):
    """This node's descriptor as an `anonnet:` URI."""

    invite: str


class Pinged(Struct, frozen=True):
    """What came back: round-trip times in milliseconds, None for an echo that was lost."""

    node: str
    rtts_ms: tuple[float | None, ...]


class Progress(Struct, frozen=True, tag="progress"):
    """A step on the way; `fraction` of the whole (0 to 1) where it can be said."""

    text: str
    fraction: float | None = None


class Done(Struct, frozen=True, tag="done"):
    """The last line: it worked, and this is the answer."""

    result: msgspec.Raw


class Failed(Struct, frozen=True, tag="failed"):
    """The last line: it did not work, and how to mend it."""

    what: str
    hint: str


Response = Progress | Done | Failed

_ENCODER: Final = msgspec.json.Encoder()
_REQUESTS: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)


def encode(message: Request | Response) -> bytes:
    """Return a message as one line, newline included."""
    return _ENCODER.encode(message) + b"\n"


def done(answer: Struct) -> Done:
    """Wrap an answer for the last line."""
    return Done(msgspec.Raw(_ENCODER.encode(answer)))


def decode_request(line: bytes) -> Request:
    """Read a request; raise OperatorError when the command and the daemon do not fit each other."""
    try:
        return _REQUESTS.decode(line)
    except msgspec.MsgspecError as error:
        raise OperatorError(f"not a request ({error})", "restart the daemon after an upgrade") from None
