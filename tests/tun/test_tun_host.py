"""`up` and `down` on a host of its own: see tun_namespaces for the topology."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroute2 import netns
from tun_namespaces import HOST, OUTSIDE, Wire, drain, inside, interrupted, ip, raw, sh, snapshot, udp

from anonnet.errors import OperatorError
from anonnet.tun import commands, host
from anonnet.tun.actions import CreateTun
from anonnet.tun.device import Tun, create_tun, tun_exists
from anonnet.tun.host import HostSession, HostState, LinkEndpoint, Phase, UpSettings, host_state
from anonnet.tun.routing import MARK

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]

LINK = LinkEndpoint("raw", "10.9.0.1", 253)
LINK6 = LinkEndpoint("raw", "fd09::1", 253)
STEPS = 9  # of an `up` with one LAN range


@pytest.fixture
def settings(tmp_path: Path, resolv_conf: Path) -> UpSettings:
    return UpSettings(
        links=(LINK, LINK6),
        lan=("10.50.0.0/16",),
        run_dir=tmp_path / "run",
        state_dir=tmp_path / "state",
        resolv_conf=resolv_conf,
    )


@contextlib.contextmanager
def raised(settings: UpSettings) -> Iterator[Tun]:
    with HostSession(settings) as session:
        for phase in Phase:
            session.apply(phase)
        yield session.tun


def up_and_die(settings: UpSettings) -> None:
    """`up` in a process that ends, its TUN with it: what a dead daemon leaves."""
    with HostSession(settings) as session:
        for phase in Phase:
            session.apply(phase)
        session.keep()


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


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(STEPS))
def test_a_failing_step_undoes_all(settings: UpSettings, number: int, after: bool) -> None:
    def fail() -> None:
        raise OperatorError("injected", "none")

    before = snapshot(HOST, settings.resolv_conf)

    def scenario() -> None:
        with (
            interrupted(number, after, fail),
            pytest.raises(OperatorError, match="injected"),
            raised(settings),
        ):
            pass

    inside(HOST, scenario)
    assert snapshot(HOST, settings.resolv_conf) == before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(STEPS))
def test_a_new_process_undoes_what_a_killed_one_did(settings: UpSettings, number: int, after: bool) -> None:
    before = snapshot(HOST, settings.resolv_conf)

    def scenario() -> None:
        with interrupted(number, after, lambda: os._exit(9)), raised(settings):
            raise AssertionError("not killed")

    assert inside(HOST, scenario) is None
    assert inside(HOST, host.down, settings) is True
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


# -- what passes, and what does not ---------------------------------------------------------------


def syn(to: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as sender:
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # under way, as it should
            sender.connect((to, port))


def framed(data: bytes, mac: bytes) -> None:
    """A packet socket's own frame, which no `output` chain sees."""
    total = 20 + 8 + len(data)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, total, 1, 0, 64, 17, 0, bytes([10, 9, 0, 2]), bytes([10, 9, 0, 1])
    )
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0x0800))
        sender.send(
            mac + b"\2\0\0\0\0\1" + b"\x08\x00" + header + struct.pack("!HHHH", 9, 9, 8 + len(data), 0) + data
        )


def probes(mac: bytes) -> list[Callable[[], None]]:
    """Every way out that a program, or a mistake, might take."""
    return [
        lambda: udp(b"probe", "198.51.100.7", 4000),
        lambda: udp(b"probe", "198.51.100.7", 53),
        lambda: udp(b"probe", "10.9.0.1", 53),
        lambda: udp(b"probe", "10.9.0.1", 4000),
        lambda: udp(b"probe", "fd09::1", 4000),
        lambda: udp(b"probe", "2001:db8::7", 4000),
        lambda: udp(b"probe", "10.9.0.1", 4000, mark=MARK),
        lambda: udp(b"probe", "10.9.0.1", 4000, device="eth0"),
        lambda: udp(b"probe", "198.51.100.7", 4000, source="10.9.0.2"),
        lambda: raw(b"probe", "10.9.0.1"),
        lambda: raw(b"probe", "198.51.100.7", MARK),
        lambda: syn("198.51.100.7", 80),
        lambda: syn("10.9.0.1", 80),
        lambda: syn("2001:db8::7", 80),
        lambda: framed(b"probe", mac),
    ]


def test_the_probes_reach_the_wire_when_nothing_is_up(settings: UpSettings) -> None:
    def scenario() -> None:
        wire = Wire()
        for number, probe in enumerate(probes(wire.mac)):
            probe()
            assert wire.packets(), number

    inside(HOST, scenario)


def test_nothing_but_links_reaches_the_wire(settings: UpSettings) -> None:
    def scenario() -> None:
        wire = Wire()
        with raised(settings) as tun:
            for number, probe in enumerate(probes(wire.mac)):
                with contextlib.suppress(OSError):
                    probe()
                assert wire.packets() == [], number
            raw(b"link", "fd09::1", MARK)
            assert [packet[40:] for packet in wire.packets()] == [b"link"]
            sources = {packet[12:16] if packet[0] >> 4 == 4 else packet[8:24] for packet in drain(tun.fd)}
        # What the exit sees: never the host's own address.
        assert sources == {
            socket.inet_aton("192.0.0.2"),
            socket.inet_pton(socket.AF_INET6, "fd61:6e6f:6e6e::2"),
        }

    inside(HOST, scenario)


