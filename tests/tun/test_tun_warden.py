"""What other programs change while this host is up: noticed, put right, and nothing leaks meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from tun_namespaces import HOST, Wire, inside, raw, sh, snapshot, udp

from anonnet.tun import host, warden
from anonnet.tun.host import HostSession, Phase, UpSettings
from anonnet.tun.routing import MARK, TABLE

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]


@contextmanager
def watched(settings: UpSettings) -> Iterator[int]:
    """`up` with a warden; yields its process id."""
    with HostSession(settings, watched=True) as session:
        for phase in Phase:
            session.apply(phase)
        yield pid(settings)


def up_and_leave(settings: UpSettings) -> int:
    """`up` that stays, and the device as long as the descriptor that it returns is open."""
    with HostSession(settings, watched=True) as session:
        for phase in Phase:
            session.apply(phase)
        device = os.dup(session.tun.fd)
        session.keep()
    return device


def pid(settings: UpSettings) -> int:
    return int((settings.run_dir / "warden.pid").read_text().split()[0])


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def ruleset() -> str:
    return sh("nft", "-s", "list", "ruleset")


def looks(settings: UpSettings) -> int:
    return int((settings.run_dir / "warden.pid").read_text().split()[1])


def settled(settings: UpSettings) -> str:
    """Everything that `up` has made, once the warden has nothing left to do."""
    seen = [0, 0]

    def quiet() -> bool:
        seen.append(looks(settings))
        time.sleep(0.3)
        return len(set(seen[-3:])) == 1

    until(quiet, "the warden at rest")
    return state(settings)


def state(settings: UpSettings) -> str:
    commands = (f"ip route show table {TABLE}", f"ip -6 route show table {TABLE}")
    found = [sh(*command.split()) for command in commands]
    for family in ("-4", "-6"):
        found += [rule for rule in sh("ip", family, "rule").splitlines() if rule.startswith("11")]
    found.append(Path("/proc/sys/net/ipv4/conf/all/rp_filter").read_text())
    tables = sorted(sh("nft", "list", "tables").splitlines())
    found += [sh("nft", "-s", "list", *table.split()) for table in tables]
    return "\n".join([*found, settings.resolv_conf.read_text()])


CHANGES: dict[str, Callable[[UpSettings], object]] = {
    "ruleset flushed": lambda settings: sh("nft", "flush", "ruleset"),
    "chain emptied": lambda settings: sh("nft", "flush", "chain", "inet", "anonnet", "output"),
    "rule inserted": lambda settings: sh("nft", "insert", "rule", "inet", "anonnet", "output", "accept"),
    "egress table deleted": lambda settings: sh("nft", "delete", "table", "netdev", "anonnet"),
    "policy rule deleted": lambda settings: sh("ip", "rule", "del", "priority", "1110"),
    "policy rules flushed": lambda settings: (sh("ip", "rule", "flush"), sh("ip", "-6", "rule", "flush")),
    "table flushed": lambda settings: sh("ip", "route", "flush", "table", str(TABLE)),
    "filter made strict": lambda settings: Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("1"),
    "resolv.conf rewritten": lambda settings: settings.resolv_conf.write_text("nameserver 10.9.0.1\n"),
    "resolv.conf removed": lambda settings: settings.resolv_conf.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_put_right(settings: UpSettings, change: str) -> None:
    def scenario() -> None:
        with watched(settings):
            good = settled(settings)
            CHANGES[change](settings)
            if change == "filter made strict":  # nothing in the kernel tells of it
                sh("ip", "route", "add", "198.51.100.0/25", "via", "10.9.0.1")
            until(lambda: settings.resolv_conf.exists() and state(settings) == good, f"{change}: put right")

    inside(HOST, scenario)


def test_a_new_device_is_covered_too(settings: UpSettings) -> None:
    def scenario() -> None:
        with watched(settings):
            sh("ip", "link", "add", "usb0", "type", "veth", "peer", "name", "usb1")
            until(lambda: ruleset().count('device "usb0"') == 2, "the new device in firewall and twin")
            sh("ip", "link", "del", "usb0")
            until(lambda: '"usb0"' not in ruleset(), "the device that is gone")

    inside(HOST, scenario)


def test_the_newest_dns_of_others_comes_back_after_down(settings: UpSettings) -> None:
    def scenario() -> None:
        with watched(settings):
            ours = settings.resolv_conf.read_bytes()
            settings.resolv_conf.write_text("nameserver 10.77.0.1\n")
            until(lambda: settings.resolv_conf.read_bytes() == ours, "resolv.conf put right")
        assert settings.resolv_conf.read_text() == "nameserver 10.77.0.1\n"

    inside(HOST, scenario)


def test_nothing_leaks_while_the_ruleset_is_gone(settings: UpSettings) -> None:
    """The warden stands still, so that nobody puts anything right: its twin of the firewall holds."""

    def scenario() -> None:
        wire = Wire()
        with watched(settings) as process:
            settled(settings)
            os.kill(process, signal.SIGSTOP)
            sh("nft", "flush", "ruleset")
            assert "anonnet_twin" in ruleset()
            assert "table inet anonnet {" not in ruleset()
            for probe in PROBES:
                with suppress(OSError):
                    probe()
            assert wire.packets() == []
            os.kill(process, signal.SIGCONT)
            until(lambda: "table inet anonnet {" in ruleset(), "the firewall put right")

    inside(HOST, scenario)


PROBES: list[Callable[[], None]] = [
    lambda: udp(b"probe", "198.51.100.7", 4000, device="eth0"),
    lambda: udp(b"probe", "10.9.0.1", 53, device="eth0"),
    lambda: udp(b"probe", "198.51.100.7", 4000, source="10.9.0.2"),
    lambda: raw(b"probe", "198.51.100.7", MARK),
]


def test_a_killed_warden_leaves_the_firewall(settings: UpSettings) -> None:
    def scenario() -> None:
        with watched(settings) as process:
            os.kill(process, signal.SIGKILL)
            until(lambda: not warden.runs(settings.run_dir), "the warden's end")
            until(lambda: "anonnet_twin" not in ruleset(), "the twin's end")
            assert "table inet anonnet {" in ruleset()
            warden.restart(settings.run_dir)
            assert "anonnet_twin" in ruleset()

    inside(HOST, scenario)


def test_it_watches_a_blocked_host_and_goes_with_down(settings: UpSettings) -> None:
    before = snapshot(HOST, settings.resolv_conf)

    def scenario() -> None:
        assert host.host_state(settings).blocked
        sh("nft", "flush", "ruleset")
        until(lambda: "table inet anonnet {" in ruleset(), "the firewall put right")
        process = pid(settings)
        assert host.down(settings)
        assert not warden.runs(settings.run_dir)
        until(lambda: not Path(f"/proc/{process}/exe").exists(), "the warden's end")  # a zombie has none

    inside(HOST, up_and_leave, settings)
    inside(HOST, scenario)
    assert snapshot(HOST, settings.resolv_conf) == before
    assert not list(settings.run_dir.glob("*.json"))


def test_other_settings_without_a_moment_in_the_open(settings: UpSettings) -> None:
    before = snapshot(HOST, settings.resolv_conf)
    on = msgspec.structs.replace(settings, lan=("10.9.0.0/24",))

    def scenario() -> None:
        wire = Wire()
        up_and_leave(settings)
        host.change(on)
        udp(b"to the LAN", "10.9.0.1", 4000)
        assert [packet[28:] for packet in wire.packets()] == [b"to the LAN"]
        host.change(settings)
        with suppress(PermissionError):
            udp(b"to the LAN", "10.9.0.1", 4000, device="eth0")
        assert wire.packets() == []
        assert "10.50.0.0/16" in sh("ip", "rule")
        assert "10.9.0.0/24" not in sh("ip", "rule")
        host.down(settings)

    inside(HOST, scenario)
    assert snapshot(HOST, settings.resolv_conf) == before


def test_a_suspended_machine_is_a_reason_to_look(
    settings: UpSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock that counts suspended time jumps ahead of the one that does not; nothing else happens."""
    caplog.set_level("INFO")
    settings.run_dir.mkdir()
    one = warden.Warden(settings.run_dir)
    asleep = warden.suspended_seconds()
    monkeypatch.setattr(warden, "suspended_seconds", lambda: asleep + 3600)
    began = time.monotonic()
    one.wait([], None)
    assert time.monotonic() - began < warden.FULL_SECONDS / 2
    assert "back from 3600 s of suspension" in caplog.text
