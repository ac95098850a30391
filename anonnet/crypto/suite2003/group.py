"""Diffie-Hellman modulo the 2048-bit prime of RFC 3526, section 3 ("group 14"), by GMP in constant time.

p = 2^2048 - 2^1984 - 1 + 2^64 * (floor(2^1918 pi) + 124476) is safe: (p - 1) / 2 is prime too. 2 is a square
modulo p, so it generates the subgroup of that prime order. A peer's value outside of that subgroup, or 1, is
refused: 0, 1, p - 1 and all non-squares would give away bits of the exponent, or the whole secret.
"""

from __future__ import annotations

import os
from typing import Any, Final

import gmpy2

from anonnet.errors import Malformed

P: Final = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74"
    "020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"
    "4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05"
    "98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB"
    "9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
    "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
G: Final = 2
PUBLIC_LEN: Final = 256
EXPONENT_BITS: Final = 320  # RFC 3526, section 8: twice the strength that the group is credited with, at most
_MODULUS: Final[Any] = gmpy2.mpz(P)


def new_exponent() -> int:
    """Draw a secret exponent; its top bit is set, so that all take the same time."""
    return int.from_bytes(os.urandom(EXPONENT_BITS // 8), "big") | 1 << (EXPONENT_BITS - 1)


def public(exponent: int) -> bytes:
    """Return g^exponent, 256 bytes."""
    return _bytes(gmpy2.powmod_sec(G, exponent, _MODULUS))


def agree(exponent: int, theirs: bytes) -> bytes:
    """Return the shared secret, 256 bytes; Malformed when `theirs` is not in the group."""
    value = gmpy2.mpz(int.from_bytes(theirs, "big"))
    if len(theirs) != PUBLIC_LEN or not 1 < value < _MODULUS - 1:
        raise Malformed("a Diffie-Hellman value out of range")
    if gmpy2.legendre(value, _MODULUS) != 1:
        raise Malformed("a Diffie-Hellman value outside of the subgroup")
    return _bytes(gmpy2.powmod_sec(value, exponent, _MODULUS))


def _bytes(value: Any) -> bytes:
    return int(value).to_bytes(PUBLIC_LEN, "big")
