"""When a hop numbers what comes from beyond it: by cells that come as a clock owes them, soon."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.proto.beginning import LAST_NS, MS, Beginning
from anonnet.spec import SLOT_MASK

TICK = 5 * MS
BEGIN = SLOT_MASK - 30  # numbers wrap
T0 = 10**12


def joined(beginning: Beginning, cells: list[tuple[int, int]]) -> int | None:
    """The place of the first cell (slot, time) at which it is steady."""
    steady = (n for n, (slot, at) in enumerate(cells) if beginning.steady(slot & SLOT_MASK, at))
    return next(steady, None)


def batch(tick: int, per_tick: int, behind: int = 0, at: int | None = None) -> list[tuple[int, int]]:
    """A tick's cells, numbered as for so many ticks earlier."""
    first = BEGIN + (tick - behind) * per_tick
    return [(first + n, T0 + tick * TICK if at is None else at) for n in range(per_tick)]


@given(per_tick=st.integers(1, 20), late=st.lists(st.integers(0, TICK // 4), min_size=3, max_size=3))
def test_cells_that_come_each_tick_are_waited_for_for_a_tick(per_tick: int, late: list[int]) -> None:
    """A batch may be late by a quarter of a tick."""
    cells = [(slot, at + late[tick]) for tick in range(3) for slot, at in batch(tick, per_tick)]
    found = joined(Beginning(per_tick, TICK), cells)
    assert found in (per_tick, 2 * per_tick)


@given(per_tick=st.integers(1, 20), stall=st.integers(4, 4000), soon=st.integers(1, TICK))
def test_what_was_sealed_before_its_sender_stood_still_does_not_count(
    per_tick: int, stall: int, soon: int
) -> None:
    """It is sent as soon as the sender goes on, and the next batch `soon` after it, by the schedule."""
    cells = batch(stall, per_tick, behind=stall, at=T0 + stall * TICK - soon)
    for tick in range(stall, stall + 4):
        cells += batch(tick, per_tick)
    found = joined(Beginning(per_tick, TICK), cells)
    assert found is not None
    assert found >= per_tick


@given(per_tick=st.integers(1, 20), before=st.booleans(), stall=st.integers(4, 400))
def test_what_piled_up_while_this_node_stood_still_does_not_count(
    per_tick: int, before: bool, stall: int
) -> None:
    cells = batch(0, per_tick) if before else []
    for tick in range(1, stall):
        cells += batch(tick, per_tick, at=T0 + stall * TICK)
    piled_up = len(cells)
    for tick in range(stall, stall + 4):
        cells += batch(tick, per_tick)
    found = joined(Beginning(per_tick, TICK), cells)
    assert found is not None
    # One of the last that piled up may do: it is no further back than jitter brings about.
    slot, at = cells[found]
    assert abs((slot - BEGIN) - (at - T0) // TICK * per_tick) <= 2 * per_tick + 1
    assert found >= piled_up - 2 * per_tick - 1


@pytest.mark.parametrize(("per_tick", "tick_ns"), [(0.02, TICK), (1.0, LAST_NS + 1)])
def test_cells_far_apart_are_not_waited_for(per_tick: float, tick_ns: int) -> None:
    assert joined(Beginning(per_tick, tick_ns), [(BEGIN, T0)]) == 0
