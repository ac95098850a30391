"""`up`, `down` and `status` on a host of its own, with a daemon that answers pings on the TUN device.

antest-cli-PID
  eth0 (veth, 192.0.2.10/24, default route)     anonnet0 <-> echo_daemon.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from tests.cli.cli_host import Host

pytestmark = pytest.mark.root


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


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--exit", "hazel"), "hazel is no exit"),
        (("--redundancy", "thrice"), "unknown redundancy 'thrice'"),
        (("--circuits", "2"), "nothing says what goes into which"),
        (("--exclude", "192.0.2.1/24"), "no node '192.0.2.1/24' is known, and 192.0.2.1/24 has"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    host: Host, options: tuple[str, ...], reason: str
) -> None:
    """There is no daemon: who got as far as asking it would hear that instead."""
    up = host.anonnet("up", *options)
    assert up.returncode == 1
    assert reason in up.stderr
    assert up.stdout == ""


def test_an_up_that_nobody_reads_is_undone_to_the_last(host: Host) -> None:
    """`anonnet-tun up | head -0`, and its daemon keeps no circuit either."""
    before = host.snapshot()
    host.start_daemon()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nowhere:
        command = host.command("-m", "anonnet.cli", "up")
        up = subprocess.run(
            command, env=host.environment, stdout=nowhere, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert up.returncode != 0
    assert b"Traceback" not in up.stderr
    assert host.snapshot() == before
    assert "no circuit" in host.anonnet("circuits").stdout


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


def test_nobody_is_told_up_before_packets_have_passed(host: Host) -> None:
    """Who waits would else go on before names are answered, and a killed `up` would pass for one."""
    before = host.snapshot()
    host.start_daemon("deaf")
    command = host.command("-m", "anonnet.cli", "up")
    with subprocess.Popen(command, env=host.environment, stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None
            assert any(line.startswith("check") for line in up.stdout), "it has come to its last step"
            assert host.state() == (3, "connecting")
            waited = host.anonnet("wait", "--timeout", "0")
            assert (waited.returncode, waited.stderr.count("connecting")) == (1, 1)
        finally:
            up.kill()
    assert host.state() == (3, "connecting")
    assert host.anonnet("down").returncode == 0
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
