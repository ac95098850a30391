"""Beats: absolute time, whatever happens."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from statistics import pstdev

from hypothesis import given
from hypothesis import strategies as st

from anonnet.proto.pacer import DITHER_NS, LATE_NS, LEAD_CELL_NS, Beat

TICK = 5_000_000
START = 10**15


def beat(seed: int = 1, randomised: bool = False) -> Beat:
    return Beat(TICK, START, Random(seed).randbytes, randomised)


def test_the_first_deadline_is_drawn() -> None:
    """Nodes that start together do not tick together."""
    firsts = {beat(seed).deadline for seed in range(50)}
    assert len(firsts) == 50
    assert all(START + TICK <= first < START + 2 * TICK for first in firsts)


@given(st.lists(st.integers(-1_000, 40_000_000), max_size=60))
def test_deadlines_stay_on_the_grid_however_late_one_is(delays: list[int]) -> None:
    """A late tick goes out at once and the next is on time; missed ones are skipped and never made up for."""
    pacer = beat()
    origin = pacer.deadline
    skips = 0
    for emitted, delay in enumerate(delays, start=1):
        now, pacer_tick = pacer.deadline + delay, pacer.tick
        late, skipped = pacer.advance(now)
        assert late == (delay > LATE_NS)
        assert skipped == max(0, (now - origin - pacer_tick * TICK) // TICK)
        skips += skipped
        assert (pacer.deadline - origin) % TICK < DITHER_NS
        assert now - DITHER_NS < pacer.deadline <= now + TICK + DITHER_NS + 1_000
        assert pacer.tick == emitted + skips == (pacer.deadline - origin) // TICK


def test_what_an_emission_takes_is_no_lateness_but_may_take_the_next_ones_turn() -> None:
    pacer = beat()
    assert pacer.advance(pacer.deadline + LATE_NS, took=TICK // 2) == (False, 0)
    assert pacer.advance(pacer.deadline + LATE_NS + 1, took=TICK) == (True, 1)


def test_fixed_deadlines_are_dithered_by_draws_that_fill_a_third_of_a_millisecond() -> None:
    """And by no more than the 100 us of standard deviation that emission may have in all."""
    pacer = beat()
    origin = pacer.deadline
    offsets = []
    for n in range(1, 2001):
        pacer.advance(pacer.deadline)
        offsets.append(pacer.deadline - origin - n * TICK)
    assert 0 <= min(offsets) < 3_200
    assert 316_800 < max(offsets) < DITHER_NS == 320_000
    assert 88_000 < pstdev(offsets) < 96_000


@given(st.integers(0, 2**32))
def test_randomised_deadlines_move_but_the_rate_does_not(seed: int) -> None:
    pacer = beat(seed, randomised=True)
    origin = pacer.deadline
    deadlines = []
    for _ in range(400):
        deadlines.append(pacer.deadline)
        assert pacer.advance(pacer.deadline) == (False, 0)
    offsets = [at - origin - n * TICK for n, at in enumerate(deadlines)]
    assert all(0 <= offset < TICK // 2 for offset in offsets)
    assert len(set(offsets)) > 390
    assert all(later - earlier > TICK // 2 for earlier, later in pairwise(deadlines))


def test_sealing_begins_a_fixed_time_ahead() -> None:
    """The lead depends on how many cells the beat has, never on what is in them or how long it took."""
    pacer = beat()
    idle = pacer.deadline - pacer.prepare_at
    pacer.cells = 18
    lead = pacer.deadline - pacer.prepare_at
    assert lead > idle
    pacer.advance(pacer.deadline + 3 * TICK)
    assert pacer.deadline - pacer.prepare_at == lead
    pacer.cells = 10**6
    assert pacer.deadline - pacer.prepare_at == TICK // 2


def test_a_faster_engine_needs_less_lead_for_each_cell() -> None:
    usual, fast = beat(), Beat(TICK, START, Random(1).randbytes, lead_cell_ns=LEAD_CELL_NS // 2)
    for pacer in (usual, fast):
        pacer.cells = 40
    leads = [pacer.deadline - pacer.prepare_at for pacer in (usual, fast)]
    assert leads[0] - leads[1] == 40 * LEAD_CELL_NS // 2
