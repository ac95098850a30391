"""`lan`, `exclude`, `dns`, `lockdown`, `wait`, `doctor`, `completion`: what is beside `up` and `down`."""

from __future__ import annotations

import json
import os
import subprocess
import threading

import pytest

from tests.cli.cli_host import NAME, RESOLV_CONF, Host, run

pytestmark = pytest.mark.root


def sends(host: Host, to: str, *through: str) -> bool:
    """Whether a datagram that a program sends goes out by eth0."""
    before = sent(host)
    code = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{to}', 9))"
    host.anonnet(*through, "python3", "-c", code) if through else subprocess.run(
        host.command("-c", code), check=False, capture_output=True
    )
    return sent(host) > before


def sent(host: Host) -> int:
    return int(run("ip", "netns", "exec", NAME, "cat", "/sys/class/net/eth0/statistics/tx_packets"))


@pytest.fixture
def up(host: Host) -> Host:
    # Known beforehand: else the kernel would ask for the address, and that is a packet, too.
    run("ip", "-n", NAME, "neigh", "add", "192.0.2.1", "lladdr", "02:00:00:00:00:01", "dev", "eth0")
    run("ip", "-n", NAME, "neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:01", "dev", "eth0")
    host.start_daemon()
    done = host.anonnet("up")
    assert done.returncode == 0, done.stderr
    return host


def outside(host: Host) -> list[str]:
    return json.loads(host.anonnet("status", "--json").stdout)["outside"]


def test_lan_on_and_off(up: Host) -> None:
    config = up.config.read_text()
    up.config.write_text(config.replace("\nlan = []", '\nlan = ["192.0.2.0/24"]'))
    assert not sends(up, "192.0.2.9")
    on = up.anonnet("lan", "on")
    assert on.returncode == 0, on.stderr
    assert "192.0.2.0/24" in on.stdout
    assert outside(up) == ["192.0.2.0/24"]
    assert sends(up, "192.0.2.9")
    assert not sends(up, "198.51.100.9")
    assert "closed" in up.anonnet("lan", "off").stdout
    assert not sends(up, "192.0.2.9")
    assert up.anonnet("up", "--lan", "on").returncode == 0
    assert sends(up, "192.0.2.9")
    assert up.anonnet("down").returncode == 0
    assert "not up" in up.anonnet("lan", "on").stderr


def test_lan_on_means_private_ranges_where_none_are_named(up: Host) -> None:
    assert "192.168.0.0/16" in up.anonnet("lan", "on").stdout
    assert not sends(up, "192.0.2.9")


def test_exclude_runs_one_program_in_the_clear(up: Host) -> None:
    assert not sends(up, "198.51.100.9")
    assert sends(up, "198.51.100.9", "exclude")
    assert not sends(up, "198.51.100.9")
    assert "exclude" in "".join(outside(up))
    code = up.anonnet("exclude", "sh", "-c", "exit 7").returncode
    assert code == 7
    refused = up.anonnet("exclude", "no-such-program")
    assert "no command" in refused.stderr


def test_an_excluded_program_runs_as_who_called_sudo(up: Host) -> None:
    os.environ["SUDO_UID"] = "65534"
    try:
        assert up.anonnet("exclude", "id", "-u").stdout == "65534\n"
        assert up.anonnet("exclude", "--root", "id", "-u").stdout == "0\n"
    finally:
        del os.environ["SUDO_UID"]


def test_dns_says_who_resolves(up: Host) -> None:
    said = up.anonnet("dns")
    assert said.returncode == 0, said.stderr
    assert "192.0.0.1" in said.stdout
    assert "file" in said.stdout
    asked = up.anonnet("dns", "localhost")
    assert "127.0.0.1" in asked.stdout


def test_wait_returns_when_up(host: Host) -> None:
    host.start_daemon()
    late = host.anonnet("wait", "--timeout", "0.5")
    assert late.returncode == 1
    assert "this host is down, not up, after 0.5 s" in late.stderr
    assert host.anonnet("wait", "--for", "links", "--timeout", "30").returncode == 0
    starter = threading.Thread(target=host.anonnet, args=("up",))
    starter.start()
    waited = host.anonnet("wait", "--timeout", "30")
    starter.join()
    assert waited.returncode == 0, waited.stderr


