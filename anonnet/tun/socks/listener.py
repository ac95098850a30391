"""The proxy's listener: takes connections, reads what they want (wire.socks), and carries it into the tunnel.

    accepted --> methods, credentials --> request --> CONNECT         two pumps, until both directions end
                                                      UDP ASSOCIATE   `tun.socks.datagrams`, until it hangs up
                                                      RESOLVE(_PTR)   one answer

Nobody's bytes are read with privilege: it runs as the daemon's user. It ends when the tunnel goes, and every
connection with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from anonnet.errors import Malformed
from anonnet.tun.socks.classes import Busy, Classes
from anonnet.tun.socks.datagrams import Association
from anonnet.tun.socks.names import NoSuchName, resolve, resolve_pointer
from anonnet.tun.socks.through import Tunnel, carried
from anonnet.wire import socks
from anonnet.wire.socks import NOWHERE, Address, Command, Credentials, Method, Reading, Reply, Target

HANDSHAKE_SECONDS: Final = 10.0  # for all that a client says before its request
CONNECT_SECONDS: Final = 60.0  # for each address of a name
ADDRESSES: Final = 4  # of a name that are tried
CHUNK: Final = 1 << 16  # bytes read at once; a connection holds a few of them, not more
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, as the far end's reset is passed on

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Limits:
    """Who may use the proxy, from where, and how many connections it has at once."""

    open_to: Sequence[Network] = ()  # beside this host itself
    connections: int = 512


class Listener:
    """Serves one listening socket by one tunnel."""

    def __init__(self, tunnel: Tunnel, limits: Limits) -> None:
        self._tunnel = tunnel
        self._limits = limits
        self._classes = Classes()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listening: socket.socket) -> None:
        """Serve until the tunnel goes, or until cancelled; then end every connection."""
        server = await asyncio.start_server(self._accepted, sock=listening, limit=CHUNK)
        try:
            await self._tunnel.gone()
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= self._limits.connections or not self._may_use(writer):
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            await self._converse(reader, writer)
        except (Malformed, OSError, asyncio.IncompleteReadError):
            _abort(writer)  # what a client says wrong is its own affair, and not logged
        except BaseException:
            _abort(writer)
            raise
        else:
            writer.close()
        finally:
            self._tasks.discard(task)

    def _may_use(self, writer: asyncio.StreamWriter) -> bool:
        address = ipaddress.ip_address(writer.get_extra_info("peername")[0])
        return address.is_loopback or any(address in network for network in self._limits.open_to)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            user = await _greet(reader, writer)
            command, target = await _read(reader, socks.read_request())
        try:
            with self._classes.of(user) as class_:
                await self._perform(command, target, class_, (reader, writer))
        except Busy:
            await _answer(writer, Reply.FAILED)

    async def _perform(self, command: int, target: Target, class_: int, client: Pair) -> None:
        match command:
            case Command.CONNECT:
                await self._connect(target, class_, client)
            case Command.UDP_ASSOCIATE:
                await self._associate(target, class_, client)
            case Command.RESOLVE | Command.RESOLVE_PTR:
                await self._look_up(command, target, class_, client[1])
            case _:
                await _answer(client[1], Reply.NO_SUCH_COMMAND)

    async def _connect(self, target: Target, class_: int, client: Pair) -> None:
        """Open a connection to the first address that takes it, and carry bytes until both have ended."""
        try:
            sock = await self._reach(target, class_)
        except (OSError, NoSuchName) as error:
            await _answer(client[1], reason(error))
            return
        there = await asyncio.open_connection(sock=sock, limit=CHUNK)
        try:
            await _answer(client[1], Reply.DONE)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(client[0], there[1]))
                group.create_task(_pump(there[0], client[1]))
        except BaseExceptionGroup as group_:
            _abort(there[1])
            raise ConnectionError("one side broke off") from group_
        except BaseException:
            _abort(there[1])
            raise
        else:
            there[1].close()

    async def _reach(self, target: Target, class_: int) -> socket.socket:
        loop = asyncio.get_running_loop()
        failed: OSError = OSError(errno.EHOSTUNREACH, "no address")
        for address in (await self._addresses(target, class_))[:ADDRESSES]:
            if not carried(address):
                failed = PermissionError(errno.EPERM, "not for the tunnel")
                continue
            sock = self._tunnel.open(socket.SOCK_STREAM, address.version, class_)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await loop.sock_connect(sock, (str(address), target.port))
            except OSError as error:
                sock.close()
                failed = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failed

    async def _addresses(self, target: Target, class_: int) -> list[Address]:
        if isinstance(target.host, str):
            return await resolve(self._tunnel, target.host, class_)
        return [target.host]

    async def _associate(self, target: Target, class_: int, client: Pair) -> None:
        """Carry datagrams until the client closes the connection that asked for them."""
        reader, writer = client
        own, peer = (writer.get_extra_info(name)[0] for name in ("sockname", "peername"))
        async with Association(self._tunnel, class_, own, peer, target.port) as association:
            await _answer(writer, Reply.DONE, association.address)
            while await reader.read(CHUNK):
                pass

    async def _look_up(self, command: int, target: Target, class_: int, writer: asyncio.StreamWriter) -> None:
        found: Address | str
        try:
            if command == Command.RESOLVE:
                found = (await self._addresses(target, class_))[0]
            elif isinstance(target.host, str):
                raise NoSuchName
            else:
                found = await resolve_pointer(self._tunnel, target.host, class_)
        except (OSError, NoSuchName) as error:
            await _answer(writer, reason(error))
        else:
            await _answer(writer, Reply.DONE, Target(found, 0))


def reason(error: Exception) -> Reply:
    """Return the reply that says why it failed."""
    match error:
        case NoSuchName():
            return Reply.HOST_UNREACHABLE
        case ConnectionRefusedError():
            return Reply.REFUSED
        case TimeoutError():
            return Reply.TIMED_OUT
        case PermissionError():
            return Reply.NOT_ALLOWED
        case OSError(errno=errno.ENETUNREACH | errno.ENODEV):
            return Reply.NETWORK_UNREACHABLE
        case OSError(errno=errno.EHOSTUNREACH):
            return Reply.HOST_UNREACHABLE
    return Reply.FAILED


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Credentials:
    """Agree on a method, the one with a password if the client has one to give."""
    offered = await _read(reader, socks.read_methods())
    method = max(offered & set(Method), default=None)
    if method is None:
        writer.write(socks.write_method(socks.NO_METHOD))
        await writer.drain()
        raise Malformed("no method that is known here")
    writer.write(socks.write_method(method))
    if method == Method.NONE:
        return Credentials()
    user = await _read(reader, socks.read_credentials())
    writer.write(socks.write_accepted())
    return user


async def _read(reader: asyncio.StreamReader, reading: Reading[T]) -> T:
    try:
        size = next(reading)
        while True:
            size = reading.send(await reader.readexactly(size))
    except StopIteration as end:
        value: T = end.value
        return value


async def _answer(writer: asyncio.StreamWriter, reply: Reply, bound: Target = NOWHERE) -> None:
    writer.write(socks.write_reply(reply, bound))
    await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Break a connection off: its peer must not take what it has for all that there was."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
