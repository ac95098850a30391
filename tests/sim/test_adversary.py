"""The adversary model: played months against closed forms, and both against the real policy."""

from __future__ import annotations

import random as stdlib_random
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import permutations, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anonnet.ids import NodeId
from anonnet.proto.guards import GUARD_DAYS, Guards, guards_wanted
from anonnet.proto.path import KnownNode, related
from anonnet.proto.rebuild import RebuildBudget
from anonnet.sim.adversary import bounds, figures, theory
from anonnet.sim.adversary.model import DAYS, EXITS, Attack, Budget, Kept, Network, Policy, guards
from anonnet.sim.adversary.month import Month, play

QUIET = Network(relays=100_000, up_days=1e9)  # nothing fails, and draws hardly depend on one another
FOR_EVER = (1e6, 2e6)
CALLERS = 1500


def callers(share: float, count: int = CALLERS) -> np.ndarray:
    return np.full(count, share)


def agrees(month: Month, expected: float) -> bool:
    """Whether so many were ever compromised, give or take four standard errors."""
    error = np.sqrt(expected * (1 - expected) / len(month.first))
    return abs(float(month.ever.mean()) - expected) < 4 * error


# -- played months and closed forms -------------------------------------------------------------------


@pytest.mark.parametrize(("routes", "exits"), [(1, 1), (2, 1), (3, 1), (2, 3)])
def test_whatever_he_kills_the_lists_bound_what_he_gets(routes: int, exits: int) -> None:
    policy = Policy(routes, guards=Kept(routes, FOR_EVER), exits=Kept(exits, FOR_EVER))
    first, last = theory.some(0.2, routes), theory.some(0.2, exits)
    for attack in Attack:
        month = play(policy, QUIET, attack, callers(0.2), seed=1, days=1)
        if exits == 1 and attack is not Attack.KILL:
            assert agrees(month, theory.pairs(first, last))
        assert month.ever.mean() <= theory.pairs(first, last) + 0.02


def test_without_guards_a_corrupt_exit_meets_a_corrupt_first_relay_within_days() -> None:
    steps = 36  # six hours
    for attack in (Attack.WATCH, Attack.WAIT):
        month = play(Policy(2), QUIET, attack, callers(0.05), seed=2, days=steps / 144)
        assert agrees(month, 0.05 * theory.some(0.05, 2 * steps))


def test_exits_drawn_as_they_fail() -> None:
    network = replace(QUIET, up_days=1.0, outage_hours=0.1)
    policy = Policy(2, guards=Kept(2, FOR_EVER))
    month = play(policy, network, Attack.WATCH, callers(0.2), seed=3, days=4)
    assert agrees(month, theory.pairs(theory.some(0.2, 2), theory.drawn_exits(0.2, 4)))


def test_guards_are_replaced_as_their_time_runs_out() -> None:
    kept = Kept(2, (6, 12))
    policy = Policy(2, guards=kept, exits=Kept(1, FOR_EVER))
    month = play(policy, QUIET, Attack.WATCH, callers(0.2), seed=4, days=6)
    assert agrees(month, theory.pairs(theory.some_kept(0.2, kept, days=6), 0.2))


def test_a_lone_corrupt_guard_kills_until_the_exit_is_corrupt() -> None:
    policy = Policy(1, guards=Kept(1, FOR_EVER), budget=Budget(builds=1e9, exits=12, exit_seconds=1e12))
    month = play(policy, QUIET, Attack.KILL, callers(0.1), seed=5, days=0.5)
    assert month.exits.max() == 12
    # An honest guard passes over corrupt exits until an honest one lets it through.
    assert agrees(month, 0.1 * theory.killed_until_corrupt(0.1, 12))


