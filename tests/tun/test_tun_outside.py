"""What stays outside of the tunnel: ranges, users, and programs in a cgroup; and nothing else with them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from pyroute2 import netns
from tun_namespaces import HOST, OUTSIDE, Wire, drain, inside, sh, udp
from tun_ups import raised

from anonnet.tun import cgroup
from anonnet.tun.host import UpSettings, gather_facts

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]

USER = 4321
SERVER = {4: "198.51.100.7", 6: "2001:db8::7"}
OWN = {4: "10.9.0.2", 6: "fd09::2"}


def as_user(uid: int, act: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        with suppress(OSError):
            os.setresuid(uid, uid, uid)
            act()
        os._exit(0)
    os.waitpid(child, 0)


def say(data: bytes, to: str, port: int) -> None:
    """As `udp`, without anything that takes rights."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, (to, port))


def in_cgroup(act: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        cgroup.enter(cgroup.path())
        with suppress(OSError):
            act()
        os._exit(0)
    os.waitpid(child, 0)


def listener(version: int) -> socket.socket:
    netns.setns(OUTSIDE)
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((SERVER[version], 4000))
    sock.settimeout(5)
    netns.setns(HOST)
    return sock


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("who", ["user", "cgroup"])
def test_programs_outside_reach_the_internet_and_are_answered(
    settings: UpSettings, who: str, version: int
) -> None:
    settings = msgspec.structs.replace(
        settings,
        outside_users=(USER,) if who == "user" else (),
        programs=cgroup.path() if who == "cgroup" else "",
    )

    def ask() -> None:
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.sendto(b"question", (SERVER[version], 4000))
        sock.sendto(sock.recv(100), (SERVER[version], 4000))

    def run(act: Callable[[], None]) -> int:
        child = os.fork()
        if child == 0:
            if who == "user":
                as_user(USER, act)
            else:
                in_cgroup(act)
            os._exit(0)
        return child

    def scenario() -> None:
        server = listener(version)
        with raised(settings) as tun:
            drain(tun.fd)
            child = run(ask)
            data, seen_as = server.recvfrom(100)
            assert (data, seen_as[0]) == (b"question", OWN[version])
            server.sendto(b"answer", seen_as)
            assert server.recv(100) == b"answer"  # it came back to us: the answer has arrived
            os.waitpid(child, 0)
            assert drain(tun.fd) == []

    inside(HOST, scenario)


@pytest.mark.parametrize("who", ["user", "cgroup"])
def test_everybody_else_stays_inside_and_names_do_too(settings: UpSettings, who: str) -> None:
    settings = msgspec.structs.replace(settings, outside_users=(USER,), programs=cgroup.path())
    leave = (lambda act: as_user(USER, act)) if who == "user" else in_cgroup

    def scenario() -> None:
        wire = Wire()
        with raised(settings) as tun:
            udp(b"root's", SERVER[4], 4000)
            as_user(USER + 1, lambda: say(b"another's", SERVER[4], 4000))
            assert wire.packets() == []
            assert {packet[28:] for packet in drain(tun.fd)} == {b"root's", b"another's"}
            leave(lambda: say(b"query", SERVER[4], 53))
            leave(lambda: say(b"query", "10.9.0.1", 53))
            assert wire.packets() == []
            drain(tun.fd)
            leave(lambda: say(b"query", "192.0.0.1", 53))
            assert wire.packets() == []
            assert [packet[28:] for packet in drain(tun.fd)] == [b"query"]
            leave(lambda: say(b"outside", SERVER[4], 4000))
            assert [packet[28:] for packet in wire.packets()] == [b"outside"]

    inside(HOST, scenario)


def test_a_range_outside_is_reached_past_the_tunnel_and_no_other(settings: UpSettings) -> None:
    settings = msgspec.structs.replace(settings, outside=("198.51.100.0/25",))

    def scenario() -> None:
        wire = Wire()
        with raised(settings) as tun:
            udp(b"outside", "198.51.100.7", 4000)
            udp(b"inside", "198.51.100.200", 4000)
            assert [packet[28:] for packet in wire.packets()] == [b"outside"]
            assert [packet[28:] for packet in drain(tun.fd)] == [b"inside"]

    inside(HOST, scenario)


def test_the_cgroup_goes_with_down(settings: UpSettings) -> None:
    settings = msgspec.structs.replace(settings, programs=cgroup.path())

    def scenario() -> None:
        with raised(settings):
            assert cgroup.stands(cgroup.path())
            assert gather_facts(settings)
            assert "anonnet-outside" in sh("nft", "list", "chain", "inet", "anonnet", "outside")
        assert not cgroup.stands(cgroup.path())

    inside(HOST, scenario)