def test_nothing_leaks_when_the_daemon_dies(settings: UpSettings) -> None:
    def scenario() -> None:
        wire = Wire()
        up_and_die(settings)
        for number, probe in enumerate(probes(wire.mac)):
            with contextlib.suppress(OSError):
                probe()
            assert wire.packets() == [], number
        host.down(settings)
        udp(b"probe", "198.51.100.7", 4000)
        assert wire.packets()

    inside(HOST, scenario)


def test_routes_of_the_main_table_do_not_win(settings: UpSettings) -> None:
    """TunnelVision: more specific routes, as DHCP option 121 hands out, before and after `up`."""

    def scenario() -> None:
        wire = Wire()
        sh("ip", "route", "add", "198.51.100.0/25", "via", "10.9.0.1")
        with raised(settings) as tun:
            sh("ip", "route", "add", "198.51.100.7/32", "via", "10.9.0.1")
            udp(b"probe", "198.51.100.7", 4000)
            assert [packet[28:] for packet in drain(tun.fd)] == [b"probe"]
            assert wire.packets() == []

    inside(HOST, scenario)


def test_lan_ranges_stay_outside_but_not_their_dns(settings: UpSettings) -> None:
    lan = UpSettings(
        links=settings.links,
        lan=("10.9.0.0/24", "fd09::/64"),
        run_dir=settings.run_dir,
        state_dir=settings.state_dir,
        resolv_conf=settings.resolv_conf,
    )

    def scenario() -> None:
        wire = Wire()
        with raised(lan) as tun:
            udp(b"probe4", "10.9.0.1", 4000)
            udp(b"probe6", "fd09::1", 4000)
            with pytest.raises(PermissionError):
                udp(b"query", "10.9.0.1", 53)
            assert {packet[-6:] for packet in wire.packets()} == {b"probe4", b"probe6"}
            assert drain(tun.fd) == []

    inside(HOST, scenario)


@pytest.mark.parametrize("link", [LINK, LINK6], ids=["ipv4", "ipv6"])
def test_datagrams_of_neighbours_arrive_and_no_others(settings: UpSettings, link: LinkEndpoint) -> None:
    """Over a reverse-path filter that was strict; and the host still answers ARP and its IPv6 twin."""
    family, ours, other = {
        LINK: (socket.AF_INET, "10.9.0.2", "198.51.100.7"),
        LINK6: (socket.AF_INET6, "fd09::2", "2001:db8::7"),
    }[link]

    def scenario() -> None:
        listener = socket.socket(family, socket.SOCK_RAW, 253)
        listener.settimeout(5)
        netns.setns(OUTSIDE)
        neighbour, stranger = (socket.socket(family, socket.SOCK_RAW, 253) for _ in range(2))
        stranger.bind((other, 0))
        netns.setns(HOST)
        with raised(settings):
            stranger.sendto(b"stranger", (ours, 0))
            neighbour.sendto(b"neighbour", (ours, 0))
            assert listener.recv(100).endswith(b"neighbour")

    inside(HOST, scenario)


def test_the_host_finds_its_neighbours_on_the_wire(settings: UpSettings) -> None:
    def scenario() -> None:
        netns.setns(OUTSIDE)
        listeners = [
            socket.socket(family, socket.SOCK_RAW, 253) for family in (socket.AF_INET, socket.AF_INET6)
        ]
        netns.setns(HOST)
        with raised(settings):
            for listener, address in zip(listeners, ("10.9.0.1", "fd09::1"), strict=True):
                sh("ip", "neigh", "del", address, "dev", "eth0")
                listener.settimeout(5)
                raw(b"hello", address, MARK)
                assert listener.recv(100).endswith(b"hello")

    inside(HOST, scenario)


def test_the_wire_cannot_probe_the_inner_address(settings: UpSettings) -> None:
    """CVE-2019-14899: with a reverse-path filter that lets it in, and a listener that would answer."""

    def scenario() -> None:
        with raised(settings):
            Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("0")
            listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listener.bind(("192.0.0.2", 7000))
            listener.settimeout(5)
            netns.setns(OUTSIDE)
            sh("ip", "route", "add", "192.0.0.2/32", "via", "10.9.0.2")
            attacker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            attacker.sendto(b"guess", ("192.0.0.2", 7000))
            netns.setns(HOST)
            udp(b"own", "192.0.0.2", 7000)
            assert listener.recv(100) == b"own"
            dropped = sh("nft", "list", "chain", "inet", "anonnet", "anti_probe")
            assert "192.0.0.2 drop" in dropped
            Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("1")

    inside(HOST, scenario)


def test_the_exit_cannot_open_connections_to_this_host(settings: UpSettings) -> None:
    def scenario() -> None:
        with raised(settings) as tun:
            listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listener.bind(("192.0.0.2", 7000))
            listener.connect(("198.51.100.7", 9))
            listener.settimeout(5)
            source, inner = socket.inet_aton("198.51.100.7"), socket.inet_aton("192.0.0.2")
            other = socket.inet_aton("198.51.100.8")
            listener.send(b"question")
            drain(tun.fd)
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            stranger.bind(("192.0.0.2", 7001))
            stranger.setblocking(False)
            os.write(tun.fd, _udp_packet(other, inner, 9, 7001, b"knock"))
            os.write(tun.fd, _udp_packet(source, inner, 9, 7000, b"answer"))
            assert listener.recv(100) == b"answer"
            with pytest.raises(BlockingIOError):
                stranger.recv(100)

    inside(HOST, scenario)


def _udp_packet(source: bytes, to: bytes, sport: int, dport: int, data: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 1, 0, 64, 17, 0, source, to)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    return head + struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
