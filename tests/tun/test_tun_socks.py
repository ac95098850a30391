"""The SOCKS proxy's part of a host that is not up: a device for what is bound to it, and for nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from tun_namespaces import HOST, Wire, drain, inside, interrupted, snapshot, udp
from tun_ups import quiet_tun

from anonnet import spec
from anonnet.errors import OperatorError
from anonnet.net.tunfile import TunFile
from anonnet.proto.isolation import CLASSES, SOCKS_CLASSES
from anonnet.tun.apply import Session, apply_all
from anonnet.tun.device import delete_tun
from anonnet.tun.host import UpSettings
from anonnet.tun.routing import MARK
from anonnet.tun.socks import listener
from anonnet.tun.socks.classes import Busy, Classes
from anonnet.tun.socks.listener import Limits, Listener
from anonnet.tun.socks.plan import OWNER, SocksSettings, announced, journal, listening, plan_socks
from anonnet.tun.socks.through import Tunnel
from anonnet.wire.socks import Credentials

TUN, PROXY_USER, ALICE = "anonsocks0", 0, 4001
SERVER = {4: "198.51.100.7", 6: "2001:db8::7"}
UDP = 17
STEPS = 7  # with IPv6


@pytest.fixture
def proxy(tmp_path: Path) -> SocksSettings:
    return SocksSettings(
        TUN, "anonnet0", MARK, PROXY_USER, classes=True, run_dir=tmp_path / "r", state_dir=tmp_path / "s"
    )  # fmt: skip


def pages(proxy: SocksSettings) -> Session:
    return Session(journal(proxy.run_dir, proxy.state_dir))


@contextlib.contextmanager
def running(proxy: SocksSettings) -> Iterator[int]:
    """Everything in place; yields the TUN's descriptor."""
    session = apply_all(journal(proxy.run_dir, proxy.state_dir), lambda: plan_socks(proxy))
    try:
        assert session.tun is not None
        drain(session.tun.fd)
        yield session.tun.fd
    finally:
        session.undo()


def send(version: int, class_: int = 40) -> None:
    """A datagram as the proxy sends it."""
    with Tunnel.find(TUN).open(socket.SOCK_DGRAM, version, class_) as sender:
        sender.sendto(b"by proxy", (SERVER[version], 9))


def dscp(packet: bytes) -> int:
    return packet[1] >> 2 if packet[0] >> 4 == 4 else (packet[0] & 15) << 2 | packet[1] >> 6


def to_us(packet: bytes) -> bytes:
    """An answer to an IPv4 datagram: ends and ports exchanged, without checksums of UDP."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 30, 0, 0, 64, UDP, 0) + packet[16:20] + packet[12:16]
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", (total + (total >> 16)) ^ 0xFFFF & 0xFFFF) + header[12:]
    return header + packet[22:24] + packet[20:22] + struct.pack("!HH", 10, 0) + b"hi"


def fail() -> None:
    raise OperatorError("it fails", "this is a test")


def die() -> None:
    os._exit(0)


def begin(proxy: SocksSettings) -> None:
    """Put all in place, and take it back if that fails."""
    with contextlib.suppress(OperatorError), running(proxy):
        assert len(plan_socks(proxy)) == STEPS


@pytest.mark.root
@pytest.mark.usefixtures("hosts")
def test_all_is_undone_wherever_it_is_interrupted(proxy: SocksSettings) -> None:
    before = snapshot(HOST)
    inside(HOST, begin, proxy)
    assert snapshot(HOST) == before

    def broken_off(number: int, how: Callable[[], None], after: bool) -> None:
        with interrupted(number, after, how):
            begin(proxy)

    for number, how, after in product(range(STEPS), (fail, die), (False, True)):
        inside(HOST, broken_off, number, how, after)
        inside(HOST, lambda: pages(proxy).undo())
        assert snapshot(HOST) == before, (number, how, after)
        assert not pages(proxy).journal.steps


@pytest.mark.root
@pytest.mark.usefixtures("hosts")
def test_only_what_is_bound_to_the_device_goes_there(proxy: SocksSettings) -> None:
    def scenario() -> None:
        with running(proxy) as fd:
            wire = Wire()
            for version in (4, 6):
                udp(b"as ever", SERVER[version], 9)
                (packet,) = wire.packets()
                assert b"as ever" in packet
                assert drain(fd) == []
                send(version)
                (packet,) = drain(fd)
                assert wire.packets() == []
                inner = spec.INNER4_CALLER if version == 4 else spec.INNER6_CALLER
                family, at = (socket.AF_INET, 12) if version == 4 else (socket.AF_INET6, 8)
                assert packet[at:].startswith(socket.inet_pton(family, inner))
                assert dscp(packet) == 40

    inside(HOST, scenario)


@pytest.mark.root
@pytest.mark.usefixtures("hosts")
def test_answers_come_in_and_nothing_else_does(proxy: SocksSettings) -> None:
    def scenario() -> None:
        with running(proxy) as fd, socket.socket(type=socket.SOCK_DGRAM) as service:
            service.bind(("0.0.0.0", 7000))
            with Tunnel.find(TUN).open(socket.SOCK_DGRAM, 4, 40) as asker:
                asker.sendto(b"question", (SERVER[4], 9))
                (question,) = drain(fd)
                guess = bytearray(to_us(question))
                guess[22:24] = (7000).to_bytes(2, "big")  # the exit tries a service of this host
                TunFile(fd).write(guess)
                TunFile(fd).write(bytearray(to_us(question)))
                asker.setblocking(True)
                asker.settimeout(5)
                assert asker.recv(100) == b"hi"
            service.setblocking(False)
            with pytest.raises(BlockingIOError):
                service.recv(100)

    inside(HOST, scenario)


@pytest.mark.root
@pytest.mark.usefixtures("hosts")
def test_without_the_device_what_is_sent_goes_nowhere(proxy: SocksSettings) -> None:
    def scenario() -> None:
        with running(proxy):
            tunnel = Tunnel.find(TUN)
            senders = {version: tunnel.open(socket.SOCK_DGRAM, version, 40) for version in (4, 6)}
            wire = Wire()
            delete_tun(TUN, OWNER)  # as when the daemon dies
            for version, sender in senders.items():
                with pytest.raises(OSError, match=r"No such device|unreachable"):
                    sender.sendto(b"by proxy", (SERVER[version], 9))
                with pytest.raises(OSError, match="No such device"):
                    tunnel.open(socket.SOCK_DGRAM, version, 40)
                sender.close()
            assert wire.packets() == []

    inside(HOST, scenario)


@pytest.mark.root
@pytest.mark.usefixtures("hosts")
def test_the_proxys_classes_are_its_own_in_up_too(tmp_path: Path, resolv_conf: Path) -> None:
    """A program that writes such a class itself gets its user's all the same."""
    settings = UpSettings(
        tun=TUN, users=True, socks=PROXY_USER, run_dir=tmp_path / "run", state_dir=tmp_path / "state",
        resolv_conf=resolv_conf,
    )  # fmt: skip

    def as_user(user: int) -> None:
        child = os.fork()
        if child == 0:
            os.setresuid(user, user, user)
            for version in (4, 6):
                send(version, SOCKS_CLASSES[-1])
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    def scenario() -> None:
        with quiet_tun(settings) as fd:
            as_user(PROXY_USER)
            assert {dscp(packet) for packet in drain(fd)} == {SOCKS_CLASSES[-1]}
            as_user(ALICE)
            (alice,) = {dscp(packet) for packet in drain(fd)}
            assert alice in CLASSES

    inside(HOST, scenario)


