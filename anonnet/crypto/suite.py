"""Suites: named, closed sets of primitives. Two nodes share one whole or do not talk; nothing is negotiated.

A suite differs in the prologue of every handshake and in the key of mac1, so that nothing of one can be taken
for another's. Names of the network itself are no suite's: node ids, descriptors and their signatures, the
X25519 keys in them, mac1 and cookies are the same everywhere.

The rest of the code knows a suite by the callables below and nothing else. Suites other than the default live
in modules of their own (crypto/suite2003.py), which `load_suite` imports when a configuration asks for one:
their libraries are not there on every host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from anonnet.crypto import kem
from anonnet.crypto.noise import DH_LEN, HandshakeState
from anonnet.crypto.noise import TAG_LEN as NOISE_TAG_LEN
from anonnet.crypto.onion import Layer, LayerKeys, OnionLayer
from anonnet.errors import OperatorError
from anonnet.spec import PROTOCOL_VERSION

DEFAULT_SUITE: Final = "anonnet-2026"
SUITE_CODES: Final = {DEFAULT_SUITE: 1, "anonnet-2003": 2}  # never used again for something else
SUITE_NAMES: Final = {code: name for name, code in SUITE_CODES.items()}
SUITE_WEAKNESSES: Final[dict[str, tuple[str, ...]]] = {  # what its users must be told
    DEFAULT_SUITE: (),
    "anonnet-2003": (
        "for study, not for protection",
        "Arcfour on links: its keystream is biased, and RFC 7465 forbids it",
        "keys from 2048-bit Diffie-Hellman alone: a quantum computer reads what is recorded today",
        "a link's first message shows its sender's link key; Tiger-192 was never studied as SHA-2 is",
    ),
}

# Both as `cryptography` has them: (nonce, cell, None, where to) -> length. Open raises InvalidTag.
Seal = Callable[[memoryview, memoryview, None, memoryview], int]
Open = Callable[[memoryview, memoryview, None, memoryview], int]
Derive = Callable[[bytes, bytes, bytes, int], bytes]  # secret, salt, info, length -> key material (RFC 5869)


class Handshake(Protocol):
    """One end of a handshake of two messages; see noise.HandshakeState, whose interface this is."""

    def write(self, payload: bytes = b"") -> bytes:
        """Return the next message of this end."""

    def read(self, message: bytes) -> bytes:
        """Return the payload of the peer's next message; PeerFault, and nothing changed, on a bad one."""

    def split(self) -> tuple[bytes, bytes]:
        """Return the keys of what the initiator and of what the responder sends."""

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes that name the session."""

    @property
    def remote_static(self) -> bytes | None:
        """The peer's static public key, once known."""


@dataclass(frozen=True, slots=True)
class Suite:
    """What a network's nodes all use; `handshake` is made as noise.HandshakeState is."""

    name: str
    code: int  # u8, in descriptors, offers and prologues
    link_handshake: str
    hop_handshake: str
    hop_lengths: tuple[int, int]  # bytes of a hop handshake's message and reply
    handshake: Callable[..., Handshake]
    derive: Derive
    sealer: Callable[[bytes], Seal]  # of one of the keys that a link handshake yields
    opener: Callable[[bytes], Open]
    layer: Callable[[LayerKeys], OnionLayer]
    link_key_len: int = 32  # bytes

    def prologue(self, label: bytes, context: bytes) -> bytes:
        """Bind a handshake to its purpose, the protocol's version, this suite and the caller's context."""
        return label + bytes([PROTOCOL_VERSION, self.code]) + context


def _hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)


ANONNET_2026: Final = Suite(
    name=DEFAULT_SUITE,
    code=SUITE_CODES[DEFAULT_SUITE],
    link_handshake="Noise_IKhfs_25519+MLKEM768_AESGCM_SHA256",
    hop_handshake="Noise_NKhfs_25519+MLKEM768_AESGCM_SHA256",
    hop_lengths=(
        DH_LEN + kem.PUBLIC_LEN + 2 * NOISE_TAG_LEN,  # 1248
        DH_LEN + kem.CIPHERTEXT_LEN + 2 * NOISE_TAG_LEN,  # 1152
    ),
    handshake=HandshakeState,
    derive=_hkdf_sha256,
    sealer=lambda key: AESGCM(key).encrypt_into,
    opener=lambda key: AESGCM(key).decrypt_into,
    layer=Layer,
)


def load_suite(name: str) -> Suite:
    """Return a suite of SUITE_CODES; OperatorError when a library that it needs is not installed."""
    if name == ANONNET_2026.name:
        return ANONNET_2026
    try:
        from anonnet.crypto.suite2003 import ANONNET_2003  # noqa: PLC0415  only who asks for it pays for it
    except ImportError as error:
        hint = "pip install 'anonnet[suite2003]'"
        raise OperatorError(f"suite {name} needs the Python package {error.name}", hint) from None
    return ANONNET_2003


def suite_text(code: int) -> str:
    """Return how people call the suite of that code."""
    return SUITE_NAMES.get(code, f"number {code}, unknown here")
