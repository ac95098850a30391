"""`up`, `down` and `status` on a host of its own, with a daemon that answers pings on the TUN device.

antest-cli
  eth0 (veth, 192.0.2.10/24, default route)     anonnet0 <-> echo_daemon.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anonnet.crypto.keys import NodeKeys
from anonnet.node.config import parse
from anonnet.node.invite import own_invite

pytestmark = pytest.mark.root

NAME = f"antest-cli-{os.getpid()}"
ROOT = Path(__file__).parents[2]
RESOLV_CONF = Path("/etc/netns") / NAME / "resolv.conf"


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


class Host:
    """The namespace, and AnonNet's commands in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "anonnet.toml"
        self.daemon: subprocess.Popen[str] | None = None
        hazel = parse(b'node.name = "hazel"\ntransport.addresses = ["raw:192.0.2.1"]', "hazel")
        relay = own_invite(hazel, NodeKeys.generate(), [], 1)
        where = ("--state-dir", f"{directory}/state", "--run-dir", f"{directory}/run")
        done = self.anonnet("init", "--from-invite", relay, *where)
        assert done.returncode == 0, done.stderr
        (directory / "run").mkdir()

    def command(self, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", NAME, sys.executable, *argv]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "ANONNET_CONFIG": str(self.config)}

    def anonnet(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = self.command("-m", "anonnet.cli", *argv)
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def start_daemon(self, mood: str = "") -> None:
        self.daemon = subprocess.Popen(
            self.command(str(ROOT / "tests/cli/echo_daemon.py"), f"{self.directory}/run", mood),
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hears("ready")

    def hears(self, line: str) -> None:
        assert self.daemon is not None
        assert self.daemon.stdout is not None
        assert self.daemon.stdout.readline().strip() == line

    def kill_daemon(self) -> None:
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.communicate()
            self.daemon = None

    def state(self) -> tuple[int, str]:
        done = self.anonnet("status", "--json")
        return done.returncode, json.loads(done.stdout)["state"]

    def snapshot(self) -> list[str]:
        """Everything that `up` may change."""
        looks = ["nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -o link"]
        looks += ["ip -6 route show table all", "sysctl net.ipv4.conf.all.src_valid_mark"]
        shown = [run("ip", "netns", "exec", NAME, *look.split()) for look in looks]
        return [*shown, RESOLV_CONF.read_text()]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    subprocess.run(["ip", "netns", "del", NAME], check=False, capture_output=True)
    RESOLV_CONF.parent.mkdir(parents=True, exist_ok=True)
    RESOLV_CONF.write_text("nameserver 192.0.2.53\n")
    run("ip", "netns", "add", NAME)
    made: Host | None = None
    try:
        run("ip", "-n", NAME, "link", "set", "lo", "up")
        run("ip", "-n", NAME, "link", "add", "eth0", "type", "veth", "peer", "name", "wire0")
        for end in ("eth0", "wire0"):  # no link-local addresses: they would come in the middle of a test
            run("ip", "-n", NAME, "link", "set", end, "addrgenmode", "none")
        run("ip", "-n", NAME, "link", "set", "wire0", "up")
        run("ip", "-n", NAME, "addr", "add", "192.0.2.10/24", "dev", "eth0")
        run("ip", "-n", NAME, "link", "set", "eth0", "up")
        run("ip", "-n", NAME, "route", "add", "default", "via", "192.0.2.1")
        made = Host(tmp_path)
        yield made
    finally:
        if made is not None:
            made.kill_daemon()
        run("ip", "netns", "del", NAME)
        RESOLV_CONF.unlink()
        RESOLV_CONF.parent.rmdir()


def test_up_and_down(host: Host) -> None:
    before = host.snapshot()
    host.start_daemon()
    assert host.state() == (3, "down")
    up = host.anonnet("up")
    assert up.returncode == 0, up.stderr
    assert "r1r1r1r1 - r2r2r2r2 - x1x1x1x1" in up.stdout
    assert "echo through the circuit in" in up.stdout
    assert host.state() == (0, "up")
    assert "goes through the network" in host.anonnet("status").stdout

    again = host.anonnet("up")
    assert again.returncode == 0, again.stderr
    assert "already up" in again.stdout

    down = host.anonnet("down", "--verbose")
    assert down.returncode == 0, down.stderr
    assert "[#]" in down.stdout
    assert host.snapshot() == before
    assert host.state() == (3, "down")
    again = host.anonnet("down")
    assert (again.returncode, again.stdout) == (0, "already down\n")


@pytest.mark.parametrize(
    ("mood", "reason"),
    [("deaf", "no packet came back through it"), ("refuse", "no exit is known: add a peer that is one")],
)
def test_a_failed_up_leaves_no_trace(host: Host, mood: str, reason: str) -> None:
    before = host.snapshot()
    host.start_daemon(mood)
    up = host.anonnet("up", "--wait", "2")
    assert up.returncode == 1
    assert reason in up.stderr
    assert up.stderr.count("\n") == 1
    assert host.snapshot() == before
    assert host.state() == (3, "down")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_up_leaves_no_trace(host: Host, number: signal.Signals) -> None:
    before = host.snapshot()
    host.start_daemon("slow")
    command = host.command("-m", "anonnet.cli", "up")
    up = subprocess.Popen(command, env=host.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        host.hears("waiting")
        assert host.snapshot() != before
        up.send_signal(number)
        up.communicate(timeout=30)
    finally:
        up.kill()
        up.wait()
    assert up.returncode == 130
    assert host.snapshot() == before


def test_a_dead_daemon_blocks_until_down(host: Host) -> None:
    before = host.snapshot()
    host.start_daemon()
    assert host.anonnet("up").returncode == 0
    host.kill_daemon()
    assert host.state() == (3, "blocked")
    assert "nothing leaks" in host.anonnet("status").stdout
    up = host.anonnet("up")
    assert up.returncode == 1
    assert "no daemon listens" in up.stderr
    assert host.state() == (3, "blocked")
    down = host.anonnet("down")
    assert down.returncode == 0, down.stderr
    assert host.snapshot() == before


def test_a_new_up_lifts_the_block(host: Host) -> None:
    before = host.snapshot()
    host.start_daemon()
    assert host.anonnet("up").returncode == 0
    host.kill_daemon()
    (host.directory / "run/control.sock").unlink()
    host.start_daemon()
    assert host.state() == (3, "blocked")
    up = host.anonnet("up")
    assert up.returncode == 0, up.stderr
    assert host.state() == (0, "up")
    refused = host.anonnet("cleanup")
    assert refused.returncode == 1
    assert "the node is running" in refused.stderr
    host.kill_daemon()
    cleanup = host.anonnet("cleanup")
    assert (cleanup.returncode, cleanup.stdout) == (0, "cleaned up\n")
    assert host.snapshot() == before


def test_no_daemon_changes_nothing(host: Host) -> None:
    before = host.snapshot()
    up = host.anonnet("up")
    assert up.returncode == 1
    assert "start it with" in up.stderr
    assert host.snapshot() == before


def test_tables_and_pings(host: Host) -> None:
    host.start_daemon()
    assert "r1r1r1r1" in host.anonnet("status").stdout
    assert "raw:198.51.100.1" in host.anonnet("peers").stdout
    ping = host.anonnet("ping", "-c", "3", "hazel")
    assert "3 sent, 2 came back\nrtt min/avg/max 41.5/42.5/43.5 ms" in ping.stdout
    assert "no circuit" in host.anonnet("circuits").stdout
    assert json.loads(host.anonnet("circuits", "--json").stdout) == {"circuits": []}
