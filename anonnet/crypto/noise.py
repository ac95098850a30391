"""The Noise Protocol Framework, revision 34, as far as AnonNet uses it (noiseprotocol.org/noise.html).

Patterns are tables of tokens, read as the specification prints them. `hfs` adds the tokens e1 and ekem1
(noise_hfs_spec, revision 1): a KEM's public key and its ciphertext, sent as static keys are, the secret mixed
like a DH result. A message is processed on a copy of the state, which replaces the state only when the whole
message has been authenticated: a forged message costs nothing but the time to refuse it.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from anonnet.crypto import kem
from anonnet.errors import Forged, Malformed

DH_LEN: Final = 32
TAG_LEN: Final = 16

# Each is the initiator's message, then the responder's. In all of them "<- s" comes before: the
# initiator knows the responder's static key.
PATTERNS: Final = {
    "NK": ("e, es", "e, ee"),
    "IK": ("e, es, s, ss", "e, ee, se"),
    "IKpsk2": ("e, es, s, ss", "e, ee, se, psk"),
    "NKhfs": ("e, es, e1", "e, ee, ekem1"),
    "IKhfs": ("e, es, e1, s, ss", "e, ee, ekem1, se"),
}

T = TypeVar("T")
Aead = AESGCM | ChaCha20Poly1305


class Cipher(NamedTuple):
    """An AEAD and how Noise writes its 12-byte nonce."""

    aead: Callable[[bytes], Aead]
    nonce: Callable[[int], bytes]


CIPHERS: Final = {
    "AESGCM": Cipher(AESGCM, lambda n: n.to_bytes(12, "big")),
    "ChaChaPoly": Cipher(ChaCha20Poly1305, lambda n: bytes(4) + n.to_bytes(8, "little")),
}
HASHES: Final[dict[str, Callable[..., Any]]] = {"SHA256": hashlib.sha256, "BLAKE2s": hashlib.blake2s}
GROUPS: Final = {"25519", "25519+MLKEM768"}


class Role(Enum):
    """Which end of the handshake this is."""

    INITIATOR = 0
    RESPONDER = 1


@dataclass(repr=False)  # keys are never printed
class _State:
    """All that a message changes. Copied, worked on, and put back when the message is good."""

    chaining_key: bytes
    transcript: bytes
    key: Aead | None = None
    nonce: int = 0
    e: X25519PrivateKey | None = None
    e1: kem.KemPrivateKey | None = None
    re: bytes | None = None
    re1: bytes | None = None
    rs: bytes | None = None
    step: int = 0


class HandshakeState:
    """One end of one handshake. `write` and `read` alternate, the initiator writes first; then `split`.

    Ephemeral keys may be given, for test vectors only; otherwise they are made when first needed.
    """

    def __init__(
        self,
        protocol: str,
        role: Role,
        *,
        prologue: bytes = b"",
        static: X25519PrivateKey | None = None,
        remote_static: bytes | None = None,
        psk: bytes | None = None,
        ephemeral: X25519PrivateKey | None = None,
        kem_ephemeral: kem.KemPrivateKey | None = None,
    ) -> None:
        """Start `protocol`, e.g. "Noise_IK_25519_AESGCM_SHA256"; KeyError when it is not one of ours."""
        _, pattern, group, cipher, digest = protocol.split("_")
        if group not in GROUPS or ("+" in group) != pattern.endswith("hfs"):
            raise KeyError(protocol)
        self._messages = [message.split(", ") for message in PATTERNS[pattern]]
        self._mixes_ephemerals = "psk" in pattern  # revision 34, section 9.2
        self._cipher = CIPHERS[cipher]
        self._digest = HASHES[digest]
        self._role = role
        self._s = static
        self._psk = psk
        name = protocol.encode("ascii")
        start = name.ljust(32, b"\0") if len(name) <= 32 else self._digest(name).digest()
        self._state = _State(start, start, e=ephemeral, e1=kem_ephemeral, rs=remote_static)
        self._mix_hash(self._state, prologue)
        responder_static = remote_static if role is Role.INITIATOR else _public(static)
        self._mix_hash(self._state, _needed(responder_static))

    def write(self, payload: bytes = b"") -> bytes:
        """Return the next message of this end, carrying `payload`."""
        state, tokens = self._next(writing=True)
        message = b""
        for token in tokens:
            match token:
                case "e":
                    state.e = state.e or X25519PrivateKey.generate()
                    public = _public(state.e)
                    message += public
                    self._mix_ephemeral(state, public)
                case "s":
                    message += self._seal(state, _public(self._s))
                case "e1":
                    state.e1 = state.e1 or kem.generate()
                    message += self._seal(state, state.e1.public_key().public_bytes_raw())
                case "ekem1":
                    ciphertext, secret = kem.encapsulate(_needed(state.re1))
                    message += self._seal(state, ciphertext)
                    self._mix_key(state, secret)
                case _:
                    self._mix_secret(state, token)
        message += self._seal(state, payload)
        self._state = state
        return message

    def read(self, message: bytes) -> bytes:
        """Return the payload of the peer's next message.

        Raises Malformed when it is too short or holds an impossible key, Forged when a tag or a DH result is
        wrong. After either this object is as it was, and a good message may still come.
        """
        state, tokens = self._next(writing=False)
        rest = message

        def take(length: int) -> bytes:
            nonlocal rest
            if len(rest) < length:
                raise Malformed("handshake message is too short")
            part, rest = rest[:length], rest[length:]
            return part

        for token in tokens:
            sealed = TAG_LEN if state.key else 0
            match token:
                case "e":
                    state.re = take(DH_LEN)
                    self._mix_ephemeral(state, state.re)
                case "s":
                    state.rs = self._open(state, take(DH_LEN + sealed))
                case "e1":
                    state.re1 = self._open(state, take(kem.PUBLIC_LEN + sealed))
                case "ekem1":
                    ciphertext = self._open(state, take(kem.CIPHERTEXT_LEN + sealed))
                    self._mix_key(state, kem.decapsulate(_needed(state.e1), ciphertext))
                case _:
                    self._mix_secret(state, token)
        payload = self._open(state, rest)
        self._state = state
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """Return the 32-byte transport keys: of the initiator's sending, of the responder's sending."""
        if self._state.step < len(self._messages):
            raise RuntimeError("the handshake is not finished")
        first, second = self._hkdf(self._state.chaining_key, b"", 2)
        return first, second

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes that name this session (channel binding, section 11.2)."""
        return self._state.transcript

    @property
    def remote_static(self) -> bytes | None:
        """The peer's static public key, once known: authenticated only when a read has returned."""
        return self._state.rs

    # -- the symmetric state, section 5.2 ---------------------------------------------------------

    def _next(self, *, writing: bool) -> tuple[_State, list[str]]:
        state = copy.copy(self._state)
        own_turn = state.step % 2 == self._role.value
        if state.step >= len(self._messages) or own_turn != writing:
            raise RuntimeError("handshake used out of turn")
        state.step += 1
        return state, self._messages[state.step - 1]

    def _hkdf(self, chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
        temp = hmac.digest(chaining_key, material, self._digest)
        result: list[bytes] = []
        for i in range(outputs):
            result.append(hmac.digest(temp, (result[-1] if result else b"") + bytes([i + 1]), self._digest))
        return result

    def _mix_hash(self, state: _State, data: bytes) -> None:
        state.transcript = self._digest(state.transcript + data).digest()

    def _mix_key(self, state: _State, material: bytes) -> None:
        state.chaining_key, key = self._hkdf(state.chaining_key, material, 2)
        state.key, state.nonce = self._cipher.aead(key), 0

    def _mix_ephemeral(self, state: _State, public: bytes) -> None:
        self._mix_hash(state, public)
        if self._mixes_ephemerals:
            self._mix_key(state, public)

    def _mix_secret(self, state: _State, token: str) -> None:
        """Process psk, ee, es, se or ss: in a DH token the initiator's key comes first."""
        if token == "psk":  # noqa: S105 - a token of the pattern language
            state.chaining_key, mixed, key = self._hkdf(state.chaining_key, _needed(self._psk), 3)
            self._mix_hash(state, mixed)
            state.key, state.nonce = self._cipher.aead(key), 0
            return
        own, peer = (0, 1) if self._role is Role.INITIATOR else (1, 0)
        private = state.e if token[own] == "e" else self._s
        public = state.re if token[peer] == "e" else state.rs
        self._mix_key(state, x25519(_needed(private), _needed(public)))

    def _seal(self, state: _State, plain: bytes) -> bytes:
        sealed = plain
        if state.key:
            sealed = state.key.encrypt(self._cipher.nonce(state.nonce), plain, state.transcript)
            state.nonce += 1
        self._mix_hash(state, sealed)
        return sealed

    def _open(self, state: _State, sealed: bytes) -> bytes:
        plain = sealed
        if state.key:
            if len(sealed) < TAG_LEN:
                raise Malformed("handshake message is too short")
            try:
                plain = state.key.decrypt(self._cipher.nonce(state.nonce), sealed, state.transcript)
            except InvalidTag as error:
                raise Forged("handshake message fails authentication") from error
            state.nonce += 1
        self._mix_hash(state, sealed)
        return plain


def x25519(private: X25519PrivateKey, public: bytes) -> bytes:
    """Return the X25519 result; Forged when it is all zero, as it is for the few points of low order."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise Forged("a public key of low order") from error


def _public(private: X25519PrivateKey | None) -> bytes:
    return _needed(private).public_key().public_bytes_raw()


def _needed(value: T | None) -> T:
    if value is None:
        raise RuntimeError("this pattern needs a key that was not given")
    return value
