"""The rebuild budget: quick at first, then slower, bounded in the long run, never in rotation's way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.proto.keeper import LIFE_NS
from anonnet.proto.rebuild import (
    AT_ONCE,
    FORGET_NS,
    SECOND,
    SLOWEST_NS,
    SUPPLY,
    SUPPLY_REFILL_NS,
    Bucket,
    RebuildBudget,
)

DAY = 86_400 * SECOND
START = 1000 * SECOND


def budget(routes: int) -> RebuildBudget:
    made = RebuildBudget()
    made.renew(routes, START)
    return made


def builds(spending: RebuildBudget, until: int, since: int = START) -> list[int]:
    """When somebody begins routes who begins one whenever he may."""
    times = []
    now = since
    while (now := spending.ready_at(now)) < until:
        times.append(now)
        spending.begun(now)
    return times


@pytest.mark.parametrize("routes", [1, 2, 3, 8])
def test_the_first_ones_at_once_then_slower_and_slower(routes: int) -> None:
    times = builds(budget(routes), START + 60 * SECOND)
    waits = [b - a for a, b in pairwise(times)]
    at_once = routes + AT_ONCE
    assert waits[: at_once - 1] == [0] * (at_once - 1)
    assert waits[at_once - 1] <= SECOND // 2
    assert max(waits) == SLOWEST_NS
    assert all(a <= b for a, b in pairwise(waits))


def test_a_pause_restores_the_pace() -> None:
    spending = budget(2)
    times = builds(spending, START + 60 * SECOND)
    rested = times[-1] + 12 * FORGET_NS
    assert spending.ready_at(rested) == rested
    assert builds(spending, rested + 1, rested) == [rested] * (2 + AT_ONCE)


@pytest.mark.parametrize("routes", [1, 2, 3])
def test_whoever_kills_every_route_no_more_than_doubles_the_builds(routes: int) -> None:
    mean_life = sum(LIFE_NS) // 2
    planned = routes * DAY // mean_life
    times = builds(budget(routes), START + 30 * DAY)
    assert len(times) <= SUPPLY + 2 * 30 * planned
    assert len(times) >= 30 * planned, "and it is no dead end"


@pytest.mark.parametrize("routes", [1, 2, 3])
def test_planned_builds_leave_something_over(routes: int) -> None:
    """Rotation for a day, each route at its shortest life, waits for nothing and empties nothing."""
    spending = budget(routes)
    shortest = LIFE_NS[0] // routes
    for now in range(START, START + DAY, shortest):
        assert spending.ready_at(now) == now
        spending.begun(now)
    assert spending.left(START + DAY) >= SUPPLY - routes - 1


def test_a_circuit_that_loses_its_last_route_does_not_wait_for_what_was_lost_before() -> None:
    """Three losses of all routes, four seconds long and ten apart: each costs half as much again at most."""
    spending = budget(2)
    for number in range(3):
        lost = START + number * 14 * SECOND
        now = lost
        while now < lost + 4 * SECOND:  # what is begun before is in vain
            now = spending.ready_at(now, lost)
            spending.begun(now)
        assert now <= lost + 6 * SECOND
    assert spending.ready_at(now) - now > 6 * SECOND, "what is one more beside others waits its turn"
    assert spending.left(now) > 0


def test_losses_without_end_are_paced_by_half_of_the_supply() -> None:
    """Whoever kills every route as soon as it stands gets that half quickly, and the other one slowly."""
    spending, now, times = budget(2), START, []
    while now < START + 600 * SECOND:
        now = spending.ready_at(now, now)
        spending.begun(now)
        times.append(now)
    assert len(times) <= SUPPLY + 2 + 600 * SECOND * 2 // SUPPLY_REFILL_NS
    assert times[SUPPLY - 10] - START > 100 * SECOND, "it does not run out at once"


def test_an_outage_of_five_minutes_is_ridden_out_at_full_pace() -> None:
    times = builds(budget(2), START + 300 * SECOND)
    assert max(b - a for a, b in pairwise(times)) <= SLOWEST_NS
    assert len(times) < SUPPLY


def test_a_person_who_asks_again_is_not_made_to_wait() -> None:
    spending = budget(1)
    builds(spending, START + DAY)
    now = START + DAY
    assert spending.left(now) <= 1
    spending.renew(1, now)
    assert spending.left(now) == SUPPLY


@given(
    st.lists(st.tuples(st.integers(0, 2000 * SECOND), st.booleans()), max_size=200),
    st.integers(1, 8), st.integers(1, 8),
)  # fmt: skip
def test_bounds_hold_however_builds_come(steps: list[tuple[int, bool]], routes: int, later: int) -> None:
    """`ready_at` is never in the past, never further off than the pace or the supply makes it."""
    spending = budget(routes)
    now, unplanned = START, 0
    for number, (pause, planned) in enumerate(steps):
        now += pause
        if number == len(steps) // 2:
            spending.resize(later, now)
        ready = spending.ready_at(now)
        assert now <= ready <= now + max(SLOWEST_NS, SUPPLY_REFILL_NS)
        if not planned:
            now = ready
            unplanned += 1
        spending.begun(now)
        assert 0 <= spending.left(now) < SUPPLY
    assert unplanned <= SUPPLY + (now - START) * max(routes, later) // SUPPLY_REFILL_NS + 1


@given(st.lists(st.integers(0, 100), max_size=100), st.integers(1, 20), st.integers(1, 50))
def test_a_bucket_gives_no_more_than_it_holds_and_gains(pauses: list[int], size: int, refill: int) -> None:
    bucket = Bucket(size, refill)
    now = taken = 0
    for pause in pauses:
        now += pause
        if bucket.ready_at(now) == now:
            bucket.take(now)
            taken += 1
    assert taken <= size + now / refill + 1
