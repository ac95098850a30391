"""The forward queue: what goes out is decided by the clock; what comes in only fills it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.proto.engine import Engine
from anonnet.proto.queue import DEPTH_TICKS, PREFILL_TICKS, SLIP_SPACING, Sizes
from anonnet.spec import NARROW, SLOT_MASK

SLOT = struct.Struct(">I")
START = SLOT_MASK - 1000  # numbers wrap early in every test
TICK = 1_000_000


@dataclass
class Bench:
    """A queue, and what came out of it."""

    engine: Engine
    per_tick: int
    taken: list[tuple[int, int | None]] = field(default_factory=list)  # slot, the number that its cell holds
    holds: list[int] = field(default_factory=list)  # ticks

    def __post_init__(self) -> None:
        self.queue = self.engine.queue(NARROW, self.per_tick)

    def put(self, slot: int) -> None:
        row = self.queue.claim(slot)
        if row is not None:
            SLOT.pack_into(row.body, 0, slot)
            self.queue.commit(slot)

    def tick(self, number: int) -> None:
        for _ in range(self.per_tick):
            item = self.queue.take(number)
            if item is None:
                if self.taken:
                    self.holds.append(number)
                return
            slot, row = item
            self.taken.append((slot, SLOT.unpack_from(row.body)[0] if row else None))

    def check(self) -> None:
        """What holds whatever came in."""
        jumps = [(b - a) & SLOT_MASK for (a, _), (b, _) in pairwise(self.taken)]
        assert set(jumps) <= {1, 1 + self.per_tick}, "slots run on, or skip a tick's worth"
        assert sum(jump != 1 for jump in jumps) + len(self.holds) == self.queue.slips
        assert all(held is None or held == slot for slot, held in self.taken), (
            "each cell under its own number"
        )
        most = 2 * max(8, (DEPTH_TICKS + PREFILL_TICKS + 1) * self.per_tick)
        assert Sizes.of(self.per_tick).capacity <= most


@given(
    per_tick=st.integers(1, 20),
    bursts=st.lists(st.lists(st.integers(-60, 60) | st.integers(0, SLOT_MASK), max_size=9), max_size=60),
)
@settings(max_examples=300)
def test_nothing_that_comes_in_moves_what_goes_out(
    engine: Engine, per_tick: int, bursts: list[list[int]]
) -> None:
    """Any cells at all, near, far, late, twice: the same slots leave in the same ticks."""
    bench = Bench(engine, per_tick)
    for slot in range(per_tick + 1):  # more than a tick's, and a tick has gone: it is sure where it is
        bench.put((START + slot) & SLOT_MASK)
    bench.tick(0)
    for tick, burst in enumerate(bursts, 1):
        for offset in burst:
            bench.put((START + tick * per_tick + offset) & SLOT_MASK)
        bench.tick(tick)
    assert [slot for slot, _ in bench.taken] == [
        (START - bench.queue.prefill + n) & SLOT_MASK for n in range((1 + len(bursts)) * per_tick)
    ]
    bench.check()


@given(per_tick=st.integers(1, 20), stall=st.integers(20, 4000))
def test_a_source_that_stalls_as_it_begins_is_followed(engine: Engine, per_tick: int, stall: int) -> None:
    """One tick's cells, then none for a while, whose slots it passes over: the queue begins anew, once."""
    bench = Bench(engine, per_tick)
    for slot in range(per_tick):
        bench.put((START + slot) & SLOT_MASK)
    again = START + stall * per_tick
    for tick in range(20):
        for slot in range(per_tick):
            bench.put((again + tick * per_tick + slot) & SLOT_MASK)
        bench.tick(tick)
    real = [slot for slot, held in bench.taken if held is not None]
    assert real == [(again + n) & SLOT_MASK for n in range(19 * per_tick)]
    far = bench.queue.next
    bench.put((again + 10_000 * per_tick) & SLOT_MASK)
    assert bench.queue.next == far, "only as it begins"


