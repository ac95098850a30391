"""Link control messages (docs/protocol.md section 4.2): what two neighbours say to each other.

They travel in the control cells of a link (route id ROUTE_CONTROL), through the reliable ordered channel
of wire.stream, which is where their length of at most MAX_MESSAGE comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final, TypeAlias

from anonnet.ids import RouteId
from anonnet.spec import FORMAT_BY_CODE, ROUTE_FIRST
from anonnet.wire.fields import U24, U64, Codec, Named, Number, Rest
from anonnet.wire.stream import MAX_MESSAGE


class Reason(IntEnum):
    """Why something was refused or ended."""

    NONE = 0
    FINISHED = 1
    NO_LINK = 2
    NO_SLOTS = 3
    BAD_HANDSHAKE = 4
    BAD_FORMAT = 5
    NOT_EXIT = 6
    POLICY = 7
    ROUTE_DEAD = 8
    GAPS = 9
    TIMEOUT = 10
    OVERLOAD = 11
    PROTOCOL = 12
    STOPPING = 13

    @property
    def text(self) -> str:
        """The reason in one line, for a person."""
        return _TEXTS[self]


_TEXTS: Final = {
    Reason.NONE: "no reason given",
    Reason.FINISHED: "no longer needed",
    Reason.NO_LINK: "the relay has no link to the next hop",
    Reason.NO_SLOTS: "not enough free slots on a link",
    Reason.BAD_HANDSHAKE: "the handshake did not verify: wrong or outdated key",
    Reason.BAD_FORMAT: "the link carries another cell format",
    Reason.NOT_EXIT: "the node is not an exit",
    Reason.POLICY: "the node's policy does not allow it",
    Reason.ROUTE_DEAD: "a neighbour on the route was lost",
    Reason.GAPS: "too many cells of the route went missing",
    Reason.TIMEOUT: "no answer in time",
    Reason.OVERLOAD: "the node has too much to do",
    Reason.PROTOCOL: "a peer broke the protocol",
    Reason.STOPPING: "the node is shutting down",
}

ROUTE: Final = Number(4, range(ROUTE_FIRST, 1 << 32))
RATE: Final = Number(4, range(1, 1 << 32))  # millicells per second
FORMAT_CODE: Final = Number(1, FORMAT_BY_CODE)
REASON: Final = Named(Reason)
HANDSHAKE: Final = Rest(range(1, MAX_MESSAGE - 32))


@dataclass(frozen=True, slots=True)
class Create:
    """Asks the neighbour to become the next hop of a route, with this many slots each way."""

    route: Annotated[RouteId, ROUTE]
    forward_rate: Annotated[int, RATE]  # millicells per second
    backward_rate: Annotated[int, RATE]  # millicells per second
    format_code: Annotated[int, FORMAT_CODE]  # spec.Format.code
    handshake: Annotated[bytes, HANDSHAKE]


@dataclass(frozen=True, slots=True)
class Created:
    """Says that the route is there, with the hop's side of the handshake."""

    route: Annotated[RouteId, ROUTE]
    handshake: Annotated[bytes, HANDSHAKE]


@dataclass(frozen=True, slots=True)
class Refused:
    """Says that the route was not made, and that nothing of it remains."""

    route: Annotated[RouteId, ROUTE]
    reason: Annotated[Reason, REASON]


@dataclass(frozen=True, slots=True)
class Destroy:
    """Ends a route; the receiver frees its slots and passes it on along the route."""

    route: Annotated[RouteId, ROUTE]
    reason: Annotated[Reason, REASON]


@dataclass(frozen=True, slots=True)
class Rekey:
    """First Noise message of a new session, which will receive under `index`."""

    index: Annotated[int, U24]
    noise: Annotated[bytes, HANDSHAKE]


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """Second Noise message of the new session."""

    noise: Annotated[bytes, HANDSHAKE]


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender stops; all routes over the link are dead."""

    reason: Annotated[Reason, REASON]


@dataclass(frozen=True, slots=True)
class Echo:
    """Asks for an EchoReply with the same token."""

    token: Annotated[int, U64]


@dataclass(frozen=True, slots=True)
class EchoReply:
    """Answers an Echo."""

    token: Annotated[int, U64]


ControlMessage: TypeAlias = Create | Created | Refused | Destroy | Rekey | Rekeyed | Bye | Echo | EchoReply

_CODEC: Final[Codec[ControlMessage]] = Codec(
    {
        1: Create,
        2: Created,
        3: Refused,
        4: Destroy,
        5: Rekey,
        6: Rekeyed,
        7: Bye,
        8: Echo,
        9: EchoReply,
    }
)

encode: Final = _CODEC.encode
decode: Final = _CODEC.decode
