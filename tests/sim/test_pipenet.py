"""One who is silent or late costs the others nothing here; under PipeNet's rule, everything or most of it."""

from __future__ import annotations

import pytest

from anonnet.sim.pipenet import FULL_NS, LIGHT_NS, MISHAPS, WELL, Service, serve

SECONDS = 4
HARM = 0.02  # of goodput and of latency: what the project promises
STRUCK = [mishap for mishap in MISHAPS if mishap != WELL]


@pytest.fixture(scope="module")
def well() -> dict[int, dict[str, Service]]:
    return {load: serve(WELL, False, load, SECONDS) for load in (FULL_NS, LIGHT_NS)}


@pytest.mark.parametrize("mishap", STRUCK)
@pytest.mark.parametrize("load", [FULL_NS, LIGHT_NS], ids=["full", "half"])
def test_the_others_do_not_notice(mishap: str, load: int, well: dict[int, dict[str, Service]]) -> None:
    for caller, got in serve(mishap, False, load, SECONDS).items():
        usual = well[load][caller]
        assert usual.goodput > 15
        assert got.goodput >= (1 - HARM) * usual.goodput
        assert got.mean <= (1 + HARM) * usual.mean
        assert got.worst <= (1 + HARM) * usual.worst


def test_pipenets_rule_costs_nothing_while_all_is_well(well: dict[int, dict[str, Service]]) -> None:
    assert serve(WELL, True, FULL_NS, SECONDS) == well[FULL_NS]


@pytest.mark.parametrize("mishap", STRUCK)
def test_under_pipenets_rule_they_stop_or_crawl(mishap: str, well: dict[int, dict[str, Service]]) -> None:
    for caller, got in serve(mishap, True, FULL_NS, SECONDS).items():
        usual = well[FULL_NS][caller]
        if "silent" in mishap:
            assert got.goodput == 0
        else:
            assert got.goodput < 0.6 * usual.goodput
            assert got.mean > 1.5 * usual.mean  # which has the queue of a circuit in it
