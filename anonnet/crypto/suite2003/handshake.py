"""Anonymous ephemeral Diffie-Hellman, and beside it an HMAC that says with whom (protocol-handshakes.md).

    ->  e · x · payload · tag of A                  e, f: 2^exponent modulo p; G = DH(e, f)
    <-  f · payload · tag of A and G                x: X25519; A = X25519(x, responder's static key)

On links x is the initiator's static key, so that A is known to the two neighbours alone and the tags prove
each to the other. Towards a hop x is fresh, so that only the hop is proved and the caller stays anonymous.
The keys come from G alone, as in 2003, when there were no tags and whoever sat on a wire could pose as either
end to the other. Nothing is enciphered: who sees a link's first message can read the initiator's static key.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.noise import DH_LEN, Role, x25519
from anonnet.crypto.suite2003 import group
from anonnet.crypto.suite2003.tiger import DIGEST_LEN, hkdf_tiger, hmac_tiger, tiger
from anonnet.errors import Forged, Malformed

TAG_LEN: Final = DIGEST_LEN
KEY_LEN: Final = 48  # of one direction of a link: Arcfour's half, the HMAC's half
KEYS_LABEL: Final = b"AnonNet 2003 keys"
CONFIRM_LABEL: Final = b"AnonNet 2003 confirmation"
_HEAD_LEN: Final = group.PUBLIC_LEN + DH_LEN  # e, x
MESSAGE_LEN: Final = _HEAD_LEN + TAG_LEN  # 312, without payload
REPLY_LEN: Final = group.PUBLIC_LEN + TAG_LEN  # 280, without payload


class DhHandshake:
    """One end of one handshake: `write` and `read`, each once, the initiator writes first; then `split`.

    A read that fails changes nothing. `exponent` and `agreement` (x, where there is no static key) may be
    given, for test vectors only.
    """

    def __init__(
        self,
        protocol: str,
        role: Role,
        *,
        prologue: bytes = b"",
        static: X25519PrivateKey | None = None,
        remote_static: bytes | None = None,
        exponent: int | None = None,
        agreement: X25519PrivateKey | None = None,
    ) -> None:
        self._initiator = role is Role.INITIATOR
        self._exponent = exponent or group.new_exponent()
        if self._initiator:
            assert remote_static is not None
            self._x = static or agreement or X25519PrivateKey.generate()
            responder = remote_static
        else:
            assert static is not None
            self._x = static
            responder = static.public_key().public_bytes_raw()
        self.remote_static = remote_static
        self._transcript = tiger(protocol.encode() + b"\0" + prologue + responder)
        self._agreed = b""  # key of tags, from A
        self._secret = b""  # G, once the peer's message is known
        self._finished = False

    @property
    def handshake_hash(self) -> bytes:
        """24 bytes that name the session, once both messages are known."""
        return self._transcript

    def write(self, payload: bytes = b"") -> bytes:
        """Return this end's message."""
        own = group.public(self._exponent)
        if self._initiator:
            assert self.remote_static is not None
            own += self._x.public_key().public_bytes_raw()
            self._agreed = _tag_key(self._transcript, x25519(self._x, self.remote_static))
            self._transcript = tiger(self._transcript + own + payload)
            return own + payload + hmac_tiger(self._agreed, self._transcript)
        self._transcript = tiger(self._transcript + own + payload)
        self._finished = True
        return own + payload + _confirmation(self._agreed, self._secret, self._transcript)

    def read(self, message: bytes) -> bytes:
        """Return the payload of the peer's message; Malformed or Forged when it is not genuine."""
        head = REPLY_LEN - TAG_LEN if self._initiator else _HEAD_LEN
        if len(message) < head + TAG_LEN:
            raise Malformed("handshake message is too short")
        signed, tag = message[:-TAG_LEN], message[-TAG_LEN:]
        theirs, payload = message[: group.PUBLIC_LEN], signed[head:]
        transcript = tiger(self._transcript + signed)
        if self._initiator:
            secret = group.agree(self._exponent, theirs)
            _compare(tag, _confirmation(self._agreed, secret, transcript))
        else:
            x = message[group.PUBLIC_LEN : _HEAD_LEN]
            agreed = _tag_key(self._transcript, x25519(self._x, x))
            _compare(tag, hmac_tiger(agreed, transcript))
            secret = group.agree(self._exponent, theirs)  # the dear part comes last
            self._agreed, self.remote_static = agreed, x
        self._secret, self._transcript = secret, transcript
        self._finished = self._initiator
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """Return the keys, 48 bytes each: of the initiator's sending, of the responder's sending."""
        if not self._finished:
            raise RuntimeError("the handshake is not finished")
        material = hkdf_tiger(self._secret, self._transcript, KEYS_LABEL, 2 * KEY_LEN)
        return material[:KEY_LEN], material[KEY_LEN:]


def _tag_key(transcript: bytes, agreed: bytes) -> bytes:
    return hmac_tiger(transcript, agreed)


def _confirmation(agreed: bytes, secret: bytes, transcript: bytes) -> bytes:
    """Tag of the second message: shows that its sender knows both A and G."""
    known = hkdf_tiger(secret, transcript, CONFIRM_LABEL, DIGEST_LEN)
    return hmac_tiger(agreed, known + transcript)


def _compare(found: bytes, wanted: bytes) -> None:
    if not hmac.compare_digest(found, wanted):
        raise Forged("handshake message fails authentication")
