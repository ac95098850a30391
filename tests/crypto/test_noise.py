"""The Noise engine against published vectors, and against itself for the hfs patterns, which have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.noise import CIPHERS, PATTERNS, HandshakeState, Role
from anonnet.errors import Forged, Malformed, PeerFault

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "noise.json").read_text())["vectors"]
HFS = ["Noise_IKhfs_25519+MLKEM768_AESGCM_SHA256", "Noise_NKhfs_25519+MLKEM768_AESGCM_SHA256"]


def key(vector: dict[str, Any], name: str) -> X25519PrivateKey | None:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(vector[name])) if name in vector else None


def ends(vector: dict[str, Any]) -> tuple[HandshakeState, HandshakeState]:
    psk = bytes.fromhex(vector["init_psks"][0]) if "init_psks" in vector else None
    initiator = HandshakeState(
        vector["protocol_name"],
        Role.INITIATOR,
        prologue=bytes.fromhex(vector["init_prologue"]),
        static=key(vector, "init_static"),
        remote_static=bytes.fromhex(vector["init_remote_static"]),
        psk=psk,
        ephemeral=key(vector, "init_ephemeral"),
    )
    responder = HandshakeState(
        vector["protocol_name"],
        Role.RESPONDER,
        prologue=bytes.fromhex(vector["resp_prologue"]),
        static=key(vector, "resp_static"),
        psk=psk,
        ephemeral=key(vector, "resp_ephemeral"),
    )
    return initiator, responder


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["protocol_name"])
def test_published_vectors(vector: dict[str, Any]) -> None:
    initiator, responder = ends(vector)
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    for (payload, expected), (writer, reader) in zip(
        messages[:2], [(initiator, responder), (responder, initiator)], strict=True
    ):
        assert writer.write(payload) == expected
        assert reader.read(expected) == payload
    assert initiator.handshake_hash == responder.handshake_hash == bytes.fromhex(vector["handshake_hash"])
    assert initiator.split() == responder.split()
    cipher = CIPHERS[vector["protocol_name"].split("_")[3]]
    keys = [cipher.aead(k) for k in initiator.split()]
    for i, (payload, expected) in enumerate(messages[2:]):
        assert keys[i % 2].encrypt(cipher.nonce(i // 2), payload, b"") == expected


def test_every_pattern_with_vectors_is_covered() -> None:
    covered = {v["protocol_name"].split("_")[1] for v in VECTORS}
    assert covered == {p for p in PATTERNS if not p.endswith("hfs")}


def fresh(protocol: str) -> tuple[HandshakeState, HandshakeState, X25519PrivateKey]:
    caller, server = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = server.public_key().public_bytes_raw()
    initiator = HandshakeState(protocol, Role.INITIATOR, static=caller, remote_static=public)
    return initiator, HandshakeState(protocol, Role.RESPONDER, static=server), caller


@pytest.mark.parametrize("protocol", HFS)
def test_hfs_agrees(protocol: str) -> None:
    initiator, responder, caller = fresh(protocol)
    assert responder.read(initiator.write(b"offer")) == b"offer"
    assert initiator.read(responder.write(b"answer")) == b"answer"
    assert initiator.split() == responder.split()
    assert initiator.handshake_hash == responder.handshake_hash
    if "IK" in protocol:
        assert responder.remote_static == caller.public_key().public_bytes_raw()


@pytest.mark.parametrize("protocol", HFS)
def test_a_failed_read_leaves_both_ends_usable(protocol: str) -> None:
    initiator, responder, _ = fresh(protocol)
    first = initiator.write(b"offer")
    for position in range(0, len(first), 37):
        bad = bytearray(first)
        bad[position] ^= 0x10
        with pytest.raises(PeerFault):
            responder.read(bytes(bad))
        assert responder.remote_static is None
    assert responder.read(first) == b"offer"
    second = responder.write(b"answer")
    for position in range(0, len(second), 37):
        bad = bytearray(second)
        bad[position] ^= 0x10
        with pytest.raises(Forged):
            initiator.read(bytes(bad))
    assert initiator.read(second) == b"answer"
    assert initiator.split() == responder.split()


@pytest.mark.parametrize("protocol", HFS)
def test_truncation(protocol: str) -> None:
    initiator, responder, _ = fresh(protocol)
    first = initiator.write(b"")
    for length in (0, 31, 32, 1231, 1232, len(first) - 1):
        with pytest.raises(Malformed):
            responder.read(first[:length])
    with pytest.raises(Forged):
        responder.read(first + b"x")


@pytest.mark.parametrize("protocol", HFS)
@pytest.mark.parametrize("low_order", [bytes(32), (1).to_bytes(32, "little")])
def test_low_order_ephemeral_is_refused(protocol: str, low_order: bytes) -> None:
    initiator, responder, _ = fresh(protocol)
    with pytest.raises(Forged):
        responder.read(low_order + initiator.write()[32:])


def test_out_of_turn_is_our_bug_not_a_peers() -> None:
    initiator, responder, _ = fresh(HFS[0])
    with pytest.raises(RuntimeError):
        responder.write()
    with pytest.raises(RuntimeError):
        initiator.split()
    initiator.write()
    with pytest.raises(RuntimeError):
        initiator.write()


@pytest.mark.parametrize(
    "name",
    [
        "Noise_XX_25519_AESGCM_SHA256",
        "Noise_IK_448_AESGCM_SHA256",
        "Noise_IK_25519+MLKEM768_AESGCM_SHA256",
        "Noise_IKhfs_25519_AESGCM_SHA256",
        "Noise_IK_25519_AESGCM_SHA512",
    ],
)
def test_only_our_protocols(name: str) -> None:
    with pytest.raises(KeyError):
        HandshakeState(name, Role.INITIATOR, remote_static=bytes(32))


def test_keys_are_not_printed() -> None:
    initiator, responder, _ = fresh(HFS[0])
    responder.read(initiator.write())
    secret = initiator._state.chaining_key
    for thing in (initiator, initiator._state):
        assert repr(secret) not in repr(thing)
        assert secret.hex() not in repr(thing)
