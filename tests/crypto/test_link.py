"""Link handshakes: vectors with every expected refusal, and the properties that links rely on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet import errors
from anonnet.crypto.kem import KemPrivateKey
from anonnet.crypto.link import LinkInitiator, LinkResponder
from anonnet.crypto.suite import ANONNET_2026, DEFAULT_SUITE, SUITE_CODES, SUITE_NAMES, Suite, load_suite
from anonnet.errors import Forged, PeerFault
from anonnet.wire.handshake import LinkAnswer, LinkOffer, Status
from tests.vectors import harm, load

VECTOR = load("link")
BYTES = {k: bytes.fromhex(v) for k, v in VECTOR.items() if isinstance(v, str) and k != "suite"}
A = X25519PrivateKey.from_private_bytes(BYTES["initiator_static"])
B = X25519PrivateKey.from_private_bytes(BYTES["responder_static"])
A_PUBLIC, B_PUBLIC = A.public_key().public_bytes_raw(), B.public_key().public_bytes_raw()


def vector_initiator() -> LinkInitiator:
    return LinkInitiator(
        load_suite(VECTOR["suite"]),
        A,
        B_PUBLIC,
        BYTES["offer"],
        BYTES["context"],
        ephemeral=X25519PrivateKey.from_private_bytes(BYTES["initiator_ephemeral"]),
        kem_ephemeral=KemPrivateKey.from_seed_bytes(BYTES["initiator_kem_seed"]),
    )


def test_known_answers() -> None:
    initiator = vector_initiator()
    assert initiator.message == BYTES["message1"]
    payload, keys = initiator.finish(BYTES["message2"])
    assert payload == BYTES["answer"]
    assert (keys.send, keys.receive) == (BYTES["initiator_sends_with"], BYTES["responder_sends_with"])
    assert keys.channel == BYTES["channel"]
    accepted = LinkResponder(ANONNET_2026, B).read(BYTES["message1"])
    assert (accepted.remote_public, accepted.payload) == (A_PUBLIC, BYTES["offer"])
    assert LinkOffer.decode(BYTES["offer"]).encode() == BYTES["offer"]
    assert LinkAnswer.decode(payload).status is Status.OK


@pytest.mark.parametrize("case", VECTOR["message1_refused"], ids=lambda c: c["name"])
def test_bad_first_message(case: dict[str, Any]) -> None:
    with pytest.raises(getattr(errors, case["expect"])):
        LinkResponder(ANONNET_2026, B).read(harm(BYTES["message1"], case["harm"]))


def test_bad_second_messages_leave_the_initiator_usable() -> None:
    initiator = vector_initiator()
    for case in VECTOR["message2_refused"]:
        with pytest.raises(PeerFault) as caught:
            initiator.finish(harm(BYTES["message2"], case["harm"]))
        assert type(caught.value).__name__ == case["expect"], case["name"]
    assert initiator.finish(BYTES["message2"])[1].channel == BYTES["channel"]


def test_wrong_order() -> None:
    with pytest.raises(PeerFault):
        LinkResponder(ANONNET_2026, B).read(BYTES["message2"])
    with pytest.raises(PeerFault):
        vector_initiator().finish(BYTES["message1"])
    accepted = LinkResponder(ANONNET_2026, B).read(BYTES["message1"])
    accepted.reply(b"")
    with pytest.raises(RuntimeError):  # ours, not a peer's
        accepted.reply(b"")


def test_both_ends_agree() -> None:
    initiator = LinkInitiator(ANONNET_2026, A, B_PUBLIC, b"offer")
    message2, theirs = LinkResponder(ANONNET_2026, B).read(initiator.message).reply(b"answer")
    payload, ours = initiator.finish(message2)
    assert payload == b"answer"
    assert (ours.send, ours.receive, ours.channel) == (theirs.receive, theirs.send, theirs.channel)
    assert len({ours.send, ours.receive, ours.channel}) == 3


def test_answer_to_another_attempt() -> None:
    first, second = (LinkInitiator(ANONNET_2026, A, B_PUBLIC, b"") for _ in range(2))
    message2, _ = LinkResponder(ANONNET_2026, B).read(first.message).reply(b"")
    with pytest.raises(Forged):
        second.finish(message2)


def test_a_replayed_first_message_gives_the_replayer_no_keys() -> None:
    initiator = LinkInitiator(ANONNET_2026, A, B_PUBLIC, b"")
    responder = LinkResponder(ANONNET_2026, B)
    keys = [responder.read(initiator.message).reply(b"")[1] for _ in range(2)]
    assert keys[0].send != keys[1].send


def other_suite() -> Suite:
    return replace(ANONNET_2026, name="other", code=77)


@pytest.mark.parametrize(
    "responder",
    [
        pytest.param(LinkResponder(ANONNET_2026, A), id="another node"),
        pytest.param(LinkResponder(ANONNET_2026, B, b"channel"), id="another context"),
        pytest.param(LinkResponder(other_suite(), B), id="another suite"),
    ],
)
def test_meant_for(responder: LinkResponder) -> None:
    with pytest.raises(Forged):
        responder.read(BYTES["message1"])


def test_rekey_is_tied_to_its_session() -> None:
    rekey = LinkInitiator(ANONNET_2026, A, B_PUBLIC, b"", BYTES["channel"])
    message2, keys = LinkResponder(ANONNET_2026, B, BYTES["channel"]).read(rekey.message).reply(b"")
    assert rekey.finish(message2)[1].channel == keys.channel
    with pytest.raises(Forged):
        LinkResponder(ANONNET_2026, B).read(rekey.message)


def test_low_order_static_key() -> None:
    with pytest.raises(Forged):
        LinkInitiator(ANONNET_2026, A, bytes(32), b"")


def test_keys_are_not_printed() -> None:
    _, keys = vector_initiator().finish(BYTES["message2"])
    assert repr(keys) == "SessionKeys()"


def test_suites_are_told_apart_by_code() -> None:
    assert len(SUITE_NAMES) == len(SUITE_CODES) == 2
    for name, code in SUITE_CODES.items():
        assert (load_suite(name).name, load_suite(name).code) == (name, code)
    assert SUITE_CODES[DEFAULT_SUITE] == 1
