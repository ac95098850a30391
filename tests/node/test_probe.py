"""Test routes begin where all routes begin: who pings often must not try every neighbour in turn."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, cast

from anonnet.ids import NodeId
from anonnet.node.config import parse
from anonnet.node.control import Control
from anonnet.node.probe import Probe
from anonnet.proto.guards import Guards, guards_wanted
from anonnet.proto.path import KnownNode

NEIGHBOURS, EXIT = [NodeId(bytes([n]) * 32) for n in range(1, 9)], NodeId(b"x" * 32)


def known(node_id: NodeId, neighbours: list[NodeId]) -> KnownNode:
    return KnownNode(node_id, "", b"", node_id == EXIT, frozenset(neighbours))


def network() -> tuple[Probe, Guards]:
    """A host with eight neighbours, each of which has a link with one exit."""
    nodes = {node_id: known(node_id, [EXIT]) for node_id in NEIGHBOURS} | {EXIT: known(EXIT, NEIGHBOURS)}
    random = Random(5).randbytes
    guards = Guards(nodes, random, lambda: 0)
    node: Any = SimpleNamespace(
        nodes=nodes,
        neighbours=[SimpleNamespace(node_id=node_id, up=True, since=0) for node_id in NEIGHBOURS],
        ends=SimpleNamespace(guards=guards),
        random=random,
    )
    control = SimpleNamespace(node=node, config=parse(b"", "test"), now=lambda: 0)
    return Probe(cast(Control, control), lambda text: None), guards


def test_a_test_route_begins_with_a_guard() -> None:
    probe, guards = network()
    firsts = {path[0].node_id for _ in range(100) if (path := probe._path(2, EXIT))}
    assert firsts == {guard.node_id for guard in guards}
    assert len(firsts) == guards_wanted(2)


def test_a_neighbour_that_is_named_is_asked_directly() -> None:
    probe, _ = network()
    for node_id in NEIGHBOURS:
        path = probe._path(1, node_id)
        assert path is not None
        assert [node.node_id for node in path] == [node_id]