def test_an_honest_guard_that_gets_its_turn_keeps_the_exit() -> None:
    stubborn = Policy(1, guards=Kept(2, FOR_EVER), in_turn=False)
    both = [
        play(p, QUIET, Attack.KILL, callers(0.1), 6, days=2)
        for p in (stubborn, replace(stubborn, in_turn=True))
    ]
    assert agrees(both[0], 0.1)  # whose first guard is corrupt draws exits until he is caught
    assert both[1].ever.mean() < 0.04  # both guards, or one of them and the exit first drawn
    assert both[1].exits.mean() < both[0].exits.mean()


# -- what each measure is good for --------------------------------------------------------------------


@pytest.fixture(scope="module")
def weeks() -> dict[str, Month]:
    """A week of two routes, a tenth of all relays corrupt; corrupt exits wait, honest relays fail daily."""
    network = Network(up_days=1.5)
    return {
        name: play(policy, network, Attack.WAIT, callers(0.1, 700), seed=7, days=7)
        for name, policy in figures.policies(2).items()
    }


def test_guards_help_and_kept_exits_help_more(weeks: dict[str, Month]) -> None:
    nothing, both, everything = (weeks[n].ever.mean() for n in (figures.NOTHING, figures.BOTH, figures.ALL))
    assert both < nothing * 0.6
    assert everything < both * 0.7
    bound = theory.pairs(theory.some_kept(0.1, guards(2), 7), theory.some_kept(0.1, EXITS, 7))
    assert everything < bound + 0.03


def test_the_budget_bounds_builds_and_costs_no_service(weeks: dict[str, Month]) -> None:
    budget, rotation = Budget(), 2 * 144 * 7
    refill = 2 * 7 * 86_400 / budget.build_seconds
    for name in (figures.BUDGET, figures.BOTH, figures.ALL):
        assert weeks[name].builds.max() <= budget.builds + refill + rotation
        assert weeks[name].up.mean() > 0.98
    assert weeks[figures.BOTH].exits.max() <= budget.exits + 7 * 86_400 / budget.exit_seconds + 1
    loose, tight = (
        play(Policy(3, guards=guards(3), budget=b), Network(), Attack.KILL, callers(0.3, 200), seed=8, days=3)
        for b in (None, budget)
    )
    assert tight.builds.mean() < loose.builds.mean() / 1.5


def test_one_seed_one_month() -> None:
    policy = Policy(2, guards=guards(2), budget=Budget(), exits=EXITS)
    one, same, other = (
        play(policy, Network(), Attack.KILL, callers(0.2, 200), seed, days=5) for seed in (9, 9, 10)
    )
    for field in ("first", "compromised", "up", "builds", "exits"):
        assert np.array_equal(getattr(one, field), getattr(same, field))
    assert not np.array_equal(one.builds, other.builds)


# -- the real policy, and other people's numbers ------------------------------------------------------


def known(number: int, network: int) -> KnownNode:
    node_id = NodeId(number.to_bytes(32, "big"))
    return KnownNode(node_id, "", b"", True, frozenset(), (IPv4Address((network << 16) + number),))


def test_the_guards_that_a_host_meets_in_a_month_are_as_many_as_the_model_says() -> None:
    dice = stdlib_random.Random(11)
    nodes = {node.node_id: node for node in (known(i, 256 + i) for i in range(1, 31))}
    links: list[Any] = [_Link(node_id) for node_id in nodes]
    met, hosts, clock = 0, 150, [0]
    for _ in range(hosts):
        start = dice.randrange(200, 500)
        kept = Guards(nodes, dice.randbytes, lambda: clock[0])
        seen: set[NodeId] = set()
        for day in [*range(0, start, 15), *range(start, start + DAYS)]:
            clock[0] = day
            kept.choose(links, (), guards_wanted(2), day * 86_400 * 10**9)
            if day >= start:
                seen |= {guard.node_id for guard in kept}
        met += len(seen)
    expected = guards_wanted(2) * (1 + DAYS / (sum(GUARD_DAYS) / 2))
    assert met / hosts == pytest.approx(expected, rel=0.06)


class _Link:
    """As much of a neighbour as guards look at."""

    up, since = True, 0

    def __init__(self, node_id: NodeId) -> None:
        self.node_id = node_id


