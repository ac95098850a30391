"""The router's weather under a virtual clock."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import OperatorError
from anonnet.lab.weather import Rule, Weather

MS = 1_000_000


def packet(number: int, source: int = 1) -> bytes:
    """An IPv4 header's addresses and a number; nothing else is looked at."""
    return b"\x45" + bytes(11) + struct.pack(">III", 0x64400002 + (source << 16), 0x64420002, number)


def number(data: bytes) -> int:
    return int(struct.unpack(">I", data[-4:])[0])


def run(rule: Rule, count: int, gap: int = MS, source: int = 1, others: int = 0) -> list[int]:
    """Send `count` packets and return the numbers that arrive, in order."""
    weather, out = Weather(rule), []
    for n in range(count):
        now = n * gap
        out += weather.due(now)
        weather.submit(packet(n, source), now)
        for other in range(others):
            weather.submit(packet(0, 10 + other), now)
    out += weather.due(2**62)
    assert weather.next_deadline() is None
    return [number(data) for data in out if data[12:16] == packet(0, source)[12:16]]


def test_fair_weather_changes_nothing() -> None:
    assert run(Rule(), 1000) == list(range(1000))


@given(seed=st.integers(), others=st.integers(0, 3))
def test_fates_follow_from_seed_and_number_alone(seed: int, others: int) -> None:
    rule = Rule(drop=0.1, duplicate=0.1, reorder=0.1, delay=20 * MS, jitter=5 * MS, seed=seed)
    assert run(rule, 200) == run(rule, 200, others=others)


def test_directions_and_seeds_have_fates_of_their_own() -> None:
    rule = Rule(drop=0.5, seed=1)
    assert run(rule, 200) != run(rule, 200, source=2)
    assert run(rule, 200) != run(Rule(drop=0.5, seed=2), 200)


def test_a_share_more_leaves_the_other_fates_as_they_were() -> None:
    dropped = set(range(1000)) - set(run(Rule(drop=0.1), 1000))
    assert set(range(1000)) - set(run(Rule(drop=0.1, duplicate=0.3, reorder=0.3), 1000)) == dropped


def test_shares_are_about_right() -> None:
    got = run(Rule(drop=0.01, seed=7), 100_000)
    assert 800 < 100_000 - len(got) < 1200


def test_delay_is_exact_and_jitter_keeps_order() -> None:
    weather = Weather(Rule(delay=20 * MS))
    weather.submit(packet(0), 5)
    assert weather.next_deadline() == 20 * MS + 5
    assert weather.due(20 * MS + 4) == []
    assert weather.due(20 * MS + 5) == [packet(0)]
    assert run(Rule(jitter=50 * MS), 500) == list(range(500))


def test_reordered_packets_are_overtaken_and_none_is_lost() -> None:
    got = run(Rule(reorder=0.05, hold=10 * MS), 2000)
    assert sorted(got) == list(range(2000))
    assert got != sorted(got)


def test_duplicates_arrive_twice() -> None:
    weather = Weather(Rule(duplicate=1.0))
    weather.submit(packet(3), 0)
    assert weather.due(0) == [packet(3)] * 2
    assert weather.counts == {"received": 1, "duplicated": 1, "sent": 2}


def test_ipv6_flows_are_told_apart_by_whole_addresses() -> None:
    weather = Weather(Rule(drop=0.5))
    for n in range(64):
        weather.submit(b"\x60" + bytes(7) + bytes(15) + bytes([n % 2]) + bytes(16), 0)
    assert len(weather._flows) == 2


@pytest.mark.parametrize("values", [{"drop": 1.1}, {"reorder": -0.1}, {"delay": -1}])
def test_impossible_rules_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(OperatorError):
        Rule(**values)  # type: ignore[arg-type]
