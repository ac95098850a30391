"""Which of the host's circuits a packet goes into, and which one an answer may come out of.

What must not be linked shares no circuit, hence no address at an exit. Every packet has a *key*: its
destination, or the class that the host's firewall wrote into its DSCP field for the user who sent it
(tun.firewall; the normaliser overwrites the field, so that it stays here). A key gets the circuit that has
the fewest, and keeps it while it is used, also while that circuit is being rebuilt: its packets then wait
rather than go with another's.

    packet from the host -- key --> number of a circuit -- note its flow --> that circuit
    packet from a circuit -- is the flow noted there? --> the host, or dropped

The way back is checked because two exits in one hand could else learn that they serve the same host: one
sends a guess at a connection of the other's into its own circuit, and the host answers it on the other.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final

from anonnet.errors import OperatorError
from anonnet.proto.circuit import Circuit
from anonnet.proto.rewrite import (
    DCCP,
    ERRORS4,
    ERRORS6,
    FRAGMENT,
    FRAGMENT_OFFSET,
    HEAD4,
    HEAD6,
    ICMP,
    ICMP6,
    ICMP_HEADER_LEN,
    OPAQUE,
    TCP,
    U16,
    UDP,
    UDP_LITE,
    Packet,
    destination,
    upper_layer,
)

MAX_CIRCUITS: Final = 8
MAX_KEYS: Final = 4096
MAX_FLOWS: Final = 16_384
# Values of DSCP that mean a user of this host; 0: nobody is known to have sent it.
CLASSES: Final = range(1, 32)
SOCKS_CLASSES: Final = range(32, 64)  # .. and a user of the SOCKS proxy, whose sockets set it themselves

_PLAIN4_LEN: Final = 24  # a header without options, and ports
_SCTP: Final = 132
_WITH_PORTS: Final = {TCP, UDP, DCCP, UDP_LITE, _SCTP}  # source and destination, in the first four bytes
_ECHOES: Final = {ICMP: {0, 8}, ICMP6: {128, 129}}  # types of echoes and their replies: an id at byte 4
_PIECE: Final = b"piece"
_MORE: Final = 0x2000  # fragments


class Isolation(Enum):
    """What is kept apart; the value is what operators write."""

    OFF = "off"
    DESTINATION = "destination"
    USER = "user"


def check_isolation(by: Isolation, circuits: int) -> None:
    """OperatorError for circuits that nothing would go into, or isolation that would keep nothing apart."""
    if by is Isolation.OFF and circuits > 1:
        hint = 'set isolate to "destination" or "user" (--isolate), or circuits to 1'
        raise OperatorError(f"{circuits} circuits, and nothing says what goes into which", hint)
    if by is not Isolation.OFF and circuits == 1:
        hint = 'set circuits to 2 or more (--circuits), or isolate to "off"'
        raise OperatorError(f"isolation by {by.value} in one circuit keeps nothing apart", hint)


class Sorter:
    """The caller's circuits by number, and the table that says what belongs to which. Both are bounded."""

    def __init__(self) -> None:
        self.circuits: dict[int, Circuit] = {}
        self._by = Isolation.OFF
        self._keys: OrderedDict[bytes, int] = OrderedDict()  # -> number; the longest unused first
        self._flows: OrderedDict[bytes, int] = OrderedDict()
        self._counts = [0]  # keys by number - 1

    def arrange(self, by: Isolation, circuits: int) -> None:
        """Sort in this way from now on. Keys of circuits that there still are stay, if they mean the same."""
        stay = circuits if by is self._by else 0
        self._by = by
        for table in (self._keys, self._flows):
            for key in [key for key, number in table.items() if number > stay]:
                del table[key]
        self._counts = [sum(n == number for n in self._keys.values()) for number in range(1, circuits + 1)]

    @property
    def counts(self) -> list[int]:
        """How many keys each circuit has."""
        return list(self._counts)

    def choose(self, packet: Packet) -> Circuit | None:
        """Return the circuit for a packet of the host's; None if it has none now."""
        if self._by is Isolation.OFF:
            return self.circuits.get(1)
        key = destination(packet) if self._by is Isolation.DESTINATION else _class(packet)
        if key is None:
            return None
        number = self._keys.get(key)
        if number is None:
            number = self._counts.index(min(self._counts)) + 1
            self._counts[number - 1] += 1
            if len(self._keys) >= MAX_KEYS:
                self._counts[self._keys.popitem(last=False)[1] - 1] -= 1
            self._keys[key] = number
        else:
            self._keys.move_to_end(key)
        self._note(_flow(packet, away=True), number)
        return self.circuits.get(number)

    def admits(self, number: int, packet: Packet) -> bool:
        """Tell whether a packet that came out of a circuit answers something that went into it."""
        if self._by is Isolation.OFF:
            return True
        if self._flows.get(_flow(packet, away=False) or b"") != number:
            return False
        piece = _piece(packet)
        if piece is not None:  # the pieces after the first have no ports
            self._note(piece, number)
        return True

    def _note(self, flow: bytes | None, number: int) -> None:
        if flow is None:
            return
        self._flows[flow] = number
        self._flows.move_to_end(flow)
        if len(self._flows) > MAX_FLOWS:
            self._flows.popitem(last=False)


