"""The onion layer: against a plain reference, against vectors, and what tampering does to a body."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from anonnet.crypto.onion import Layer, LayerKeys
from anonnet.spec import FORMATS, NARROW, WIDE, Format
from anonnet.wire.cell import CellRow, rows
from tests.vectors import load

VECTORS = load("onion")
KEYS = LayerKeys(*(bytes.fromhex(VECTORS[k]) for k in ("hash_key", "block_key", "stream_key")))
HOPS = [LayerKeys(*(hashlib.sha256(k + bytes([i])).digest() for k in KEYS)) for i in range(3)]
OTHER = LayerKeys(*(hashlib.sha256(k).digest() for k in KEYS))


def row_of(fmt: Format, body: bytes) -> CellRow:
    row = rows(fmt, 1)[0]
    row.body[:] = body
    return row


def encipher(keys: LayerKeys, slot: int, fmt: Format, body: bytes) -> bytes:
    row = row_of(fmt, body)
    Layer(keys).encipher(slot, row, row)
    return bytes(row.body)


def decipher(keys: LayerKeys, slot: int, fmt: Format, body: bytes) -> bytes:
    row = row_of(fmt, body)
    Layer(keys).decipher(slot, row)
    return bytes(row.body)


# -- an implementation from the formulas, sharing nothing but AES with the one under test -----------


def aes(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def gmac(key: bytes, data: bytes) -> int:
    """GMAC (NIST SP 800-38D) under nonce 0, bit by bit."""
    h = int.from_bytes(aes(key, bytes(16)), "big")
    y = 0
    padded = data + bytes(-len(data) % 16) + struct.pack(">QQ", len(data) * 8, 0)
    for i in range(0, len(padded), 16):
        x, v, y = y ^ int.from_bytes(padded[i : i + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            if x >> bit & 1:
                y ^= v
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return y ^ int.from_bytes(aes(key, bytes(15) + b"\x01"), "big")


def reference(keys: LayerKeys, slot: int, body: bytes) -> bytes:
    left, right = int.from_bytes(body[:16], "big"), body[16:]
    m = gmac(keys.hash_key, struct.pack(">QII", 0, 0, slot) + right)
    y = int.from_bytes(aes(keys.block_key, (left ^ m).to_bytes(16, "big")), "big") ^ m
    counters = ((y + i) % 2**128 for i in range(len(right) // 16 + 1))
    stream = b"".join(aes(keys.stream_key, counter.to_bytes(16, "big")) for counter in counters)
    return y.to_bytes(16, "big") + bytes(a ^ b for a, b in zip(right, stream, strict=False))


# -- known answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda c: f"{c['format']}-{c['slot']}")
def test_known_answers(case: dict[str, Any]) -> None:
    fmt, plain = FORMATS[case["format"]], bytes.fromhex(case["plain"])
    cipher = encipher(KEYS, case["slot"], fmt, plain)
    assert cipher.hex() == case["cipher"]
    assert cipher == reference(KEYS, case["slot"], plain)
    assert decipher(KEYS, case["slot"], fmt, cipher) == plain


@given(st.binary(min_size=NARROW.body_len, max_size=NARROW.body_len), st.integers(0, 2**32 - 1))
def test_decipher_undoes_encipher(body: bytes, slot: int) -> None:
    assert decipher(KEYS, slot, NARROW, encipher(KEYS, slot, NARROW, body)) == body


def test_context_is_reset_between_cells_and_rows_may_differ() -> None:
    layer, plain = Layer(KEYS), hashlib.shake_256(b"x").digest(WIDE.body_len)
    first, second = rows(WIDE, 2)
    for slot in (5, 6, 5):
        source = row_of(WIDE, plain)
        target = first if slot == 5 else second
        left = layer.encipher(slot, source, target)
        assert bytes(target.body) == reference(KEYS, slot, plain)
        assert left == bytes(target.left)


def test_three_layers_are_recognised_only_at_the_last() -> None:
    """Caller deciphers outwards-in; each relay enciphers; only the last sees sixteen zero bytes."""
    plain = bytes(16) + b"hello".ljust(WIDE.body_len - 16, b"\0")
    row = row_of(WIDE, plain)
    for keys in reversed(HOPS):
        Layer(keys).decipher(9, row)
    seen = [Layer(keys).encipher(9, row, row) for keys in HOPS]
    assert [left == bytes(16) for left in seen] == [False, False, True]
    assert bytes(row.body) == plain


# -- tampering --------------------------------------------------------------------------------------


def assert_garbage(found: bytes, plain: bytes) -> None:
    """Unrelated to `plain`: no block of 16 bytes survives, and about half of all bits differ."""
    for i in range(0, len(plain) - 15, 16):
        assert found[i : i + 16] != plain[i : i + 16]
    differing = (int.from_bytes(found, "big") ^ int.from_bytes(plain, "big")).bit_count()
    assert 0.4 < differing / (8 * len(plain)) < 0.6 or len(plain) == 16


def bodies() -> list[Any]:
    return [
        pytest.param(FORMATS[name], *where, id=f"{name}: {region}")
        for name, regions in VECTORS["harm"].items()
        for region, where in regions.items()
    ]


def known(fmt: Format) -> tuple[int, bytes, bytes]:
    case = next(c for c in VECTORS["cases"] if c["format"] == fmt.name and c["slot"])
    return case["slot"], bytes.fromhex(case["plain"]), bytes.fromhex(case["cipher"])


# UIV is a rugged permutation, not a strong one: enciphering garbles everything whatever was changed, while
# deciphering garbles the left 16 bytes and, of the right, what the change touched. That is enough, because
# relays only encipher, so nobody after an honest relay can find a mark; and the caller, who deciphers, only
# asks whether the left bytes are zero.


@pytest.mark.parametrize(("fmt", "offset", "flip"), bodies())
def test_a_flipped_bit_makes_the_whole_body_garbage_at_a_relay(fmt: Format, offset: int, flip: int) -> None:
    slot, plain, cipher = known(fmt)
    bad = bytearray(plain)
    bad[offset] ^= flip
    assert_garbage(encipher(KEYS, slot, fmt, bytes(bad)), cipher)


@pytest.mark.parametrize(("fmt", "offset", "flip"), bodies())
def test_a_flipped_bit_is_not_recognised_by_the_caller(fmt: Format, offset: int, flip: int) -> None:
    slot, plain, cipher = known(fmt)
    bad = bytearray(cipher)
    bad[offset] ^= flip
    assert_garbage(decipher(KEYS, slot, fmt, bytes(bad))[:16], plain[:16])


@pytest.mark.parametrize(("fmt", "offset", "flip"), bodies())
@pytest.mark.parametrize("liar", [0, 1])
def test_a_relays_mark_is_gone_after_the_next(fmt: Format, offset: int, flip: int, liar: int) -> None:
    """Forward: the caller deciphers three layers, relay `liar` flips a bit, the next ones see noise."""
    slot, plain, _ = known(fmt)
    row = row_of(fmt, plain)
    for keys in reversed(HOPS):
        Layer(keys).decipher(slot, row)
    honest = row_of(fmt, bytes(row.body))
    for i, keys in enumerate(HOPS):
        assert Layer(keys).encipher(slot, row, row) != bytes(16) or i == 2
        Layer(keys).encipher(slot, honest, honest)
        if i > liar:
            assert_garbage(bytes(row.body), bytes(honest.body))
        if i == liar:
            row.body[offset] ^= flip
    assert bytes(honest.body) == plain
    assert row.left != bytes(16)


@pytest.mark.parametrize("fmt", [NARROW, WIDE], ids=lambda f: f.name)
def test_wrong_slot(fmt: Format) -> None:
    slot, plain, cipher = known(fmt)
    assert_garbage(encipher(KEYS, slot ^ 1, fmt, plain), cipher)
    assert_garbage(decipher(KEYS, slot ^ 1, fmt, cipher)[:16], plain[:16])


@pytest.mark.parametrize("fmt", [NARROW, WIDE], ids=lambda f: f.name)
@pytest.mark.parametrize("wrong", ["hash_key", "block_key", "stream_key"])
def test_wrong_key(fmt: Format, wrong: str) -> None:
    slot, plain, cipher = known(fmt)
    mixed = KEYS._replace(**{wrong: getattr(OTHER, wrong)})
    from_byte = 16 if wrong == "stream_key" else 0  # the stream starts at the left part and ends in the right
    assert_garbage(encipher(mixed, slot, fmt, plain)[from_byte:], cipher[from_byte:])
    assert_garbage(decipher(mixed, slot, fmt, cipher)[:16], plain[:16])
