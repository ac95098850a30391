"""ML-KEM-768 (FIPS 203), as the Noise engine wants it: bytes in, bytes out, a peer's nonsense is `Malformed`.

The library draws its own randomness for keys and encapsulation.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey as KemPrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

from anonnet.errors import Malformed

PUBLIC_LEN: Final = 1184
CIPHERTEXT_LEN: Final = 1088
SEED_LEN: Final = 64

__all__ = [
    "CIPHERTEXT_LEN",
    "PUBLIC_LEN",
    "SEED_LEN",
    "KemPrivateKey",
    "decapsulate",
    "encapsulate",
    "generate",
]


def generate() -> KemPrivateKey:
    """Make a fresh key pair."""
    return KemPrivateKey.generate()


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """Return (ciphertext, 32-byte secret) for a peer's key; Malformed when the key is not one.

    The library makes the checks of FIPS 203 section 7.2: length, and each coefficient below q.
    """
    try:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    except ValueError as error:
        raise Malformed("not an ML-KEM-768 public key") from error
    return ciphertext, secret


def decapsulate(key: KemPrivateKey, ciphertext: bytes) -> bytes:
    """Return the 32-byte secret; one that nobody else has, when the ciphertext was tampered with."""
    try:
        return key.decapsulate(ciphertext)
    except ValueError as error:
        raise Malformed("not an ML-KEM-768 ciphertext") from error
