"""The lab's AnonNet nodes: keys and configuration for each, daemons started, links awaited.

Everything is what an operator of a real node would write; only the invites go round by themselves.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from anonnet.crypto.keys import NodeKeys, save_keys
from anonnet.errors import OperatorError
from anonnet.ids import node_id_text
from anonnet.lab import network, services
from anonnet.lab.place import Place
from anonnet.lab.services import LabError
from anonnet.lab.topology import WEB4, WEB6, Host, Role, Topology
from anonnet.node import api
from anonnet.node.address import address_text
from anonnet.node.client import Client
from anonnet.node.config import parse
from anonnet.node.invite import own_invite
from anonnet.proto.profile import parse_profile
from anonnet.spec import UDP_PORT
from anonnet.wire.descriptor import Address, Transport

USER: Final = "nobody"  # what the daemons become: there on every system
LINKS_SECONDS: Final = 60.0
LINK_UP: Final = "up"


def bring_up(place: Place, topology: Topology, say: Callable[[str], None] = lambda text: None) -> None:
    """Make a whole lab; on any failure, ^C included, remove all of it again."""
    network.create(place, topology)
    try:
        prepare(place, topology)
        start(place, topology, say)
    except BaseException:
        network.destroy(place)
        raise


def prepare(place: Place, topology: Topology) -> None:
    """Write the keys and configuration of every node, and the command that runs them."""
    keys = {host.name: NodeKeys.generate() for host in topology.nodes}
    invites = {}
    for host in topology.nodes:
        config = parse(config_text(place, topology, host, {}).encode(), host.name)
        neighbours = [keys[name].node_id for name in topology.neighbours(host.name)]
        invites[host.name] = own_invite(config, keys[host.name], neighbours, int(time.time()))
    for host in topology.nodes:
        save_keys(keys[host.name], place.of(host.name) / "state")
        place.config(host.name).write_text(config_text(place, topology, host, invites))
    names = {node_id_text(one.node_id): name for name, one in keys.items()}
    _names_file(place).write_bytes(msgspec.json.encode(names))
    place.bin.mkdir(exist_ok=True)
    command = place.bin / "anonnet-tun"
    code = "from anonnet.cli import main; main(prog_name='anonnet-tun')"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    command.chmod(0o755)


def names(place: Place) -> dict[str, str]:
    """Return the lab's node ids with the host name of each."""
    try:
        return msgspec.json.decode(_names_file(place).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}  # a lab without daemons


def link_profiles(topology: Topology) -> dict[tuple[str, str], str]:
    """Return the profile that each host's configuration names for each neighbour, by (host, neighbour).

    An asymmetric rate is the caller's access line, out first: its neighbours see it the other way round, and
    links further in run at the faster of the two, both ways.
    """
    profile = parse_profile(topology.rate)
    out, back, form = profile.rate_out, profile.rate_in, profile.format.name
    if profile.wanted_tick_ns:
        form += f":{profile.wanted_tick_ns / 1e6:g}ms"
    found = {}
    for link in topology.links:
        if out == back:
            pair = (topology.rate, topology.rate)
        elif topology.host(link.a).role is Role.CALLER:
            pair = (f"{out}/{back}:{form}", f"{back}/{out}:{form}")
        else:
            pair = (f"{max(out, back)}:{form}",) * 2
        found[link.a, link.b], found[link.b, link.a] = pair
    return found


def config_text(place: Place, topology: Topology, host: Host, invites: Mapping[str, str]) -> str:
    """Return one node's configuration file: it knows who is invited, and links with its neighbours."""
    directory = place.of(host.name)
    profiles, neighbours = link_profiles(topology), topology.neighbours(host.name)
    sections: list[tuple[str, dict[str, object]]] = [
        (
            "[node]",
            {
                "name": host.name,
                "state_dir": str(directory / "state"),
                "run_dir": str(directory / "run"),
                "user": USER,
                "suite": topology.suite,
            },
        ),
        ("[transport]", {"addresses": [address_of(topology, host)]}),
        ("[links]", {"profile": topology.rate}),
        ("[caller]", {"hops": topology.hops}),
    ]
    if host.role is Role.EXIT:
        # The lab's Internet is a documentation range, which an exit may well refuse otherwise.
        allow = [str(WEB4), str(WEB6)]
        resolver = str(topology.web.ipv4)
        sections.append(("[exit]", {"enabled": True, "resolver": resolver, "allow": allow}))
    for peer in topology.nodes:
        if peer.name != host.name and peer.name in invites:
            keys: dict[str, object] = {"invite": invites[peer.name], "link": peer.name in neighbours}
            if keys["link"]:
                keys |= {
                    "address": address_of(topology, peer),
                    "profile": profiles[host.name, peer.name],
                }
            sections.append(("[[peers]]", keys))
    # JSON's strings, numbers, booleans and arrays are TOML's too, given plain characters.
    return "\n".join(
        "\n".join([head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])
        for head, keys in sections
    )


def address_of(topology: Topology, host: Host) -> str:
    """Return where other nodes reach a host, as configurations write it."""
    transport = Transport[topology.transport.upper()]
    ip = host.ipv6 if topology.ip == 6 else host.ipv4
    return address_text(Address(transport, ip, UDP_PORT if transport is Transport.UDP else 0))


def start(place: Place, topology: Topology, say: Callable[[str], None] = lambda text: None) -> None:
    """Start every daemon and wait until every link is up; LabError with a log's end if one fails."""
    daemons = {
        host.name: services.start(
            place,
            host.name,
            "node",
            [str(place.bin / "anonnet-tun"), "run", "-c", str(place.config(host.name))],
        )
        for host in topology.nodes
    }
    started = time.monotonic()
    deadline = started + LINKS_SECONDS
    waiting = list(daemons)
    while waiting:
        for name in tuple(waiting):
            log = place.of(name) / "node.log"
            if daemons[name].poll() is not None:
                raise LabError(f"the node on {name} ended", "see the end of its log", services.tail(log))
            missing = missing_links(place, topology, name)
            if not missing:
                waiting.remove(name)
                say(f"{name}: all links up after {time.monotonic() - started:.1f} s")
            elif time.monotonic() > deadline:
                why = f"{', '.join(missing)} not up after {LINKS_SECONDS:g} s"
                raise LabError(f"links of {name}: {why}", "see the end of its log", services.tail(log))
        time.sleep(services.POLL_SECONDS)


def status(place: Place, host: str) -> api.Status | None:
    """Ask a node's daemon over its control socket; None if it does not answer."""
    try:
        return Client(place.of(host) / "run").call(api.GetStatus(), api.Status, timeout=2.0)
    except OperatorError:
        return None


def missing_links(place: Place, topology: Topology, host: str) -> list[str]:
    """Return the neighbours with which a node's link is not up yet."""
    report = status(place, host)
    known = names(place)
    up = {known.get(link.peer) for link in report.links if link.state == LINK_UP} if report else set()
    return [name for name in topology.neighbours(host) if name not in up]


def _names_file(place: Place) -> Path:
    return place.directory / "nodes.json"
