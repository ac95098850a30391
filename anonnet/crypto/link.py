"""Link handshakes (docs/protocol.md, "Link handshake") between nodes that know each other; of anonnet-2026:

    -> e, es, e1, s, ss     payload: LinkOffer
    <- e, ee, ekem1, se     payload: LinkAnswer

With Noise, the initiator is hidden from all but the responder. The responder proves itself with its answer,
the initiator with its first data. A first message can be replayed: see gate.TimestampGuard. A rekey runs the
same handshake through the link's control channel with the session's `channel` as context, which ties the
new session to the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.noise import Role
from anonnet.crypto.suite import Handshake, Suite

LABEL: Final = b"AnonNet link"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What one handshake yields: keys for suite.sealer and suite.opener, and the session's name."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)
    channel: bytes = field(repr=False)  # 32 bytes, the same at both ends; not secret, never sent


class LinkInitiator:
    """The end that opens. `message` may be sent again as it stands; `finish` may be tried again."""

    def __init__(
        self,
        suite: Suite,
        static_private: X25519PrivateKey,
        remote_public: bytes,
        payload: bytes,
        context: bytes = b"",
        **ephemerals: Any,
    ) -> None:
        """Make the first message. Ephemeral keys, by the suite's names, are given by test vectors only.

        Raises Forged when `remote_public` is a point of low order.
        """
        self._handshake = suite.handshake(
            suite.link_handshake,
            Role.INITIATOR,
            prologue=suite.prologue(LABEL, context),
            static=static_private,
            remote_static=remote_public,
            **ephemerals,
        )
        self.message: Final = self._handshake.write(payload)

    def finish(self, message2: bytes) -> tuple[bytes, SessionKeys]:
        """Return the answer's payload and the keys; PeerFault, and nothing changed, if it is not genuine."""
        payload = self._handshake.read(message2)
        send, receive = self._handshake.split()
        return payload, SessionKeys(send, receive, self._handshake.handshake_hash)


class Accepted:
    """A first message that was read: who sent it and what it offers. `reply` may be called once."""

    def __init__(self, handshake: Handshake, remote_public: bytes, payload: bytes) -> None:
        self.remote_public: Final = remote_public  # 32 bytes, the initiator's link key
        self.payload: Final = payload
        self._handshake = handshake

    def reply(self, payload: bytes) -> tuple[bytes, SessionKeys]:
        """Return the second message and the keys."""
        message2 = self._handshake.write(payload)
        receive, send = self._handshake.split()
        return message2, SessionKeys(send, receive, self._handshake.handshake_hash)


class LinkResponder:
    """The end that answers. Keeps nothing between messages: each `read` starts afresh."""

    def __init__(self, suite: Suite, static_private: X25519PrivateKey, context: bytes = b"") -> None:
        self._suite = suite
        self._static = static_private
        self._context = context

    def read(self, message1: bytes) -> Accepted:
        """Read a first message; PeerFault when it is not genuine, or not for this node, suite or context."""
        handshake = self._suite.handshake(
            self._suite.link_handshake,
            Role.RESPONDER,
            prologue=self._suite.prologue(LABEL, self._context),
            static=self._static,
        )
        payload = handshake.read(message1)
        assert handshake.remote_static is not None
        return Accepted(handshake, handshake.remote_static, payload)
