"""`stay`: up as a service. The daemon comes and goes, and nothing is ever open in between."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anonnet.node import api
from tests.cli.cli_host import Host
from tests.lab.live import SLOW, until

pytestmark = pytest.mark.root


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(SLOW)
        yield sock


@contextmanager
def staying(host: Host) -> Iterator[subprocess.Popen[str]]:
    environment = {**host.environment, "NOTIFY_SOCKET": str(host.directory / "notify")}
    process = subprocess.Popen(
        host.command("-m", "anonnet.cli", "stay", "--wait", "20"), env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def heard(systemd: socket.socket, text: str) -> list[str]:
    """Return what was said until a message with this text."""
    said: list[str] = []
    while text not in "".join(said[-1:]):
        said.append(systemd.recv(4096).decode())
    return said


def restart_daemon(host: Host) -> None:
    (host.directory / "run" / api.SOCKET_NAME).unlink()
    host.start_daemon()


def test_it_blocks_until_there_is_a_daemon_and_again_when_that_dies(
    host: Host, systemd: socket.socket
) -> None:
    before = host.snapshot()
    with staying(host) as process:
        assert heard(systemd, "READY=1")[0] == "READY=1\nSTATUS=blocked"
        assert host.state() == (3, "blocked")
        heard(systemd, "STATUS=blocked: no daemon")
        host.start_daemon()
        heard(systemd, "STATUS=up")
        assert host.state() == (0, "up")
        host.kill_daemon()
        heard(systemd, "STATUS=blocked")
        assert host.state() == (3, "blocked")
        restart_daemon(host)
        heard(systemd, "STATUS=up")
        assert host.state() == (0, "up")
        down = host.anonnet("down")
        assert down.returncode == 0, down.stderr
        assert process.wait(SLOW) == 0
    assert host.snapshot() == before


def test_its_end_changes_nothing_on_the_host(host: Host, systemd: socket.socket) -> None:
    before = host.snapshot()
    host.start_daemon()
    with staying(host) as process:
        heard(systemd, "STATUS=up")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SLOW) == 0
    assert host.state() == (0, "up")
    assert host.anonnet("down").returncode == 0
    assert host.snapshot() == before


def test_ended_in_the_middle_of_an_attempt_it_leaves_the_host_blocked(
    host: Host, systemd: socket.socket
) -> None:
    before = host.snapshot()
    host.start_daemon("slow")
    with staying(host) as process:
        host.hears("waiting")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SLOW) == 0
        assert host.state()[1] != "down"
        host.kill_daemon()
        assert host.state() == (3, "blocked")
    assert host.anonnet("down").returncode == 0
    assert host.snapshot() == before


def test_there_is_one_at_most(host: Host, systemd: socket.socket) -> None:
    with staying(host) as process:
        heard(systemd, "READY=1")
        second = host.anonnet("stay")
        assert second.returncode == 1
        assert "another `stay` is running" in second.stderr
        assert process.poll() is None
        assert host.anonnet("down").returncode == 0


def test_a_host_that_cannot_be_up_is_not_blocked(host: Host) -> None:
    before = host.snapshot()
    config = host.config.read_text()
    host.config.write_text(config.replace("enabled = false", "enabled = true"))
    refused = host.anonnet("stay")
    assert refused.returncode == 1
    assert "is an exit" in refused.stderr
    assert host.snapshot() == before


def test_down_waits_for_an_attempt_to_be_undone(host: Host, systemd: socket.socket) -> None:
    before = host.snapshot()
    host.start_daemon("slow")
    with staying(host) as process:
        host.hears("waiting")
        host.kill_daemon()
        down = host.anonnet("down")
        assert down.returncode == 0, down.stderr
        until(lambda: process.poll() is not None, SLOW, "the end of stay")
    assert host.snapshot() == before
