"""What a circuit sends over which of its routes (docs/protocol.md section 6, "Redundancy").

    stripe   each cell once, over whichever route has a slot due: all throughput, no protection
    mirror   each cell over every route: the best route's throughput, and no loss while one route lives
    k of n   groups of k cells, n - k parity cells beside them, dealt out over the routes: any k of a group
             suffice, so n - k routes may fail without a cell lost, at k / n of the throughput

Only the sender chooses, and may change at any time: cells are numbered alike in all three, parity says
what it belongs to, and the receiver drops what it has already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from anonnet.errors import OperatorError
from anonnet.proto.erasure import Decoder, Encoder
from anonnet.proto.segment import Segmenter
from anonnet.spec import PARITY_HEAD_LEN, PAYLOAD_HEADER_LEN, SLOT_MASK, Kind
from anonnet.wire.cell import PAYLOAD_HEADER, CellRow

LAG_NS: Final = 20_000_000  # how far a route may be behind: what is older is not sent over it any more ...
LAG_LEAST: Final = 8  # ... if it is so many cells
MAX_SHARES: Final = 15
_GROUPS: Final = 64  # whose parity waits for more of them to come
_RECENT: Final = 1024  # data cells kept, to recover others from


@dataclass(frozen=True)
class Redundancy:
    """A mode: `shares` data cells of each group; 0 is stripe, 1 mirror, more k of n (n: the routes)."""

    shares: int

    @property
    def name(self) -> str:
        """As operators write it."""
        return {0: "stripe", 1: "mirror"}.get(self.shares, f"{self.shares}-of-n")


STRIPE: Final = Redundancy(0)


def parse_redundancy(text: str) -> Redundancy:
    """Read `stripe`, `mirror` or `2-of-n`; OperatorError on anything else."""
    if text in ("stripe", "mirror"):
        return Redundancy(int(text == "mirror"))
    shares, _, rest = text.partition("-of-")
    if rest and shares.isdigit() and 2 <= int(shares) < MAX_SHARES:
        return Redundancy(int(shares))
    raise OperatorError(f"unknown redundancy {text!r}", "write stripe, mirror, or 2-of-n (n: the routes)")


class Sender(Protocol):
    """Fills the slots of a circuit's routes."""

    def fill(self, route: int, row: CellRow) -> bool:
        """Write what this route should carry next; False, with the row untouched, if nothing."""

    def routes(self, rates: Mapping[int, float]) -> None:
        """These are the circuit's routes from now on, in order, each with its cells per second."""

    def unsent(self, route: int | None = None) -> list[bytes]:
        """Data payloads for one route, or all, that were cut from the stream and not sent over any."""


class Stripe:
    """Each cell once."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def fill(self, _route: int, row: CellRow) -> bool:
        """The next cell, whatever the route."""
        return self._segmenter.fill(row)

    def routes(self, _rates: Mapping[int, float]) -> None:
        """They do not matter."""

    def unsent(self, _route: int | None = None) -> list[bytes]:
        """None: a cell is cut when it is sent."""
        return []


def _lag(rates: Mapping[int, float]) -> int:
    """How many cells a route may be behind."""
    return max(LAG_LEAST, round(max(rates.values(), default=0) * LAG_NS / 1_000_000_000))


class Mirror:
    """Each cell over every route; `_base` is the number of the oldest one kept."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._kept: deque[bytes] = deque()
        self._base = 0
        self._at: dict[int, int] = {}
        self._lag = LAG_LEAST

    def routes(self, rates: Mapping[int, float]) -> None:
        """A new route begins with the next cell."""
        newest = self._base + len(self._kept)
        self._at = {route: self._at.get(route, newest) for route in rates}
        self._lag = _lag(rates)

    def unsent(self, _route: int | None = None) -> list[bytes]:
        """None: every cell was cut for the first route that carried it."""
        return []

    def fill(self, route: int, row: CellRow) -> bool:
        """The next cell that this route has not carried; one that is far behind goes on with the newest."""
        at, newest = self._at.get(route, 0), self._base + len(self._kept)
        if at < self._base:
            at = newest
        if at < newest:
            row.payload[:] = self._kept[at - self._base]
        elif self._segmenter.fill(row):
            self._kept.append(bytes(row.payload))
            while len(self._kept) > self._lag:
                self._kept.popleft()
                self._base += 1
        else:
            return False
        self._at[route] = at + 1
        return True


