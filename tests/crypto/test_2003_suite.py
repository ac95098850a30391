"""The suite of 2003 as links and routes use it: vectors by the document, and what must be refused."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from dataclasses import replace
from itertools import permutations

import pytest
from Crypto.Cipher import AES, ARC4
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.crypto.hop import HopInitiator, hop_respond
from anonnet.crypto.link import LinkInitiator, LinkResponder, SessionKeys
from anonnet.crypto.onion import LayerKeys
from anonnet.crypto.suite import ANONNET_2026, load_suite
from anonnet.crypto.suite2003 import group
from anonnet.crypto.suite2003.tiger import tiger
from anonnet.errors import Forged, Malformed, PeerFault
from anonnet.ids import NodeId
from anonnet.spec import FORMATS, NARROW, WIDE, Format
from anonnet.wire.cell import CellRow, rows
from tests.crypto.test_2003_primitives import formula

SUITE = load_suite("anonnet-2003")


def secret(label: str, length: int = 32) -> bytes:
    return hashlib.sha512(label.encode()).digest()[:length]


def private(label: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret(label))


def public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


A, B = private("2003 link initiator"), private("2003 link responder")
EXPONENT = int.from_bytes(secret("2003 exponent", 40), "big")
NODE_ID = NodeId(secret("2003 node", 20))


# -- by the document: nothing of anonnet but its Tiger ------------------------------------------------


def hkdf(secret_: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    prk, block, out = formula(salt, secret_), b"", b""
    for number in range(1, 100):
        block = formula(prk, block + info + bytes([number]))
        out += block
    return out[:length]


def x25519(key: X25519PrivateKey, other: bytes) -> bytes:
    return key.exchange(X25519PublicKey.from_public_bytes(other))


def first_message(protocol: bytes, prologue: bytes, x: X25519PrivateKey, to: bytes,
                  payload: bytes) -> tuple[bytes, bytes, bytes]:  # fmt: skip
    """Message, t1 and the key of tags."""
    t0 = tiger(protocol + b"\0" + prologue + to)
    key = formula(t0, x25519(x, to))
    signed = pow(2, EXPONENT, group.P).to_bytes(256, "big") + public(x) + payload
    t1 = tiger(t0 + signed)
    return signed + formula(key, t1), t1, key


def finish(reply: bytes, t1: bytes, key: bytes) -> tuple[bytes, bytes, bytes]:
    """Payload, G and t2 of a reply whose tag is right."""
    signed, tag = reply[:-24], reply[-24:]
    g = pow(int.from_bytes(reply[:256], "big"), EXPONENT, group.P).to_bytes(256, "big")
    t2 = tiger(t1 + signed)
    assert tag == formula(key, hkdf(g, t2, b"AnonNet 2003 confirmation", 24) + t2)
    return signed[256:], g, t2


def test_link_handshake_by_the_document() -> None:
    prologue = b"AnonNet link" + bytes([1, 2]) + b"channel"
    expected, t1, key = first_message(b"AnonNetDH_link_MODP2048_Tiger192", prologue, A, public(B), b"offer")
    initiator = LinkInitiator(SUITE, A, public(B), b"offer", b"channel", exponent=EXPONENT)
    assert initiator.message == expected
    accepted = LinkResponder(SUITE, B, b"channel").read(initiator.message)
    assert (accepted.remote_public, accepted.payload) == (public(A), b"offer")
    reply, theirs = accepted.reply(b"answer")
    payload, g, t2 = finish(reply, t1, key)
    keys = hkdf(g, t2, b"AnonNet 2003 keys", 96)
    assert payload == b"answer"
    assert initiator.finish(reply) == (b"answer", SessionKeys(keys[:48], keys[48:], t2))
    assert theirs == SessionKeys(keys[48:], keys[:48], t2)


def test_hop_handshake_by_the_document() -> None:
    prologue = b"AnonNet hop" + bytes([1, 2]) + NODE_ID
    expected, t1, key = first_message(b"AnonNetDH_hop_MODP2048_Tiger192", prologue, A, public(B), b"")
    caller = HopInitiator(SUITE, public(B), NODE_ID, exponent=EXPONENT, agreement=A)
    assert caller.message == expected
    assert len(expected) == 312
    reply, theirs = hop_respond(SUITE, B, NODE_ID, caller.message)
    assert len(reply) == 280
    payload, g, t2 = finish(reply, t1, key)
    assert payload == b""
    keys = hkdf(g, t2, b"AnonNet 2003 keys", 96)
    material = hkdf(keys, t2, b"AnonNet hop keys", 196)
    ours = caller.finish(reply)
    assert ours == theirs
    assert b"".join(ours.forward) + b"".join(ours.backward) == material[:192]
    assert ours.slot_shift == int.from_bytes(material[192:], "big")


def test_the_caller_is_anonymous_and_every_handshake_fresh() -> None:
    one, other = (HopInitiator(SUITE, public(B), NODE_ID).message for _ in range(2))
    assert one[:256] != other[:256]
    assert one[256:288] != other[256:288]
    replies = {hop_respond(SUITE, B, NODE_ID, one)[0] for _ in range(2)}
    assert len(replies) == 2


# -- what must be refused -----------------------------------------------------------------------------


def handshake() -> tuple[LinkInitiator, bytes]:
    initiator = LinkInitiator(SUITE, A, public(B), b"offer")
    return initiator, LinkResponder(SUITE, B).read(initiator.message).reply(b"answer")[0]


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


@pytest.mark.parametrize("at", [0, 100, 255, 256, 287, 288, 292, 293, 316])
def test_no_bit_of_a_first_message_may_change(at: int) -> None:
    initiator, _ = handshake()
    assert len(initiator.message) == 317
    for bit in (0x01, 0x80):
        with pytest.raises(PeerFault):
            LinkResponder(SUITE, B).read(flipped(initiator.message, at, bit))


def test_a_bad_answer_changes_nothing() -> None:
    initiator, reply = handshake()
    for at in (0, 255, 256, 261, 262, 285):
        with pytest.raises(PeerFault):
            initiator.finish(flipped(reply, at, 0x01))
    for cut in (0, 255, 279):
        with pytest.raises(Malformed):
            initiator.finish(reply[:cut])
    with pytest.raises(Forged):
        initiator.finish(reply + b"\0")
    assert initiator.finish(reply)[0] == b"answer"


@pytest.mark.parametrize("value", [0, 1, group.P - 1, group.P, 2**2048 - 1, 11])
def test_impossible_values_in_messages(value: int) -> None:
    """Also when the tag is right: the neighbour itself may be the attacker. 11 is no square modulo p."""
    assert value != 11 or pow(value, (group.P - 1) // 2, group.P) != 1
    raw = value.to_bytes(256, "big")
    _, t1, key = first_message(
        b"AnonNetDH_link_MODP2048_Tiger192", b"AnonNet link\x01\x02", A, public(B), b""
    )
    t0 = tiger(b"AnonNetDH_link_MODP2048_Tiger192\0AnonNet link\x01\x02" + public(B))
    signed = raw + public(A)
    with pytest.raises(Malformed):
        LinkResponder(SUITE, B).read(signed + formula(key, tiger(t0 + signed)))
    initiator = LinkInitiator(SUITE, A, public(B), b"", exponent=EXPONENT)
    t2 = tiger(t1 + raw)
    for g in (0, 1, group.P - 1):  # what the shared secret would be
        confirm = hkdf(g.to_bytes(256, "big"), t2, b"AnonNet 2003 confirmation", 24)
        with pytest.raises(Malformed):
            initiator.finish(raw + formula(key, confirm + t2))


def test_low_order_points() -> None:
    with pytest.raises(Forged):
        LinkInitiator(SUITE, A, bytes(32), b"")
    initiator, _ = handshake()
    with pytest.raises(Forged):
        LinkResponder(SUITE, B).read(initiator.message[:256] + bytes(32) + initiator.message[288:])


def test_only_the_neighbour_can_answer_and_only_a_neighbour_can_ask() -> None:
    """Without the tags whoever sits on the wire could pose as either: the anonymous exchange of 2003."""
    initiator, _ = handshake()
    stranger = X25519PrivateKey.generate()
    with pytest.raises(Forged):
        LinkResponder(SUITE, stranger).read(initiator.message)
    posing = LinkInitiator(SUITE, stranger, public(B), b"offer").message
    with pytest.raises(Forged):  # the stranger's exchange under the neighbour's name
        LinkResponder(SUITE, B).read(posing[:256] + public(A) + posing[288:])
    asked = LinkInitiator(SUITE, A, public(stranger), b"offer").message
    reply, _ = LinkResponder(SUITE, stranger).read(asked).reply(b"")
    with pytest.raises(Forged):  # the stranger's answer to the neighbour's question
        initiator.finish(reply)


def test_a_rekey_is_tied_to_its_session() -> None:
    rekey = LinkInitiator(SUITE, A, public(B), b"", b"channel")
    with pytest.raises(Forged):
        LinkResponder(SUITE, B).read(rekey.message)
    message2, keys = LinkResponder(SUITE, B, b"channel").read(rekey.message).reply(b"")
    assert rekey.finish(message2)[1].channel == keys.channel


def test_suites_do_not_understand_each_other() -> None:
    """No message of one is a message of the other, nor of a suite that differs in its code alone."""
    for ours, theirs in permutations((SUITE, ANONNET_2026, replace(SUITE, code=9)), 2):
        with pytest.raises(PeerFault):
            LinkResponder(theirs, B).read(LinkInitiator(ours, A, public(B), b"offer").message)
        with pytest.raises(PeerFault):
            hop_respond(theirs, B, NODE_ID, HopInitiator(ours, public(B), NODE_ID).message)


# -- cells on links -----------------------------------------------------------------------------------

KEY = secret("2003 link key", 48)


def nonce(counter: int) -> memoryview:
    return memoryview(bytearray(b"\x04abc" + counter.to_bytes(8, "big")))


def sealed(fmt: Format, counter: int, cell: bytes) -> memoryview:
    out = memoryview(bytearray(fmt.cell_len + 16))
    assert SUITE.sealer(KEY)(nonce(counter), memoryview(cell), None, out) == len(out)
    return out


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
def test_a_datagram_by_the_document(fmt: Format) -> None:
    cell = hashlib.shake_256(b"cell").digest(fmt.cell_len)
    header = bytes(nonce(7))
    stream = ARC4.new(formula(KEY[:24], header)).encrypt(bytes(1536 + fmt.cell_len))[1536:]
    text = bytes(a ^ b for a, b in zip(cell, stream, strict=True))
    assert bytes(sealed(fmt, 7, cell)) == text + formula(KEY[24:], header + text)[:16]


def test_loss_and_reordering_desynchronise_nothing() -> None:
    cells = [hashlib.shake_256(bytes([i])).digest(NARROW.cell_len) for i in range(50)]
    datagrams = [(i, sealed(NARROW, i, cell)) for i, cell in enumerate(cells)]
    chance = random.Random(2003)
    chance.shuffle(datagrams)
    opened, row = SUITE.opener(KEY), memoryview(bytearray(NARROW.cell_len))
    for i, datagram in datagrams[:30] + datagrams[:3]:  # twenty are lost, three come twice
        opened(nonce(i), datagram, None, row)
        assert bytes(row) == cells[i]


@pytest.mark.parametrize("at", [0, 1, 113, 227, 228, 243])
def test_a_forged_datagram_is_not_opened(at: int) -> None:
    datagram = sealed(NARROW, 7, bytes(NARROW.cell_len))
    row = memoryview(bytearray(b"\xaa" * NARROW.cell_len))
    datagram[at] ^= 0x10
    with pytest.raises(InvalidTag):
        SUITE.opener(KEY)(nonce(7), datagram, None, row)
    datagram[at] ^= 0x10
    for other in (nonce(8), memoryview(b"\x04abd" + bytes(nonce(7))[4:])):
        with pytest.raises(InvalidTag):
            SUITE.opener(KEY)(other, datagram, None, row)
    with pytest.raises(InvalidTag):
        SUITE.opener(KEY[::-1])(nonce(7), datagram, None, row)
    assert set(row) == {0xAA}
    SUITE.opener(KEY)(nonce(7), datagram, None, row)
    assert set(row) == {0}


def test_equal_cells_look_unlike_each_other() -> None:
    texts = {bytes(sealed(NARROW, i, bytes(NARROW.cell_len))) for i in range(200)}
    assert len(texts) == 200
    first_bytes = [text[0] for text in texts]
    assert len(set(first_bytes)) > 64  # a keystream whose beginning was kept would favour a few


# -- onion layers -------------------------------------------------------------------------------------

HOPS = [LayerKeys(*(secret(f"2003 layer {hop} {part}") for part in "hef")) for hop in range(3)]


def row_of(fmt: Format, body: bytes) -> CellRow:
    row = rows(fmt, 1)[0]
    row.body[:] = body
    return row


def encipher(keys: LayerKeys, slot: int, body: bytes, fmt: Format) -> bytes:
    source, target = row_of(fmt, body), rows(fmt, 1)[0]
    left = SUITE.layer(keys).encipher(slot, source, target)
    assert left == bytes(target.left)
    return bytes(target.body)


def by_the_document(keys: LayerKeys, slot: int, body: bytes) -> bytes:
    h, e, f = keys
    left, right = body[:16], body[16:]
    m = formula(h, slot.to_bytes(16, "big") + right)[:16]
    block = AES.new(e, AES.MODE_ECB).encrypt(bytes(a ^ b for a, b in zip(left, m, strict=True)))
    y = bytes(a ^ b for a, b in zip(block, m, strict=True))
    start = int.from_bytes(y, "big")
    ecb = AES.new(f, AES.MODE_ECB)
    stream = b"".join(
        ecb.encrypt(((start + i) % 2**128).to_bytes(16, "big")) for i in range(len(right) // 16 + 1)
    )
    return y + bytes(a ^ b for a, b in zip(right, stream, strict=False))


@given(st.binary(min_size=NARROW.body_len, max_size=NARROW.body_len), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_layer_by_the_document_and_back(body: bytes, slot: int) -> None:
    found = encipher(HOPS[0], slot, body, NARROW)
    assert found == by_the_document(HOPS[0], slot, body)
    row = row_of(NARROW, found)
    assert SUITE.layer(HOPS[0]).decipher(slot, row) == body[:16]
    assert bytes(row.body) == body


def test_the_counter_block_wraps() -> None:
    """Y_L of all ones is as good a start as any other."""
    keys, row = HOPS[0], rows(NARROW, 1)[0]
    row.body[:] = b"\xff" * 16 + bytes(NARROW.body_len - 16)
    SUITE.layer(keys).decipher(5, row)
    assert by_the_document(keys, 5, bytes(row.body)) == b"\xff" * 16 + bytes(NARROW.body_len - 16)
    assert encipher(keys, 5, bytes(row.body), NARROW)[:16] == b"\xff" * 16


@pytest.mark.parametrize("fmt", [NARROW, WIDE], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("liar", [0, 1])
def test_a_relays_mark_is_gone_after_the_next(fmt: Format, liar: int) -> None:
    plain = bytes(16) + hashlib.shake_256(b"plain").digest(fmt.body_len - 16)
    for at in (0, 15, 16, fmt.body_len // 2, fmt.body_len - 1):
        row = row_of(fmt, plain)
        for keys in reversed(HOPS):
            SUITE.layer(keys).decipher(9, row)
        honest = row_of(fmt, bytes(row.body))
        for hop, keys in enumerate(HOPS):
            left = SUITE.layer(keys).encipher(9, honest, honest)
            assert (left == bytes(16)) == (hop == 2)
            SUITE.layer(keys).encipher(9, row, row)
            if hop == liar:
                row.body[at] ^= 0x04
            elif hop > liar:
                pairs = zip(bytes(row.body), bytes(honest.body), strict=True)
                differing = sum((a ^ b).bit_count() for a, b in pairs) / (8 * fmt.body_len)
                assert 0.4 < differing < 0.6
        assert bytes(honest.body) == plain
        assert bytes(row.left) != bytes(16)


def test_each_subkey_and_the_slot_matter() -> None:
    plain = secret("plain", 64).ljust(NARROW.body_len, b"\0")
    found = encipher(HOPS[0], 1, plain, NARROW)
    for part in HOPS[0]._fields:
        other = HOPS[0]._replace(**{part: getattr(HOPS[1], part)})
        assert encipher(other, 1, plain, NARROW)[16:] != found[16:]
    assert encipher(HOPS[0], 2, plain, NARROW)[:16] != found[:16]


def test_nothing_is_loaded_at_first_use() -> None:
    """What a data plane does for its first route must not take longer than for its second: it would show."""
    script = """
import sys
from anonnet.crypto.onion import LayerKeys
from anonnet.crypto.suite import load_suite
from anonnet.spec import WIDE
from anonnet.wire.cell import rows
suite, (row,), before = load_suite("anonnet-2003"), rows(WIDE, 1), set(sys.modules)
key, header, sealed = bytes(48), memoryview(bytes(12)), memoryview(bytearray(WIDE.cell_len + 16))
suite.sealer(key)(header, row.cell, None, sealed)
suite.opener(key)(header, sealed, None, row.cell)
layer = suite.layer(LayerKeys(bytes(32), bytes(32), bytes(32)))
layer.encipher(1, row, row)
layer.decipher(1, row)
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
