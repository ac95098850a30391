"""What stands before a node's link handshakes: mac1, cookies under load, and timestamps against replay.

After WireGuard (section 5 of its paper): a scanner meets silence, a flood of first messages must show that it
can receive at the addresses it claims, and a recorded first message opens nothing a second time. Sans-IO:
`now` is in ns, `source` any bytes that stand for the sender's address and port.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from anonnet.crypto.suite import SUITE_NAMES
from anonnet.spec import HEADER_LEN, TAG_LEN, DatagramType
from anonnet.wire.datagram import INDEX_MASK, word
from anonnet.wire.handshake import (
    FIRST_SUITE,
    FRAGMENT_HEADER,
    MAC_LEN,
    TIMESTAMP_LEN,
    Fragment,
    mac,
    mac1_key,
    mac2_valid,
    open_fragment,
)

COOKIE_LABEL: Final = b"AnonNet cookie"
SALT_LEN: Final = 32
SEALED_LEN: Final = MAC_LEN + TAG_LEN
SECRET_LIFE: Final = 120_000_000_000  # ns; a cookie opens the gate for one to two lives
LOAD_HOLD: Final = 1_000_000_000  # ns; the span that load is counted over, and how long it lasts after
GUARD_LIMIT: Final = 4096  # tuning: peers whose greatest timestamp is remembered

Random = Callable[[int], bytes]


# -- verdicts -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drop:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send `datagram` (a COOKIE) back, and forget."""

    datagram: bytes


@dataclass(frozen=True, slots=True)
class Pass:
    """Hand the fragment to the reassembler."""

    fragment: Fragment


@dataclass(frozen=True, slots=True)
class Foreign:
    """Say nothing to whoever sent this, in another suite. The operator may be told; nothing is proved."""

    suite_code: int


Verdict = Drop | Challenge | Pass | Foreign
DROP: Final = Drop()


class HandshakeGate:
    """Decides on each INITIATION or RESPONSE datagram that arrives; one per link key of a node.

    Load is counted over first messages, each fragment as its share of one. A RESPONSE needs no cookie: it
    must match a handshake of ours that waits for it, which the caller checks by index and message id.
    """

    def __init__(self, public: bytes, per_second: int, random: Random, suite_code: int = FIRST_SUITE) -> None:
        """`public`: this node's 32-byte link key; `per_second`: first messages that are no load yet."""
        self._public = public
        self._mac_key = mac1_key(public, suite_code)
        self._foreign = {code: mac1_key(public, code) for code in SUITE_NAMES if code != suite_code}
        self._per_second = per_second
        self._random = random
        self._secrets = CookieSecrets(random)
        self._second = 0  # when the current count began
        self._count = 0
        self._loaded_until = 0

    def check(self, datagram: bytes, source: bytes, now: int) -> Verdict:
        """Return what to do with a datagram; never raises on any bytes."""
        fragment = open_fragment(datagram, self._mac_key)
        if fragment is None:
            foreign = (code for code, key in self._foreign.items() if open_fragment(datagram, key))
            code = next(foreign, None)
            return DROP if code is None else Foreign(code)
        if fragment.kind is DatagramType.RESPONSE or not self._loaded(fragment.parts, now):
            return Pass(fragment)
        if self._secrets.proves(datagram, source, now):
            return Pass(fragment)
        if fragment.part:  # one challenge a message
            return DROP
        cookie = self._secrets.cookie(source, now)
        return Challenge(seal_cookie(cookie, self._public, fragment, self._random))

    def _loaded(self, parts: int, now: int) -> bool:
        if now - self._second >= LOAD_HOLD:
            self._second, self._count = now, 0
        self._count += 1
        if self._count > self._per_second * parts:
            self._loaded_until = now + LOAD_HOLD
        return now < self._loaded_until


# -- cookies --------------------------------------------------------------------------------------