@given(per_tick=st.integers(1, 20), stall=st.integers(1, 4000))
def test_a_node_that_stood_still_as_the_route_began_follows_it(
    engine: Engine, per_tick: int, stall: int
) -> None:
    """All that piled up meanwhile is taken in at once, before anything goes out: the last of it counts."""
    bench = Bench(engine, per_tick)
    for slot in range(stall * per_tick):
        bench.put((START + slot) & SLOT_MASK)
    for tick in range(20):
        for slot in range(per_tick):
            bench.put((START + (stall + tick) * per_tick + slot) & SLOT_MASK)
        bench.tick(tick)
    lost = [slot for slot, held in bench.taken if held is None]
    assert len(lost) <= bench.queue.prefill, "only the prefill is empty"
    waiting = (START + (stall + 20) * per_tick - bench.queue.next) & SLOT_MASK
    assert waiting <= 4 * per_tick, "no lasting delay"


@given(
    per_tick=st.integers(1, 20), stall=st.integers(6, 4000), begun=st.booleans(), late=st.booleans(),
    skip_last=st.booleans(),
)  # fmt: skip
def test_ticks_that_were_skipped_as_the_route_began_are_passed_over_once(
    engine: Engine, per_tick: int, stall: int, begun: bool, late: bool, skip_last: bool
) -> None:
    """The cells that piled up may say where to begin before this node owns up to the ticks that it skipped.

    begun: cells came before it stood still; late: the tick that was due then goes out after it.
    """
    bench = Bench(engine, per_tick)
    if begun:
        bench.put(START)
    if late:
        bench.tick(0)
    if not skip_last:
        bench.queue.skip((stall - 1) * per_tick)
    for slot in range(1, stall * per_tick):
        bench.put((START + slot) & SLOT_MASK)
    if skip_last:
        bench.queue.skip((stall - 1) * per_tick)
    for tick in range(stall, stall + 20):
        for slot in range(per_tick):
            bench.put((START + tick * per_tick + slot) & SLOT_MASK)
        bench.tick(tick)
    lost = [slot for slot, held in bench.taken[-10 * per_tick :] if held is None]
    assert not lost, "in step again"


@given(per_tick=st.integers(1, 20), data=st.data())
@settings(max_examples=20)
def test_at_most_one_slip_in_so_many_ticks(engine: Engine, per_tick: int, data: st.DataObject) -> None:
    """A source that does all it can to be echoed: late, early or silent for as long as it likes."""
    bench = Bench(engine, per_tick)
    for slot in range(per_tick + 1):  # it is sure where it is, and will not begin anew
        bench.put((START + slot) & SLOT_MASK)
    ticks = 4 * SLIP_SPACING
    phases = data.draw(st.lists(st.tuples(st.integers(1, 300), st.integers(-3, 6)), min_size=4, max_size=12))
    shifts = (shift for length, shift in phases for _ in range(length))
    slips = []
    for tick in range(ticks):
        before = bench.queue.slips
        shift = next(shifts, 0)
        for n in range(per_tick):
            bench.put((bench.queue.next + shift * per_tick + n) & SLOT_MASK)
        bench.tick(tick)
        if bench.queue.slips != before:
            slips.append(tick)
    assert all(b - a >= SLIP_SPACING for a, b in pairwise([0, *slips]))
    bench.check()


def drifting(per_tick: int, ppm: int, ticks: int) -> Iterator[tuple[str, int]]:
    """Ticks of a source (slot numbers) and of the queue's node, in the order of their times."""
    period = TICK + TICK * ppm // 1_000_000
    source, own = TICK // 3, 0
    sent = taken = 0
    while taken < ticks:
        if source <= own:
            for n in range(per_tick):
                yield "cell", (START + sent * per_tick + n) & SLOT_MASK
            sent += 1
            source += period
        else:
            yield "tick", taken
            taken += 1
            own += TICK


@pytest.mark.parametrize("per_tick", [1, 2, 7])
@pytest.mark.parametrize("ppm", [-100, -20, 0, 20, 100])
def test_drift_costs_as_many_slips_as_it_makes_ticks(engine: Engine, per_tick: int, ppm: int) -> None:
    ticks = 60_000
    bench = Bench(engine, per_tick)
    depth = []
    newest = START
    for what, number in drifting(per_tick, ppm, ticks):
        if what == "cell":
            bench.put(number)
            newest = number
        else:
            bench.tick(number)
            if bench.taken:
                depth.append((newest + 1 - bench.queue.next + 99) & SLOT_MASK)
    bench.check()
    expected = ticks * abs(ppm) / 1_000_000  # 6 at 100 ppm
    assert expected - 4 <= bench.queue.slips <= expected + 1
    assert len(bench.holds) == (bench.queue.slips if ppm > 0 else 0), "a slow source is waited for"
    lost = sum(held is None for _, held in bench.taken[5 * per_tick :])
    assert lost == 0, "a slow source costs no cell"
    skipped = (ticks * per_tick - len(bench.holds) * per_tick) - len(bench.taken)
    assert skipped <= 3 * per_tick
    assert max(depth) <= 99 + 5 * per_tick, "latency is bounded (99: it may be just below zero)"