# -- reading packets --------------------------------------------------------------------------------


def _class(packet: Packet) -> bytes | None:
    """The DSCP field, as one byte."""
    version = packet[0] >> 4 if len(packet) >= HEAD4.size else 0
    if version == 4:
        return bytes([packet[1] >> 2])
    return bytes([(packet[0] & 15) << 2 | packet[1] >> 6]) if version == 6 else None


def _flow(packet: Packet, *, away: bool) -> bytes | None:
    """What a packet has in common with its answers: the other end, the protocol, ports or an echo's id.

    `away`: it is the host's own. Of an ICMP error that is not, the flow is that of the packet it embeds.
    None: malformed, or an error that the host sends, which nothing answers.
    """
    if len(packet) < _PLAIN4_LEN or packet[0] != 0x45 or packet[9] not in _WITH_PORTS:
        return _any_flow(packet, away)
    if packet[6] & 0x3F or packet[7]:
        return _any_flow(packet, away)  # a fragment
    if away:
        return b"".join((packet[16:24], packet[9:10]))
    return b"".join((packet[12:16], packet[22:24], packet[20:22], packet[9:10]))


def _any_flow(packet: Packet, away: bool) -> bytes | None:
    size = len(packet)
    version = packet[0] >> 4 if size else 0
    if version == 4 and size >= HEAD4.size:
        other, protocol, at = bytes(packet[16:20] if away else packet[12:16]), packet[9], (packet[0] & 15) * 4
        if U16.unpack_from(packet, 6)[0] & FRAGMENT_OFFSET:
            return _piece(packet)
    elif version == 6 and size >= HEAD6.size:
        other = bytes(packet[24:40] if away else packet[8:24])
        found = upper_layer(packet, packet[6])
        if found is None:
            return None
        protocol, at = found
        if protocol == OPAQUE:
            return _piece(packet)
    else:
        return None
    upper = memoryview(packet)[at:]
    which = bytes([protocol])
    if protocol in _WITH_PORTS:
        if len(upper) < 4:
            return None
        return other + (bytes(upper[:4]) if away else bytes(upper[2:4]) + bytes(upper[:2])) + which
    if protocol in _ECHOES:
        if len(upper) < ICMP_HEADER_LEN:
            return None
        if upper[0] in _ECHOES[protocol]:
            return other + bytes(upper[4:6]) + which
        if upper[0] in (ERRORS4 if protocol == ICMP else ERRORS6):
            return None if away else _flow(upper[ICMP_HEADER_LEN:], away=True)
    return other + which


def _piece(packet: Packet) -> bytes | None:
    """What the pieces of one packet have in common; None of a whole one, and where IPv6 hides it deeper."""
    if packet[0] >> 4 == 4:
        if not U16.unpack_from(packet, 6)[0] & (FRAGMENT_OFFSET | _MORE):
            return None
        return _PIECE + bytes(packet[4:6]) + bytes(packet[9:10]) + bytes(packet[12:20])
    if packet[6] != FRAGMENT or len(packet) < HEAD6.size + 8:
        return None
    return _PIECE + bytes(packet[HEAD6.size + 4 : HEAD6.size + 8]) + bytes(packet[8:40])
