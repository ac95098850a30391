"""Guards: few, drawn evenly, kept for their lives, in order; more of them only when they are really gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from anonnet.ids import NodeId
from anonnet.proto.budget import LinkBudget
from anonnet.proto.guards import ALONE_NS, EXITS, GIVEN_UP, GONE_NS, GUARD_DAYS, Exits, Guards
from anonnet.proto.kept import FIRST_SKIP_NS, LAST_SKIP_NS, UNLISTED_DAYS, Kept
from anonnet.proto.neighbours import Neighbour
from anonnet.proto.path import KnownNode, related
from anonnet.proto.profile import Schedule
from anonnet.spec import WIDE

SCHEDULE = Schedule(5_000_000, 8, 8)
START = 20_000  # days


def node_id(number: int) -> NodeId:
    return NodeId(number.to_bytes(20, "big"))


def known(number: int, network: int) -> KnownNode:
    address = IPv4Address(f"10.{network}.0.{number}")
    return KnownNode(node_id(number), str(number), bytes(32), False, frozenset(), (address,))


class Host:
    """A host with so many neighbours, all up since 0, two of which share each of `shared` networks."""

    def __init__(self, count: int, seed: int = 1, shared: int = 0, kept: Iterable[Kept] = ()) -> None:
        self.day = START
        self.nodes = {node_id(n): known(n, n - 1 if n % 2 and n < 2 * shared else n) for n in range(count)}
        self.neighbours = {
            number: Neighbour(number, node_id(number), WIDE, SCHEDULE, LinkBudget(SCHEDULE), up=True)
            for number in range(count)
        }
        self.guards = Guards(self.nodes, Random(seed).randbytes, lambda: self.day, kept)

    def choose(self, wanted: int, now: int = 0, without: Iterable[int] = ()) -> list[int]:
        """Numbers of the neighbours that may be begun with."""
        excluded = [node_id(number) for number in without]
        return [n.handle for n in self.guards.choose(self.neighbours.values(), excluded, wanted, now)]

    def sampled(self) -> list[int]:
        return [int.from_bytes(guard.node_id, "big") for guard in self.guards]

    def turn(self, numbers: Iterable[int], up: bool, now: int) -> None:
        """Links come up or go down."""
        for number in numbers:
            self.neighbours[number].up, self.neighbours[number].since = up, now


def test_few_are_drawn_once_and_kept_in_order() -> None:
    host = Host(20)
    first = host.choose(3)
    assert len(set(first)) == 3
    assert host.sampled() == first
    for day in range(GUARD_DAYS[0]):
        host.day = START + day
        assert host.choose(3, day * 86_400 * 10**9) == first
    assert host.choose(2) == first[:2], "fewer routes: the first ones"
    assert host.choose(4)[:3] == first, "more routes: others come after them"


def test_each_neighbour_is_as_likely() -> None:
    counts = Counter(number for seed in range(3000) for number in Host(6, seed).choose(2))
    assert set(counts) == set(range(6))
    assert all(850 < count < 1150 for count in counts.values())


def test_lives_are_drawn_evenly_between_their_bounds() -> None:
    lives = []
    for seed in range(200):
        host = Host(10, seed)
        host.choose(5)
        lives += [guard.expires - START for guard in host.guards]
    assert min(lives) == GUARD_DAYS[0]
    assert max(lives) == GUARD_DAYS[1]
    assert abs(sum(lives) / len(lives) - sum(GUARD_DAYS) / 2) < 3


def test_a_life_ends_and_another_begins() -> None:
    host = Host(20)
    host.choose(3)
    host.guards.changed = False
    host.day = START + GUARD_DAYS[1]
    assert len(host.choose(3)) == 3
    assert all(guard.expires >= host.day + GUARD_DAYS[0] for guard in host.guards)
    assert host.guards.changed


def test_of_unrelated_networks_while_there_are_such() -> None:
    for seed in range(50):
        host = Host(8, seed, shared=4)  # four pairs
        host.choose(4)
        picked = [host.nodes[guard.node_id] for guard in host.guards]
        assert not any(related(a, b) for a in picked for b in picked if a is not b)
        assert len(host.choose(6)) == 6, "related ones rather than none"


def test_many_addresses_in_one_network_gain_little() -> None:
    """Nine of ten neighbours are in one of two networks: still they are drawn first half of the time."""
    crowded = 0
    for seed in range(400):
        host = Host(10, seed)
        for number in range(1, 10):
            host.nodes[node_id(number)] = known(number, 200)
        (first,) = host.choose(1)
        crowded += first != 0
    assert 160 < crowded < 240


def test_fewer_neighbours_than_wanted() -> None:
    host = Host(2)
    assert sorted(host.choose(3)) == [0, 1]
    assert Host(0).choose(3) == []


def test_one_that_is_down_is_passed_over_and_comes_back() -> None:
    host = Host(20)
    first, second, third = host.choose(3)
    host.turn([first], False, 100)
    assert host.choose(3, 200) == [second, third]
    assert host.choose(3, 100 + 2 * GONE_NS) == [second, third], "two of two routes are there"
    host.turn([first], True, 300)
    assert host.choose(3, 400) == [first, second, third]
    assert len(host.sampled()) == 3


def test_all_down_for_a_while_draws_one_more_that_is_steady() -> None:
    host = Host(20)
    guards = host.choose(3)
    host.turn(guards, False, 1000)
    assert host.choose(3, 1000 + ALONE_NS - 1) == []
    (more,) = host.choose(3, 1000 + ALONE_NS)
    assert more not in guards
    assert host.choose(3, 1000 + 2 * ALONE_NS) == [more], "one will do, until too few are there for long"
    assert len(host.choose(3, 1000 + 2 * GONE_NS)) == 2
    host.turn(guards, True, 2000 + 2 * GONE_NS)
    assert host.choose(3, 3000 + 2 * GONE_NS) == guards, "the first ones first, again"


def test_an_outage_of_the_host_itself_draws_nothing() -> None:
    host = Host(20)
    guards = host.choose(3)
    host.turn(range(20), False, 1000)
    assert host.choose(3, 2 * GONE_NS) == []
    others = [n for n in range(20) if n not in guards]
    host.turn(others, True, 2 * GONE_NS)  # the others' links happen to come up first
    assert host.choose(3, 2 * GONE_NS + ALONE_NS - 1) == []
    assert host.sampled() == guards


def test_never_more_than_twice_as_many() -> None:
    host = Host(40)
    now = 0
    for _ in range(40):
        now += 2 * GONE_NS
        host.turn(host.choose(3, now), False, now)
    assert len(host.sampled()) == 6


def test_one_that_fails_comes_last_for_longer_and_longer() -> None:
    host = Host(20)
    first, second, third = host.choose(3)
    host.guards.failed(node_id(first), 0)
    assert host.choose(3, FIRST_SKIP_NS - 1) == [second, third, first]
    assert host.choose(3, FIRST_SKIP_NS) == [first, second, third]
    host.guards.failed(node_id(first), 0)
    assert host.choose(3, 2 * FIRST_SKIP_NS - 1) == [second, third, first]
    for _ in range(100):
        host.guards.failed(node_id(first), 0)
    assert host.choose(3, LAST_SKIP_NS) == [first, second, third]
    host.guards.worked(node_id(first))
    host.guards.failed(node_id(first), 0)
    assert host.choose(3, FIRST_SKIP_NS) == [first, second, third]
    assert len(host.sampled()) == 3, "never replaced for it"


def test_excluded_ones_are_neither_used_nor_counted() -> None:
    host = Host(20)
    first, second, third = host.choose(3)
    found = host.choose(3, without=[first])
    assert first not in found
    assert len(found) == 3
    assert host.choose(3) == [first, second, third], "kept all the same"


def test_one_that_is_no_neighbour_any_more_is_forgotten_late() -> None:
    host = Host(20)
    first, second, third = host.choose(3)
    gone = host.neighbours.pop(first)
    assert host.choose(3)[:2] == [second, third]
    host.day += UNLISTED_DAYS - 1
    host.choose(3)
    assert first in host.sampled()
    host.neighbours[first] = gone
    assert host.choose(3) == [first, second, third]
    del host.neighbours[first]
    host.choose(3)
    host.day += UNLISTED_DAYS
    host.choose(3)
    assert first not in host.sampled()


def test_what_is_kept_is_taken_up_again() -> None:
    host = Host(20)
    first = host.choose(3)
    again = Host(20, seed=2, kept=[replace(guard) for guard in host.guards])
    assert again.choose(3) == first
    assert not again.guards.changed


class Choice:
    """A host that knows so many exits."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.nodes = {node_id(n): known(n, n) for n in range(count)}
        self.exits = Exits(self.nodes, Random(seed).randbytes, lambda: START)

    def choose(self, others: int = 0, now: int = 0, without: Iterable[int] = ()) -> list[int]:
        found = self.exits.choose(list(self.nodes), [node_id(n) for n in without], others, now)
        return [int.from_bytes(one, "big") for one in found]


