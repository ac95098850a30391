"""The observer's counts, on traces made from a schedule."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from anonnet.audit.pcap import Trace
from anonnet.audit.picture import WIDTH, picture, strip
from anonnet.audit.wire import compare, is_link, never_meet, nothing_else, per_tick, stream

TICK = 4_954_219  # ns: t3's, not a round number
CELLS = 22


def arrivals(
    ticks: int, cells: int = CELLS, phase: int = 0, jitter: int = 80_000, seed: int = 1
) -> np.ndarray:
    """Batches on an absolute schedule, each late by a little, 5 us between its datagrams."""
    random = np.random.default_rng(seed)
    starts = phase + np.arange(ticks) * TICK + np.abs(random.normal(0, jitter, ticks)).astype(np.int64)
    return np.sort((starts[:, None] + np.arange(cells) * 5000).reshape(-1))


def trace(times: np.ndarray, length: int = 1252, proto: int = 253, src: int = 1, dst: int = 2) -> Trace:
    n = len(times)

    def row(last: int) -> np.ndarray:
        return np.tile(np.array([0] * 10 + [255, 255, 100, 64 + last, 0, 2], np.uint8), (n, 1))

    lengths, versions, protos, ports = (np.full(n, value, np.int64) for value in (length, 4, proto, 0))
    return Trace(times.astype(np.int64), lengths, versions, protos, row(src), row(dst), ports, ports)


@given(
    phase=st.integers(0, TICK),
    jitter=st.integers(0, 300_000),
    cells=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_ticks_are_found_wherever_they_start(phase: int, jitter: int, cells: int, seed: int) -> None:
    counts, starts = per_tick(arrivals(200, cells, phase, jitter, seed), TICK)
    assert counts.tolist() == [cells] * 198
    assert np.diff(starts).tolist() == [TICK] * 197


def test_an_hour_does_not_drift() -> None:
    times = 1_700_000_000_000_000_000 + arrivals(700_000, 1)
    assert set(per_tick(times, TICK)[0].tolist()) == {1}


def test_one_datagram_too_many_shows() -> None:
    times = np.sort(np.append(arrivals(1000), 500 * TICK + 2_000_000))
    counts, _ = per_tick(times, TICK)
    assert sorted(counts.tolist())[-1] == CELLS + 1
    idle, loaded = stream(trace(arrivals(1000)), TICK), stream(trace(times), TICK)
    assert loaded.histogram == {CELLS: 997, CELLS + 1: 1}
    assert all(finding.held for finding in compare(idle, idle, CELLS))
    assert [f.held for f in compare(idle, loaded, CELLS, tolerance=1e-6)] == [False, True, False]


def test_a_rate_that_follows_the_load_is_found() -> None:
    idle, loaded = stream(trace(arrivals(500, 3)), TICK), stream(trace(arrivals(500)), TICK)
    assert [finding.held for finding in compare(idle, loaded, CELLS)] == [False, True, False]


def test_a_length_that_differs_is_found() -> None:
    one, other = (stream(trace(arrivals(100), length), TICK) for length in (1252, 1251))
    assert not compare(one, other, CELLS)[1].held


def test_silence_is_not_a_constant_rate() -> None:
    empty = stream(trace(np.zeros(0, np.int64)), TICK)
    assert (empty.total, len(empty.counts), empty.per_second) == (0, 0, 0.0)
    assert not any(finding.held for finding in compare(empty, empty, CELLS))


def test_only_link_datagrams_between_neighbours() -> None:
    nodes = ["100.64.0.0/10"]
    assert nothing_else(trace(arrivals(10)), nodes).held
    found = nothing_else(trace(arrivals(10), proto=1), nodes)
    assert not found.held
    assert "protocol 1" in found.numbers
    assert not is_link(trace(arrivals(1), proto=17)).any()


def test_hosts_that_meet_are_found_in_either_direction() -> None:
    met = trace(arrivals(1, 1), src=0, dst=7)
    assert not never_meet(met, ["100.64.0.2"], ["100.71.0.2"]).held
    assert not never_meet(met, ["100.71.0.2", "3fff::1"], ["100.64.0.2"]).held
    assert never_meet(met, ["100.64.0.2"], ["100.70.0.2"]).held


def test_ticks_in_which_the_machine_stood_still_are_left_out_and_only_those() -> None:
    late = arrivals(200)
    held = slice(50 * CELLS, 52 * CELLS)
    late[held] = np.maximum(late[held], late[52 * CELLS] - 1)  # two batches come with the third
    seen = stream(trace(late), TICK)
    assert seen.exact(CELLS) < 1
    stall = (50 * TICK - 1000, 52 * TICK)
    spared = seen.without([stall])
    assert spared.exact(CELLS) == 1
    assert 3 <= len(seen.counts) - len(spared.counts) <= 6
    assert seen.without([(50 * TICK, 50 * TICK + TICK // 4)]).histogram == seen.histogram


def test_the_picture_of_a_constant_rate_is_an_even_band() -> None:
    assert strip(np.full(200, CELLS), CELLS) == "▄" * WIDTH
    assert strip(np.array([0, CELLS, 2 * CELLS, 9 * CELLS]), CELLS) == " ▄██"
    assert "▁" in strip(np.array([1] + [0] * 63), CELLS)


def test_the_picture_shows_both_times_and_the_extremes() -> None:
    idle, loaded = (stream(trace(arrivals(450, n)), TICK) for n in (CELLS, CELLS - 1))
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(picture("wire", {"out": (idle, loaded)}, {"out": CELLS}))
    text = console.export_text()
    assert text.count("22/22/22") == text.count("21/21/21") == 2
    assert "(no traffic)" not in text
