"""Nodes come, go, crash and move; what they leave behind, and how soon traffic flows again.

caller ---- r1 ---- r2 ---- x1 ~~~ web        raw links, then UDP ones, then links over IPv6
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from anonnet.lab import namespaces, services
from anonnet.lab.content import content_sha256
from anonnet.lab.place import CALLER
from tests.lab.debug_run import on_terminal
from tests.lab.live import FULL, SLOW, WEB4, WEB6, LiveLab, live, until

pytestmark = pytest.mark.root

# A restarted neighbour is back within these (3: the daemon's own start, and polls), traffic within those.
BACK_SECONDS = 5.0 + 3 if FULL else SLOW
FLOW_SECONDS = 15.0 if FULL else SLOW


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("life", chain=True) as up:
        yield up


@pytest.fixture
def host_up(lab: LiveLab) -> Iterator[None]:
    lab.up()
    yield
    lab.down()


def flows(lab: LiveLab) -> bool:
    """Whether an echo goes to the Internet and back."""
    return bool(lab.ping(WEB4, 1, 0.2, 1))


def ended(pids: list[int]) -> Callable[[], bool]:
    """Whether processes have gone; a zombie that nobody has waited for has."""

    def gone(pid: int) -> bool:
        with suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
        return True

    return lambda: all(map(gone, pids))


@pytest.mark.usefixtures("host_up")
@pytest.mark.parametrize("victim", ["r1", "r2", "x1"])
def test_a_relay_is_killed_and_comes_back(lab: LiveLab, victim: str) -> None:
    until(lambda: flows(lab), FLOW_SECONDS, "traffic")
    lab.kill(victim)
    until(lambda: not flows(lab), 5, "an echo that is lost")
    assert not flows(lab)  # and nothing leaks meanwhile: the echo would have come back past the tunnel
    lab.start(victim)
    back = until(lab.links_up, BACK_SECONDS, f"links with {victim}")
    again = until(lambda: flows(lab), FLOW_SECONDS, f"traffic after {victim} came back")
    print(f"{victim} killed: links back after {back:.1f} s, traffic {again:.1f} s later")
    assert lab.status().state == "up"


def test_a_stopped_daemon_leaves_nothing(lab: LiveLab) -> None:
    for host in ("r1", "x1"):
        running = lab.host_state(host)
        services.stop(lab.place, host, "node", signal.SIGTERM, SLOW)
        bare = lab.host_state(host)
        assert "anonnet" not in "".join(bare.values())
        assert "anon" in "".join(running.values())  # the control
        assert not (lab.place.of(host) / "run" / "control.sock").exists()
        assert not namespaces.processes([lab.place.namespace(host)])
        assert "link with" in (log := (lab.place.of(host) / "node.log").read_text())
        assert "Traceback" not in log
        lab.start(host)
        until(lab.links_up, BACK_SECONDS, f"links with {host}")
        assert lab.host_state(host)["rules"] == running["rules"]
        services.stop(lab.place, host, "node", signal.SIGTERM, SLOW)
        assert lab.host_state(host) == bare
        lab.start(host)
        until(lab.links_up, BACK_SECONDS, f"links with {host}")


@pytest.mark.parametrize("part", [1, 2])
def test_when_one_process_dies_all_end_and_the_exit_is_undone(lab: LiveLab, part: int) -> None:
    pids = lab.daemon_pids("x1")
    assert len(pids) == 3
    running = lab.host_state("x1")
    os.kill(pids[part], signal.SIGKILL)
    until(ended(pids), SLOW, "the node's other processes")
    bare = lab.host_state("x1")
    assert "anon" in running["firewall"]
    assert "anon" not in "".join(bare.values())
    lab.start("x1")
    until(lab.links_up, BACK_SECONDS, "links with x1")


def test_a_killed_keeper_takes_its_children_and_cleanup_the_rest(lab: LiveLab) -> None:
    pids = lab.daemon_pids("x1")
    os.kill(pids[0], signal.SIGKILL)
    until(ended(pids), SLOW, "the keeper's children")
    assert "anon" in lab.host_state("x1")["firewall"]
    lab.out("x1", "anonnet-tun", "cleanup")
    assert "anon" not in "".join(lab.host_state("x1").values())
    assert "nothing" in lab.out("x1", "anonnet-tun", "cleanup")
    lab.start("x1")
    until(lab.links_up, BACK_SECONDS, "links with x1")


def test_the_callers_daemon_dies_and_the_host_stays_shut(lab: LiveLab) -> None:
    lab.up()
    lab.kill(CALLER)
    assert not lab.ping(WEB4, 2, 0.2, 1)
    assert lab.run(CALLER, "curl", "-sS", "-m", "2", f"http://{WEB4}/1kB").returncode
    assert "blocked" in lab.run(CALLER, "anonnet-tun", "status").stdout
    lab.start(CALLER)
    until(lab.links_up, BACK_SECONDS, "links of the caller")
    assert not lab.ping(WEB4, 2, 0.2, 1)
    lab.up()
    until(lambda: flows(lab), FLOW_SECONDS, "traffic")
    lab.down()
    lab.out(CALLER, "curl", "-sS", "-o", "/dev/null", f"http://{WEB4}/1kB")


def test_control_z_on_a_terminal_runs_a_test_circuit(lab: LiveLab) -> None:
    services.stop(lab.place, CALLER, "node", signal.SIGTERM, SLOW)
    command = namespaces.inside(lab.place, CALLER, ["anonnet-tun", "run", "--debug"])
    with on_terminal(command, services.environment(lab.place, CALLER)) as (screen, daemon):
        until(lab.links_up, SLOW, "links of the node on the terminal")
        screen.press(b"\x1a")
        screen.expect("debugging run ended well", 60)  # at t1 its route has about a cell a second
        said = screen.text
        for hop, name in enumerate(("r1", "r2", "x1"), start=1):
            assert re.search(rf"hop {hop} of 3: {name} \(\w+\) answered", said)
            assert re.search(rf"echo {hop} from {name}: \d+\.\d ms", said)
        assert "create: asking r1" in said
        assert "route taken down" in said
        screen.press(b"\x03")
        assert daemon.wait(SLOW) == 0
    lab.start(CALLER)
    until(lab.links_up, BACK_SECONDS, "links of the caller")


def test_udp_links_carry_traffic_and_follow_a_caller_that_moves() -> None:
    with live("udp", chain=True, transport="udp") as lab:
        lab.up()
        check_traffic(lab)
        assert lab.link(CALLER, "r1").transport == "udp"
        gateway = lab.topology.host(CALLER).net4[1]
        move = "ip -4 addr flush dev eth0; ip addr add 100.64.0.77/24 dev eth0"
        lab.out(CALLER, "sh", "-ec", f"{move}; ip route replace default via {gateway} dev eth0")
        took = until(lambda: flows(lab), 5 if FULL else SLOW, "traffic from the new address")
        print(f"moved: traffic again after {took:.1f} s")
        assert lab.link("r1", CALLER).state == "up"
        assert len((lab.place.of("r1") / "node.log").read_text().split(": up")) == 3  # twice, as at the start
        check_traffic(lab)


@pytest.mark.parametrize("transport", ["raw", "udp"])
def test_links_over_ipv6(transport: str) -> None:
    with live(f"six{transport}", chain=True, transport=transport, ip=6) as lab:
        lab.up()
        check_traffic(lab)
        lab.down()


def check_traffic(lab: LiveLab) -> None:
    for url in (f"http://{WEB4}", f"http://[{WEB6}]", "http://web.lab"):
        done = lab.out(CALLER, "sh", "-c", f"curl -sS --fail -m 30 {url}/300kB | sha256sum")
        assert done.split()[0] == content_sha256("300kB")
