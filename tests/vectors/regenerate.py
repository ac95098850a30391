"""Make link.json, hop.json, handshake.json, onion.json and descriptor.json: after a protocol change only.

All keys are SHA-256 of a label, so that anybody can make them again. ML-KEM encapsulation draws its own
randomness, so second messages differ from run to run: they are vectors for the end that reads them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.gate import CookieSecrets, seal_cookie
from anonnet.crypto.hop import HopInitiator, hop_respond
from anonnet.crypto.link import LinkInitiator, LinkResponder
from anonnet.crypto.onion import Layer, LayerKeys
from anonnet.crypto.suite import ANONNET_2026
from anonnet.ids import NodeId
from anonnet.spec import FORMATS, NARROW, WIDE, DatagramType, Format
from anonnet.wire.cell import rows
from anonnet.wire.descriptor import SIGN_LABEL, Address, Descriptor, Transport, invite, node_id_of, sign
from anonnet.wire.handshake import LinkAnswer, LinkOffer, Status, fragment, mac1_key, open_fragment
from tests.vectors import HERE

TIMESTAMP = bytes.fromhex("400000006af0000015000000")
FILLER = 0x5A  # what `random` gives in these vectors
Fields = Iterable[tuple[str, int, int]]


def secret(label: str, length: int = 32) -> bytes:
    return hashlib.sha512(label.encode()).digest()[:length]


def dh(label: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret(label))


def flips(fields: Fields, expect: str) -> list[dict[str, Any]]:
    """One flipped bit at the start, one at the end of each (name, start, end)."""
    cases = []
    for name, start, end in fields:
        cases.append({"name": f"{name}, first bit", "harm": {"xor": [start, 0x80]}, "expect": expect})
        cases.append({"name": f"{name}, last bit", "harm": {"xor": [end - 1, 0x01]}, "expect": expect})
    return cases


def lengths(cuts: dict[int, str], longer: str) -> list[dict[str, Any]]:
    cases = [{"name": f"cut to {n}", "harm": {"cut": n}, "expect": e} for n, e in cuts.items()]
    return [*cases, {"name": "one byte more", "harm": {"add": "00"}, "expect": longer}]


def link() -> dict[str, Any]:
    a, b = dh("link initiator static"), dh("link responder static")
    offer = LinkOffer(TIMESTAMP, 0xABCDEF, WIDE.code, ANONNET_2026.code, 10_000_000, 45, 44)
    answer = LinkAnswer(0x123456, Status.OK, 10_000_000, 44, 45)
    ephemeral, seed = dh("link initiator ephemeral"), secret("link initiator kem", 64)
    initiator = LinkInitiator(
        ANONNET_2026,
        a,
        b.public_key().public_bytes_raw(),
        offer.encode(),
        ephemeral=ephemeral,
        kem_ephemeral=MLKEM768PrivateKey.from_seed_bytes(seed),
    )
    message2, _ = LinkResponder(ANONNET_2026, b).read(initiator.message).reply(answer.encode())
    _, keys = initiator.finish(message2)
    first = [
        ("e", 0, 32), ("e1", 32, 1216), ("tag of e1", 1216, 1232), ("s", 1232, 1264),
        ("tag of s", 1264, 1280), ("payload", 1280, 1309), ("tag of payload", 1309, 1325),
    ]  # fmt: skip
    second = [
        ("e", 0, 32), ("ekem1", 32, 1120), ("tag of ekem1", 1120, 1136),
        ("payload", 1136, 1152), ("tag of payload", 1152, 1168),
    ]  # fmt: skip
    return {
        "suite": ANONNET_2026.name,
        "initiator_static": a.private_bytes_raw().hex(),
        "responder_static": b.private_bytes_raw().hex(),
        "initiator_ephemeral": ephemeral.private_bytes_raw().hex(),
        "initiator_kem_seed": seed.hex(),
        "context": "",
        "offer": offer.encode().hex(),
        "answer": answer.encode().hex(),
        "message1": initiator.message.hex(),
        "message2": message2.hex(),
        "initiator_sends_with": keys.send.hex(),
        "responder_sends_with": keys.receive.hex(),
        "channel": keys.channel.hex(),
        "message1_refused": flips(first, "Forged")
        + lengths({0: "Malformed", 31: "Malformed", 1231: "Malformed", 1279: "Malformed",
                   1295: "Malformed", 1324: "Forged"}, "Forged"),
        "message2_refused": flips(second, "Forged")
        + lengths({0: "Malformed", 31: "Malformed", 1135: "Malformed", 1151: "Malformed",
                   1167: "Forged"}, "Forged"),
    }  # fmt: skip


def hop() -> dict[str, Any]:
    onion = dh("hop onion static")
    node_id = node_id_of(secret("hop identity"))
    ephemeral, seed = dh("hop caller ephemeral"), secret("hop caller kem", 64)
    caller = HopInitiator(
        ANONNET_2026,
        onion.public_key().public_bytes_raw(),
        node_id,
        ephemeral=ephemeral,
        kem_ephemeral=MLKEM768PrivateKey.from_seed_bytes(seed),
    )
    reply, _ = hop_respond(ANONNET_2026, onion, node_id, caller.message)
    keys = caller.finish(reply)
    first = [("e", 0, 32), ("e1", 32, 1216), ("tag of e1", 1216, 1232), ("tag of payload", 1232, 1248)]
    second = [("e", 0, 32), ("ekem1", 32, 1120), ("tag of ekem1", 1120, 1136), ("tag of payload", 1136, 1152)]
    return {
        "suite": ANONNET_2026.name,
        "onion_static": onion.private_bytes_raw().hex(),
        "node_id": node_id.hex(),
        "caller_ephemeral": ephemeral.private_bytes_raw().hex(),
        "caller_kem_seed": seed.hex(),
        "message": caller.message.hex(),
        "reply": reply.hex(),
        "forward": [key.hex() for key in keys.forward],
        "backward": [key.hex() for key in keys.backward],
        "slot_shift": keys.slot_shift,
        "message_refused": flips(first, "Forged") + lengths({0: "Malformed", 1247: "Malformed"}, "Malformed"),
        "reply_refused": flips(second, "Forged") + lengths({0: "Malformed", 1151: "Malformed"}, "Malformed"),
    }


def handshake() -> dict[str, Any]:
    public = dh("link responder static").public_key().public_bytes_raw()
    message = hashlib.shake_256(b"a message of 1325 bytes").digest(1325)
    cookie_secret, source = secret("cookie secret"), b"\x04" + ip_address("192.0.2.7").packed + b"\x09\xe3"
    cookie = CookieSecrets(lambda _: cookie_secret).cookie(source, 0)
    result: dict[str, Any] = {
        "receiver_public": public.hex(),
        "mac1_key": mac1_key(public).hex(),
        "message": message.hex(),
        "index": 0xABCDEF,
        "message_id": 0x01020304,
        "random": FILLER,
        "cookie_secret": cookie_secret.hex(),
        "source": source.hex(),
        "cookie": cookie.hex(),
        "formats": {},
    }
    for fmt in FORMATS.values():
        result["formats"][fmt.name] = {
            "datagrams": [d.hex() for d in _fragments(message, fmt, public, None)],
            "datagrams_with_cookie": [d.hex() for d in _fragments(message, fmt, public, cookie)],
            "last_refused": _fragment_cases(fmt),
            **_cookie_datagram(message, fmt, public, cookie),
        }
    return result


def _fragments(message: bytes, fmt: Format, public: bytes, cookie: bytes | None) -> list[bytes]:
    key = mac1_key(public)
    kind = DatagramType.INITIATION
    return fragment(message, fmt, kind, 0xABCDEF, 0x01020304, key, cookie, _filler)


def _filler(length: int) -> bytes:
    return bytes([FILLER]) * length


def _fragment_cases(fmt: Format) -> list[dict[str, Any]]:
    n = fmt.datagram_len
    chunk = 1325 % (n - 44)
    fields = [
        ("type", 0, 1), ("index", 1, 4), ("message id", 4, 8), ("part", 8, 9), ("parts", 9, 10),
        ("chunk length", 10, 12), ("chunk", 12, 12 + chunk), ("padding", 12 + chunk, n - 32),
        ("mac1", n - 32, n - 16),
    ]  # fmt: skip
    cases = flips(fields, "silence") + lengths({0: "silence", 12: "silence", n - 1: "silence"}, "silence")
    return cases + flips([("mac2", n - 16, n)], "no proof")


def _cookie_datagram(message: bytes, fmt: Format, public: bytes, cookie: bytes) -> dict[str, Any]:
    answered = open_fragment(_fragments(message, fmt, public, None)[0], mac1_key(public))
    assert answered is not None
    n = fmt.datagram_len
    fields = [
        ("type", 0, 1), ("index", 1, 4), ("message id", 4, 8), ("part", 8, 9), ("parts", 9, 10),
        ("length", 10, 12), ("salt", 12, 44), ("cookie", 44, 60), ("tag", 60, 76),
    ]  # fmt: skip
    cases = flips(fields, "refused") + lengths({0: "refused", 75: "refused", n - 1: "refused"}, "refused")
    return {
        "cookie_datagram": seal_cookie(cookie, public, answered, _filler).hex(),
        "cookie_refused": cases,
    }


def onion() -> dict[str, Any]:
    keys = LayerKeys(secret("layer hash"), secret("layer block"), secret("layer stream"))
    layer = Layer(keys)
    cases = []
    for fmt in (NARROW, WIDE):
        for slot in (0, 0xFFFFFFFF):
            row = rows(fmt, 1)[0]
            plain = bytes(16) + hashlib.shake_256(fmt.name.encode()).digest(fmt.body_len - 16)
            row.body[:] = plain
            layer.encipher(slot, row, row)
            cases.append(
                {"format": fmt.name, "slot": slot, "plain": plain.hex(), "cipher": bytes(row.body).hex()}
            )
    regions = {
        fmt.name: {
            "left, first bit": [0, 0x80],
            "left, last bit": [15, 0x01],
            "kind": [16, 0x10],
            "first-packet offset": [17, 0x01],
            "sequence": [21, 0x01],
            "content, first bit": [22, 0x80],
            "content, middle": [fmt.body_len // 2, 0x04],
            "content, last bit": [fmt.body_len - 1, 0x01],
        }
        for fmt in (NARROW, WIDE)
    }
    return {
        "hash_key": keys.hash_key.hex(),
        "block_key": keys.block_key.hex(),
        "stream_key": keys.stream_key.hex(),
        "cases": cases,
        "harm": regions,
    }


def descriptor() -> dict[str, Any]:
    identity = Ed25519PrivateKey.from_private_bytes(secret("identity"))
    neighbours = sorted(node_id_of(secret(f"neighbour {i}")) for i in range(2))
    good = Descriptor(
        suite_code=1,
        epoch=7,
        identity=identity.public_key().public_bytes_raw(),
        link=dh("descriptor link").public_key().public_bytes_raw(),
        onion=dh("descriptor onion").public_key().public_bytes_raw(),
        exit4=True,
        exit6=False,
        addresses=(
            Address(Transport.RAW, ip_address("192.0.2.7"), 0),
            Address(Transport.UDP, ip_address("2001:db8::7"), 2531),
        ),
        neighbours=tuple(NodeId(n) for n in neighbours),
        name="r\u00e9lais 1",
    )
    signed = sign(good, identity)
    body = signed[:-64]
    head, tail = body[:103], body[103:]
    two = b"".join(neighbours)
    addresses, rest = tail[: 1 + 8 + 20], tail[1 + 8 + 20 :]
    name = rest[1 + 40 :]
    illegal = {
        "version 2": b"\x02" + body[1:],
        "unknown flag": body[:2] + b"\x04" + body[3:],
        "nine addresses": head + b"\x09" + b"".join(
            b"\x01\x04" + bytes([10, 0, 0, i]) + b"\0\0" for i in range(9)) + rest,
        "unknown transport": head + b"\x01\x03\x04\xc0\0\2\7\0\0" + rest,
        "unknown family": head + b"\x01\x01\x05\xc0\0\2\7\0\0" + rest,
        "raw with a port": head + b"\x01\x01\x04\xc0\0\2\7\0\1" + rest,
        "udp without a port": head + b"\x01\x02\x04\xc0\0\2\7\0\0" + rest,
        "address 0.0.0.0": head + b"\x01\x01\x04\0\0\0\0\0\0" + rest,
        "multicast address": head + b"\x01\x01\x04\xe0\0\0\1\0\0" + rest,
        "IPv4 dressed as IPv6": head + b"\x01\x01\x06" + bytes(10) + b"\xff\xff\xc0\0\2\7\0\0" + rest,
        "an address twice": head + b"\x02" + addresses[1:9] * 2 + rest,
        "33 neighbours": head + addresses + b"\x21" + b"".join(bytes([i] * 20) for i in range(33)) + name,
        "neighbours out of order": head + addresses + b"\x02" + two[20:] + two[:20] + name,
        "a neighbour twice": head + addresses + b"\x02" + two[:20] * 2 + name,
        "name too long": head + addresses + rest[:41] + b"\x21" + b"x" * 33,
        "name not UTF-8": head + addresses + rest[:41] + b"\x02\xc3\x28",
        "name with an escape": head + addresses + rest[:41] + b"\x02\x1b[",
        "a byte after the end": body + b"\0",
    }  # fmt: skip
    n = len(body)
    fields = [
        ("epoch", 3, 7), ("identity", 7, 39), ("link", 39, 71), ("onion", 71, 103),
        ("first address", 106, 110), ("second address", 114, 130), ("udp port", 130, 132),
        ("signature", n, n + 64),
    ]  # fmt: skip
    single = [
        ("version", 0, "Malformed"), ("suite", 1, "Forged"), ("flags", 2, "Forged"),
        ("address count", 103, "Malformed"), ("transport", 104, "Malformed"), ("family", 105, "Malformed"),
        ("raw port", 111, "Malformed"), ("neighbour count", 132, "Malformed"),
        ("last neighbour", 172, "Forged"), ("name length", 173, "Malformed"), ("name", 174, "Forged"),
    ]  # fmt: skip
    refused = [{"name": f, "harm": {"xor": [at, 0x01]}, "expect": e} for f, at, e in single]
    refused += flips(fields, "Forged")
    refused += [
        {"name": "empty", "harm": {"cut": 0}, "expect": "Malformed"},
        {"name": "signature alone missing", "harm": {"cut": n}, "expect": "Malformed"},
        {"name": "one byte short", "harm": {"cut": n + 63}, "expect": "Malformed"},
        {"name": "one byte more", "harm": {"add": "00"}, "expect": "Malformed"},
    ]
    return {
        "identity_private": identity.private_bytes_raw().hex(),
        "suite_code": good.suite_code,
        "epoch": good.epoch,
        "link": good.link.hex(),
        "onion": good.onion.hex(),
        "exit4": good.exit4,
        "exit6": good.exit6,
        "addresses": [[a.transport, str(a.host), a.port] for a in good.addresses],
        "neighbours": [n.hex() for n in neighbours],
        "name": good.name,
        "node_id": good.node_id.hex(),
        "signed": signed.hex(),
        "invite": invite(signed),
        "refused": refused,
        "illegal_though_signed": {
            what: (b + identity.sign(SIGN_LABEL + b)).hex() for what, b in illegal.items()
        },
        "invites_refused": {
            "empty": "anonnet:",
            "other scheme": "http:" + base64.urlsafe_b64encode(signed).decode().rstrip("="),
            "padded": invite(signed) + "=",
            "cut": invite(signed)[:-4],
            "foreign character": invite(signed)[:-1] + "!",
        },
    }


if __name__ == "__main__":
    for make in (link, hop, handshake, onion, descriptor):
        (HERE / f"{make.__name__}.json").write_text(json.dumps(make(), indent=1, ensure_ascii=False) + "\n")
