"""A link as the data plane sees it: sessions, lanes, and the sealing of one tick's cells."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Final

from anonnet.proto.engine import Engine
from anonnet.proto.inbox import Outbox
from anonnet.proto.intake import ReceiveSession
from anonnet.proto.orders import RATE_UNIT, Endpoint, LinkStats
from anonnet.proto.pacer import Beat
from anonnet.proto.slots import Filler, Lane
from anonnet.proto.transit import Receive
from anonnet.spec import ROUTE_CONTROL, DatagramType, Format
from anonnet.wire.cell import CELL_HEADER, CellRow, rows
from anonnet.wire.datagram import word

MAX_CONTROL: Final = 1024  # queued control cells of a link
CONTROL_FIRST: Final = 16  # control cells, at most, that a new lane lets go first: CREATED has at most 7
KEPT_SESSIONS: Final = 3  # receive keys kept: the newest, the one in use, one for stragglers


class Convoy:
    """The links of one beat: their ticks are sealed, and counted as sent, all at once.

    Most ticks are like the one before, and then no link is asked. One that is about to change says so by
    `stir`.
    """

    def __init__(self, beat: Beat, engine: Engine) -> None:
        self.beat = beat
        self.links: list[PlaneLink] = []
        self.asked = 0  # times; as long as it stays, each of them sends as much, to the same place
        self._engine = engine
        self._next_tick = 0
        self._stirred = False
        self._fillers: list[Filler] = []  # of those links that have a key
        self._sent = self._late = self._skipped = 0  # ticks that `count` has yet to count

    def add(self, link: PlaneLink) -> None:
        """Take a link in."""
        self.stir()
        self.links.append(link)
        self.beat.cells += link.outbox.count

    def remove(self, link: PlaneLink) -> None:
        """Let a link go."""
        self.stir()
        self.links.remove(link)
        self.beat.cells -= link.outbox.count

    def stir(self) -> None:
        """A link is about to change: ask all of them before the next tick."""
        self.count()
        self._stirred = True

    def prepare(self, tick: int) -> None:
        """Fill the outboxes for a tick: handshakes, lanes, control, nulls; sealed and ready."""
        passed = tick - self._next_tick
        self._next_tick = tick + 1
        if self._stirred or passed > 0:
            self.count()
            self._stirred = False
            self.asked += 1
            self._fillers = [link.filler for link in self.links if link.begin(passed)]
        self._engine.fill(self._fillers, tick)

    def put_off(self, tick: int) -> None:
        """Let nothing go out in a tick that is not prepared, and nobody lose slots in it."""
        self.stir()
        self._next_tick = tick + 1
        for link in self.links:
            link.ready = 0

    def emitted(self, late: bool, skipped: int) -> None:
        """The outboxes went out: late, or only after so many ticks that did not."""
        self._sent += 1
        self._late += late
        self._skipped += skipped

    def count(self) -> None:
        """Bring the links' counts up to date."""
        for link in self.links if self._sent else ():
            if link.established:
                link.sent += self._sent * link.ready
                link.late += self._late
                link.skipped += self._skipped
        self._sent = self._late = self._skipped = 0


