"""Route signalling (docs/protocol.md section 5.1): what a caller and one hop of its route say to each other.

The messages travel in SIGNAL payloads, inside the onion layers, through the reliable ordered channel of
wire.stream: one channel between the caller and each hop. Echo and EchoReply are link control's too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from anonnet.ids import NODE_ID_LEN, NodeId
from anonnet.wire.control import HANDSHAKE, REASON, Echo, EchoReply, Reason
from anonnet.wire.fields import U32, Codec, Exactly, Number

CIRCUIT_SECRET_LEN: Final = 32


@dataclass(frozen=True, slots=True)
class Extend:
    """Caller to the route's last hop: make `next_hop` the one after you."""

    next_hop: Annotated[NodeId, Exactly(NODE_ID_LEN)]
    handshake: Annotated[bytes, HANDSHAKE]


@dataclass(frozen=True, slots=True)
class Extended:
    """The new hop's side of the handshake, passed on by the hop before it.

    `backward_shift` is what that hop subtracts from the slot numbers of cells from beyond it.
    """

    backward_shift: Annotated[int, U32]
    handshake: Annotated[bytes, HANDSHAKE]


@dataclass(frozen=True, slots=True)
class ExtendRefused:
    """The route was not extended, and nothing beyond this hop remains."""

    reason: Annotated[Reason, REASON]


@dataclass(frozen=True, slots=True)
class Open:
    """Caller to the exit: carry IP packets on this route, for the circuit that this secret names."""

    secret: Annotated[bytes, Exactly(CIRCUIT_SECRET_LEN)]


@dataclass(frozen=True, slots=True)
class Opened:
    """The exit will carry packets on this route. `incarnation` is what it drew when it made the circuit."""

    incarnation: Annotated[int, Number(4)]


@dataclass(frozen=True, slots=True)
class OpenRefused:
    """The exit will not."""

    reason: Annotated[Reason, REASON]


@dataclass(frozen=True, slots=True)
class Joined:
    """The caller to the exit: OPENED has come, so data may use the route (third leg of the join)."""


@dataclass(frozen=True, slots=True)
class End:
    """Ends the route, said by either end to the other."""

    reason: Annotated[Reason, REASON]


@dataclass(frozen=True, slots=True)
class Arrange:
    """The caller to the exit: how to send over the circuit's routes; 0 stripe, 1 mirror, more k of n."""

    shares: Annotated[int, Number(1, range(15))]


@dataclass(frozen=True, slots=True)
class Drain:
    """The caller to the exit: no data follows over this route, and none should go over it; then Drained."""


@dataclass(frozen=True, slots=True)
class Drained:
    """The exit to the caller: no data follows this on the route, so that it can be ended without loss."""


SignalMessage: TypeAlias = (
    Extend
    | Extended
    | ExtendRefused
    | Open
    | Opened
    | OpenRefused
    | Echo
    | EchoReply
    | Joined
    | End
    | Arrange
    | Drain
    | Drained
)

_CODEC: Final[Codec[SignalMessage]] = Codec(
    {
        1: Extend,
        2: Extended,
        3: ExtendRefused,
        4: Open,
        5: Opened,
        6: OpenRefused,
        7: Echo,
        8: EchoReply,
        9: Joined,
        10: End,
        11: Arrange,
        12: Drain,
        13: Drained,
    }
)

encode: Final = _CODEC.encode
decode: Final = _CODEC.decode
