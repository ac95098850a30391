"""The SOCKS proxy from a client's side, with the loopback for a tunnel, and servers and resolver on it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from dnslib import DNSRecord
from tun_namespaces import HOST, inside, sh

from anonnet import spec
from anonnet.lab import dns
from anonnet.tun.socks import names
from anonnet.tun.socks.listener import Limits, Listener
from anonnet.tun.socks.names import NoSuchName, resolve, resolve_pointer
from anonnet.tun.socks.through import Tunnel

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]

SERVER = "198.51.100.9"
BOTH = (SERVER, "2001:db8::9")
CLASS = 40
CONNECT, ASSOCIATE = b"\x05\x01\x00", b"\x05\x03\x00"
DONE, REFUSED, NO_COMMAND, NOT_ALLOWED = b"\x05\x00", b"\x05\x05", b"\x05\x07", b"\x05\x02"
AT_SERVER = b"\x01" + socket.inet_aton(SERVER)


def namespace(act: Callable[[], Coroutine[Any, Any, None]], **servers: Any) -> None:
    """Run a coroutine in the namespace, with the server's and the resolver's addresses on its loopback."""

    def scenario() -> None:
        for address in (SERVER, spec.INNER4_EXIT):
            sh("ip", "addr", "add", f"{address}/32", "dev", "lo")
        for server in dns.servers({"web.lab": BOTH}, lambda line: None):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        asyncio.run(act())

    inside(HOST, scenario)


@contextlib.asynccontextmanager
async def proxy() -> Any:
    """The proxy; yields what opens a connection to it and says a first thing."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        where = bound.getsockname()
        serving = asyncio.create_task(Listener(Tunnel.find("lo"), Limits()).serve(bound))

        async def client(said: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection(*where)
            writer.write(b"\x05\x01\x00" + said)
            assert await reader.readexactly(2) == b"\x05\x00"
            return reader, writer

        yield client
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@contextlib.contextmanager
def tcp_server() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind((SERVER, 0))
        server.listen()
        server.settimeout(5)
        yield server


def port(sock: socket.socket) -> bytes:
    return struct.pack("!H", sock.getsockname()[1])


def test_each_direction_ends_by_itself() -> None:
    async def act() -> None:
        async with proxy() as client:
            with tcp_server() as server:
                reader, writer = await client(CONNECT + AT_SERVER + port(server))
                assert (await reader.readexactly(10))[:2] == DONE
                there, _ = await asyncio.to_thread(server.accept)
                writer.write(b"question" * 50_000)
                writer.write_eof()
                asked = await asyncio.to_thread(read_all, there)
                assert asked == b"question" * 50_000
                there.sendall(b"answer")
                there.close()
                assert await reader.read() == b"answer"

    namespace(act)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_a_reset_is_passed_on() -> None:
    """Else what came until then would look like all that there was."""

    async def act() -> None:
        async with proxy() as client:
            with tcp_server() as server:
                reader, writer = await client(CONNECT + AT_SERVER + port(server))
                await reader.readexactly(10)
                there, _ = await asyncio.to_thread(server.accept)
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                there.close()
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.close()

    namespace(act)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (CONNECT + AT_SERVER + b"\x00\x01", REFUSED),
        (b"\x05\x02\x00" + AT_SERVER + b"\x00\x50", NO_COMMAND),
        (CONNECT + b"\x01\x7f\x00\x00\x01\x00\x50", NOT_ALLOWED),
        (CONNECT + b"\x03\x09127.0.0.1\x00\x50", NOT_ALLOWED),
    ],
)
def test_what_cannot_be_had_is_said(said: bytes, answer: bytes) -> None:
    async def act() -> None:
        async with proxy() as client:
            reader, _ = await client(said)
            assert (await reader.read())[:2] == answer

    namespace(act)


def test_tors_resolve() -> None:
    async def act() -> None:
        async with proxy() as client:
            reader, _ = await client(b"\x05\xf0\x00\x03\x07web.lab\x00\x00")
            assert await reader.read() == b"\x05\x00\x00\x01" + socket.inet_aton(SERVER) + b"\x00\x00"

    namespace(act)


def udp_socket(address: str) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.setblocking(False)
    return sock


async def talk(sock: socket.socket, data: bytes) -> None:
    """Say something again and again, until nobody listens."""
    while True:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        await asyncio.sleep(0.01)


def test_datagrams_go_by_one_port_until_the_connection_ends() -> None:
    async def act() -> None:
        loop = asyncio.get_running_loop()
        async with proxy() as client:
            with udp_socket(SERVER) as server, udp_socket("127.0.0.1") as own:
                reader, writer = await client(ASSOCIATE + b"\x01" + bytes(6))
                reply = await reader.readexactly(10)
                assert reply[:2] == DONE
                relay = (socket.inet_ntoa(reply[4:8]), struct.unpack("!H", reply[8:])[0])
                header = b"\x00\x00\x00" + AT_SERVER + port(server)
                await loop.sock_sendto(own, b"\x00\x00\x01" + header[3:] + b"a fragment", relay)
                await loop.sock_sendto(own, header + b"hello", relay)
                async with asyncio.timeout(5):
                    data, source = await loop.sock_recvfrom(server, 100)
                    assert data == b"hello"
                    await loop.sock_sendto(server, b"hello yourself", source)
                    assert await loop.sock_recv(own, 100) == header + b"hello yourself"

                    with socket.socket(type=socket.SOCK_DGRAM) as other:
                        other.sendto(header + b"not from the client", relay)
                    by_name = b"\x00\x00\x00\x03\x07web.lab" + port(server)
                    await loop.sock_sendto(own, by_name + b"again", relay)
                    assert await loop.sock_recvfrom(server, 100) == (b"again", source)

                    writer.close()
                    own.connect(relay)
                    with pytest.raises(ConnectionRefusedError):
                        await talk(own, header + b"anybody there?")

    namespace(act)


# -- names -----------------------------------------------------------------------------------------


def test_names() -> None:
    async def act() -> None:
        tunnel = Tunnel.find("lo")
        assert await resolve(tunnel, "web.lab", CLASS) == [IPv4Address(BOTH[0]), IPv6Address(BOTH[1])]
        for nobodys in ("nobody.lab", "a..lab", "x" * 64 + ".lab"):
            with pytest.raises(NoSuchName):
                await resolve(tunnel, nobodys, CLASS)
        with pytest.raises(OSError, match="REFUSED"):
            await resolve(tunnel, "example.org", CLASS)
        with pytest.raises(OSError, match="REFUSED"):
            await resolve_pointer(tunnel, IPv4Address(SERVER), CLASS)

    namespace(act)


def test_an_answer_that_is_cut_short_or_lost_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time a query is not answered, the second time in part, as TC says."""
    monkeypatch.setattr(names, "TRIES", (0.2, 5.0))
    whole = dns.answer
    asked: list[int] = []

    def answer(query: bytes, known: Any) -> Any:
        found = whole(query, known)
        assert found is not None
        asked.append(DNSRecord.parse(query).header.id)
        if asked.count(asked[-1]) == 1:
            return None
        if asked.count(asked[-1]) == 2:
            reply = DNSRecord.parse(found[0])
            reply.header.tc, reply.rr = 1, []
            return (reply.pack(), *found[1:])
        return found

    monkeypatch.setattr(dns, "answer", answer)

    async def act() -> None:
        assert await resolve(Tunnel.find("lo"), "web.lab", CLASS) == list(map(ip, BOTH))
        assert {asked.count(one) for one in asked} == {3}

    namespace(act)


def ip(text: str) -> IPv4Address | IPv6Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)
