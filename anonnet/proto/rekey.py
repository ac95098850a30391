"""Fresh keys for a link that is up: agreed on inside it, taken into use by the clock.

Everybody sees when a link takes fresh keys: index and counter stand open in its datagrams. How fast the
control channel is depends on the routes over the link. So the keys are agreed on long before, and the end
that opened the link uses them when the clock says so; the other follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.link import LinkInitiator, LinkResponder
from anonnet.crypto.suite import Suite
from anonnet.errors import Malformed
from anonnet.proto import orders as o
from anonnet.wire.control import Rekey, Rekeyed

SECOND: Final = 1_000_000_000
REKEY_NS: Final = 120 * SECOND  # life of a session's keys; the next are asked for after half of it
STALE_NS: Final = 3 * REKEY_NS  # a neighbour that leaves older keys in use loses the link


class Rekeying:
    """The keys of one session after another, from when a link comes up until it goes down."""

    def __init__(
        self, handle: int, suite: Suite, static: X25519PrivateKey, peer_public: bytes,
        new_index: Callable[[int], int], order: Callable[[o.Order], None],
    ) -> None:  # fmt: skip
        self._handle = handle
        self._suite = suite
        self._static = static
        self._peer_public = peer_public
        self._new_index = new_index
        self._order = order
        self._channel = b""
        self._asks = False  # this end opened the link
        self._ask_at = self._use_at = self._used_at = 0
        self._index = 0
        self._asked: LinkInitiator | None = None
        self._fresh: o.SetSession | None = None  # keys that wait for their time

    def begin(self, channel: bytes, opened: bool, now: int) -> None:
        """The link is up, with the keys of its first handshake; the end that opened it asks for others."""
        self._channel = channel
        self._asks = opened
        self._used_at = now
        self._ask_at = now + REKEY_NS // 2
        self._use_at = now + REKEY_NS

    def clear(self) -> None:
        """Give up what is under way: its session is over."""
        self._asked = self._fresh = None

    def poll(self, now: int) -> Rekey | None:
        """Do what is due; return a question for the neighbour."""
        if not self._asks:
            return None
        question = None
        if now >= self._ask_at:
            self._ask_at += REKEY_NS
            if self._asked is None:
                question = self._ask()
        if now >= self._use_at:
            self._use_at += REKEY_NS
            if self._fresh is not None:
                self._order(self._fresh)
                self._fresh = None
        return question

    def _ask(self) -> Rekey:
        self._index = self._new_index(self._handle)
        self._asked = LinkInitiator(self._suite, self._static, self._peer_public, b"", self._channel)
        return Rekey(self._index, self._asked.message)

    def answer(self, question: Rekey) -> Rekeyed:
        """Agree to fresh keys, for when the neighbour uses them; PeerFault if it is not genuine."""
        accepted = LinkResponder(self._suite, self._static, self._channel).read(question.noise)
        if accepted.remote_public != self._peer_public:
            raise Malformed("rekey in another node's name")
        index = self._new_index(self._handle)
        reply, keys = accepted.reply(index.to_bytes(3, "big"))
        self._order(o.SetSession(self._handle, index, question.index, keys.send, keys.receive, confirm=True))
        self._channel = keys.channel
        return Rekeyed(reply)

    def finish(self, noise: bytes) -> None:
        """The neighbour has agreed; PeerFault if it is not genuine."""
        if self._asked is None:
            raise Malformed("answer to a rekey that nobody asked for")
        payload, keys = self._asked.finish(noise)
        if len(payload) != 3:
            raise Malformed("rekey without an index")
        self._asked = None
        self._fresh = o.SetSession(self._handle, self._index, int.from_bytes(payload, "big"),
                                   keys.send, keys.receive, confirm=False)  # fmt: skip
        self._channel = keys.channel

    def on_used(self, now: int) -> None:
        """The neighbour sent under the newest keys."""
        self._used_at = now

    def stale(self, now: int) -> bool:
        """Whether the keys in use have grown too old."""
        return now - self._used_at >= STALE_NS

    def next_deadline(self) -> int:
        """When `poll` or `stale` has something to do."""
        stale = self._used_at + STALE_NS
        return min(stale, self._ask_at, self._use_at) if self._asks else stale