class PlaneLink:
    """One link's keys, lanes and counters."""

    def __init__(self, handle: int, fmt: Format, endpoint: Endpoint, convoy: Convoy, cells_out: int,
                 engine: Engine) -> None:  # fmt: skip
        self.handle = handle
        self.format = fmt
        self.endpoint = endpoint
        self.convoy = convoy
        self.beat = convoy.beat
        self.outbox = Outbox(fmt, cells_out)
        self.ready = 0  # datagrams of the outbox to emit at the deadline
        self.lanes: list[Lane] = []
        self._new: list[Lane] = []  # of them, those that have not had a tick
        self.routes: dict[int, Receive] = {}
        self.control: deque[bytes] = deque(maxlen=MAX_CONTROL)
        self.handshakes: deque[bytes] = deque(maxlen=64)
        self.sessions: dict[int, ReceiveSession] = {}
        null, row = rows(fmt, 2)
        control_cell = partial(_control_cell, self.control, row)
        self.filler = engine.filler(self.outbox, self.lanes, self.control, control_cell, null.cell)
        self.established = False  # whether there is a key to send with
        self._engine = engine
        self._pending: tuple[bytes, int] | None = None
        self.sent = self.late = self.skipped = self.forged = 0
        self.received = self.missed = self._last_received = 0  # by sessions that are no more
        self.send_error = 0  # errno of the last emission, 0 if all went out

    def set_session(self, local_index: int, remote_index: int, send_key: bytes, receive_key: bytes,
                    confirm: bool) -> None:  # fmt: skip
        """Take fresh keys; with `confirm`, send on the old ones until the peer shows it has the new."""
        while len(self.sessions) >= KEPT_SESSIONS:
            self._retire(self.sessions.pop(next(iter(self.sessions))))
        open_ = self._engine.opener(receive_key)
        session = self._engine.session(self, self.format.datagram_len, open_, True)
        self.sessions[word(DatagramType.DATA, local_index)] = session
        self._pending = (send_key, remote_index)
        if not confirm or not self.established:
            self.switch()

    def switch(self) -> None:
        """Send on the newest session from the next datagram on."""
        if self._pending is not None:
            self.convoy.stir()
            key, index = self._pending
            self._pending = None
            self.filler.use(self._engine.sealer(key), word(DatagramType.DATA, index))
            self.established = True

    def move(self, endpoint: Endpoint) -> None:
        """Send there from now on, until it is heard from elsewhere."""
        self.convoy.stir()
        self.endpoint = endpoint
        for session in self.sessions.values():
            session.forget_source()

    def drop_session(self) -> None:
        """Forget keys, routes and everything queued: the neighbour is gone."""
        self.convoy.stir()
        self.filler.stop()
        self.established = False
        self._pending = None
        for session in self.sessions.values():
            self._retire(session)
        self.sessions.clear()
        self.lanes.clear()
        self._new.clear()
        self.routes.clear()
        self.control.clear()

    def _retire(self, session: ReceiveSession) -> None:
        self.received += session.received
        self.missed += session.missing
        self._last_received = max(self._last_received, session.last_received)

    def add_lane(self, lane: Lane) -> None:
        """Let a route have its slots from the next tick on.

        What control has to say then goes first: CREATED, above all, which would otherwise have to do with the
        few slots that the route it is about leaves over, and take seconds on a slow link.
        """
        self.convoy.stir()
        self.lanes.append(lane)
        self._new.append(lane)

    def shake(self, datagram: bytes) -> None:
        """Send a handshake's datagram before any cells."""
        self.convoy.stir()
        self.handshakes.append(datagram)

    def begin(self, passed: int) -> bool:
        """Begin a tick's outbox, after so many that were skipped; whether the filler is to fill the rest."""
        position = self._put_handshakes() if self.handshakes else 0
        if not self.established:
            self.ready = position
            return False
        if passed > 0:
            self._pass_over(passed)
        if self._new:
            self._let_control_go_first()
        self.filler.position = position
        self.ready = self.outbox.count
        return True

    def _put_handshakes(self) -> int:
        self.convoy.stir()  # the tick after this one will be another
        position = 0
        while self.handshakes and position < self.outbox.count:
            self.outbox.views[position][:] = self.handshakes.popleft()
            position += 1
        return position

    def _let_control_go_first(self) -> None:
        cells = min(len(self.control), CONTROL_FIRST) * RATE_UNIT
        for lane in self._new:
            # Whole ticks: the next hop counts from the first cell, and slips if that tick brought few.
            lane.credit = -lane.per_tick * -(-cells // lane.per_tick)
        self._new.clear()

    def _pass_over(self, ticks: int) -> None:
        """Ticks were skipped: so are the slots that routes had in them, or each route would lag for good."""
        for lane in self.lanes:
            earned = lane.credit + ticks * lane.per_tick
            slots = max(0, earned // RATE_UNIT)
            lane.credit = earned - slots * RATE_UNIT
            lane.skip(slots)

    def stats(self) -> LinkStats:
        """Counters since the link began."""
        self.convoy.count()
        sessions = self.sessions.values()
        received = self.received + sum(session.received for session in sessions)
        missed = self.missed + sum(session.missing for session in sessions)
        last_received = max([self._last_received, *(session.last_received for session in sessions)])
        return LinkStats(self.handle, self.sent, received, missed, self.late, self.skipped,
                         self.forged, last_received, self.send_error)  # fmt: skip


def _control_cell(control: deque[bytes], row: CellRow) -> memoryview:
    """Make a cell of the oldest frame that waits."""
    frame = control.popleft()
    CELL_HEADER.pack_into(row.cell, 0, ROUTE_CONTROL, 0)
    row.body[: len(frame)] = frame
    row.body[len(frame) :] = bytes(len(row.body) - len(frame))
    return row.cell
