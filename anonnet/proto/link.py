"""The control side of one link: handshake, session, rekey, death and return of a neighbour.

              open                    answer / confirmed
    DOWN  ----------->  OPENING  --------------------------->  UP
      ^                    |                                    |
      |     no answer      |         silence, Bye               |
      '--------------------+------------------------------------'

Either end may open. When both do at once, the attempt of the smaller node id stands. A first handshake
always means that the other end has forgotten us (or we it), so routes of the link end with it; rekeying
runs inside the link and ends nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.link import Accepted, LinkInitiator, SessionKeys
from anonnet.crypto.suite import Suite, suite_text
from anonnet.errors import PeerFault
from anonnet.ids import NodeId
from anonnet.proto import orders as o
from anonnet.proto.profile import Profile, Schedule
from anonnet.proto.rekey import Rekeying
from anonnet.proto.stream import Stream, StreamFull
from anonnet.wire import control
from anonnet.wire.handshake import LinkAnswer, LinkOffer, Status

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
DEAD_NS: Final = 2_500 * MS  # of silence, or ...
DEAD_TICKS: Final = 20  # ... this many ticks, whichever is longer
FIRST_RETRY_NS: Final = 1 * SECOND  # or ...
RETRY_CELLS: Final = 16  # ... the time of so many, if longer: question and answer are up to 7 each
LAST_RETRY_NS: Final = 5 * SECOND  # while the outage lasts, a circuit lingers at its exit


class LinkState(Enum):
    """Where a link is in its life; the value is what people read."""

    DOWN = "down"
    OPENING = "opening"
    UP = "up"


@dataclass(frozen=True)
class LinkPeer:
    """What does not change about a link while the daemon runs."""

    node_id: NodeId
    link_public: bytes  # X25519
    endpoint: o.Endpoint
    profile: Profile
    schedule: Schedule

    NOWHERE: ClassVar[str] = "0.0.0.0"  # noqa: S104  the address of a neighbour that must come to us

    @property
    def reachable(self) -> bool:
        """Whether this end can open the link."""
        return self.endpoint.address != self.NOWHERE


@dataclass(frozen=True)
class Surroundings:
    """What a link needs of its node. `timestamp` gives 12 bytes that only ever grow (TAI64N)."""

    node_id: NodeId
    suite: Suite
    static: X25519PrivateKey
    random: Callable[[int], bytes]
    timestamp: Callable[[], bytes]
    new_index: Callable[[int], int]  # of a link's handle: a receiver index that no session has
    order: Callable[[o.Order], None]
    on_up: Callable[[int], None]
    on_down: Callable[[int], None]
    on_message: Callable[[int, control.ControlMessage], None]


class Link:
    """One link's machine. Times are monotonic ns; what it wants done goes out as orders."""

    def __init__(self, handle: int, peer: LinkPeer, around: Surroundings, now: int) -> None:
        self.handle = handle
        self.peer = peer
        self.state = LinkState.DOWN
        self.trouble = ""  # why it is not up, for the operator
        self.endpoint = peer.endpoint
        self._around = around
        self._stream = Stream(peer.profile.format.body_len)
        self._opening: LinkInitiator | None = None
        self._opening_index = 0
        self._answered: SessionKeys | None = None  # as responder, until the peer uses it
        self._rekeying = Rekeying(
            handle, around.suite, around.static, peer.link_public, around.new_index, around.order
        )
        schedule = peer.schedule
        cells_ns = schedule.tick_ns * RETRY_CELLS // min(schedule.cells_out, schedule.cells_in)
        self._first_retry_ns = max(FIRST_RETRY_NS, cells_ns)
        self._retry_ns = self._first_retry_ns
        self._tried = self._next_try = now
        self._heard = now
        around.order(o.AddLink(handle, peer.profile.format.code, peer.endpoint, schedule.tick_ns,
                               schedule.cells_out, schedule.cells_in))  # fmt: skip

    # -- first handshake --------------------------------------------------------------------------

    def open(self, now: int) -> bytes:
        """Start an attempt; return the first message, to be fragmented under `opening_index`."""
        self._opening_index = self._around.new_index(self.handle)
        offer = LinkOffer(
            self._around.timestamp(), self._opening_index, self.peer.profile.format.code,
            self._around.suite.code, self.peer.schedule.tick_ns, self.peer.schedule.cells_out,
            self.peer.schedule.cells_in,
        )  # fmt: skip
        self._opening = LinkInitiator(
            self._around.suite, self._around.static, self.peer.link_public, offer.encode()
        )
        self._tried = now
        self._next_try = now + self._retry_ns + int.from_bytes(self._around.random(4), "big") % (200 * MS)
        self._retry_ns = min(self._retry_ns * 3 // 2, max(LAST_RETRY_NS, self._first_retry_ns))
        if self.state is LinkState.DOWN:
            self.state = LinkState.OPENING
        return self._opening.message

    @property
    def opening_index(self) -> int:
        """Receiver index of the attempt that is under way."""
        return self._opening_index

    def wants_open(self, now: int) -> bool:
        """Whether it is time for another attempt."""
        waits = self.state is not LinkState.UP and self._answered is None
        return waits and self.peer.reachable and now >= self._next_try

    def on_answer(self, message: bytes, source: o.Endpoint, now: int) -> None:
        """The second message came back; PeerFault if it is not genuine."""
        if self._opening is None:
            return
        payload, keys = self._opening.finish(message)
        answer = LinkAnswer.decode(payload)
        self._opening = None
        if answer.status is not Status.OK:
            self.trouble = f"neighbour refuses: {answer.status.text}" + self._difference(answer)
            self._fall(now)
            return
        if self.state is LinkState.UP:
            self._lost()
        self.endpoint = source
        self._reset(now)
        self._around.order(o.DropSession(self.handle))
        self._around.order(o.SetSession(self.handle, self._opening_index, answer.index, keys.send,
                                        keys.receive, confirm=False, endpoint=source))  # fmt: skip
        self._rise(keys, now, opened=True)

    def _difference(self, answer: LinkAnswer) -> str:
        theirs = Schedule(answer.tick_ns, answer.cells_out, answer.cells_in)
        if answer.status is not Status.PROFILE:
            return ""
        ours = self.peer.schedule
        return (
            f" (here {ours.cells_out} out, {ours.cells_in} in every {ours.tick_ns / MS:.3f} ms;"
            f" there {theirs.cells_out} out, {theirs.cells_in} in every {theirs.tick_ns / MS:.3f} ms)"
        )

    def on_offer(self, accepted: Accepted, offer: LinkOffer, source: o.Endpoint, now: int) -> bytes | None:
        """The peer opens: return the answer to send, or None if our own attempt stands."""
        young = self._opening is not None and now - self._tried < self._first_retry_ns
        if young and self._around.node_id < self.peer.node_id:
            return None  # an older attempt was for a neighbour that was not there
        self._opening = None
        schedule = self.peer.schedule
        status = Status.OK
        if offer.suite_code != self._around.suite.code:
            status = Status.SUITE
        elif offer.format_code != self.peer.profile.format.code:
            status = Status.FORMAT
        elif Schedule(offer.tick_ns, offer.cells_out, offer.cells_in) != schedule.mirrored:
            status = Status.PROFILE
        index = self._around.new_index(self.handle)
        answer = LinkAnswer(index, status, schedule.tick_ns, schedule.cells_out, schedule.cells_in)
        reply, keys = accepted.reply(answer.encode())
        if status is not Status.OK:
            self.trouble = f"refused the neighbour: {status.text}"
            return reply
        if self.state is LinkState.UP:
            self._lost()
        self.state = LinkState.OPENING
        self._reset(now)
        self.endpoint = source
        self._around.order(o.DropSession(self.handle))
        self._around.order(o.SetSession(self.handle, index, offer.index, keys.send, keys.receive,
                                        confirm=True, endpoint=source))  # fmt: skip
        self._answered = keys
        self._next_try = now + self._retry_ns
        return reply

    def on_confirmed(self, now: int) -> None:
        """The peer sent under the newest session."""
        self._rekeying.on_used(now)
        if self._answered is not None:
            keys, self._answered = self._answered, None
            self._rise(keys, now, opened=False)

    def on_other_suite(self, suite_code: int) -> None:
        """Something at the neighbour's address calls us in another suite. No proof, so only words."""
        if self.state is not LinkState.UP:
            theirs, ours = suite_text(suite_code), self._around.suite.name
            self.trouble = f"neighbour uses suite {theirs}, this node {ours}: node.suite must be the same"

    # -- life -------------------------------------------------------------------------------------

    def _rise(self, keys: SessionKeys, now: int, opened: bool) -> None:
        self.state = LinkState.UP
        self.trouble = ""
        self._retry_ns = self._first_retry_ns
        self._heard = now
        self._rekeying.begin(keys.channel, opened, now)
        self._around.on_up(self.handle)

    def _lost(self) -> None:
        self.state = LinkState.DOWN
        self._around.on_down(self.handle)

    def _fall(self, now: int) -> None:
        was_up = self.state is LinkState.UP
        self.state = LinkState.DOWN
        self._reset(now)
        self._around.order(o.DropSession(self.handle))
        if was_up:
            self._around.on_down(self.handle)

    def _reset(self, now: int) -> None:
        self._stream = Stream(self.peer.profile.format.body_len)
        self._opening = self._answered = None
        self._rekeying.clear()
        self._heard = now

    def send(self, message: control.ControlMessage, now: int) -> None:
        """Queue a control message; `transmit` hands its cells to the data plane.

        A neighbour that lets too many pile up costs the link, like one that breaks the protocol.
        """
        try:
            self._stream.send(control.encode(message))
        except StreamFull as fault:
            self._break(fault, now)

    def transmit(self, now: int) -> None:
        """Give the data plane what the control channel has to send."""
        frames = self._stream.poll_transmit(now) if self.state is LinkState.UP else []
        if frames:
            self._around.order(o.SendControl(self.handle, frames))

    def on_frame(self, frame: bytes, now: int) -> None:
        """A control cell came. A peer that breaks the protocol costs the link."""
        if self.state is not LinkState.UP:
            return  # it is sent again once we know that the session stands
        try:
            for raw in self._stream.receive(frame, now):
                message = control.decode(raw)
                if not self._own_message(message, now):
                    self._around.on_message(self.handle, message)
                if self.state is not LinkState.UP:
                    return  # by this very message: what came after it belongs to a session that is over
        except PeerFault as fault:
            self._break(fault, now)

    def _break(self, fault: PeerFault, now: int) -> None:
        self.trouble = f"neighbour broke the protocol: {fault}"
        self._next_try = now + self._retry_ns
        self._fall(now)

    def _own_message(self, message: control.ControlMessage, now: int) -> bool:
        """Handle what concerns the link alone; False for the rest."""
        match message:
            case control.Rekey():
                self.send(self._rekeying.answer(message), now)
            case control.Rekeyed(noise):
                self._rekeying.finish(noise)
            case control.Bye():
                self.trouble = "neighbour stopped"
                self._next_try = now + self._retry_ns
                self._fall(now)
            case control.Echo(token):
                self.send(control.EchoReply(token), now)
            case control.EchoReply():
                pass  # this node has not asked; another implementation's may be late
            case _:
                return False
        return True

    # -- time -------------------------------------------------------------------------------------

    def on_heard(self, last_received: int, now: int) -> None:
        """The data plane's word, said at `now`, on when anything genuine came last."""
        self._heard = max(self._heard, last_received)
        silence = max(DEAD_NS, DEAD_TICKS * self.peer.schedule.tick_ns)
        if now - self._heard > silence and (self.state is LinkState.UP or self._answered is not None):
            self.trouble = "no datagrams from the neighbour"
            self._next_try = now
            self._fall(now)

    def on_deadline(self, now: int) -> None:
        """Rekey when due, end a session whose keys have grown too old, let the stream send again."""
        if self.state is LinkState.UP and (question := self._rekeying.poll(now)):
            self.send(question, now)
        if self.state is LinkState.UP and self._rekeying.stale(now):
            self._break(PeerFault("it leaves old keys in use"), now)
        self.transmit(now)

    def next_deadline(self) -> int | None:
        """When `on_deadline` or `open` has something to do."""
        if self.state is not LinkState.UP:
            return self._next_try if self._answered is None and self.peer.reachable else None
        due = self._rekeying.next_deadline()
        at = self._stream.next_deadline()
        return due if at is None else min(due, at)
