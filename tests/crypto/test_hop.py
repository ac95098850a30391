"""Hop handshakes: vectors with every expected refusal, and what a caller relies on."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet import errors
from anonnet.crypto.hop import HopInitiator, hop_respond
from anonnet.crypto.kem import KemPrivateKey
from anonnet.crypto.suite import ANONNET_2026, load_suite
from anonnet.errors import Forged, PeerFault
from anonnet.ids import NodeId
from tests.vectors import harm, load

VECTOR = load("hop")
ONION = X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["onion_static"]))
PUBLIC = ONION.public_key().public_bytes_raw()
NODE_ID = NodeId(bytes.fromhex(VECTOR["node_id"]))
MESSAGE, REPLY = bytes.fromhex(VECTOR["message"]), bytes.fromhex(VECTOR["reply"])


def vector_caller() -> HopInitiator:
    return HopInitiator(
        load_suite(VECTOR["suite"]),
        PUBLIC,
        NODE_ID,
        ephemeral=X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["caller_ephemeral"])),
        kem_ephemeral=KemPrivateKey.from_seed_bytes(bytes.fromhex(VECTOR["caller_kem_seed"])),
    )


def test_known_answers() -> None:
    caller = vector_caller()
    assert caller.message == MESSAGE
    keys = caller.finish(REPLY)
    assert [k.hex() for k in keys.forward] == VECTOR["forward"]
    assert [k.hex() for k in keys.backward] == VECTOR["backward"]
    assert keys.slot_shift == VECTOR["slot_shift"]
    assert (len(MESSAGE), len(REPLY)) == ANONNET_2026.hop_lengths == (1248, 1152)


@pytest.mark.parametrize("case", VECTOR["message_refused"], ids=lambda c: c["name"])
def test_bad_message(case: dict[str, Any]) -> None:
    with pytest.raises(getattr(errors, case["expect"])):
        hop_respond(ANONNET_2026, ONION, NODE_ID, harm(MESSAGE, case["harm"]))


def test_bad_replies_leave_the_caller_usable() -> None:
    caller = vector_caller()
    for case in VECTOR["reply_refused"]:
        with pytest.raises(PeerFault) as caught:
            caller.finish(harm(REPLY, case["harm"]))
        assert type(caught.value).__name__ == case["expect"], case["name"]
    assert caller.finish(REPLY).slot_shift == VECTOR["slot_shift"]


def test_both_ends_agree_and_all_keys_differ() -> None:
    caller = HopInitiator(ANONNET_2026, PUBLIC, NODE_ID)
    reply, keys = hop_respond(ANONNET_2026, ONION, NODE_ID, caller.message)
    assert caller.finish(reply) == keys
    assert len({*keys.forward, *keys.backward}) == 6
    assert 0 <= keys.slot_shift < 2**32
    assert repr(keys) == "HopKeys()"


def test_only_the_named_node_answers() -> None:
    with pytest.raises(Forged):
        hop_respond(ANONNET_2026, ONION, NodeId(bytes(20)), MESSAGE)
    with pytest.raises(Forged):
        hop_respond(ANONNET_2026, X25519PrivateKey.generate(), NODE_ID, MESSAGE)


def test_wrong_order_and_other_attempts() -> None:
    with pytest.raises(PeerFault):
        vector_caller().finish(MESSAGE)
    with pytest.raises(PeerFault):
        hop_respond(ANONNET_2026, ONION, NODE_ID, REPLY)
    with pytest.raises(Forged):
        HopInitiator(ANONNET_2026, PUBLIC, NODE_ID).finish(REPLY)
    caller = vector_caller()
    caller.finish(REPLY)
    with pytest.raises(RuntimeError):  # a reply that came twice is for the caller's state machine to drop
        caller.finish(REPLY)


def test_replay_gives_fresh_keys() -> None:
    first, second = (hop_respond(ANONNET_2026, ONION, NODE_ID, MESSAGE)[1] for _ in range(2))
    assert first != second
