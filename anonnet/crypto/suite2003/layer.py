"""The onion layer of 2003's primitives: onion.Layer's construction, with HMAC-Tiger where that has GMAC.

    m   = HMAC-Tiger_h(T | X_R), first 16 bytes
    Y_L = AES_e(X_L xor m) xor m
    Y_R = X_R xor AES-CTR_f(start Y_L)

A plain cipher for each layer would let one relay flip a bit and another find it. That much of the past is not
brought back: every suite's cells garble as a whole.
"""

from __future__ import annotations

from typing import Final

from Crypto.Cipher import AES

from anonnet.crypto.onion import LayerKeys
from anonnet.crypto.suite2003.tiger import HmacTiger
from anonnet.wire.cell import CellRow

BLOCK_LEN: Final = 16


class TigerLayer:
    """One hop's layer in one direction."""

    __slots__ = ("_block", "_hash", "_stream_key")

    def __init__(self, keys: LayerKeys) -> None:
        self._hash = HmacTiger(keys.hash_key)
        self._block = AES.new(keys.block_key, AES.MODE_ECB)
        self._stream_key = keys.stream_key

    def encipher(self, slot: int, source: CellRow, target: CellRow) -> bytes:
        """Encipher `source`'s body into `target`'s; return the left 16 bytes. Rows may be the same."""
        right = bytes(source.rest)
        m = self._mask(slot, right)
        y = _xor(self._block.encrypt(_xor(bytes(source.left), m)), m)
        target.rest[:] = self._stream(y, right)
        target.left[:] = y
        return y

    def decipher(self, slot: int, row: CellRow) -> bytes:
        """Undo `encipher` in place; return the left 16 bytes."""
        y = bytes(row.left)
        right = self._stream(y, bytes(row.rest))
        m = self._mask(slot, right)
        x = _xor(self._block.decrypt(_xor(y, m)), m)
        row.rest[:] = right
        row.left[:] = x
        return x

    def _mask(self, slot: int, right: bytes) -> bytes:
        return self._hash.digest(slot.to_bytes(BLOCK_LEN, "big") + right)[:BLOCK_LEN]

    def _stream(self, start: bytes, data: bytes) -> bytes:
        return AES.new(self._stream_key, AES.MODE_CTR, nonce=b"", initial_value=start).encrypt(data)


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(BLOCK_LEN, "big")
