"""The gate: silence, challenges under load, cookies of both sides, timestamps across restarts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.crypto.gate import (
    DROP,
    SECRET_LIFE,
    Challenge,
    CookieJar,
    CookieSecrets,
    Foreign,
    HandshakeGate,
    Pass,
    TimestampGuard,
    seal_cookie,
)
from anonnet.spec import FORMATS, NARROW, WIDE, DatagramType, Format
from anonnet.wire.handshake import fragment, mac1_key, open_fragment, tai64n
from tests.vectors import harm, load

VECTOR = load("handshake")
PUBLIC = bytes.fromhex(VECTOR["receiver_public"])
SOURCE = bytes.fromhex(VECTOR["source"])
MESSAGE = bytes.fromhex(VECTOR["message"])
SECOND = 1_000_000_000


def entropy(seed: int = 1) -> Any:
    return random.Random(seed).randbytes


def filler(length: int) -> bytes:
    return bytes([VECTOR["random"]]) * length


def first_message(
    fmt: Format,
    cookie: bytes | None = None,
    message_id: int = 1,
    kind: DatagramType = DatagramType.INITIATION,
) -> list[bytes]:
    return fragment(MESSAGE, fmt, kind, 0xABCDEF, message_id, mac1_key(PUBLIC), cookie, entropy())


def loaded_gate(now: int = 0) -> HandshakeGate:
    gate = HandshakeGate(PUBLIC, 2, entropy())
    for message_id in range(3):
        for datagram in first_message(WIDE, message_id=message_id):
            gate.check(datagram, b"flood", now)
    return gate


# -- load -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [WIDE, NARROW], ids=lambda f: f.name)
def test_load_is_counted_in_messages_whatever_the_format(fmt: Format) -> None:
    gate = HandshakeGate(PUBLIC, 5, entropy())
    verdicts = [gate.check(d, SOURCE, 0) for i in range(5) for d in first_message(fmt, message_id=i)]
    assert all(isinstance(v, Pass) for v in verdicts)
    assert isinstance(gate.check(first_message(fmt)[0], SOURCE, 1), Challenge)


def test_one_challenge_a_message_of_full_length() -> None:
    for fmt in (WIDE, NARROW):
        gate = loaded_gate()
        first, *rest = [gate.check(d, SOURCE, 1) for d in first_message(fmt)]
        assert isinstance(first, Challenge)
        assert len(first.datagram) == fmt.datagram_len
        assert rest == [DROP] * len(rest)


def test_load_passes() -> None:
    gate = loaded_gate()
    assert isinstance(gate.check(first_message(WIDE)[0], SOURCE, SECOND // 2), Challenge)
    assert isinstance(gate.check(first_message(WIDE)[0], SOURCE, 3 * SECOND), Pass)


def test_the_whole_exchange() -> None:
    gate, jar = loaded_gate(), CookieJar(PUBLIC)
    datagrams = first_message(WIDE, jar.cookie(0))
    jar.sent(datagrams[0])
    challenge = gate.check(datagrams[0], SOURCE, 1)
    assert isinstance(challenge, Challenge)
    assert jar.take(challenge.datagram, 2)
    again = first_message(WIDE, jar.cookie(3), message_id=2)
    assert all(isinstance(gate.check(d, SOURCE, 3), Pass) for d in again)
    assert gate.check(again[1], b"elsewhere", 3) == DROP  # the cookie is worth nothing at another address
    assert isinstance(gate.check(again[0], b"elsewhere", 3), Challenge)


def test_an_answer_needs_no_cookie() -> None:
    gate = loaded_gate()
    answer = first_message(WIDE, kind=DatagramType.RESPONSE)
    assert all(isinstance(gate.check(d, SOURCE, 1), Pass) for d in answer)


def of_length(n: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=n, max_size=n)


@given(st.binary(max_size=300) | of_length(256) | of_length(1232))
def test_silence_for_everybody_else(datagram: bytes) -> None:
    gate = loaded_gate()
    assert gate.check(datagram, SOURCE, 1) == DROP
    assert gate.check(first_message(WIDE)[0][:-40] + datagram, SOURCE, 1) == DROP


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_vector_refusals(fmt: Format) -> None:
    vector = VECTOR["formats"][fmt.name]
    last = bytes.fromhex(vector["datagrams_with_cookie"][-1])
    secret = bytes.fromhex(VECTOR["cookie_secret"])
    secrets = CookieSecrets(lambda _: secret)
    assert open_fragment(last, mac1_key(PUBLIC))
    assert secrets.proves(last, SOURCE, 0)
    for case in vector["last_refused"]:
        bad = harm(last, case["harm"])
        if case["expect"] == "silence":
            assert HandshakeGate(PUBLIC, 9, entropy()).check(bad, SOURCE, 0) == DROP, case["name"]
        else:
            assert isinstance(HandshakeGate(PUBLIC, 9, entropy()).check(bad, SOURCE, 0), Pass)
            assert not secrets.proves(bad, SOURCE, 0), case["name"]


# -- cookies ----------------------------------------------------------------------------------------


def waiting_jar(fmt: Format) -> CookieJar:
    jar = CookieJar(PUBLIC)
    jar.sent(bytes.fromhex(VECTOR["formats"][fmt.name]["datagrams"][0]))
    return jar


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_cookie_vectors(fmt: Format) -> None:
    vector = VECTOR["formats"][fmt.name]
    datagram, cookie = bytes.fromhex(vector["cookie_datagram"]), bytes.fromhex(VECTOR["cookie"])
    assert CookieSecrets(lambda _: bytes.fromhex(VECTOR["cookie_secret"])).cookie(SOURCE, 0) == cookie
    answered = open_fragment(bytes.fromhex(vector["datagrams"][0]), mac1_key(PUBLIC))
    assert answered is not None
    assert seal_cookie(cookie, PUBLIC, answered, filler) == datagram
    jar = waiting_jar(fmt)
    for case in vector["cookie_refused"]:
        assert not jar.take(harm(datagram, case["harm"]), 0), case["name"]
        assert jar.cookie(0) is None
    assert jar.take(datagram, 0)
    assert jar.cookie(0) == cookie
    assert not jar.take(datagram, 1)  # a challenge is believed once


def test_only_what_was_sent_can_be_challenged() -> None:
    """Whoever did not see the datagram (its mac1) or does not know the key cannot make a cookie for it."""
    datagram = bytes.fromhex(VECTOR["formats"]["wide"]["cookie_datagram"])
    assert not CookieJar(PUBLIC).take(datagram, 0)
    sent = bytes.fromhex(VECTOR["formats"]["wide"]["datagrams"][0])
    other_message, other_key = CookieJar(PUBLIC), CookieJar(bytes(32))
    other_message.sent(harm(sent, {"xor": [len(sent) - 32, 1]}))
    other_key.sent(sent)
    assert not other_message.take(datagram, 0)
    assert not other_key.take(datagram, 0)


def test_cookies_age() -> None:
    secrets, jar = CookieSecrets(entropy()), waiting_jar(WIDE)
    cookie = secrets.cookie(SOURCE, 0)
    datagram = first_message(WIDE, cookie)[0]
    assert secrets.proves(datagram, SOURCE, SECRET_LIFE - 1)
    assert secrets.proves(datagram, SOURCE, 2 * SECRET_LIFE - 1)  # made under the secret before
    assert not secrets.proves(datagram, SOURCE, 3 * SECRET_LIFE)
    assert jar.take(bytes.fromhex(VECTOR["formats"]["wide"]["cookie_datagram"]), 5)
    assert jar.cookie(SECRET_LIFE + 4) is not None
    assert jar.cookie(SECRET_LIFE + 5) is None


def test_a_long_silence_forgets_both_secrets() -> None:
    secrets = CookieSecrets(entropy())
    datagram = first_message(WIDE, secrets.cookie(SOURCE, 0))[0]
    assert not secrets.proves(datagram, SOURCE, 2 * SECRET_LIFE)


# -- timestamps -------------------------------------------------------------------------------------


def stamp(n: int) -> bytes:
    return n.to_bytes(12, "big")


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 40))), st.integers(1, 6))
def test_no_timestamp_is_ever_accepted_twice(offers: list[tuple[int, int]], limit: int) -> None:
    """Bounded memory, restarts after every offer: nothing not greater than the last of that key gets in."""
    guard, greatest = TimestampGuard(limit=limit), dict.fromkeys(range(13), 0)
    for peer, n in offers:
        if guard.accept(bytes([peer]) * 32, stamp(n)):
            assert n > greatest[peer]
            greatest[peer] = n
        guard = TimestampGuard(json.loads(json.dumps(guard.to_dict())), limit)
        assert len(guard.to_dict()["greatest"]) <= limit


def test_newer_offers_get_in() -> None:
    guard = TimestampGuard()
    assert guard.accept(b"a" * 32, stamp(5))
    assert not guard.accept(b"a" * 32, stamp(5))
    assert not guard.accept(b"a" * 32, stamp(4))
    assert guard.accept(b"b" * 32, stamp(4))
    assert guard.accept(b"a" * 32, stamp(6))


@pytest.mark.parametrize(
    "state", [{"floor": "00", "greatest": {}}, {"floor": stamp(0).hex()}, {"greatest": {}}, {"floor": "zz"}]
)
def test_damaged_state(state: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        TimestampGuard(state)


def test_tai64n_sorts_as_time_does() -> None:
    assert tai64n(0) == bytes.fromhex("400000000000000a00000000")
    times = [0, SECOND - 1, SECOND, 1_700_000_000 * SECOND, 1_700_000_000 * SECOND + (1 << 24)]
    stamps = [tai64n(t) for t in times]
    assert stamps == sorted(set(stamps))
    assert tai64n(1) == tai64n(0)  # 16.8 ms are one


# -- suites -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [WIDE, NARROW], ids=lambda f: f.name)
def test_a_caller_of_another_suite_is_known_and_not_answered(fmt: Format) -> None:
    for ours, theirs in ((1, 2), (2, 1)):
        gate = HandshakeGate(PUBLIC, 0, entropy(), ours)  # every message is load, so would be challenged
        key = mac1_key(PUBLIC, theirs)
        datagrams = fragment(MESSAGE, fmt, DatagramType.INITIATION, 0xABCDEF, 1, key, None, entropy())
        assert [gate.check(d, SOURCE, 1) for d in datagrams] == [Foreign(theirs)] * len(datagrams)
        own = fragment(MESSAGE, fmt, DatagramType.INITIATION, 1, 2, mac1_key(PUBLIC, ours), None, entropy())
        assert isinstance(gate.check(own[0], SOURCE, 2), Challenge)  # the control; and nothing was counted


def test_other_nodes_keys_and_unknown_suites_are_silence() -> None:
    gate = HandshakeGate(PUBLIC, 5, entropy())
    for key in (mac1_key(bytes(32), 2), mac1_key(PUBLIC, 9)):
        datagrams = fragment(MESSAGE, WIDE, DatagramType.INITIATION, 1, 1, key, None, entropy())
        assert {gate.check(d, SOURCE, 1) for d in datagrams} == {DROP}
