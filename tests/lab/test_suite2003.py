"""The suite of 2003 over real links at t1: files arrive, wires stay level, loss and cheats do as little.

caller ---- r1 ---- r2 ---- x1 ~~~ web        then one relay more, and 200 circuits over all of it at once

ANONNET_LAB_SUITE=anonnet-2003 runs the whole of tests/lab so; this is what fits into every run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from anonnet.crypto.keys import load_keys
from anonnet.crypto.suite import SUITE_CODES
from anonnet.ids import node_id_text
from anonnet.lab import network, nodes, services
from anonnet.lab.content import content_sha256
from anonnet.lab.place import CALLER
from anonnet.lab.weather import Rule
from anonnet.node.config import load
from anonnet.wire.descriptor import invite, parse_invite, sign
from tests.lab import test_constant_rate, test_tagging
from tests.lab.live import FULL, SLOW, WEB4, WEB6, LiveLab, live, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SUITE = "anonnet-2003"
FILE = "200kB.bin"
RUNS = 200
FIRST_KIB = 100 * RUNS  # that a node's allocators may keep of the first 200 routes ...
AGAIN_KIB = 10 * RUNS  # ... and of as many again, for which there is room


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("old", chain=True, rate="t1", suite=SUITE) as up:
        yield up


def fetch(lab: LiveLab, host: str) -> None:
    said = lab.out(CALLER, "sh", "-c", f"curl -sS --fail http://{host}/{FILE} | sha256sum")
    assert said.split()[0] == content_sha256(FILE)


def test_wires_are_level_and_files_arrive(
    lab: LiveLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_constant_rate, "SECONDS", 30.0 if FULL else 6.0)
    test_constant_rate.test_idle_loaded_and_up_and_down_look_the_same(lab, tmp_path)
    lab.up()
    fetch(lab, WEB4)
    fetch(lab, f"[{WEB6}]")
    (route,) = lab.status().circuits[0].routes
    assert len(route.hops) == 3
    lab.echoes(WEB4, 20, 0.1)


def test_what_is_weak_is_said(lab: LiveLab) -> None:
    status = lab.run(CALLER, "anonnet-tun", "status").stdout
    log = (lab.place.of("r1") / "node.log").read_text()
    for said in (status, log):
        for weak in ("for study", "Arcfour", "Diffie-Hellman", "Tiger-192"):
            assert re.search(f"warning: suite {SUITE}: .*{weak}", said)
    assert lab.status().suite == SUITE


def test_weather_breaks_nothing(lab: LiveLab) -> None:
    lab.up()
    circuits = lab.status().circuits
    network.set_weather(lab.place, Rule(drop=0.01, reorder=0.01, duplicate=0.01, seed=2003))
    ends = time.monotonic() + (60 if FULL else 10)
    while time.monotonic() < ends:
        fetch(lab, WEB4)
    counts = network.clear_weather(lab.place)
    for fate in ("dropped", "reordered", "duplicated"):  # the control: there was weather
        assert counts[fate] > 0.004 * counts["received"]
    assert lab.status().circuits == circuits, "the circuit had to be built again"
    lab.echoes(WEB4, 20, 0.1)  # in step again at once
    lab.down()


def test_a_cheat_is_loss_to_its_victim_alone(lab: LiveLab, tmp_path: Path) -> None:
    test_tagging.test_cheating_is_loss_to_its_victim_and_nothing_to_others(lab, tmp_path, "flip")


def claiming(invite_text: str, directory: Path, suite: str) -> str:
    """A node's invite as it would be if the node used another suite: signed with its own key."""
    descriptor = replace(parse_invite(invite_text), suite_code=SUITE_CODES[suite])
    return invite(sign(descriptor, load_keys(directory).identity))


