"""The primitives of 2003 against what was published of them."""

from __future__ import annotations

import ctypes
import hashlib
import random
import sys

import gmpy2
import pytest
from Crypto.Cipher import AES, ARC4

from anonnet.crypto.suite import load_suite
from anonnet.crypto.suite2003 import group, tiger
from anonnet.errors import Malformed, OperatorError

# E. Biham's and R. Anderson's own results, and the NESSIE submission's, as bytes.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
TITLE = "Tiger - A Fast New Hash Function, by Ross Anderson and Eli Biham"
TIGER = {
    "": "3293AC630C13F0245F92BBB1766E16167A4E58492DDE73F3",
    "a": "77BEFBEF2E7EF8AB2EC8F93BF587A7FC613E247F5F247809",
    "abc": "2AAB1484E8C158F2BFB8C5FF41B57A525129131C957B5F93",
    "message digest": "D981F8CB78201A950DCF3048751E441C517FCA1AA55A29F6",
    "abcdefghijklmnopqrstuvwxyz": "1714A472EEE57D30040412BFCC55032A0B11602FF37BEEE9",
    "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq":
        "0F7BF9A19B9C58F2B7610DF7E84F0AC3A71C631E7B53F78E",
    LETTERS: "8DCEA680A17583EE502BA38A3C368651890FFBCCDC49A8CC",
    "1234567890" * 8: "1C14795529FD9F207A958F84C52F11E887FA0CABDFD91BFD",
    "a" * 1_000_000: "6DB0E2729CBEAD93D715C6A7D36302E9B3CEE0D2BC314B41",
    "Tiger": "DD00230799F5009FEC6DEBC838BB6A27DF2B9D6F110C7937",
    LETTERS + "+-": "F71C8583902AFB879EDFE610F82C0D4786A3A534504486B5",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ=abcdefghijklmnopqrstuvwxyz+0123456789":
        "48CEEB6308B87D46E95D656112CDF18D97915F9765658957",
    TITLE: "8A866829040A410C729AD23F5ADA711603B3CDD357E4C15E",
    TITLE + ", proceedings of Fast Software Encryption 3, Cambridge.":
        "CE55A6AFD591F5EBAC547FF84F89227F9331DAB0B611C889",
    TITLE + ", proceedings of Fast Software Encryption 3, Cambridge, 1996.":
        "631ABDD103EB9A3D245B6DFD4D77B257FC7439501D1568DD",
    (LETTERS + "+-") * 2: "C54034E5B43EB8005848A7E0AE6AAC76E4FF590AE715FD25",
}  # fmt: skip

# RFC 6229, section 2: 16 bytes of keystream at these offsets.
ARCFOUR = {
    "0102030405": {
        0: "b2396305f03dc027ccc3524a0a1118a8", 240: "28cb1132c96ce286421dcaadb8b69eae",
        768: "eb62638d4f0ba1fe9fca20e05bf8ff2b", 1536: "d8729db41882259bee4f825325f5a130",
        4096: "ff25b58995996707e51fbdf08b34d875",
    },
    "0102030405060708090a0b0c0d0e0f10": {
        0: "9ac7cc9a609d1ef7b2932899cde41b97", 240: "065902e4b620f6cc36c8589f66432f2b",
        768: "eccbe13de1fcc91c11a0b26c0bc8fa4d", 1536: "ffa0b514647ec04f6306b892ae661181",
        4096: "a36a4c301ae8ac13610ccbc12256cacc",
    },
    "0102030405060708090a0b0c0d0e0f101112131415161718": {
        0: "0595e57fe5f0bb3c706edac8a4b2db11", 240: "b06b9b1e195d13d8f4a7995c4553ac05",
        768: "591fc66bcda10e452b03d4551f6b62ac", 1536: "0e317b3d1c73b9e9a4688f296d133a19",
        4096: "3cb0f3b5020a98b82af9fe154484a168",
    },
}  # fmt: skip

# FIPS 197, appendix C: the key is 00 01 02 .., of so many bytes.
AES_PLAIN = "00112233445566778899aabbccddeeff"
AES_CIPHER = {
    16: "69c4e0d86a7b0430d8cdb78070b4c55a",
    24: "dda97ca4864cdfe06eaf70a0ec0d7191",
    32: "8ea2b7ca516745bfeafc49904b496089",
}

# -- Tiger ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TIGER, ids=lambda text: f"{text[:12]!r}, {len(text)} bytes")
def test_tiger(text: str) -> None:
    assert tiger.tiger(text.encode()).hex().upper() == TIGER[text]


def test_hmac_tiger_as_published() -> None:
    """RFC 2202's first case, with Tiger for SHA-1, as the Bouncy Castle project publishes it."""
    found = tiger.hmac_tiger(b"\x0b" * 20, b"Hi There")
    assert found.hex() == "1d7a658c75f8f004916e7b07e2a2e10aec7de2ae124d3647"


def formula(key: bytes, data: bytes) -> bytes:
    """RFC 2104 with nothing but the hash, whose blocks have 64 bytes."""
    key = (tiger.tiger(key) if len(key) > 64 else key).ljust(64, b"\0")
    inner = tiger.tiger(bytes(b ^ 0x36 for b in key) + data)
    return tiger.tiger(bytes(b ^ 0x5C for b in key) + inner)


