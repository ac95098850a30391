"""Arcfour on links, keyed anew for each datagram: loss and reordering cannot put the two ends out of step.

    stream = Arcfour(HMAC-Tiger(k1, header)), its first 1536 bytes dropped
    sealed = cell xor stream | HMAC-Tiger(k2, header | enciphered cell), first 16 bytes

A stream that ran on over a link's life, as in 2003, was lost with the first datagram that was. A key that
merely joins secret and counter is what broke WEP (Fluhrer, Mantin and Shamir 2001): hence the HMAC, and hence
the drop, which RFC 4345 sets to 1536 bytes (Mironov 2002 asks for 768 at the least).
"""

from __future__ import annotations

import hmac
from typing import Final

from Crypto.Cipher import ARC4
from cryptography.exceptions import InvalidTag

from anonnet.crypto.suite2003.handshake import KEY_LEN
from anonnet.crypto.suite2003.tiger import HmacTiger
from anonnet.spec import TAG_LEN

DROP: Final = 1536  # bytes of keystream


class ArcfourLink:
    """Seals, or opens, one direction of a link; the interface is that of `cryptography`'s AEADs."""

    def __init__(self, key: bytes) -> None:
        """Take 48 bytes: k1, k2."""
        assert len(key) == KEY_LEN
        half = KEY_LEN // 2
        self._keys = HmacTiger(key[:half])
        self._tags = HmacTiger(key[half:])

    def seal(self, nonce: memoryview, cell: memoryview, _none: None, target: memoryview) -> int:
        """Write the sealed cell, 16 bytes longer than `cell`, to `target`; return its length."""
        header = bytes(nonce)
        text = self._stream(header).encrypt(cell)
        target[:-TAG_LEN] = text
        target[-TAG_LEN:] = self._tags.digest(header + text)[:TAG_LEN]
        return len(target)

    def open(self, nonce: memoryview, sealed: memoryview, _none: None, cell: memoryview) -> int:
        """Write the cell to `cell`, return its length; InvalidTag, and nothing written, if it is forged."""
        header, text = bytes(nonce), bytes(sealed[:-TAG_LEN])
        if not hmac.compare_digest(self._tags.digest(header + text)[:TAG_LEN], sealed[-TAG_LEN:]):
            raise InvalidTag
        cell[:] = self._stream(header).decrypt(text)
        return len(cell)

    def _stream(self, header: bytes) -> ARC4.ARC4Cipher:
        return ARC4.new(self._keys.digest(header), drop=DROP)
