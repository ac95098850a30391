"""Which paths there are, and that the choice among them is even."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from random import Random

from anonnet.ids import NodeId
from anonnet.proto.path import MAX_PATHS, KnownNode, choose, paths, related


def node_id(number: int) -> NodeId:
    return NodeId(number.to_bytes(20, "big"))


def node(number: int, near: Iterable[int], address: str = "", family: Iterable[int] = ()) -> KnownNode:
    where = address or f"10.{number}.0.1"
    parsed = IPv6Address(where) if ":" in where else IPv4Address(where)
    return KnownNode(
        node_id(number), str(number), bytes(32), False,
        frozenset(map(node_id, near)), (parsed,), frozenset(map(node_id, family)),
    )  # fmt: skip


def found(
    nodes: list[KnownNode], first: Iterable[int], hops: int, last: Iterable[int]
) -> set[tuple[str, ...]]:
    known = {n.node_id: n for n in nodes}
    walks = paths(known, [node_id(n) for n in first], hops, [node_id(n) for n in last])
    return {tuple(n.name for n in path) for path in walks}


MESH = [node(n, {1, 2, 3, 4} - {n}) for n in (1, 2, 3, 4)]


def test_all_walks_and_no_node_twice() -> None:
    assert found(MESH, [1, 2], 3, [4]) == {
        ("1", "2", "4"), ("1", "3", "4"), ("2", "1", "4"), ("2", "3", "4"),
    }  # fmt: skip
    assert found(MESH, [1], 1, [1]) == {("1",)}
    assert found(MESH, [1], 5, [4]) == set(), "five hops of four nodes"


def test_only_over_links_that_both_ends_name() -> None:
    nodes = [node(1, [2]), node(2, [3]), node(3, [2])]
    assert found(nodes, [1], 2, [2]) == set(), "2 does not know 1"
    assert found(nodes, [2], 2, [3]) == {("2", "3")}


def test_not_two_of_one_network_or_family() -> None:
    same = [node(1, [2, 3]), node(2, [1, 3], "10.1.200.9"), node(3, [1, 2])]
    assert found(same, [1], 2, [2]) == set()
    assert found(same, [1], 2, [3]) == {("1", "3")}
    six = [node(1, [2], "2001:db8:1::1"), node(2, [1], "2001:db8:2::1")]
    assert found(six, [1], 2, [2]) == set(), "one /32"
    assert related(node(1, []), node(2, [], family=[1]))
    assert related(node(1, [], family=[2]), node(2, []))
    assert related(node(1, []), node(1, [], "10.9.0.1"))
    assert not related(node(1, []), node(2, []))
    assert not related(node(1, [], "2001:db8::1"), node(2, [], "32.1.13.184")), "versions do not mix"


def test_the_choice_is_even() -> None:
    random = Random(1)
    one, two, three = ([n] for n in MESH[:3])
    counts = Counter((choose(iter([one, two, three]), random.randbytes) or [])[0].name for _ in range(6000))
    assert all(1800 < count < 2200 for count in counts.values())
    assert len(counts) == 3
    assert choose(iter([]), random.randbytes) is None


def test_the_search_is_bounded() -> None:
    seen = 0

    def endless() -> Iterable[list[KnownNode]]:
        nonlocal seen
        while True:
            seen += 1
            yield [MESH[0]]

    assert choose(iter(endless()), Random(1).randbytes) is not None
    assert seen == MAX_PATHS