def refused(sock: socket.socket) -> bool:
    """Whether the other end has ended the connection."""
    sock.settimeout(5)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def with_listener(proxy: SocksSettings, limits: Limits, act: Callable[[tuple[str, int]], None]) -> None:
    """Serve in this namespace while `act` is a client, until the device is deleted."""
    with running(proxy), socket.socket() as listening_:
        listening_.bind(("127.0.0.1", 0))
        where = listening_.getsockname()

        async def both() -> None:
            serving = asyncio.create_task(Listener(Tunnel.find(TUN), limits).serve(listening_))
            await asyncio.sleep(0)
            await asyncio.to_thread(act, where)
            await asyncio.to_thread(delete_tun, TUN, OWNER)
            async with asyncio.timeout(5):
                await serving

        asyncio.run(both())


@pytest.mark.root
@pytest.mark.usefixtures("hosts")
def test_limits(proxy: SocksSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.3)

    def too_many(where: tuple[str, int]) -> None:
        with contextlib.ExitStack() as stack:
            open_ = [stack.enter_context(connect(where)) for _ in range(3)]
            assert refused(open_[2])
            assert all(refused(sock) for sock in open_[:2])  # they have said nothing for too long
            assert not refused_at_once(where)

    def connect(where: tuple[str, int]) -> socket.socket:
        sock = socket.create_connection(where, 5)
        sock.sendall(b"\x05")
        return sock

    def refused_at_once(where: tuple[str, int]) -> bool:
        with connect(where) as sock:
            sock.sendall(b"\x01\x00")
            return sock.recv(2) != b"\x05\x00"

    inside(HOST, lambda: with_listener(proxy, Limits((), 2), too_many))


@pytest.mark.root
@pytest.mark.usefixtures("hosts")
def test_the_tunnels_end_ends_connections(proxy: SocksSettings) -> None:
    clients = []

    def connecting(where: tuple[str, int]) -> None:
        client = socket.create_connection(where, 5)
        client.sendall(b"\x05\x01\x00\x05\x01\x00\x01" + socket.inet_aton(SERVER[4]) + b"\x00\x50")
        assert client.recv(2) == b"\x05\x00"
        clients.append(client)

    def scenario() -> None:
        with_listener(proxy, Limits(), connecting)
        assert refused(clients[0])

    inside(HOST, scenario)


def test_only_one_proxy_at_a_time_and_others_know_where(tmp_path: Path) -> None:
    assert listening(tmp_path) == ""
    with announced(tmp_path, "127.0.0.1:1080"):
        assert listening(tmp_path) == "127.0.0.1:1080"
        with pytest.raises(OperatorError, match="a SOCKS proxy runs already"), announced(tmp_path, "x"):
            pass
    assert listening(tmp_path) == ""


def test_users_share_no_class() -> None:
    classes = Classes()
    users = [Credentials(b"user", bytes([n])) for n in range(len(SOCKS_CLASSES) + 1)]
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(classes.of(user)) for user in users[:-1]]
        assert sorted(found) == list(SOCKS_CLASSES)
        with classes.of(users[0]) as again:
            assert again == found[0]
        with pytest.raises(Busy), classes.of(users[-1]):
            pass
    with classes.of(users[0]) as again:  # no longer the longest unused
        assert again == found[0]
    unused = next(n for n in range(len(found)) if n != 0)
    with classes.of(users[-1]) as last:
        assert last != found[0]
        assert last in found[unused:]
