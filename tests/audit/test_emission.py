"""Times of emission: found again in arrivals, and told apart if they differ."""

from __future__ import annotations

import numpy as np
import pytest

from anonnet.audit import emission

TICK = 1_000_000
TICKS = 10_000


def arrivals(shift: float, spread: float, seed: int) -> np.ndarray:
    """Two datagrams a tick, 3 us apart, each batch late by a normal draw; ns."""
    late = np.random.default_rng(seed).normal(shift, spread, TICKS)
    begins = np.arange(TICKS) * TICK + 10**18 + 500_000 + late.astype(np.int64)
    return np.sort(np.concatenate([begins, begins + 3_000]))


def test_each_batch_is_found_once_and_where_it_begins() -> None:
    times = arrivals(0, 20_000, 1)
    begins = emission.batches(times, TICK)
    assert len(begins) == TICKS
    assert set(begins) <= set(times[0::2])
    assert emission.lateness(begins, TICK).std() == pytest.approx(20_000, rel=0.05)


def test_a_tick_without_a_batch_moves_no_other() -> None:
    times = arrivals(0, 20_000, 1)
    late = emission.lateness(emission.batches(np.concatenate([times[:200], times[204:]]), TICK), TICK)
    assert len(late) == TICKS - 2
    assert np.abs(late).max() < 120_000


def test_no_difference_is_found_where_there_is_none_and_a_small_one_is() -> None:
    """A median that moves by a tenth of the spread is found by ten thousand batches; so is a wider spread."""
    p_values = []
    for seed in range(20):
        one, other = (np.random.default_rng((seed, n)).normal(0, 10_000, TICKS) for n in (0, 1))
        p_values.append(emission.same(one, other))
        assert emission.same(one, other + 1_000) < 0.0005
        assert emission.same(one, other * 1.2) < 0.0005
    assert emission.none_of(p_values)


def test_one_of_many_tests_must_find_more_than_one_alone() -> None:
    assert emission.none_of([0.5, 0.004, 0.3])
    assert not emission.none_of([0.5, 0.003, 0.3])
    assert not emission.none_of([0.01])
