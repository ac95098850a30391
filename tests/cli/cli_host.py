"""A host of its own for the commands' tests: see test_up_down for the topology."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anonnet.crypto.keys import NodeKeys
from anonnet.lab.namespaces import processes
from anonnet.node.config import parse
from anonnet.node.invite import own_invite

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
        # `ip netns exec` mounts a /sys of its own, without cgroups.
        mount = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
        return ["ip", "netns", "exec", NAME, "sh", "-c", mount, "sh", sys.executable, *argv]

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

    def forget_boot(self) -> None:
        """What a reboot leaves: files below the state directory, and nothing else."""
        pid = int((self.directory / "run/warden.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        run("ip", "netns", "exec", NAME, "nft", "flush", "ruleset")
        for path in (self.directory / "run").iterdir():
            path.unlink()
        for path in (self.directory / "state").glob("*.json"):
            path.write_bytes(re.sub(rb'"boot_id":"[^"]*"', b'"boot_id":"another"', path.read_bytes()))

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
        for pid in processes([NAME]):  # the warden of a test that failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run("ip", "netns", "del", NAME)
        RESOLV_CONF.unlink()
        RESOLV_CONF.parent.rmdir()
