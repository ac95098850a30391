"""Profiles: what an operator writes, and the schedule that both ends derive from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import OperatorError
from anonnet.proto.profile import NAMED, SECOND_NS, Profile, Schedule, parse_profile
from anonnet.spec import NARROW, WIDE

MS = 1_000_000
RATES = st.integers(9_600, 10_000_000_000)


def test_the_schedules_of_some_profiles() -> None:
    """By hand from docs/protocol.md section 4; a cell over raw IPv4 takes 1252 bytes, or 276 if narrow."""
    for text, tick_ns, cells in (
        ("modem", 65_714_286, 1),
        ("t1", 6_487_047, 1),
        ("10m", 5_008_000, 5),
        ("t3", 4_477_825, 20),
        ("100m", 2_003_200, 20),
        ("250m", 2_003_200, 50),
        ("100m:5ms", 5_008_000, 50),
        ("100m:1ms", 1_001_600, 10),
    ):
        assert parse_profile(text).schedule("raw", 4) == Schedule(tick_ns, cells, cells), text


def test_options_may_come_in_any_order() -> None:
    one, other = parse_profile("20m:narrow:1.5ms"), parse_profile("20m:1.5ms:narrow")
    assert one.format is other.format is NARROW
    assert one.wanted_tick_ns == other.wanted_tick_ns == 1_500_000
    assert parse_profile("modem:wide").format is WIDE
    assert parse_profile("t3").wanted_tick_ns == 0


@pytest.mark.parametrize(
    "text", ["t4", "10m:broad", "10m:0.5ms", "10m:80ms", "10m:2s", "1m/2m/3m", "9k", "10m:", "20g"]
)
def test_what_is_no_profile_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_profile(text)
    assert text in str(caught.value)
    assert caught.value.hint


@given(RATES, RATES, st.sampled_from(["", ":1ms", ":5ms", ":20ms"]), st.sampled_from(["raw", "udp"]))
def test_both_ends_derive_the_same_and_keep_to_the_rate(
    out: int, back: int, tick: str, transport: str
) -> None:
    here, there = (
        parse_profile(f"{rates}:wide{tick}").schedule(transport, 4)
        for rates in (f"{out}/{back}", f"{back}/{out}")
    )
    assert here == there.mirrored or out == back
    bits = 8 * (1232 + {"raw": 20, "udp": 28}[transport])
    for cells, rate in ((here.cells_out, out), (here.cells_in, back)):
        assert cells * bits * SECOND_NS / here.tick_ns <= rate * 1.000_001


@given(RATES)
def test_a_tick_lasts_2_to_5_ms_where_a_cell_does_not_last_longer(rate: int) -> None:
    profile = Profile("", WIDE, rate, rate)
    schedule = profile.schedule("raw", 4)
    one_cell = 1252 * 8 * SECOND_NS / rate
    assert schedule.tick_ns <= max(1.5 * one_cell, 1.5 * 5 * MS)
    assert schedule.tick_ns >= min(1.5 * MS, one_cell)


def test_no_named_profile_says_what_the_rule_would_not_say() -> None:
    assert all(":" not in rates for rates in NAMED.values())