def test_lockdown_blocks_whenever_not_up(host: Host) -> None:
    before = host.snapshot()
    assert host.anonnet("lockdown").stdout == "lockdown is off\n"
    assert host.anonnet("lockdown", "start").returncode == 0
    assert host.snapshot() == before  # at boot, when nobody has switched it on
    on = host.anonnet("lockdown", "on")
    assert on.returncode == 0, on.stderr
    assert host.state() == (3, "blocked")
    assert not sends(host, "198.51.100.9")
    host.start_daemon()
    up = host.anonnet("up")
    assert up.returncode == 0, up.stderr
    down = host.anonnet("down")
    assert "lockdown is on" in down.stdout
    assert host.state() == (3, "blocked")
    blocked = host.anonnet("status").stdout.splitlines()[0]
    assert "`lockdown off` opens" in blocked
    assert "`down`" not in blocked
    assert not sends(host, "198.51.100.9")
    assert RESOLV_CONF.read_text() == "nameserver 192.0.2.53\n"
    host.kill_daemon()
    assert host.anonnet("lockdown", "off").returncode == 0
    assert host.snapshot() == before
    assert host.state() == (3, "down")


def test_lockdown_after_a_reboot(host: Host) -> None:
    """The firewall has gone with the reboot, and the unit before the network raises it again."""
    before = host.snapshot()
    assert host.anonnet("lockdown", "on").returncode == 0
    host.forget_boot()
    assert host.anonnet("lockdown", "start").returncode == 0
    assert host.state() == (3, "blocked")
    failed = host.anonnet("up", "--wait", "1")
    assert failed.returncode == 1
    assert host.state() == (3, "blocked")
    assert host.anonnet("lockdown", "off").returncode == 0
    assert host.snapshot() == before


def test_lockdown_warns_before_it_cuts_an_ssh_session(host: Host) -> None:
    before = host.snapshot()
    os.environ["SSH_CONNECTION"] = "192.0.2.77 50000 192.0.2.10 22"
    try:
        refused = host.anonnet("lockdown", "on")
        assert refused.returncode == 1
        assert "SSH session from 192.0.2.77" in refused.stderr
        assert host.snapshot() == before
        assert host.anonnet("lockdown", "on", "--yes").returncode == 0
        assert host.anonnet("lockdown", "off").returncode == 0
        config = host.config.read_text()
        host.config.write_text(config.replace("\nlan = []", '\nlan = ["192.0.2.0/24"]'))
        assert host.anonnet("lockdown", "on").returncode == 0
        assert host.anonnet("lockdown", "off").returncode == 0
    finally:
        del os.environ["SSH_CONNECTION"]


def test_doctor_says_what_is_wrong_and_what_to_do(host: Host) -> None:
    ill = host.anonnet("doctor")
    assert ill.returncode == 1
    lines = {line[2:16].strip(): line for line in ill.stdout.splitlines()}
    assert lines["node"].startswith("! ")
    assert "systemctl start anonnet" in lines["node"]
    for check in ("kernel", "routing", "clock", "reachability", "this host"):
        assert lines[check].startswith("  "), lines[check]
    run("ip", "-n", NAME, "route", "del", "default")
    ill = host.anonnet("doctor")
    assert "! addresses     no default route" in ill.stdout


def test_doctor_hints_at_buffers_that_are_too_small(host: Host) -> None:
    def told() -> str:
        lines = host.anonnet("doctor").stdout.splitlines()
        return next(line for line in lines if line[2:].startswith("buffers"))

    for name in ("tcp_wmem", "tcp_rmem"):
        run("ip", "netns", "exec", NAME, "sysctl", "-w", f"net.ipv4.{name}=4096 16384 4194304")
    assert "sysctl" not in told()
    run("ip", "netns", "exec", NAME, "sysctl", "-w", "net.ipv4.tcp_wmem=4096 16384 65536")
    hint = told()
    assert not hint.startswith("!")
    assert "sysctl -w net.ipv4.tcp_wmem='4096 16384 524288'" in hint  # 10 Mbit/s for 0.14 s, twice
    assert "tcp_rmem" not in hint


def test_completion_completes_commands(host: Host) -> None:
    assert "_ANONNET_TUN_COMPLETE" in host.anonnet("completion", "bash").stdout
    asked = {"COMP_WORDS": "anonnet-tun lock", "COMP_CWORD": "1", "_ANONNET_TUN_COMPLETE": "bash_complete"}
    code = "from anonnet.cli import main; main(prog_name='anonnet-tun')"
    done = subprocess.run(
        host.command("-c", code),
        env={**host.environment, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "plain,lockdown\n"
