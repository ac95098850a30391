"""The lab's layout is a pure function: the same options, the same lab, and routes enough."""

from __future__ import annotations

from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import OperatorError
from anonnet.lab.topology import Role, Topology, build
from anonnet.proto.budget import parts_of


def test_default_lab_has_two_disjoint_three_hop_routes() -> None:
    lab = build()
    assert [host.name for host in lab.nodes] == ["caller", "r1", "r2", "r3", "r4", "x1"]
    routes = set(lab.routes())
    assert {("r1", "r2", "x1"), ("r3", "r4", "x1")} <= routes
    assert all(len(route) == 3 for route in routes)


def test_chain_has_one_route_and_no_other_link() -> None:
    lab = build(chain=True, rate="t3")
    assert list(lab.routes()) == [("r1", "r2", "x1")]
    assert [(link.a, link.b) for link in lab.links] == [("caller", "r1"), ("r1", "r2"), ("r2", "x1")]


@given(hops=st.integers(1, 5), more=st.integers(0, 6), exits=st.integers(1, 3))
def test_every_lab_has_a_route_to_every_exit(hops: int, more: int, exits: int) -> None:
    lab = build(relays=hops - 1 + more, exits=exits, hops=hops)
    routes = list(lab.routes())
    assert {route[-1] for route in routes} == {h.name for h in lab.nodes if h.role is Role.EXIT}
    assert all(len(route) == hops == len(set(route)) for route in routes)
    assert lab == build(relays=hops - 1 + more, exits=exits, hops=hops)
    assert len({(link.a, link.b) for link in lab.links}) == len(lab.links)
    for host in lab.nodes:
        assert len(lab.neighbours(host.name)) == len(set(lab.neighbours(host.name)))


@given(relays=st.integers(4, 12))
def test_two_relays_a_column_make_disjoint_routes(relays: int) -> None:
    routes = build(relays=relays).routes()
    assert any(not set(a[:-1]) & set(b[:-1]) for a, b in combinations(routes, 2))


def test_no_two_nodes_share_a_block() -> None:
    nodes = build(relays=40, exits=4).nodes
    assert len({host.net4.supernet(new_prefix=16) for host in nodes}) == len(nodes)
    assert len({host.net6.supernet(new_prefix=32) for host in nodes}) == len(nodes)


def test_addresses_are_the_documented_ones() -> None:
    lab = build()
    assert (str(lab.host("caller").ipv4), str(lab.host("caller").ipv6)) == ("100.64.0.2", "3fff::2")
    assert (str(lab.host("x1").ipv4), str(lab.host("x1").ipv6)) == ("100.69.0.2", "3fff:5::2")
    assert (str(lab.web.ipv4), str(lab.web.ipv6)) == ("203.0.113.2", "2001:db8:cafe::2")


def test_a_lab_survives_its_record() -> None:
    lab = build(relays=6, exits=2, rate="t1", transport="udp")
    assert msgspec.json.decode(msgspec.json.encode(lab), type=Topology) == lab


@pytest.mark.parametrize("options", [{"relays": 1}, {"exits": 0}, {"hops": 0}, {"relays": 62}], ids=str)
def test_impossible_labs_say_how_to_mend_them(options: dict[str, int]) -> None:
    with pytest.raises(OperatorError) as caught:
        build(**options)  # type: ignore[arg-type]
    assert caught.value.hint


def test_an_unknown_host_is_named_with_the_known_ones() -> None:
    with pytest.raises(OperatorError, match=r"r9.*caller, r1"):
        build().host("r9")


def test_relays_of_the_usual_lab_keep_nothing_back_from_its_only_caller() -> None:
    lab = build()
    relays = [host.name for host in lab.nodes if host.role is Role.RELAY]
    assert {parts_of(len(lab.neighbours(name))) for name in relays} == {1}