def test_a_node_of_another_suite_is_refused_by_name(lab: LiveLab) -> None:
    """Last in its lab. r2 changes its suite; then others' invites hide from it that they did not."""
    other = "anonnet-2026"
    services.stop(lab.place, "r2", "node", signal.SIGTERM, SLOW)
    file = lab.place.config("r2")
    text = file.read_text().replace(SUITE, other)
    file.write_text(text)
    refused = lab.run("r2", "anonnet-tun", "run", "-c", str(file))
    assert refused.returncode == 1
    assert f"uses suite {SUITE}, this node {other}" in refused.stderr.strip().splitlines()[-1]

    hosts = {node_id: host for node_id, host in nodes.names(lab.place).items() if host != "r2"}
    for peer in load(file).peers:
        host = hosts[node_id_text(parse_invite(peer.invite).node_id)]
        text = text.replace(peer.invite, claiming(peer.invite, lab.place.of(host) / "state", other))
    file.write_text(text)
    lab.start("r2")
    for here, ours, theirs in (("r1", SUITE, other), ("x1", SUITE, other), ("r2", other, SUITE)):
        wanted = f"uses suite {theirs}, this node {ours}"
        peer = "r1" if here == "r2" else "r2"
        until(
            lambda here=here, peer=peer, wanted=wanted: wanted in trouble(lab, here, peer),  # type: ignore[misc]
            SLOW, f"{here} to say whom it refuses",
        )  # fmt: skip
        assert wanted in lab.out(here, "sh", "-c", "anonnet-tun status || true")
        assert wanted in (lab.place.of(here) / "node.log").read_text()
        assert lab.link(here, peer).state != "up"


def trouble(lab: LiveLab, host: str, peer: str) -> str:
    """Why a link is not up; nothing while the daemon starts."""
    return lab.link(host, peer).trouble if nodes.status(lab.place, host) else ""


# -- many circuits at once ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Holdings:
    """What one node's daemon holds."""

    descriptors: int
    kib: int  # private memory of its three processes
    routes: int
    promised: int  # millicells per second, over all its links


def holdings(lab: LiveLab, host: str) -> Holdings:
    links, kib, descriptors = lab.status(host).links, 0, 0
    for pid in lab.daemon_pids(host):
        descriptors += len(os.listdir(f"/proc/{pid}/fd"))
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kib += sum(int(n) for n in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))
    promised = sum(link.promised_out + link.promised_in for link in links)
    return Holdings(descriptors, kib, sum(link.routes for link in links), promised)


def at_rest(lab: LiveLab, host: str) -> Holdings:
    """The same, with as few descriptors as several looks show: one may be of the look itself."""
    looks = [holdings(lab, host) for _ in range(5)]
    return replace(looks[-1], descriptors=min(look.descriptors for look in looks))


def wave(lab: LiveLab, hosts: list[str]) -> None:
    """Build 200 circuits over all hosts; take none down before all stand; then wait until all are gone."""
    most = dict.fromkeys(hosts, 0)
    began = time.monotonic()
    command = ["anonnet-tun", "debug", "--runs", str(RUNS)]
    with lab.running(CALLER, *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as runs:
        while runs.poll() is None:
            assert time.monotonic() - began < 400
            for host in hosts:
                if report := nodes.status(lab.place, host):  # busy daemons may take their time
                    most[host] = max(most[host], *(link.routes for link in report.links))
            time.sleep(0.5)
        assert runs.stdout is not None
        said = runs.stdout.read().decode()
    assert f"{RUNS} of {RUNS} runs ended well" in said, said[-2000:]
    assert f"{RUNS} test routes stand" in said  # and none was taken down before
    assert min(most.values()) > 0.9 * RUNS, f"seen at once: {most}"  # by looks from time to time
    print(f"{RUNS} circuits over {len(hosts)} nodes in {time.monotonic() - began:.1f} s")
    until(lambda: not any(holdings(lab, host).routes for host in hosts), SLOW, "routes to go")


def test_200_circuits_through_the_same_five_nodes_at_once() -> None:
    """'Stressed with multiple debugging runs simultaneously', as the log of 2003 puts it; four hops each."""
    with live("crowd", chain=True, hops=4, rate="4m", suite=SUITE) as lab:
        hosts = [host.name for host in lab.topology.nodes]
        assert len(hosts) == 5
        seen = [{host: at_rest(lab, host) for host in hosts}]
        for _ in range(2 if FULL else 1):
            wave(lab, hosts)
            seen.append({host: at_rest(lab, host) for host in hosts})
        for host in hosts:
            first, after, *again = (time_[host] for time_ in seen)
            print(f"{host}: before {first}; after {after}; after as many again {again}")
            for later in (after, *again):
                assert (later.descriptors, later.promised) == (first.descriptors, 0)
            assert after.kib < first.kib + FIRST_KIB
            assert all(later.kib < after.kib + AGAIN_KIB for later in again)
        lab.up()  # and all of it still works
        lab.echoes(WEB4, 5)
