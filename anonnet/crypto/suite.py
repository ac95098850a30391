"""Suites: named, closed sets of primitives. Two nodes share one whole or do not talk; nothing is negotiated.

A node of another suite differs in the prologue of every handshake, so that it meets silence, not a downgrade.
`anonnet-2003` takes code 2 when it comes; codes are never used again for something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from anonnet.spec import PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Suite:
    """What a network's nodes all use. Protocol names are those of the Noise Protocol Framework."""

    name: str
    code: int  # u8, in descriptors, offers and prologues
    link_handshake: str
    hop_handshake: str
    link_cipher: str  # key of noise.CIPHERS; seals cells
    layer_cipher: str  # the onion layer

    def prologue(self, label: bytes, context: bytes) -> bytes:
        """Bind a handshake to its purpose, the protocol's version, this suite and the caller's context."""
        return label + bytes([PROTOCOL_VERSION, self.code]) + context


ANONNET_2026: Final = Suite(
    name="anonnet-2026",
    code=1,
    link_handshake="Noise_IKhfs_25519+MLKEM768_AESGCM_SHA256",
    hop_handshake="Noise_NKhfs_25519+MLKEM768_AESGCM_SHA256",
    link_cipher="AESGCM",
    layer_cipher="UIV-AES256",
)

SUITES: Final = {s.name: s for s in (ANONNET_2026,)}
SUITE_BY_CODE: Final = {s.code: s for s in SUITES.values()}
