"""Taking in datagrams: the session of each is found, the datagram opened, and its cell given to its route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag

from anonnet.crypto.replay import ReplayWindow
from anonnet.crypto.suite import Open
from anonnet.proto.inbox import NAME_LEN, Inbox
from anonnet.spec import ROUTE_CONTROL, ROUTE_NULL, DatagramType
from anonnet.wire.cell import CELL_HEADER, CellRow
from anonnet.wire.datagram import HEADER

if TYPE_CHECKING:
    from anonnet.proto.lane import PlaneLink

HANDSHAKES: Final = (DatagramType.INITIATION, DatagramType.RESPONSE, DatagramType.COOKIE)

_header: Final = HEADER.unpack
_cell_header: Final = CELL_HEADER.unpack_from


class ReceiveSession:
    """Keys and replay window for what a neighbour sends us under one receiver index."""

    __slots__ = ("_name", "confirms", "last_received", "length", "link", "open", "received", "window")

    def __init__(self, link: PlaneLink, length: int, open_: Open, confirms: bool) -> None:
        self.link = link
        self.length = length  # of its datagrams
        self.open = open_
        self.window = ReplayWindow()
        self.confirms = confirms  # its first datagram tells that the neighbour has the new keys
        self.received = 0
        self.last_received = 0  # when a datagram newer than all before came
        self._name = b""

    @property
    def missing(self) -> int:
        """Datagrams below the greatest counter seen that did not come."""
        return self.window.greatest + 1 - self.received

    def moved(self, inbox: Inbox, index: int) -> bool:
        """Whether a datagram came from elsewhere than the last that was asked about, for all one can tell."""
        if inbox.names is None:
            return True
        before, self._name = self._name, bytes(inbox.names[index * NAME_LEN : (index + 1) * NAME_LEN])
        return self._name != before

    def forget_source(self) -> None:
        """Let whatever comes next count as from elsewhere."""
        self._name = b""


class Intake:
    """What becomes of datagrams that have come in.

    `plain` has a row for each datagram length, in which cells are opened. `heard` is told of a link, once a
    burst at most: a datagram of the session came, newer than all before, and it confirms keys, or is not from
    where the last was that was looked at. `control` takes cells of control channels, `handshake` whole
    datagrams that control must look at; all else without a session is counted.
    """

    def __init__(
        self, plain: Mapping[int, CellRow], heard: Callable[[PlaneLink, ReceiveSession, Inbox, int], None],
        control: Callable[[PlaneLink, CellRow], None], handshake: Callable[[Inbox, int], None],
    ) -> None:  # fmt: skip
        self.sessions: dict[int, ReceiveSession] = {}  # by the first word of their datagrams
        self.unknown = 0  # datagrams that nobody here expects
        self._plain = plain
        self._heard = heard
        self._control = control
        self._handshake = handshake

    def receive(self, inbox: Inbox, now: int) -> None:
        """Open and switch every datagram of an inbox; what is forged or unknown is counted, not answered."""
        sessions = self.sessions
        checked: PlaneLink | None = None
        usual = -1  # length of the last datagram; nearly all of a burst have the same
        for index, length in enumerate(inbox.lengths):
            if length != usual:
                if length not in self._plain:
                    self.unknown += 1
                    continue
                usual, nonces, sealed, row = length, *inbox.views[length], self._plain[length]
            nonce = nonces[index]
            start, counter = _header(nonce)
            session = sessions.get(start)
            if session is None or length != session.length:
                if start >> 24 in HANDSHAKES:
                    self._handshake(inbox, index)
                else:
                    self.unknown += 1
                continue
            try:
                session.open(nonce, sealed[index], None, row.cell)
            except InvalidTag:
                session.link.forged += 1
                continue
            if not session.window.accept(counter):
                continue
            session.received += 1
            link = session.link
            if link is not checked and counter == session.window.greatest:
                checked = link
                self._see_to(session, inbox, index, now)
            route_id, slot = _cell_header(row.cell)
            if route_id == ROUTE_NULL:
                continue
            if route_id == ROUTE_CONTROL:
                self._control(link, row)
                continue
            receive = link.routes.get(route_id)
            if receive is not None:
                receive(slot, row, now)

    def _see_to(self, session: ReceiveSession, inbox: Inbox, index: int, now: int) -> None:
        """Addresses, keys and the time of life: once a burst."""
        session.last_received = now
        if session.moved(inbox, index) or session.confirms:
            self._heard(session.link, session, inbox, index)
