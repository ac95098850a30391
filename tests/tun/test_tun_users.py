"""Circuits that isolate by user: the data plane reads in each packet whose it is, whatever programs do."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tun_namespaces import HOST, drain, give, inside, sh
from tun_ups import quiet_tun

from anonnet.proto.isolation import CLASSES
from anonnet.tun import host
from anonnet.tun.host import HostSession, Phase, UpSettings

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]

SERVER, SERVER6 = "198.51.100.7", "2001:db8::7"
ALICE, BOB, CAROL = 4001, 4002, 4003
EXPEDITED = 46 << 2  # a TOS byte as programs set it, ssh and browsers among them
TCP, UDP = 6, 17


@pytest.fixture
def settings(tmp_path: Path, resolv_conf: Path) -> UpSettings:
    return UpSettings(
        users=True, run_dir=tmp_path / "run", state_dir=tmp_path / "state", resolv_conf=resolv_conf
    )


def as_user(uid: int, act: Callable[[], None]) -> None:
    assert os.waitpid(begin_as(uid, act), 0)[1] == 0


def begin_as(uid: int, act: Callable[[], None]) -> int:
    """Let a user do something in a process; return its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresuid(uid, uid, uid)
            act()
            code = 0
        finally:
            os._exit(code)
    return child


def say(to: str, port: int = 9, own: int = 0, tos: int = EXPEDITED) -> Callable[[], None]:
    def act() -> None:
        with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            if ":" in to:
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            else:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            sender.bind(("", own))
            sender.sendto(b"hello", (to, port))

    return act


def seen(fd: int, protocol: int = UDP) -> list[int]:
    """The DSCP fields of the packets of a protocol that wait in the TUN."""
    found = []
    for packet in drain(fd):
        if packet[0] >> 4 == 4 and packet[9] == protocol:
            assert ones(packet[:20]) == 0xFFFF  # the header's checksum was kept right
            found.append(packet[1] >> 2)
        elif packet[0] >> 4 == 6 and packet[6] == protocol:
            found.append((packet[0] & 15) << 2 | packet[1] >> 6)
    return found


def ones(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_each_user_has_a_class_and_programs_have_no_say(settings: UpSettings) -> None:
    def scenario() -> None:
        with quiet_tun(settings) as fd:
            classes = {}
            for user in (ALICE, BOB, CAROL):
                for to in (SERVER, SERVER6):
                    for tos in (0, EXPEDITED, 1 << 2, 2 << 2, 0xFC):
                        as_user(user, say(to, tos=tos))
                (classes[user],) = set(seen(fd))
            assert len(set(classes.values())) == 3
            assert set(classes.values()) <= set(CLASSES)
            for user in (BOB, CAROL, ALICE):
                as_user(user, say(SERVER))
                assert seen(fd) == [classes[user]]

    inside(HOST, scenario)


def test_without_isolation_by_user_the_field_is_left_alone(settings: UpSettings) -> None:
    """The control, and why the data plane must not look at it then."""

    def scenario() -> None:
        with quiet_tun(msgspec.structs.replace(settings, users=False)) as fd:
            as_user(ALICE, say(SERVER))
            as_user(BOB, say(SERVER6))
            assert seen(fd) == [46, 46]

    inside(HOST, scenario)


def test_more_users_than_classes_share_and_none_goes_without(settings: UpSettings) -> None:
    def scenario() -> None:
        with quiet_tun(settings) as fd:
            for user in range(5000, 5000 + len(CLASSES) + 3):
                as_user(user, say(SERVER))
            found = seen(fd)
            assert sorted(found[: len(CLASSES)]) == list(CLASSES)
            assert found[len(CLASSES) :] == found[:3]

    inside(HOST, scenario)


def test_a_port_that_another_user_takes_over_is_the_others(settings: UpSettings) -> None:
    """The connection's mark still has the first one's class."""

    def scenario() -> None:
        with quiet_tun(settings) as fd:
            for user in (ALICE, BOB, ALICE):
                as_user(user, say(SERVER, own=7777))
            one, two, three = seen(fd)
            assert one == three != two

    inside(HOST, scenario)


def test_what_the_kernel_sends_after_a_program_has_ended_is_still_its_users(settings: UpSettings) -> None:
    """No socket belongs to a FIN that is sent again: only the connection's mark knows."""

    def scenario() -> None:
        with quiet_tun(settings) as fd:
            as_user(BOB, say(SERVER))
            as_user(CAROL, say(SERVER6))
            drain(fd)
            child = begin_as(ALICE, farewell)
            give(fd, accepting(wait_for(fd, lambda packet: packet[33] == 2)))
            fins = [wait_for(fd, lambda packet: bool(packet[33] & 1)) for _ in range(3)]
            assert os.waitpid(child, 0)[1] == 0
            assert len({packet[24:28] for packet in fins[1:]}) == 1  # one FIN, twice
            (alice,) = {packet[1] >> 2 for packet in fins}
            as_user(ALICE, say(SERVER))
            assert seen(fd) == [alice]

    inside(HOST, scenario)


def farewell() -> None:
    with socket.socket() as sender:
        sender.connect((SERVER, 80))
        sender.send(b"bye")


def wait_for(fd: int, wanted: Callable[[bytes], bool]) -> bytes:
    """Return the next TCP packet of that kind that the host sends."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for packet in drain(fd):
            if packet[0] == 0x45 and packet[9] == TCP and wanted(packet):
                return packet
        time.sleep(0.005)
    raise AssertionError("it did not come")


def accepting(syn: bytes) -> bytes:
    """Return the SYN-ACK to a SYN."""
    sequence = struct.unpack("!I", syn[24:28])[0]
    ends = syn[16:20] + syn[12:16]
    tcp = syn[22:24] + syn[20:22] + struct.pack("!IIBBHHH", 1000, sequence + 1, 0x50, 0x12, 65535, 0, 0)
    checksum = ones(ends + struct.pack("!HH", TCP, len(tcp)) + tcp) ^ 0xFFFF
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0x4000, 64, TCP, 0) + ends
    head = head[:10] + struct.pack("!H", ones(head) ^ 0xFFFF) + head[12:]
    return head + tcp[:16] + struct.pack("!H", checksum) + tcp[18:]


def test_an_up_that_stands_learns_to_tell_users_apart_once(settings: UpSettings) -> None:
    def scenario() -> None:
        with HostSession(msgspec.structs.replace(settings, users=False)) as session:
            for phase in Phase:
                session.apply(phase)
            fd = os.dup(session.tun.fd)  # as the daemon has it
            session.keep()
        drain(fd)
        host.change(settings)
        as_user(ALICE, say(SERVER))
        as_user(BOB, say(SERVER))
        before = seen(fd)
        assert len(set(before)) == 2
        assert set(before) <= set(CLASSES)
        host.change(settings)
        as_user(BOB, say(SERVER))
        as_user(ALICE, say(SERVER))
        assert seen(fd) == before[::-1]
        assert host.down(settings)
        assert "anonnet" not in sh("nft", "list", "ruleset")

    inside(HOST, scenario)
