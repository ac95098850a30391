"""The loop that drives a data plane core: waits, receives, seals ahead of each deadline, emits on it.

    sleep ... prepare_at: take in what has come, seal ... sleep ... spin, deadline: emit

No asyncio here, no garbage collection, no allocation that grows. Nothing is taken in while a sealed batch
waits for its deadline, so what comes in cannot shift what goes out. Nobody looks earlier than he must either:
a relay's cells, and the packets in a TUN, are due at the next tick and not before, and to wake up for them
costs as much as forwarding several. The ends of circuits take cells in as they come.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from anonnet.net.mmsg import BATCH, Departure, Receiver, Sender, send_one
from anonnet.net.tunfile import TunFile
from anonnet.proto.lane import Convoy, PlaneLink
from anonnet.proto.orders import AttachTun, DetachTun, Order, Report, Stop
from anonnet.proto.pacer import LEAD_BASE_NS, Beat
from anonnet.proto.plane import Plane

IDLE_NS: Final = 200_000_000  # longest sleep: nothing depends on it
AT_ONCE_NS: Final = 320_000  # what a batch of datagrams may be expected to take: how late a tick may be
SPIN_NS: Final = 45_000  # before a deadline; how long it takes to wake up says how busy the host is
NAP_S: Final = 0.01  # longest time that what is not due before the next tick is left unread


class Orders(Protocol):
    """The pipe to control: orders with descriptors in, reports out."""

    def fileno(self) -> int:
        """What to wait on."""

    def receive(self) -> list[tuple[Order, int | None]]:
        """Orders that have come, each with the descriptor that came with it, if any."""

    def send(self, reports: list[Report]) -> None:
        """Pass reports on; those that would block are kept."""

    def give_back(self, descriptor: int) -> None:
        """Let control close a descriptor that it gave us."""


class _Addressed(NamedTuple):
    """Where the datagrams of a convoy go, as long as its links have not been asked again."""

    convoy: Convoy
    asked: int
    senders: dict[PlaneLink, Sender]


class Driver:
    """One data plane process's loop. `clock` is monotonic nanoseconds."""

    def __init__(self, plane: Plane, sockets: Mapping[tuple[str, int], socket.socket], orders: Orders,
                 clock: Callable[[], int] = time.monotonic_ns) -> None:  # fmt: skip
        self._plane = plane
        self._sockets = sockets
        self._orders = orders
        self._clock = clock
        self._receivers = {s.fileno(): Receiver(s, transport) for (transport, _), s in sockets.items()}
        self._senders: dict[int, Sender] = {}
        self._addressed: dict[int, _Addressed] = {}  # by length of tick
        self._failing = False  # whether any link's last emission was not complete
        self._tuns: dict[str, TunFile] = {}
        self._roles: dict[int, str] = {}
        self._waiting: list[tuple[Beat, list[PlaneLink], Departure]] = []  # sealed, not yet due
        self._running = True
        self._emptied = True  # nothing was left unread when the last batch was sealed
        self._at_once = min(BATCH, AT_ONCE_NS // plane.engine.lead_cell_ns)
        self._watched: list[int] = []
        self._urgent: list[int] = []  # of these, what cannot wait for the next tick
        self._watch()

    def _watch(self) -> None:
        self._watched = [self._orders.fileno(), *self._receivers, *self._roles]
        self._urgent = [self._orders.fileno(), *(self._receivers if self._roles else ())]

    def run(self) -> None:
        """Drive until told to stop."""
        clock, plane = self._clock, self._plane
        while self._running:
            now = clock()
            wake = now + IDLE_NS
            for entry in self._waiting:
                deadline = entry[0].deadline
                if deadline - SPIN_NS <= now:
                    while clock() < deadline:
                        pass
                    self._emit(*entry)
                    self._waiting.remove(entry)
                    break
                wake = min(wake, deadline - SPIN_NS)
            else:
                sealed = [entry[0] for entry in self._waiting]
                for beat in plane.beats.values():
                    if beat in sealed:
                        continue
                    if beat.prepare_at <= now:
                        self._catch_up(beat.deadline - LEAD_BASE_NS)
                        links = plane.prepare(beat)
                        self._waiting.append((beat, links, self._address(links)))
                        break
                    wake = min(wake, beat.prepare_at)
                else:
                    self._attend(max(0, wake - now) / 1e9)

    def _address(self, links: list[PlaneLink]) -> Departure:
        """What is to leave over these links, in their order; ready before its moment."""
        if not links:
            return Departure(())
        convoy = links[0].convoy
        known = self._addressed.get(convoy.beat.tick_ns)
        if known is None or known.convoy is not convoy or known.asked != convoy.asked:
            known = _Addressed(convoy, convoy.asked, self._senders_of(links))
            self._addressed[convoy.beat.tick_ns] = known
        senders = known.senders
        return Departure([senders[link] for link in links if link in senders])

    def _senders_of(self, links: list[PlaneLink]) -> dict[PlaneLink, Sender]:
        """Where each link's datagrams go, and how many; not those for which there is no socket."""
        senders = {}
        for link in links:
            sender = self._senders.get(link.handle)
            if sender is None or sender.endpoint is not link.endpoint:
                sock = self._sockets.get((link.endpoint.transport, link.endpoint.ip_version))
                if sock is None:
                    continue
                sender = self._senders[link.handle] = Sender(sock, link.endpoint, link.outbox)
            if sender.ready != link.ready:
                sender.lay_out(link.ready)
            senders[link] = sender
        return senders

    def _emit(self, beat: Beat, links: list[PlaneLink], departure: Departure) -> None:
        began = self._clock()
        failed = departure.send()
        if failed or self._failing:
            self._note(links, failed)
        self._plane.emitted(beat, began, self._clock() - began)
        strays = self._plane.strays
        while strays:
            datagram, endpoint = strays.pop()
            sock = self._sockets.get((endpoint.transport, endpoint.ip_version))
            if sock is not None:
                send_one(sock, datagram, endpoint)
        if self._plane.reports:
            self._report()

    def _note(self, links: list[PlaneLink], failed: list[tuple[Sender, int]]) -> None:
        """See which of the links that were to send could not, and which can again."""
        for link in links:
            if link.ready:
                link.send_error = 0
        for sender, number in failed:
            for link in links:
                if self._senders.get(link.handle) is sender:
                    link.send_error = number
        self._failing = any(link.send_error for link in self._plane.links.values())

    def _catch_up(self, until: int) -> None:
        """Take in all that has come, while there is time: it may go out with the batch about to be sealed."""
        more = True
        while more:
            more = self._take_in(self._watched, 0)
            if more and self._clock() >= until:
                self._emptied = False
                return
        self._emptied = True

    def _attend(self, seconds: float) -> None:
        """Take in what there was no time for; else wait until the next thing is due, or for input that is."""
        if self._waiting:
            time.sleep(seconds)
        elif not self._emptied:
            self._emptied = not self._take_in(self._watched, 0)
        else:
            self._take_in(self._urgent if seconds <= NAP_S else self._watched, seconds)

    def _take_in(self, watched: Sequence[int], seconds: float) -> bool:
        """Wait for input and take in one small batch of each kind; whether there may be more."""
        ready, _, _ = select.select(watched, (), (), seconds)
        if not ready:
            return False
        plane = self._plane
        more = False
        for fd in ready:
            receiver = self._receivers.get(fd)
            if receiver is not None:
                full = receiver.receive(self._at_once)
                more |= full or not receiver.inbox.lengths  # an error stood before what may have come
                plane.receive(receiver.inbox, self._clock())
            else:
                more = True
                if fd in self._roles:
                    self._read_tun(fd)
                else:
                    self._obey()
        self._write_tuns()
        if plane.reports:
            self._report()
        return more

    def _report(self) -> None:
        reports = self._plane.reports
        self._orders.send(reports.copy())
        reports.clear()

    def _obey(self) -> None:
        for order, descriptor in self._orders.receive():
            if isinstance(order, AttachTun) and descriptor is not None:
                self._detach(order.role)
                os.set_blocking(descriptor, False)
                engine = self._plane.engine
                self._tuns[order.role] = TunFile(descriptor, engine.complete, engine.join)
                self._roles[descriptor] = order.role
                self._watch()
            elif isinstance(order, DetachTun):
                self._detach(order.role)
            elif isinstance(order, Stop):
                self._running = False
            else:
                self._plane.obey(order)

    def _detach(self, role: str) -> None:
        tun = self._tuns.pop(role, None)
        if tun is not None:
            del self._roles[tun.fd]
            # The last to close a TUN waits for the kernel to take the device apart: 20 ms, four ticks of t3.
            self._orders.give_back(tun.fd)
            self._watch()

    def _read_tun(self, fd: int) -> None:
        role = self._roles[fd]
        try:
            packets = self._tuns[role].read()
        except OSError:  # somebody deleted the device
            self._detach(role)
            return
        self._plane.packets(role, packets)

    def _write_tuns(self) -> None:
        for role, packets in self._plane.to_tun.items():
            if not packets:
                continue
            tun = self._tuns.get(role)
            if tun is not None:
                for packet in packets:
                    try:
                        tun.write(packet)
                    except OSError:  # no room, or not to the kernel's taste: lost, as on any link
                        continue
            packets.clear()