@pytest.mark.parametrize("key_len", [0, 1, 24, 63, 64, 65, 200])
def test_hmac_is_made_of_the_hash(key_len: int) -> None:
    key = bytes(range(key_len))
    keyed = tiger.HmacTiger(key)
    for length in (0, 1, 55, 56, 63, 64, 65, 1232):
        data = hashlib.shake_256(b"data").digest(length)
        assert keyed.digest(data) == formula(key, data)  # one context for all: it is reset between them


def test_hkdf_is_rfc_5869() -> None:
    secret, salt, info = b"secret", b"salt", b"info"
    prk = formula(salt, secret)
    first = formula(prk, info + b"\x01")
    second = formula(prk, first + info + b"\x02")
    third = formula(prk, second + info + b"\x03")
    for length in (1, 24, 25, 48, 72):
        assert tiger.hkdf_tiger(secret, salt, info, length) == (first + second + third)[:length]


def test_a_host_without_libgcrypt_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(OperatorError) as caught:
        tiger.library.__wrapped__()
    assert "libgcrypt.so.20" in caught.value.what
    assert "apt-get install libgcrypt20" in caught.value.hint


@pytest.mark.parametrize("package", ["gmpy2", "Crypto.Cipher"])
def test_a_host_without_the_packages_is_told_too(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.startswith("anonnet.crypto.suite2003")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OperatorError) as caught:
        load_suite("anonnet-2003")
    assert package in caught.value.what
    assert "anonnet[suite2003]" in caught.value.hint


# -- Arcfour and AES ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ARCFOUR)
def test_arcfour(key: str) -> None:
    for offset, stream in ARCFOUR[key].items():
        assert ARC4.new(bytes.fromhex(key)).encrypt(bytes(offset + 16))[offset:].hex() == stream
        assert ARC4.new(bytes.fromhex(key), drop=offset).encrypt(bytes(16)).hex() == stream


@pytest.mark.parametrize("length", AES_CIPHER)
def test_aes(length: int) -> None:
    cipher = AES.new(bytes(range(length)), AES.MODE_ECB)
    assert cipher.encrypt(bytes.fromhex(AES_PLAIN)).hex() == AES_CIPHER[length]
    assert cipher.decrypt(bytes.fromhex(AES_CIPHER[length])).hex() == AES_PLAIN


# -- Diffie-Hellman -----------------------------------------------------------------------------------


def test_the_prime_is_that_of_rfc_3526() -> None:
    """From its formula, with nothing up anybody's sleeve; and it is safe."""
    with gmpy2.context(precision=2200):
        pi = int(gmpy2.floor(gmpy2.const_pi() * gmpy2.mpz(2) ** 1918))
    assert 2**2048 - 2**1984 - 1 + 2**64 * (pi + 124476) == group.P
    assert gmpy2.is_prime(group.P)
    assert gmpy2.is_prime((group.P - 1) // 2)
    assert pow(group.G, (group.P - 1) // 2, group.P) == 1


def test_both_ends_agree_and_python_says_the_same() -> None:
    a, b = group.new_exponent(), group.new_exponent()
    assert a.bit_length() == b.bit_length() == group.EXPONENT_BITS
    assert a != b
    shared = group.agree(a, group.public(b))
    assert shared == group.agree(b, group.public(a))
    assert group.public(a) == pow(2, a, group.P).to_bytes(256, "big")
    assert int.from_bytes(shared, "big") == pow(2, a * b, group.P)


def test_leading_zeros_stay() -> None:
    small = (4).to_bytes(256, "big")  # a square, so in the group
    assert len(group.agree(1, small)) == 256
    assert group.agree(1, small) == small


OUT_OF_RANGE = {
    "0": 0,
    "1": 1,
    "p - 1": group.P - 1,
    "p": group.P,
    "p + 1": group.P + 1,
    "all ones": 2**2048 - 1,
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_values_out_of_range(name: str) -> None:
    with pytest.raises(Malformed, match="range"):
        group.agree(group.new_exponent(), OUT_OF_RANGE[name].to_bytes(256, "big"))


@pytest.mark.parametrize("length", [0, 1, 255, 257])
def test_values_of_another_length(length: int) -> None:
    with pytest.raises(Malformed, match="range"):
        group.agree(group.new_exponent(), b"\x02" * length)


def test_values_outside_of_the_subgroup() -> None:
    """A non-square g' would give away the exponent's lowest bit: g'^(x q) is 1 or -1."""
    order = (group.P - 1) // 2
    chance = random.Random(2003)
    seen = {True: 0, False: 0}
    for _ in range(40):
        value = chance.randrange(2, group.P - 1)
        inside = pow(value, order, group.P) == 1
        seen[inside] += 1
        if inside:
            group.agree(group.new_exponent(), value.to_bytes(256, "big"))
        else:
            with pytest.raises(Malformed, match="subgroup"):
                group.agree(group.new_exponent(), value.to_bytes(256, "big"))
    assert min(seen.values()) > 5
