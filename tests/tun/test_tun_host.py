"""What `up` leaves behind, and what it says when it cannot: see tun_namespaces for the topology."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tun_namespaces import HOST, inside, ip, sh, snapshot
from tun_ups import raised, up_and_die

from anonnet.errors import OperatorError
from anonnet.tun import commands, host
from anonnet.tun.actions import CreateTun
from anonnet.tun.device import create_tun, tun_exists
from anonnet.tun.host import HostState, UpSettings, host_state

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]

# -- restoring ------------------------------------------------------------------------------------


def test_leaving_the_session_restores_the_host(settings: UpSettings) -> None:
    before = snapshot(HOST, settings.resolv_conf)

    def scenario() -> None:
        with raised(settings):
            state = host_state(settings)
            assert state == HostState(firewall=True, tun=True, rules=True, journal=True)
            assert not state.blocked
            assert b"nameserver 192.0.0.1" in settings.resolv_conf.read_bytes()
        assert host_state(settings).down

    inside(HOST, scenario)
    assert snapshot(HOST, settings.resolv_conf) == before
    assert not list(settings.run_dir.glob("*.json")) + list(settings.state_dir.glob("*.json"))


def test_down_restores_after_the_daemon_died_and_is_idempotent(settings: UpSettings) -> None:
    before = snapshot(HOST, settings.resolv_conf)
    inside(HOST, up_and_die, settings)
    state = inside(HOST, host_state, settings)
    assert state.blocked
    assert not state.tun
    assert inside(HOST, host.down, settings) is True
    assert snapshot(HOST, settings.resolv_conf) == before
    assert inside(HOST, host.down, settings) is False


def test_down_without_a_journal_removes_what_is_tagged_ours(settings: UpSettings) -> None:
    inside(HOST, up_and_die, settings)
    for path in (settings.run_dir / "host.json", settings.state_dir / "host.json"):
        path.unlink()
    assert inside(HOST, host.down, settings) is True
    assert inside(HOST, host_state, settings).down


def test_up_over_what_a_crash_left_restores_the_first_state(settings: UpSettings) -> None:
    """And who gives up then is as blocked as before, not suddenly in the open."""
    before = snapshot(HOST, settings.resolv_conf)
    inside(HOST, up_and_die, settings)

    def again() -> None:
        with raised(settings):
            assert not host_state(settings).blocked
        assert host_state(settings).blocked
        assert host.down(settings)

    inside(HOST, again)
    assert snapshot(HOST, settings.resolv_conf) == before


def test_resolv_conf_bound_over_as_in_the_lab(settings: UpSettings) -> None:
    """`ip netns exec` mounts /etc/netns/NAME/resolv.conf over the real one: a rename would fail."""
    etc = Path("/etc/netns") / HOST
    etc.mkdir(parents=True)
    try:
        private = etc / "resolv.conf"
        private.write_text("nameserver 10.9.0.1\n")
        real = Path("/etc/resolv.conf").read_bytes()
        program = (
            "import sys; from pathlib import Path; from anonnet.tun.host import *\n"
            "run = Path(sys.argv[1])\n"
            "with HostSession(UpSettings(run_dir=run, state_dir=run / 'state')) as session:\n"
            "    for phase in Phase: session.apply(phase)\n"
            "    print(Path('/etc/resolv.conf').read_text())\n"
        )
        command = ("ip", "netns", "exec", HOST, sys.executable, "-c", program, str(settings.run_dir))
        seen = sh(*command)
        assert "nameserver 192.0.0.1" in seen
        assert private.read_text() == "nameserver 10.9.0.1\n"
        assert Path("/etc/resolv.conf").read_bytes() == real
    finally:
        for path in (*etc.iterdir(), etc):
            path.rmdir() if path.is_dir() else path.unlink()


def test_dns_that_somebody_else_has_set_since_stays(settings: UpSettings) -> None:
    def scenario() -> None:
        with raised(settings):
            settings.resolv_conf.write_text("nameserver 10.77.0.1\n")

    inside(HOST, scenario)
    assert settings.resolv_conf.read_text() == "nameserver 10.77.0.1\n"


# -- errors that say how to mend them -------------------------------------------------------------


def test_an_occupied_name_is_left_alone(settings: UpSettings) -> None:
    ip(HOST, "tuntap add anonnet0 mode tun")
    before = snapshot(HOST, settings.resolv_conf)

    def scenario() -> None:
        with pytest.raises(OperatorError, match="TUN name anonnet0 is occupied"), raised(settings):
            pass

    inside(HOST, scenario)
    assert snapshot(HOST, settings.resolv_conf) == before


def test_the_exits_device_of_that_name_is_left_alone(settings: UpSettings) -> None:
    """Neither a failed `up` nor a `down` without a journal takes it for the caller's."""

    def scenario() -> None:
        tun = create_tun(CreateTun("anonnet0", "exit", ("192.0.0.1/32",), 1500))
        with pytest.raises(OperatorError, match="TUN name anonnet0 is occupied"), raised(settings):
            pass
        assert host_state(settings).down
        assert host.down(settings) is False
        assert tun_exists("anonnet0", "exit")
        tun.close()

    inside(HOST, scenario)


def test_without_rights(settings: UpSettings) -> None:
    def scenario() -> None:
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(OperatorError, match="sudo"), raised(settings):
            pass

    inside(HOST, scenario)


def test_without_nft(settings: UpSettings) -> None:
    before = snapshot(HOST, settings.resolv_conf)

    def scenario() -> None:
        real = commands.find
        commands.find = lambda tool: None if tool == "nft" else real(tool)
        with pytest.raises(OperatorError, match="apt-get install nftables"), raised(settings):
            pass

    inside(HOST, scenario)
    assert snapshot(HOST, settings.resolv_conf) == before


def test_a_second_up_at_the_same_time_is_refused(settings: UpSettings) -> None:
    def scenario() -> None:
        with raised(settings), pytest.raises(OperatorError, match="another up or down"), raised(settings):
            pass

    inside(HOST, scenario)
