"""Whole host, no leaks: every way out of the caller's host, in every state, seen from the router.

caller ---- r1 ---- r2 ---- x1 ~~~ web        one route at t1; see stage.py for what else hangs on the caller
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from anonnet.lab import services
from anonnet.lab.place import CALLER
from tests.lab.live import EXIT_ECHO, SLOW, LiveLab, live, until
from tests.leaks.events import EVENTS
from tests.leaks.stage import Stage

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

CONTROL = "down (control)"
SAME = ("rules", "firewall", "links", "sysctls")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with live("leak", chain=True, rate="t1") as lab, ExitStack() as stack:
        yield Stage(lab, stack)


def blocks(lab: LiveLab) -> bool:
    """Whether our firewall stands on the caller."""
    return not lab.run(CALLER, "nft", "list", "table", "inet", "anonnet").returncode


def test_matrix(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    lab = stage.lab
    before = lab.host_state()
    flows = stage.open_flows()
    with stage.column(CONTROL):
        flows.tell("talk")
        flows.tell("close")
    with suppress(AssertionError):  # the nested host is two cables away: its last may come after the mark
        until(lambda: not stage.unseen, SLOW, "all probes")
    assert not stage.unseen, "these probes prove nothing, since they are not seen when nothing is up"
    flows.end()
    flows = stage.open_flows()

    services.stop(lab.place, "x1", "node", signal.SIGTERM, SLOW)
    with lab.running(CALLER, "anonnet-tun", "up", "--wait", "60", stderr=subprocess.PIPE) as up:
        until(lambda: blocks(lab), SLOW, "the firewall")
        with stage.column("connecting", loop=True):
            flows.tell("talk")
            lab.start("x1")
            until(lab.links_up, SLOW, "links with x1")
            assert up.wait(60) == 0, up.stderr and up.stderr.read()
    with stage.column("up"):
        flows.tell("talk")
        flows.tell("close")
        until(lambda: bool(lab.ping(EXIT_ECHO, 1)), SLOW, "an echo from the exit")
    flows.end()
    for event in EVENTS:
        with stage.column(event.__name__.replace("_", " "), loop=True):
            event(lab)
        until(lambda: bool(lab.ping(EXIT_ECHO, 1)), SLOW, f"an echo after {event.__name__}")
    with stage.column("blocked (kill -9)", loop=True):
        lab.kill(CALLER)
        stage.burst()
    with stage.column("restarting", loop=True):
        lab.start(CALLER)
        until(lab.links_up, SLOW, "links of the caller")
        lab.up()
    lab.down()
    with capsys.disabled():
        print(f"\n{stage.matrix()}")
    leaked = {name: stage.leaked(name) for name in stage.columns if name != CONTROL}
    assert leaked == dict.fromkeys(leaked, 0), stage.others
    after = lab.host_state()
    # An event has set routes anew, and one another name server, which is the truth to go back to.
    assert {what: after[what] for what in SAME} == {what: before[what] for what in SAME}
    assert after["resolv.conf"] == "nameserver 100.64.0.1\n"