def test_a_lost_cell_is_substituted_under_its_own_number(engine: Engine) -> None:
    bench = Bench(engine, 2)
    for tick in range(50):
        for n in range(2):
            if (tick, n) != (20, 1):
                bench.put(100 + 2 * tick + n)
        bench.tick(tick)
    assert [slot for slot, held in bench.taken if held is None] == [98, 99, 141]
    assert bench.queue.missing == 3
    assert bench.queue.slips == 0


def test_before_the_first_cell_nothing_is_due(engine: Engine) -> None:
    bench = Bench(engine, 3)
    for tick in range(2 * SLIP_SPACING):
        bench.tick(tick)
    assert bench.taken == []
    assert bench.queue.slips == 0


def test_a_node_that_stood_still_catches_up_at_once(engine: Engine) -> None:
    """Its queue passes over the slots of the ticks it skipped; no cell that comes after that is late."""
    bench = Bench(engine, 3)
    stood_still = range(40, 61)
    for tick in range(100):
        if tick == stood_still.stop:
            bench.queue.skip(3 * len(stood_still))
        for n in range(3):
            bench.put(3 * tick + n)
        if tick not in stood_still:
            bench.tick(tick)
    held = [held for _, held in bench.taken if held is not None]
    assert held == [*range(3 * 39), *range(3 * 61, 3 * 99)]
    assert bench.queue.slips == 0


