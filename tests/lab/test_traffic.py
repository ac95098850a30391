r"""All of a host's traffic through the network: every protocol, seen from both ends and from the middle.

caller ---- r1 ---- r2 ---- x1 ~~~ web        the lab of `lab up`: 4 relays, 1 exit, 10 Mbit/s, IPv4 links
       \        \/      /                     ~~~ plain Internet; all of it passes through core
        -- r3 ---- r4 --
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anonnet.audit import wire
from anonnet.audit.pcap import read
from anonnet.lab import network, nodes
from anonnet.lab.content import content_sha256
from anonnet.lab.place import CALLER, CORE
from tests.lab.live import WEB4, WEB6, LiveLab, again, live

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("mesh") as up:
        up.up()
        yield up


def test_the_circuit_has_three_hops_over_links_that_exist(lab: LiveLab) -> None:
    names = nodes.names(lab.place)
    report = json.loads(lab.out(CALLER, "anonnet-tun", "status", "--json"))
    assert (report["schema"], report["state"]) == (1, "up")
    hops = [tuple(names[hop] for hop in route["hops"]) for c in report["circuits"] for route in c["routes"]]
    assert hops
    assert set(hops) <= set(lab.topology.routes())
    assert {link["state"] for link in report["links"]} == {"up"}


@pytest.mark.parametrize("url", [f"http://{WEB4}", f"http://[{WEB6}]", "http://web.lab"])
def test_tcp_arrives_whole(lab: LiveLab, url: str) -> None:
    done = lab.out(CALLER, "sh", "-c", f"curl -sS --fail {url}/300kB.bin | sha256sum")
    assert done.split()[0] == content_sha256("300kB.bin")
    sent = f"head -c 100000 /dev/zero | curl -sS --fail --data-binary @- {url}/up"
    wanted = {"bytes": 100_000, "sha256": hashlib.sha256(bytes(100_000)).hexdigest()}
    assert json.loads(lab.out(CALLER, "sh", "-c", sent)) == wanted


def test_https_and_wget_as_any_host_uses_them(lab: LiveLab) -> None:
    said = lab.out(
        CALLER, "curl", "-sS", "--cacert", str(lab.place.certificate), "https://web.lab/sha256/1kB"
    )
    assert said.strip() == content_sha256("1kB")
    said = lab.out(CALLER, "sh", "-c", "wget -q -O - http://web.lab/64KiB | sha256sum")
    assert said.split()[0] == content_sha256("64KiB")


@pytest.mark.parametrize("target", [WEB4, WEB6])
def test_udp_passes_both_ways(lab: LiveLab, target: str) -> None:
    for direction in ([], ["-R"]):
        done = again(lambda direction=direction: udp_flow(lab, target, *direction), whole)  # type: ignore[misc]
        assert whole(done), done


def whole(flow: dict[str, Any]) -> bool:
    """Whether next to all of it came. iperf3 sends its opening datagram once, and gives up without it."""
    if "error" in flow:
        return False
    end = flow["end"]["sum"]
    return bool(end["packets"] > 200 and end["lost_percent"] < 1)


def udp_flow(lab: LiveLab, target: str, *direction: str) -> dict[str, Any]:
    """What iperf3 says of a flow of UDP; with -J also of one that failed."""
    flow = ["-u", "-b", "1M", "-t", "2", "-l", "1000", *direction]
    said: dict[str, Any] = json.loads(lab.run(CALLER, "iperf3", "-J", "-c", target, *flow).stdout)
    return said


@pytest.mark.parametrize("target", [WEB4, WEB6])
def test_icmp_echoes_come_back_also_in_fragments(lab: LiveLab, target: str) -> None:
    lab.echoes(target)
    assert again(lambda: len(lab.ping(target, 3, 0.3, size=4000)), lambda came: came == 3) == 3


def test_names_resolve_over_udp_and_tcp(lab: LiveLab) -> None:
    found = {line.split()[0] for line in lab.out(CALLER, "getent", "ahosts", "web.lab").splitlines()}
    assert found == {WEB4, WEB6}
    assert lab.out(CALLER, "dig", "+tcp", "+short", "AAAA", "web.lab").strip() == WEB6
    assert lab.out(CALLER, "dig", "+short", f"@{WEB4}", "web.lab").strip() == WEB4  # one of the user's choice
    asked = [json.loads(line) for line in lab.access_log().splitlines()]
    asked = [line for line in asked if line["service"] == "dns"]
    assert {line["transport"] for line in asked} == {"udp", "tcp"}
    assert {line["client"] for line in asked} == {str(lab.topology.host("x1").ipv4)}


def test_the_internet_meets_the_exit_and_no_packet_passes_outside_links(lab: LiveLab, tmp_path: Path) -> None:
    before = len(lab.access_log())
    host = lab.topology.host
    filter_ = f"host {WEB4} or host {WEB6}"
    with (
        network.Capture(lab.place, CORE, tmp_path / "core.pcap", expression=filter_) as core,
        network.Capture(lab.place, CALLER, tmp_path / "caller.pcap") as outer,
    ):
        for url in (f"http://{WEB4}/50kB", f"http://[{WEB6}]/50kB", "http://web.lab/50kB"):
            lab.out(CALLER, "curl", "-sS", "--fail", "-o", "/dev/null", url)
        lab.ping(WEB4, 3)
        lab.ping(WEB6, 3)
    assert core.dropped == outer.dropped == 0
    clients = {json.loads(line)["client"] for line in lab.access_log()[before:].splitlines()}
    exit_ends = {str(host("x1").ipv4), str(host("x1").ipv6)}
    assert clients == exit_ends
    seen = read(tmp_path / "core.pcap")
    caller_ends, web_ends = ([str(host(name).ipv4), str(host(name).ipv6)] for name in (CALLER, "web"))
    assert len(seen.between(str(host("x1").ipv4), WEB4)) > 20  # the capture did see the exit's side
    assert wire.never_meet(seen, caller_ends, web_ends).held
    relays = [h for h in lab.topology.nodes if h.name.startswith("r")]
    relay_ends = [end for h in relays for end in (str(h.ipv4), str(h.ipv6))]
    assert wire.never_meet(seen, relay_ends, web_ends).held
    own = read(tmp_path / "caller.pcap")
    assert wire.is_link(own).all(), "the caller sent or was sent something that is no link datagram"
    assert set(own.length.tolist()) == {1252}


def test_what_operators_may_ask(lab: LiveLab) -> None:
    names = {name: node_id for node_id, name in nodes.names(lab.place).items()}
    back = "3 sent, 3 came back"
    command = ("anonnet-tun", "ping", "-c", "3", "r2")
    assert back in again(lambda: lab.run(CALLER, *command).stdout, lambda said: back in said)
    assert names["r3"][:8] in (peers := lab.out(CALLER, "anonnet-tun", "peers")) or "r3" in peers
    assert "r4" in peers
    assert names["x1"][:8] in lab.out(CALLER, "anonnet-tun", "circuits")
    invite = lab.out("r1", "anonnet-tun", "invite").strip()
    assert invite.startswith("anonnet:")
    done = lab.run(CALLER, "anonnet-tun", "ping", "nobody-of-that-name")
    assert done.returncode
    assert len(done.stderr.strip().splitlines()) == 1


def test_down_and_up_again(lab: LiveLab) -> None:
    """Last in this module. `down` opens the host again: the control of all that was shown above."""
    lab.down()
    lab.out(CALLER, "curl", "-sS", "--fail", "-o", "/dev/null", f"http://{WEB4}/1kB")
    last = json.loads(lab.access_log().splitlines()[-1])
    assert last["client"] == str(lab.topology.host(CALLER).ipv4)
    lab.up()
    lab.up()  # does no harm
    lab.out(CALLER, "curl", "-sS", "--fail", "-o", "/dev/null", f"http://{WEB4}/1kB")
    assert json.loads(lab.access_log().splitlines()[-1])["client"] == str(lab.topology.host("x1").ipv4)
