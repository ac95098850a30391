"""The control core's surroundings in the daemon: the pipe to the data plane, a timer, what outlives a run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

import msgspec

from anonnet.crypto.gate import TimestampGuard
from anonnet.crypto.keys import NodeKeys
from anonnet.crypto.suite import Suite
from anonnet.errors import OperatorError
from anonnet.ids import short
from anonnet.node import kept
from anonnet.node.files import replace
from anonnet.node.notify import Notifier
from anonnet.node.peers import Peer
from anonnet.node.pipe import ReportPipe
from anonnet.node.privileges import User
from anonnet.node.reach import known, link_peer
from anonnet.node.sections import Config
from anonnet.proto import orders as o
from anonnet.proto.exits import ExitCircuits
from anonnet.proto.link import LinkState
from anonnet.proto.node import Identity, Node
from anonnet.wire.handshake import tai64n

GUARD_NAME: Final = "timestamps.json"  # newest handshake of each neighbour
STAMP_NAME: Final = "timestamp"  # newest of our own
SLICE_NS: Final = 10_000_000  # of reports, before users have their turn
OVERDUE_NS: Final = 1_000_000_000  # longest time that the core's alarms wait for reports to be taken in
GOODBYE_SECONDS: Final = 0.2  # for the last control cells to leave in their slots

log: Final = logging.getLogger("anonnet")


@dataclass(frozen=True)
class Inherited:
    """What the keeper hands to the control process."""

    config: Config
    suite: Suite
    keys: NodeKeys
    peers: Sequence[Peer]
    transports: frozenset[tuple[str, int]]  # sockets that are open: transport, IP version
    pipe: socket.socket
    listener: socket.socket
    guard_dir: Path
    user: User | None
    debug: bool
    notifier: Notifier


class Control:
    """The core, its pipe to the data plane and its timer."""

    def __init__(self, given: Inherited, loop: asyncio.AbstractEventLoop) -> None:
        self.config = given.config
        self.keys = given.keys
        self.peers = given.peers
        self.stopping = asyncio.Event()
        self._given = given
        self._loop = loop
        self._pipe = ReportPipe(given.pipe)
        self._timer: asyncio.TimerHandle | None = None
        self._states: dict[int, tuple[LinkState, str]] = {}
        self._heard: deque[o.Report] = deque()  # that have come and are not taken in
        self._settling = False
        self._acted = 0  # when the core's alarms went off last
        self._guard = _load_guard(given.guard_dir / GUARD_NAME)
        self._stamped = tai64n(0)
        exit_ = given.config.exit
        pool = ExitCircuits(IPv4Network(exit_.pool4), IPv6Network(exit_.pool6)) if exit_.enabled else None
        identity = Identity(given.keys.node_id, given.keys.link, given.keys.link_public, given.keys.onion)
        nodes = {peer.descriptor.node_id: known(peer) for peer in given.peers}
        self.node = Node(identity, given.suite, nodes, pool, os.urandom,
                         self._timestamp, self._guard, given.config.caller.share,
                         kept.load(given.guard_dir, nodes))  # fmt: skip
        for peer in given.peers:
            if peer.link:
                self.node.add_link(link_peer(peer, given.transports), self.now())
        loop.add_reader(self._pipe.fileno(), self._on_reports)
        self.settle()

    @staticmethod
    def now() -> int:
        """Monotonic nanoseconds."""
        return time.monotonic_ns()

    def _timestamp(self) -> bytes:
        """The wall clock as TAI64N, but never back: a neighbour takes each handshake only if it is newer.

        What was sent last is kept on disk, so that a clock set back between two runs locks nobody out.
        """
        path = self._given.guard_dir / STAMP_NAME
        with contextlib.suppress(OSError, ValueError):
            self._stamped = max(self._stamped, bytes.fromhex(path.read_text()))
        now = tai64n(time.time_ns())
        later = (int.from_bytes(self._stamped, "big") + 1).to_bytes(len(now), "big")
        self._stamped = max(now, later)
        replace(path, self._stamped.hex())
        return self._stamped

    def attach(self, role: str, descriptor: int) -> None:
        """Give the data plane a TUN; the descriptor here is closed."""
        self._pipe.attach(role, descriptor)

    def detach(self, role: str) -> None:
        """Let go of a TUN."""
        self._pipe.send([o.DetachTun(role)])

    def settle_soon(self) -> None:
        """Settle when all who have their turn now have had it: once for hundreds of test routes."""
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self.settle)

    def settle(self) -> None:
        """Let the core act, pass on its orders, keep what must outlive us, set the next alarm."""
        self._settling = False
        now = self.now()
        if not self._heard or now - self._acted > OVERDUE_NS:  # else it would ask again for what is here
            self._acted = now
            self.node.on_deadline(now)
        if self.node.guard_changed:  # before the answer goes out
            self.node.guard_changed = False
            replace(self._given.guard_dir / GUARD_NAME, msgspec.json.encode(self._guard.to_dict()).decode())
        kept.save_changes(self._given.guard_dir, self.node.ends)
        orders = self.node.take_orders()
        if orders:
            self._pipe.send(orders)
        if not self._pipe.flush():
            self._loop.call_later(0.002, self._pipe.flush)
        self._log_links()
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.node.next_deadline() if not self._heard else None  # it looks at every route
        if deadline is not None:
            self._timer = self._loop.call_at(max(deadline / 1e9, self._loop.time()), self.settle)

    def _on_reports(self) -> None:
        if self._heard:
            return  # the pipe holds what is next, and says so to the data plane by being full
        try:
            self._heard.extend(self._pipe.receive())
        except ConnectionError:
            log.error("the data plane has ended")
            self._loop.remove_reader(self._pipe.fileno())
            self.stopping.set()
            return
        self._hear()

    def _hear(self) -> None:
        """Take reports in for a slice of time: a handshake takes a millisecond, and 200 may end at once."""
        now = self.now()
        until = now + SLICE_NS
        while self._heard and now < until:
            report = self._heard.popleft()
            if isinstance(report, o.Fault):
                log.warning("data plane: %s", report.text)
            self.node.on_report(report, now)
            now = self.now()
        self.settle()
        if self._heard:
            self._loop.call_soon(self._hear)

    def _log_links(self) -> None:
        for handle, link in self.node.links.items():
            if self._states.get(handle) != (link.state, link.trouble):
                self._states[handle] = (link.state, link.trouble)
                detail = f" ({link.trouble})" if link.trouble else ""
                log.info("link with %s: %s%s", short(link.peer.node_id), link.state.value, detail)

    async def stop(self) -> None:
        """Say goodbye, then end the data plane."""
        self.node.stop(self.now())
        self.settle()
        await asyncio.sleep(GOODBYE_SECONDS)
        with contextlib.suppress(OSError):
            self._pipe.send([o.Stop()])


def _load_guard(path: Path) -> TimestampGuard:
    try:
        return TimestampGuard(msgspec.json.decode(path.read_bytes()))
    except FileNotFoundError:
        return TimestampGuard()
    except (OSError, msgspec.DecodeError, ValueError, KeyError, AttributeError) as error:
        hint = f"remove it; an old handshake may then be replayed once ({error})"
        raise OperatorError(f"{path} is damaged", hint) from None
