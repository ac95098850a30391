"""What the lab writes is what a node reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from anonnet.crypto.keys import load_keys
from anonnet.ids import node_id_text
from anonnet.lab import nodes, services
from anonnet.lab.place import Place
from anonnet.lab.topology import Topology, build
from anonnet.node.config import load
from anonnet.proto.profile import parse_profile
from anonnet.wire.descriptor import parse_invite


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, "antest-")


def prepared(place: Place, **options: object) -> Topology:
    lab = build(**options)  # type: ignore[arg-type]
    for host in lab.nodes:
        place.of(host.name).mkdir()
    nodes.prepare(place, lab)
    return lab


@pytest.mark.parametrize("transport", ["raw", "udp"])
@pytest.mark.parametrize("ip", [4, 6])
def test_every_node_reads_its_configuration(place: Place, transport: str, ip: int) -> None:
    lab = prepared(place, transport=transport, ip=ip, rate="t1")
    known = nodes.names(place)
    for host in lab.nodes:
        config = load(place.config(host.name))
        descriptors = [parse_invite(peer.invite) for peer in config.peers]
        assert {known[node_id_text(d.node_id)] for d in descriptors} == {h.name for h in lab.nodes} - {
            host.name
        }
        linked = [d.name for d, peer in zip(descriptors, config.peers, strict=True) if peer.link]
        assert sorted(linked) == sorted(lab.neighbours(host.name))
        assert config.exit.enabled == (host.name == "x1")
        own = load_keys(place.of(host.name) / "state")
        assert known[node_id_text(own.node_id)] == host.name
        for descriptor in descriptors:
            names = {known[node_id_text(n)] for n in descriptor.neighbours}
            assert names == set(lab.neighbours(descriptor.name))


@pytest.mark.parametrize("rate", ["modem", "t3", "adsl", "1m/8m", "56k:narrow", "2m:wide"])
@pytest.mark.parametrize("transport", ["raw", "udp"])
def test_both_ends_of_every_link_agree(rate: str, transport: str) -> None:
    lab = build(rate=rate, transport=transport)
    profiles = nodes.link_profiles(lab)
    assert len(profiles) == 2 * len(lab.links)
    for link in lab.links:
        here, there = (parse_profile(profiles[pair]) for pair in ((link.a, link.b), (link.b, link.a)))
        assert here.format == there.format
        assert here.schedule(transport, 4) == there.schedule(transport, 4).mirrored


def test_the_command_is_first_in_every_path(place: Place) -> None:
    prepared(place)
    assert (place.bin / "anonnet-tun").stat().st_mode & 0o111
    assert services.environment(place, "r1")["PATH"].startswith(f"{place.bin}:")