def test_few_exits_are_drawn_and_used_in_order() -> None:
    choice = Choice(20)
    first = choice.choose()
    assert len(first) == EXITS
    assert choice.choose() == first
    assert choice.choose(others=1)[:EXITS] == first
    assert len(choice.choose(others=1)) == EXITS + 1, "another circuit's own"
    one, two, *_ = first
    choice.exits.failed(node_id(one), 0)
    assert choice.choose(now=1)[-1] == one
    assert choice.choose(now=FIRST_SKIP_NS)[:2] == [one, two]
    assert one not in choice.choose(without=[one])


def test_another_exit_only_when_all_have_been_given_up_again_and_again() -> None:
    choice = Choice(20)
    exits = choice.choose()
    for _ in range(GIVEN_UP):
        choice.exits.failed(node_id(exits[0]), 0)
    assert sorted(choice.choose()) == sorted(exits), "one still works"
    for round_ in range(100):
        for one in choice.choose():
            choice.exits.failed(node_id(one), round_)
    assert len(choice.choose()) == 2 * EXITS
    alone = Choice(1)
    assert alone.choose() == [0]
    for _ in range(2 * GIVEN_UP):
        alone.exits.failed(node_id(0), 0)
    assert alone.choose() == [0]


events = st.lists(
    st.tuples(st.sampled_from(["down", "up", "fail", "day", "wait", "leave"]), st.integers(0, 9)), max_size=60
)