def test_whoever_kills_every_route_of_the_real_budget_gets_no_more_builds_than_the_model_allows() -> None:
    real, model = RebuildBudget(), Budget()
    now, builds = 0, 0
    real.renew(2, now)
    day = 86_400 * 10**9
    while now < day:
        now = real.ready_at(now)
        real.begun(now)
        builds += 1
    allowed = model.builds + 2 * 86_400 / model.build_seconds
    assert 0.9 * allowed < builds <= allowed + 1


def test_relays_in_few_networks_hold_fewer_routes_at_both_ends() -> None:
    """Counted with the rule that paths are made by: 4 of 20 relays are his, in 1, 2 or 4 networks."""
    for networks in (1, 2, 4):
        his = [known(i, 1000 + i % networks) for i in range(1, 5)]
        held = sum(not related(a, b) for a, b in permutations(his, 2))
        drawn_apart = sum(True for a, b in ((a, b) for a in his for b in his) if a.networks != b.networks)
        assert held == drawn_apart
        assert held / 20**2 == pytest.approx(theory.both_ends(4 / 20, networks))


def test_a_network_is_a_ticket_however_many_addresses_it_holds() -> None:
    honest, corrupt = [0] * 4 + [1] * 300, [25] * 4 + [0] * 300
    assert theory.share_by_address(honest, corrupt) == pytest.approx(100 / 400)
    assert theory.share_by_network(honest, corrupt) == pytest.approx(4 / 304)
    assert theory.share_by_network([1, 1], [1, 0]) == pytest.approx(1 / 4)


def test_the_real_guard_list_draws_networks_not_addresses() -> None:
    dice = stdlib_random.Random(12)
    honest, corrupt = [0] * 2 + [1] * 18, [20] * 2 + [0] * 18
    his = [known(1000 + i, 256 + i % 2) for i in range(40)]
    nodes = {node.node_id: node for node in [*his, *(known(i, 300 + i) for i in range(18))]}
    links: list[Any] = [_Link(node_id) for node_id in nodes]
    drawn, hosts = 0, 600
    for _ in range(hosts):
        (first,) = Guards(nodes, dice.randbytes, lambda: 0).choose(links, (), 1, 0)
        drawn += first.node_id in {node.node_id for node in his}
    expected = theory.share_by_network(honest, corrupt)
    assert abs(drawn / hosts - expected) < 4 * np.sqrt(expected * (1 - expected) / hosts)
    assert expected < theory.share_by_address(honest, corrupt) / 5


@pytest.mark.parametrize(
    ("c", "nodes", "success", "rotations"),
    [(0.01, 4, 0.5, 18), (0.01, 6, 0.5, 12), (0.05, 4, 0.5, 4), (0.05, 6, 0.9, 8), (0.1, 1, 0.99, 44)],
)
def test_pinned_second_hops_fall_when_tors_proposal_292_says(
    c: float, nodes: int, success: float, rotations: int
) -> None:
    """Rows of its table in section 3.1: rotations until some node of a layer has been corrupt."""
    life = Kept(nodes, (10, 10))
    assert theory.pinned_guard_found(c, life, 10 * (rotations - 1)) >= success
    assert theory.pinned_guard_found(c, life, 10 * (rotations - 2)) < success


def test_figures_are_the_same_to_the_byte(tmp_path: Path) -> None:
    one, other = (figures.draw(tmp_path / name, callers=1, days=0.02) for name in ("a", "b"))
    assert [path.name for path in one] == [path.name for path in other]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, other, strict=True))
    shown = {path.name for path in (Path(__file__).parents[2] / "docs/img").glob("adversary-*.svg")}
    assert shown == {path.name for path in one}


def test_the_bounds_of_the_page_are_those_of_the_command() -> None:
    page = (Path(__file__).parents[2] / "docs/adversary.md").read_text().splitlines()
    table = list(takewhile(bool, bounds.tables()))
    assert len(table) == 2 + len(bounds.SHARES)
    assert [line for line in table if line not in page] == []