class Coded:
    """k of n: `_queues` holds the shares dealt to each route and not yet sent."""

    def __init__(self, segmenter: Segmenter, shares: int) -> None:
        self._segmenter = segmenter
        self._shares = shares
        self._queues: dict[int, deque[bytes]] = {}
        self._encoder: Encoder | None = None
        self._total = shares

    def routes(self, rates: Mapping[int, float]) -> None:
        """Deal to these; what a route that left had not sent is for parity to make good."""
        lag = _lag(rates)
        self._queues = {route: deque(self._queues.get(route, ()), maxlen=lag) for route in rates}
        self._total = max(self._shares, min(len(rates), MAX_SHARES))
        self._encoder = Encoder(self._shares, self._total)

    def unsent(self, route: int | None = None) -> list[bytes]:
        """The shares dealt out, but for parity."""
        queues = [queue for dealt, queue in self._queues.items() if route in (None, dealt)]
        shares = [payload for queue in queues for payload in queue]
        return [payload for payload in shares if payload[0] >> 4 == Kind.GROUPED]

    def fill(self, route: int, row: CellRow) -> bool:
        """The next share of this route's; a new group when it has none left."""
        queue = self._queues.get(route)
        if queue is None or (not queue and not self._deal(row)):
            return False
        if not queue:
            return False  # fewer shares than routes: this one had none of the group
        row.payload[:] = queue.popleft()
        return True

    def _deal(self, row: CellRow) -> bool:
        """Cut a group from the stream, code it, deal it out; False if there is nothing to send."""
        assert self._encoder is not None
        if not self._segmenter.fill(row, Kind.GROUPED):
            return False
        group = [bytes(row.payload)]
        for _ in range(self._shares - 1):
            if not self._segmenter.fill(row, Kind.GROUPED):
                self._segmenter.pad(row)
            group.append(bytes(row.payload))
        _, sequence = PAYLOAD_HEADER.unpack_from(group[0])
        parity = range(self._shares, self._total)
        coded = self._encoder.encode([_covered(payload) for payload in group], tuple(parity))
        for index, share in zip(parity, coded, strict=True):
            about = Kind.PARITY << 12 | self._shares << 8 | self._total << 4 | index
            group.append(PAYLOAD_HEADER.pack(about, sequence) + share)
        queues = list(self._queues.values())
        for index, payload in enumerate(group):
            queues[index % len(queues)].append(payload)
        return True


def _covered(payload: bytes) -> bytes:
    """What parity covers of a data payload: kind and first, and the content but for its last two bytes."""
    return payload[:PARITY_HEAD_LEN] + payload[PAYLOAD_HEADER_LEN:-PARITY_HEAD_LEN]


class Recovery:
    """The receiver's side: parity, and the data that it may complete."""

    def __init__(self) -> None:
        self._recent: dict[int, bytes] = {}  # sequence -> payload, oldest first
        self._parity: dict[int, dict[int, bytes]] = {}  # first sequence of a group -> index -> share
        self._shape: dict[int, tuple[int, int]] = {}  # the same -> k, n
        self._group_of: dict[int, int] = {}  # data sequence -> first sequence of its group

    def on_data(self, payload: memoryview) -> list[bytes]:
        """Note a data payload; return those of its group that can be recovered now."""
        if payload[0] >> 4 != Kind.GROUPED:
            return []
        sequence = PAYLOAD_HEADER.unpack_from(payload)[1]
        self._note(sequence, bytes(payload))
        group = self._group_of.get(sequence)
        return self._try(group) if group is not None else []

    def on_parity(self, payload: memoryview) -> list[bytes]:
        """Take in a parity payload; return the data that it completes."""
        about, sequence = PAYLOAD_HEADER.unpack_from(payload)
        shares, total, index = about >> 8 & 15, about >> 4 & 15, about & 15
        if not 2 <= shares <= index < total:
            return []
        if self._shape.setdefault(sequence, (shares, total)) != (shares, total):
            return []
        self._parity.setdefault(sequence, {})[index] = bytes(payload[PAYLOAD_HEADER_LEN:])
        for offset in range(shares):
            self._group_of[(sequence + offset) & SLOT_MASK] = sequence
        while len(self._shape) > _GROUPS:
            self._forget(next(iter(self._shape)))
        return self._try(sequence)

    def _note(self, sequence: int, payload: bytes) -> None:
        self._recent[sequence] = payload
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]

    def _try(self, group: int) -> list[bytes]:
        shares, total = self._shape[group]
        members = [(group + offset) & SLOT_MASK for offset in range(shares)]
        parity = self._parity[group]
        have = {i: _covered(self._recent[s]) for i, s in enumerate(members) if s in self._recent}
        lost = [i for i in range(shares) if i not in have]
        if not lost or len(have) + len(parity) < shares:
            return []
        have |= dict(list(parity.items())[: len(lost)])
        # zfec wants each data share that is there at its own place, parity in the places of the lost ones.
        spare = iter(index for index in have if index >= shares)
        places = [i if i in have else next(spare) for i in range(shares)]
        whole = Decoder(shares, total).decode([have[i] for i in places], places)
        found = []
        for index in lost:
            head, content = whole[index][:PARITY_HEAD_LEN], whole[index][PARITY_HEAD_LEN:]
            payload = head + members[index].to_bytes(4, "big") + content + bytes(PARITY_HEAD_LEN)
            if payload[0] >> 4 == Kind.GROUPED:
                self._note(members[index], payload)
                found.append(payload)
        return found

    def _forget(self, group: int) -> None:
        shares, _ = self._shape.pop(group)
        self._parity.pop(group, None)
        for offset in range(shares):
            self._group_of.pop((group + offset) & SLOT_MASK, None)