@given(events=events, wanted=st.integers(1, 4), seed=st.integers(0, 1000))
def test_whatever_happens(events: list[tuple[str, int]], wanted: int, seed: int) -> None:
    """Bounded, kept to the day, used in order among those that are up and do not fail."""
    host = Host(10, seed)
    everybody = dict(host.neighbours)
    now = 0
    before: dict[NodeId, Kept] = {}
    for what, number in events:
        now += 10**9
        if what in ("down", "up"):
            host.turn([number] if number in host.neighbours else [], what == "up", now)
        elif what == "fail":
            host.guards.failed(node_id(number), now)
        elif what == "day":
            host.day += 1
        elif what == "wait":
            now += GONE_NS // (number + 1)
        elif host.neighbours.pop(number, None) is None:
            host.neighbours[number] = everybody[number]
        chosen = host.choose(wanted, now)
        sampled = host.sampled()
        assert len(chosen) <= wanted
        assert len(set(sampled)) == len(sampled)
        assert len([n for n in sampled if n in host.neighbours]) <= 2 * wanted
        assert all(host.neighbours[n].up for n in chosen)
        assert set(chosen) <= set(sampled)
        if any(host.neighbours[n].up for n in sampled if n in host.neighbours):
            assert chosen
        guards = {guard.node_id: guard for guard in host.guards}
        for known_id, guard in before.items():
            if known_id not in guards:
                assert host.day >= guard.expires or guard.unlisted is not None
        before = guards