class CookieSecrets:
    """The responder's side: cookies are MACs of addresses under a secret that changes every two minutes."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._made = 0
        self._secrets: list[bytes] = []  # current, then previous: none is refused at the moment of change

    def cookie(self, source: bytes, now: int) -> bytes:
        """Return the 16-byte cookie that stands for `source` now."""
        return mac(self._current(now)[0], source)

    def proves(self, datagram: bytes, source: bytes, now: int) -> bool:
        """Say whether mac2 of the datagram was made with a cookie sent to `source` lately."""
        return any(mac2_valid(datagram, mac(secret, source)) for secret in self._current(now))

    def _current(self, now: int) -> list[bytes]:
        age = now - self._made
        if not self._secrets or age >= SECRET_LIFE:
            kept = self._secrets[:1] if age < 2 * SECRET_LIFE else []
            self._secrets = [self._random(32), *kept]
            self._made = now
        return self._secrets


class CookieJar:
    """The initiator's side, one per neighbour: opens challenges and keeps the cookie while it is good."""

    def __init__(self, remote_public: bytes) -> None:
        self._public = remote_public
        self._sent: bytes | None = None  # part 0 of the last message
        self._cookie: tuple[int, bytes] | None = None  # when it came, the cookie

    def sent(self, first: bytes) -> None:
        """Note part 0 of an INITIATION as sent: only a challenge to it will be believed."""
        self._sent = first

    def take(self, datagram: bytes, now: int) -> bool:
        """Open a COOKIE datagram; False, and nothing changed, when it does not answer what was sent."""
        if self._sent is None or len(datagram) != len(self._sent):
            return False
        word_, message_id, *_ = FRAGMENT_HEADER.unpack_from(self._sent)
        if datagram[:HEADER_LEN] != _cookie_header(word_ & INDEX_MASK, message_id):
            return False
        mac1 = self._sent[-2 * MAC_LEN : -MAC_LEN]
        salt = datagram[HEADER_LEN : HEADER_LEN + SALT_LEN]
        sealed = datagram[HEADER_LEN + SALT_LEN :][:SEALED_LEN]
        try:
            cookie = _cookie_aead(self._public, salt).decrypt(bytes(12), sealed, mac1)
        except InvalidTag:
            return False
        self._cookie = now, cookie
        self._sent = None  # a challenge is believed once
        return True

    def cookie(self, now: int) -> bytes | None:
        """Return the cookie for the next `fragment` call, if there is a good one."""
        if self._cookie is None or now - self._cookie[0] >= SECRET_LIFE:
            return None
        return self._cookie[1]


def seal_cookie(cookie: bytes, public: bytes, answered: Fragment, random: Random) -> bytes:
    """Return the COOKIE datagram: readable to who saw the fragment and knows our key, so to its sender."""
    salt = random(SALT_LEN)
    sealed = _cookie_aead(public, salt).encrypt(bytes(12), cookie, answered.mac1)
    data = _cookie_header(answered.index, answered.message_id) + salt + sealed
    return data + random(answered.fmt.datagram_len - len(data))


def _cookie_header(index: int, message_id: int) -> bytes:
    return FRAGMENT_HEADER.pack(word(DatagramType.COOKIE, index), message_id, 0, 1, SALT_LEN + SEALED_LEN)


def _cookie_aead(public: bytes, salt: bytes) -> AESGCM:
    """A key of its own for each cookie, which is why the nonce can be zero."""
    return AESGCM(HKDF(SHA256(), 32, salt, COOKIE_LABEL).derive(public))


# -- timestamps -----------------------------------------------------------------------------------


class TimestampGuard:
    """The greatest timestamp of each neighbour; a first message must carry a greater one.

    Ask only about offers of known neighbours, after the handshake has authenticated them. When memory is
    full the smallest timestamp is forgotten and becomes the floor for those we do not remember, so nothing
    old is ever accepted. `to_dict` goes to the state directory before the answer goes out.
    """

    def __init__(self, state: dict[str, Any] | None = None, limit: int = GUARD_LIMIT) -> None:
        """`state`: what `to_dict` returned; ValueError or KeyError when it is something else."""
        state = state or {"floor": bytes(TIMESTAMP_LEN).hex(), "greatest": {}}
        self._limit = limit
        self._floor = _timestamp(state["floor"])
        self._greatest = {bytes.fromhex(k): _timestamp(v) for k, v in state["greatest"].items()}

    def accept(self, public: bytes, timestamp: bytes) -> bool:
        """Return True, and remember, when `timestamp` (12 bytes) is the greatest yet of that link key."""
        if timestamp <= self._greatest.get(public, self._floor):
            return False
        self._greatest[public] = timestamp
        if len(self._greatest) > self._limit:
            oldest = min(self._greatest, key=self._greatest.__getitem__)
            self._floor = max(self._floor, self._greatest.pop(oldest))
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return the state in types that JSON has."""
        greatest = {k.hex(): v.hex() for k, v in self._greatest.items()}
        return {"floor": self._floor.hex(), "greatest": greatest}


def _timestamp(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != TIMESTAMP_LEN:
        raise ValueError("a timestamp has 12 bytes")
    return raw
