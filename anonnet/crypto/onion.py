"""The onion layer: UIV, a wide-block tweakable cipher per hop and direction.

Construction of Tor's Counter Galois Onion (proposal 359; Degabriele, Melloni, Muench and Stam), with
subkeys h, e, f, tweak T (the slot number) and body X = X_L (16 bytes) | X_R:

    m   = GMAC_h(nonce 0, T | X_R)
    Y_L = AES_e(X_L xor m) xor m
    Y_R = X_R xor AES-CTR_f(start Y_L)

Any change anywhere turns the whole body to garbage at the next honest hop, so a cell cannot be tagged.
The fixed nonce of GMAC is sound here: it serves as a keyed universal hash whose output never leaves.
Relays always encipher and callers always decipher.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anonnet.spec import SLOT_MASK
from anonnet.wire.cell import ZERO16, CellRow

SUBKEY_LEN: Final = 32
_NONCE: Final = bytes(12)
_TWEAK: Final = struct.Struct(">QII")  # 12 zero bytes, slot number
# Looked up once, not for each cell. Integers are big-endian here, as `int`'s methods have it by default.
_tweak: Final = _TWEAK.pack_into
_int: Final = int.from_bytes


class LayerKeys(NamedTuple):
    """Subkeys of one hop and direction, 32 bytes each."""

    hash_key: bytes
    block_key: bytes
    stream_key: bytes

    def __repr__(self) -> str:
        return "LayerKeys(...)"


class OnionLayer(Protocol):
    """One hop's wide-block cipher in one direction; see onion.Layer."""

    def encipher(self, slot: int, source: CellRow, target: CellRow) -> bytes:
        """Encipher `source`'s body into `target`'s; return the left 16 bytes. `source.left` may be spoilt."""

    def decipher(self, slot: int, row: CellRow) -> bytes:
        """Undo `encipher` in place; return the left 16 bytes."""


class Layer:
    """One hop's layer in one direction. Contexts are made once and reset per cell."""

    __slots__ = ("_block", "_gmac", "_reset", "_stream", "_unblock")

    def __init__(self, keys: LayerKeys) -> None:
        block = Cipher(algorithms.AES(keys.block_key), modes.ECB())
        stream = Cipher(algorithms.AES(keys.stream_key), modes.CTR(bytes(16))).encryptor()
        self._gmac = AESGCM(keys.hash_key).encrypt
        self._block = block.encryptor().update
        self._unblock = block.decryptor().update
        self._stream = stream.update_into
        self._reset = stream.reset_nonce

    def encipher(self, slot: int, source: CellRow, target: CellRow) -> bytes:
        """Encipher `source`'s body into `target`'s; return the left 16 bytes, zero where recognised.

        `source.left` is overwritten (it holds the tweak while the hash runs). Rows may be the same.
        """
        left = source.left
        x = _int(left.tobytes())
        _tweak(left, 0, 0, 0, slot)
        m = _int(self._gmac(_NONCE, b"", source.body))
        y = (_int(self._block((x ^ m).to_bytes(16))) ^ m).to_bytes(16)
        self._reset(y)
        self._stream(source.rest, target.rest)
        target.left[:] = y
        return y

    def decipher(self, slot: int, row: CellRow) -> bytes:
        """Undo `encipher` in place; return the left 16 bytes, zero where this hop was the origin."""
        left = row.left
        y = left.tobytes()
        self._reset(y)
        self._stream(row.rest, row.rest)
        _tweak(left, 0, 0, 0, slot)
        m = _int(self._gmac(_NONCE, b"", row.body))
        x = _int(self._unblock((_int(y) ^ m).to_bytes(16))) ^ m
        plain = x.to_bytes(16)
        left[:] = plain
        return plain


class Onion:
    """All layers of one direction of a route, as its caller has them: that of the nearest hop first.

    Each has the offset of its tweak from the slot number on the caller's own link.
    """

    __slots__ = ("_layers",)

    def __init__(self) -> None:
        self._layers: list[tuple[OnionLayer, int]] = []

    def add(self, layer: OnionLayer, offset: int) -> None:
        """The route has grown by a hop."""
        self._layers.append((layer, offset))

    def wrap(self, hops: int, slot: int, row: CellRow) -> None:
        """Decipher in place for the last of so many hops, so that it finds what `row` holds now."""
        for layer, offset in reversed(self._layers[:hops]):
            layer.decipher((slot + offset) & SLOT_MASK, row)

    def peel(self, slot: int, row: CellRow) -> int:
        """Decipher in place until the body opens with zeros; return which hop wrote it, -1 if none did."""
        for index, (layer, offset) in enumerate(self._layers):
            if layer.decipher((slot + offset) & SLOT_MASK, row) == ZERO16:
                return index
        return -1
