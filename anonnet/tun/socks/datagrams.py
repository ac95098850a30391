"""UDP ASSOCIATE (RFC 1928, section 7): datagrams of one client, for as long as its connection stands."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from anonnet.errors import Malformed
from anonnet.tun.socks.names import NoSuchName, resolve
from anonnet.tun.socks.through import Tunnel, carried
from anonnet.wire import socks
from anonnet.wire.socks import Address, Target

LOOKING_UP: Final = 32  # datagrams that wait for a name at once; more are dropped
NAMES: Final = 256  # that an association remembers

Where = tuple[Any, ...]  # a socket address
Received = Callable[[bytes, Where], None]


class Association:
    """A socket for the client, on the address that it reached us at, and one or two into the tunnel.

    Datagrams are taken from the client's host only, from the port that it announced, else from the first that
    sends.
    """

    def __init__(self, tunnel: Tunnel, class_: int, own: str, peer: str, port: int) -> None:
        """`own`, `peer`: both ends of the connection; `port`: that the client will send from, 0 for any."""
        self._tunnel = tunnel
        self._class = class_
        self._own = own
        self._peer = peer
        self._port = port
        self.address = socks.NOWHERE  # where the client is to send its datagrams
        self._client: Where | None = None
        self._near: _Endpoint | None = None
        self._far: dict[int, _Endpoint] = {}
        self._names: dict[str, Address] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Association:
        sock = socket.socket(socket.AF_INET6 if ":" in self._own else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            sock.bind((self._own, 0))
            host, port = sock.getsockname()[:2]
            self._near = await _Endpoint.make(sock, self._from_client)
        except BaseException:
            sock.close()
            raise
        self.address = Target(ipaddress.ip_address(host), port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for endpoint in (self._near, *self._far.values()):
            if endpoint is not None:
                endpoint.close()

    def _from_client(self, data: bytes, source: Where) -> None:
        if source[0] != self._peer or (self._port and source[1] != self._port):
            return
        if self._client not in (None, source) or len(self._tasks) >= LOOKING_UP:
            return
        try:
            target, payload = socks.read_all(socks.read_datagram_header(), data)
        except Malformed:
            return
        if target is None:
            return
        self._client = source
        task = asyncio.ensure_future(self._send(target, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, target: Target, payload: bytes) -> None:
        with contextlib.suppress(OSError, NoSuchName):  # as datagrams are lost anywhere
            address = await self._address(target.host)
            if not carried(address):
                return
            far = self._far.get(address.version) or await self._reach(address.version)
            far.send(payload, (str(address), target.port))

    async def _address(self, host: Address | str) -> Address:
        if not isinstance(host, str):
            return host
        if host not in self._names:
            found = (await resolve(self._tunnel, host, self._class))[0]
            if len(self._names) >= NAMES:
                del self._names[next(iter(self._names))]
            self._names[host] = found
        return self._names[host]

    async def _reach(self, version: int) -> _Endpoint:
        sock = self._tunnel.open(socket.SOCK_DGRAM, version, self._class)
        try:
            sock.bind(("::" if version == 6 else "0.0.0.0", 0))  # noqa: S104  of the tunnel's device only
            far = await _Endpoint.make(sock, self._from_tunnel)
        except BaseException:
            sock.close()
            raise
        if version in self._far:  # another datagram was as quick
            far.close()
        return self._far.setdefault(version, far)

    def _from_tunnel(self, data: bytes, source: Where) -> None:
        if self._client is not None and self._near is not None:
            header = socks.write_datagram_header(Target(ipaddress.ip_address(source[0]), source[1]))
            self._near.send(header + data, self._client)


class _Endpoint(asyncio.DatagramProtocol):
    """A socket that hands over what comes, and drops what is to go while too much waits."""

    def __init__(self, received: Received) -> None:
        self._received = received
        self._transport: asyncio.DatagramTransport | None = None
        self._full = False

    @classmethod
    async def make(cls, sock: socket.socket, received: Received) -> _Endpoint:
        loop = asyncio.get_running_loop()
        transport, made = await loop.create_datagram_endpoint(lambda: cls(received), sock=sock)
        made._transport = transport
        return made

    def send(self, data: bytes, to: Where) -> None:
        if self._transport is not None and not self._full:
            self._transport.sendto(data, to)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: Where) -> None:
        self._received(data, addr)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