def test_a_steady_delay_is_made_up_for_tick_by_tick(engine: Engine) -> None:
    """A path that became longer for good: late cells are lost until the queue has held often enough."""
    bench = Bench(engine, 2)
    delay = 3
    for tick in range(5 * SLIP_SPACING):
        source = tick if tick < 100 else tick - delay
        if tick < 100 or tick >= 100 + delay:
            for n in range(2):
                bench.put(2 * source + n)
        bench.tick(tick)
    assert len(bench.holds) == delay
    assert all(held is not None for _, held in bench.taken[-2 * SLIP_SPACING // 2 :])
    bench.check()


STEPS = (969, 1000)  # cells a tick, as a fraction: nearly one, so that a tick is left out now and then


@dataclass
class Stepping:
    """A source and a queue's node at such a rate; where each leaves ticks out is its own business."""

    engine: Engine
    source: int  # what it has earned of its next cell as the node begins, in parts of STEPS[1]
    own: int = 0  # the same of the node
    came: dict[int, int] = field(default_factory=dict)  # slot -> tick
    went: list[tuple[int, int, bool]] = field(default_factory=list)  # tick, slot, whether its cell was there
    slips: list[int] = field(default_factory=list)  # ticks

    def __post_init__(self) -> None:
        self.queue = self.engine.queue(NARROW, STEPS[0] / STEPS[1])

    def run(self, ticks: range, replayed: Callable[[int], bool] = lambda _: False) -> None:
        """Of cells of which `replayed` says so, an older one comes instead."""
        for tick in ticks:
            self.source += STEPS[0]
            if self.source >= STEPS[1]:
                self.source -= STEPS[1]
                slot = len(self.came)
                self.came[slot] = tick
                self._put(slot - 8 if replayed(slot) else slot)
            self.own += STEPS[0]
            if self.own >= STEPS[1]:
                self.own -= STEPS[1]
                before = self.queue.slips
                item = self.queue.take(tick)
                if item is not None:
                    self.went.append((tick, item[0], item[1] is not None))
                if self.queue.slips != before:
                    self.slips.append(tick)

    def _put(self, slot: int) -> None:
        if self.queue.claim(slot & SLOT_MASK) is not None:
            self.queue.commit(slot & SLOT_MASK)

    def waits(self, first: int) -> list[int]:
        """How many ticks each cell waited that went out from tick `first` on."""
        return [tick - self.came[slot] for tick, slot, _ in self.went if tick >= first]


_EARNED = st.integers(0, STEPS[1] - 1)


@given(source=_EARNED)
@settings(max_examples=25)
def test_at_nearly_a_cell_a_tick_cells_wait_for_a_tick_or_two(engine: Engine, source: int) -> None:
    """What comes is in full swing as this node's lane begins: forward."""
    run = Stepping(engine, source)
    run.run(range(4 * SLIP_SPACING))
    assert not run.slips
    assert {1, 2} >= set(run.waits(8)) or {2, 3} >= set(run.waits(8))
    assert all(there for _, _, there in run.went[3:])


@given(source=_EARNED)
@settings(max_examples=25)
def test_at_nearly_a_cell_a_tick_a_hold_gives_cells_a_tick_to_spare_again(
    engine: Engine, source: int
) -> None:
    run = Stepping(engine, source)
    run.run(range(SLIP_SPACING))
    run.source -= STEPS[1]  # it is a cell behind for good
    run.run(range(SLIP_SPACING, 5 * SLIP_SPACING))
    assert len(run.slips) <= 1
    waits = run.waits(3 * SLIP_SPACING)
    assert max(waits) <= 2
    assert sum(wait < 1 for wait in waits) <= 0.15 * len(waits), "hardly any goes on as soon as it comes"
    assert all(there for _, _, there in run.went[3:])


@given(source=_EARNED, every=st.integers(10, 40))
@settings(max_examples=25)
def test_few_replayed_cells_move_nothing_at_nearly_a_cell_a_tick(
    engine: Engine, source: int, every: int
) -> None:
    """One cell in ten is an old one: the same slots go out in the same ticks."""
    honest, cheated = (Stepping(engine, source) for _ in range(2))
    honest.run(range(4 * SLIP_SPACING))
    cheated.run(range(SLIP_SPACING))
    cheated.run(range(SLIP_SPACING, 4 * SLIP_SPACING), lambda slot: slot % every == 0)
    assert [went[:2] for went in cheated.went] == [went[:2] for went in honest.went]
    assert sum(there for _, _, there in cheated.went) < sum(there for _, _, there in honest.went)


TURN = SLIP_SPACING + 1  # ticks; a little more, so that there is a moment to slip in each


@given(source=_EARNED)
@settings(max_examples=25)
def test_at_nearly_a_cell_a_tick_two_cells_to_spare_are_made_one(engine: Engine, source: int) -> None:
    run = Stepping(engine, source)
    run.run(range(TURN))
    run.source += STEPS[1]  # it is a cell ahead for good
    run.run(range(TURN, 6 * TURN))
    assert len(run.slips) <= 1
    waits = run.waits(4 * TURN)
    assert min(waits) >= 1
    assert sum(waits) <= 2.25 * len(waits)
    assert all(there for _, _, there in run.went[3:])


def held_and_ahead_again(engine: Engine) -> tuple[Stepping, int]:
    """A queue that has held once, what comes to it a cell ahead of that since; how many ticks it took."""
    run = Stepping(engine, STEPS[1] // 2)
    run.run(range(TURN))
    run.source -= STEPS[1]
    run.run(range(TURN, 3 * TURN))
    assert len(run.slips) == 1, "a hold"
    run.source += STEPS[1]
    return run, 3 * TURN


def test_at_nearly_a_cell_a_tick_no_skip_follows_a_hold_before_it_was_so_for_long(engine: Engine) -> None:
    run, began = held_and_ahead_again(engine)
    run.run(range(began, began + 3 * TURN))
    assert len(run.slips) == 1
    run.run(range(began + 3 * TURN, began + 6 * TURN))
    assert len(run.slips) == 2, "a skip"
    assert set(run.waits(began + 6 * TURN - 100)) == {1, 2}


def test_at_nearly_a_cell_a_tick_a_turn_without_plenty_begins_the_wait_anew(engine: Engine) -> None:
    run, began = held_and_ahead_again(engine)
    run.run(range(began, began + 3 * TURN))
    run.source -= STEPS[1]
    run.run(range(began + 3 * TURN, began + 4 * TURN))
    run.source += STEPS[1]
    run.run(range(began + 4 * TURN, began + 7 * TURN))
    assert len(run.slips) == 1
