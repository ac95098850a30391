"""Admission: a link never promises more than it has, at either of its ends, whatever is asked of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anonnet.proto.budget import CONTROL_LEAST, CONTROL_SHARE, FEW_LINKS, LinkBudget, parts_of
from anonnet.proto.orders import RATE_UNIT
from anonnet.proto.profile import NAMED, Schedule, parse_profile

SCHEDULE = Schedule(5_000_000, 18, 7)
CAPACITY_OUT, CAPACITY_IN = 3_487_500, 1_356_250  # 31/32 of 3600 and of 1400 cells per second

SCHEDULES = st.builds(Schedule, st.integers(1_000_000, 10**9), st.integers(1, 500), st.integers(1, 500))
RATES = st.integers(1, 2_000_000) | st.integers(1, 2**32 - 1)


class Ends(RuleBasedStateMachine):
    """Both ends keep the same books, out and in exchanged; routes come and go in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.here = LinkBudget(SCHEDULE)
        self.there = LinkBudget(SCHEDULE.mirrored)
        self.promised: dict[int, tuple[int, int]] = {}

    @rule(route=st.integers(0, 9), out=RATES, in_=RATES)
    def reserve(self, route: int, out: int, in_: int) -> None:
        granted = self.here.reserve(route, out, in_)
        assert granted == self.there.reserve(route, in_, out)
        used_out = sum(rates[0] for rates in self.promised.values())
        used_in = sum(rates[1] for rates in self.promised.values())
        fits = used_out + out <= CAPACITY_OUT and used_in + in_ <= CAPACITY_IN
        assert granted == (fits and route not in self.promised)
        if granted:
            self.promised[route] = out, in_

    @rule(route=st.integers(0, 9))
    def release(self, route: int) -> None:
        self.here.release(route)
        self.there.release(route)
        self.promised.pop(route, None)

    @rule()
    def clear(self) -> None:
        self.here.clear()
        self.there.clear()
        self.promised.clear()

    @invariant()
    def never_more_than_there_is(self) -> None:
        assert self.here.free_out == self.there.free_in >= 0
        assert self.here.free_in == self.there.free_out >= 0
        assert self.here.free_out == CAPACITY_OUT - sum(rates[0] for rates in self.promised.values())


TestEnds = Ends.TestCase
TestEnds.settings = settings(max_examples=100, stateful_step_count=40)


@given(SCHEDULES)
def test_capacity_leaves_the_control_channel_its_share(schedule: Schedule) -> None:
    budget = LinkBudget(schedule)
    for capacity, cells in (
        (budget.capacity_out, schedule.cells_out),
        (budget.capacity_in, schedule.cells_in),
    ):
        promised_per_tick = capacity * schedule.tick_ns / RATE_UNIT
        kept = max(cells / CONTROL_SHARE, CONTROL_LEAST * schedule.tick_ns / RATE_UNIT)
        least = 2 * schedule.tick_ns / RATE_UNIT  # roundings, to whole millicells a second
        assert capacity >= 0
        assert promised_per_tick <= max(0, cells - kept)
        assert promised_per_tick >= max(0, cells - kept) - least


def test_every_named_profile_has_room_for_a_route() -> None:
    for name in NAMED:
        budget = LinkBudget(parse_profile(name).schedule("raw", 4))
        assert budget.reserve(1, budget.capacity_out, budget.capacity_in)
        assert not budget.reserve(2, 1, 1)


def test_a_part_of_what_is_free_is_the_most_for_one_route() -> None:
    budget = LinkBudget(Schedule(5_000_000, 16, 16))  # 3,100,000 millicells a second each way to promise
    assert not budget.reserve(1, 775_001, 775_000, parts=4)
    assert not budget.reserve(1, 775_000, 775_001, parts=4)
    assert budget.reserve(1, 775_000, 775_000, parts=4)
    assert not budget.reserve(2, 581_251, 1, parts=4), "of what is left: 2,325,000"
    assert budget.reserve(2, 581_250, 581_250, parts=4)


def test_many_routes_leave_something_and_thin_ones_get_the_last_of_it() -> None:
    budget = LinkBudget(Schedule(5_000_000, 16, 16))
    for route in range(10):
        assert budget.reserve(route, budget.free_out // 4, budget.free_in // 4, parts=4)
    thin = 3_100_000 // 128
    assert budget.free_out > 4 * thin
    for route in range(10, 17):
        assert budget.reserve(route, thin, thin, parts=4)
    assert budget.free_out < thin
    assert not budget.reserve(17, thin, thin, parts=4)


def test_only_relays_with_many_links_keep_some_back() -> None:
    assert {parts_of(links) for links in range(FEW_LINKS + 1)} == {1}
    assert {parts_of(links) for links in range(FEW_LINKS + 1, 100)} == {4}
