"""Random fault schedules: what must hold while everything goes wrong, and when it is over.

Each is decided by its number; `python -m anonnet.sim.faults --seed N --count 1 --verbose` tells of one that
fails here. ANONNET_FULL=1 lives through 1,000 of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from anonnet.proto.budget import LinkBudget
from anonnet.proto.lane import PlaneLink
from anonnet.proto.pacer import Beat
from anonnet.proto.plane import Plane
from anonnet.proto.segment import Reassembler
from anonnet.sim.clock import SECOND
from anonnet.sim.faults import live, summary
from anonnet.sim.schedule import KINDS, LONGEST, WITHIN, Fault, draw
from anonnet.sim.setup import LINKS, NAMES
from anonnet.sim.trial import Outcome, Trace, Trial, idle, ready

FULL = bool(os.environ.get("ANONNET_FULL"))
COUNT = 1000 if FULL else 120


@pytest.mark.timeout(3600 if FULL else 600)
def test_whatever_goes_wrong() -> None:
    outcomes = list(live(range(1, COUNT + 1)))
    print(summary(outcomes))
    assert len(outcomes) == COUNT
    assert {outcome.seed: outcome.trouble for outcome in outcomes if outcome.trouble} == {}
    assert {fault.kind for outcome in outcomes for fault in outcome.faults} == set(KINDS)
    assert min(outcome.out for outcome in outcomes) >= 10
    assert sum(outcome.wires for outcome in outcomes) > 5 * COUNT, "most wires were compared"


def test_a_schedule_is_decided_by_its_number() -> None:
    assert draw(7, NAMES, LINKS) == draw(7, NAMES, LINKS)
    assert draw(7, NAMES, LINKS) != draw(8, NAMES, LINKS)
    for seed in range(50):
        faults = draw(seed, NAMES, LINKS)
        assert all(fault.after < WITHIN and fault.lasts <= LONGEST + SECOND for fault in faults)
    once, again = (Trial(0, ready(0)).live({}) for _ in range(2))
    assert once == again


# -- what the trial would find --------------------------------------------------------------------


def trial(monkeypatch: pytest.MonkeyPatch, *faults: Fault, without: Trace | None = None) -> Outcome:
    """Live through these faults only."""
    monkeypatch.setattr("anonnet.sim.trial.draw", lambda *_: list(faults))
    return Trial(0, ready(0)).live(without or {})


END = Fault("end route", 4 * SECOND, SECOND, "caller")
LOSS = Fault("loss", SECOND, 3 * SECOND, wires=LINKS, amount=0.3)


def test_it_finds_slots_that_are_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinkBudget, "release", lambda self, route: None)
    assert "promised" in trial(monkeypatch, END).trouble


def test_it_finds_packets_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(honest: Callable[..., list[bytes]]) -> Callable[..., list[bytes]]:
        kept: list[bytes] = []

        def receive(self: Reassembler, payload: memoryview, now: int) -> list[bytes]:
            kept.extend(honest(self, payload, now))
            if len(kept) < 4:
                return []
            found, kept[:] = kept[::-1], []
            return found

        return receive

    monkeypatch.setattr(Reassembler, "receive", swapped(Reassembler.receive))
    assert " came after " in trial(monkeypatch, END).trouble


def test_it_finds_a_wire_that_shows_what_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    without = idle(ready(0))
    honest = Plane.prepare

    def eager(self: Plane, beat: Beat) -> list[PlaneLink]:
        links = honest(self, beat)
        for outgoing in links:
            outgoing.convoy.stir()
            outgoing.ready -= bool(self._circuits) and beat.tick % 64 == 0
        return links

    assert not trial(monkeypatch, LOSS, without=without).trouble
    monkeypatch.setattr(Plane, "prepare", eager)
    assert "on (" in trial(monkeypatch, LOSS, without=without).trouble
