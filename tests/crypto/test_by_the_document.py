"""Handshakes and their datagrams once more, in a straight line from the documents.

These are docs/protocol-handshakes.md and the Noise specification. Nothing of anonnet is used, so the vectors
do not merely repeat what the engine thinks. The initiator's side of each handshake is computed, since it
alone is determined: the other encapsulates with fresh randomness.
"""

from __future__ import annotations

import hashlib
import hmac
from hashlib import blake2s

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors import load


def h256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hm(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def mix(ck: bytes, material: bytes) -> tuple[bytes, bytes]:
    """MixKey: chaining key and cipher key."""
    temp = hm(ck, material)
    first = hm(temp, b"\x01")
    return first, hm(temp, first + b"\x02")


def gcm(key: bytes, n: int) -> tuple[AESGCM, bytes]:
    return AESGCM(key), bytes(4) + n.to_bytes(8, "big")


def seal(key: bytes, n: int, h: bytes, plain: bytes) -> bytes:
    aead, nonce = gcm(key, n)
    return aead.encrypt(nonce, plain, h)


def unseal(key: bytes, n: int, h: bytes, sealed: bytes) -> bytes:
    aead, nonce = gcm(key, n)
    return aead.decrypt(nonce, sealed, h)


def private(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))


def public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def dh(key: X25519PrivateKey, other: bytes) -> bytes:
    return key.exchange(X25519PublicKey.from_public_bytes(other))


def test_link() -> None:
    v = load("link")
    s, e = private(v["initiator_static"]), private(v["initiator_ephemeral"])
    e1 = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(v["initiator_kem_seed"]))
    rs = public(private(v["responder_static"]))

    ck = h = h256(b"Noise_IKhfs_25519+MLKEM768_AESGCM_SHA256")
    h = h256(h + b"AnonNet link" + b"\x01\x01")
    h = h256(h + rs)
    # -> e, es, e1, s, ss
    h = h256(h + public(e))
    ck, k = mix(ck, dh(e, rs))
    sealed_e1 = seal(k, 0, h, e1.public_key().public_bytes_raw())
    h = h256(h + sealed_e1)
    sealed_s = seal(k, 1, h, public(s))
    h = h256(h + sealed_s)
    ck, k = mix(ck, dh(s, rs))
    sealed_offer = seal(k, 0, h, bytes.fromhex(v["offer"]))
    h = h256(h + sealed_offer)
    assert (public(e) + sealed_e1 + sealed_s + sealed_offer).hex() == v["message1"]
    # <- e, ee, ekem1, se
    message2 = bytes.fromhex(v["message2"])
    re, sealed_ct, sealed_answer = message2[:32], message2[32:1136], message2[1136:]
    h = h256(h + re)
    ck, k = mix(ck, dh(e, re))
    ciphertext = unseal(k, 0, h, sealed_ct)
    h = h256(h + sealed_ct)
    ck, k = mix(ck, e1.decapsulate(ciphertext))
    ck, k = mix(ck, dh(s, re))
    assert unseal(k, 0, h, sealed_answer).hex() == v["answer"]
    h = h256(h + sealed_answer)

    first, second = mix(ck, b"")
    assert (first.hex(), second.hex()) == (v["initiator_sends_with"], v["responder_sends_with"])
    assert h.hex() == v["channel"]


def test_hop() -> None:
    v = load("hop")
    e, rs = private(v["caller_ephemeral"]), public(private(v["onion_static"]))
    e1 = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(v["caller_kem_seed"]))

    ck = h = h256(b"Noise_NKhfs_25519+MLKEM768_AESGCM_SHA256")
    h = h256(h + b"AnonNet hop" + b"\x01\x01" + bytes.fromhex(v["node_id"]))
    h = h256(h + rs)
    # -> e, es, e1
    h = h256(h + public(e))
    ck, k = mix(ck, dh(e, rs))
    sealed_e1 = seal(k, 0, h, e1.public_key().public_bytes_raw())
    h = h256(h + sealed_e1)
    tag = seal(k, 1, h, b"")
    h = h256(h + tag)
    assert (public(e) + sealed_e1 + tag).hex() == v["message"]
    # <- e, ee, ekem1
    reply = bytes.fromhex(v["reply"])
    re, sealed_ct, tag = reply[:32], reply[32:1136], reply[1136:]
    h = h256(h + re)
    ck, k = mix(ck, dh(e, re))
    ciphertext = unseal(k, 0, h, sealed_ct)
    h = h256(h + sealed_ct)
    ck, k = mix(ck, e1.decapsulate(ciphertext))
    assert unseal(k, 0, h, tag) == b""
    h = h256(h + tag)

    first, second = mix(ck, b"")
    prk = hm(h, first + second)
    block, keys = b"", b""
    for i in range(1, 8):
        block = hm(prk, block + b"AnonNet hop keys" + bytes([i]))
        keys += block
    found = [keys[i : i + 32].hex() for i in range(0, 192, 32)]
    assert found == v["forward"] + v["backward"]
    assert int.from_bytes(keys[192:196], "big") == v["slot_shift"]


def test_datagrams() -> None:
    v = load("handshake")
    link_key, message, cookie = (bytes.fromhex(v[k]) for k in ("receiver_public", "message", "cookie"))
    mac1_key = blake2s(b"AnonNet mac1" + link_key).digest()
    source, secret = bytes.fromhex(v["source"]), bytes.fromhex(v["cookie_secret"])
    assert blake2s(source, digest_size=16, key=secret).digest() == cookie
    for name, n, parts in (("wide", 1232, 2), ("narrow", 256, 7)):
        mac1s = []
        for part in range(parts):
            chunk = message[part * (n - 44) : (part + 1) * (n - 44)]
            data = bytes.fromhex("01abcdef01020304") + bytes([part, parts]) + len(chunk).to_bytes(2, "big")
            data += chunk + bytes([v["random"]]) * (n - 44 - len(chunk))
            mac1s.append(blake2s(data, digest_size=16, key=mac1_key).digest())
            data += mac1s[-1]
            assert (data + bytes(16)).hex() == v["formats"][name]["datagrams"][part]
            mac2 = blake2s(data, digest_size=16, key=cookie).digest()
            assert (data + mac2).hex() == v["formats"][name]["datagrams_with_cookie"][part]
        salt = bytes([v["random"]]) * 32
        key = hm(hm(salt, link_key), b"AnonNet cookie\x01")
        sealed = AESGCM(key).encrypt(bytes(12), cookie, mac1s[0])
        expected = bytes.fromhex("03abcdef" + "01020304" + "00010040") + salt + sealed
        assert expected.ljust(n, bytes([v["random"]])).hex() == v["formats"][name]["cookie_datagram"]
