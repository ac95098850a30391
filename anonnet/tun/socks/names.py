"""Names resolved through the tunnel, at the resolver that the exit has behind its inner address.

The host's own resolver is never asked: what a program looks up would show on the wire. Nothing is cached, so
that no two users of the proxy can learn from each other's look-ups; the exit's resolver caches.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename

from anonnet.spec import INNER4_EXIT
from anonnet.tun.socks.through import Tunnel
from anonnet.wire.socks import Address

PORT: Final = 53
TRIES: Final = (3.0, 5.0, 10.0)  # seconds to wait for an answer, each time that it is asked
DATAGRAM: Final = 1232  # bytes of an answer: what fits any path, and one packet in the tunnel


class NoSuchName(Exception):
    """Nobody has this name, or no address goes with it."""


async def resolve(tunnel: Tunnel, name: str, class_: int) -> list[Address]:
    """Return the addresses of a name, IPv4 first; raise NoSuchName, TimeoutError or OSError."""
    kinds = (dns.rdatatype.A, dns.rdatatype.AAAA)
    found = await asyncio.gather(*(_ask(tunnel, _name(name), kind, class_) for kind in kinds),
                                 return_exceptions=True)  # fmt: skip
    addresses = [ipaddress.ip_address(text) for texts in found if isinstance(texts, list) for text in texts]
    if not addresses:
        raise next(error for error in found if isinstance(error, BaseException))
    return addresses


async def resolve_pointer(tunnel: Tunnel, address: Address, class_: int) -> str:
    """Return the name of an address; raises like `resolve`."""
    names = await _ask(tunnel, dns.reversename.from_address(str(address)), dns.rdatatype.PTR, class_)
    return names[0].rstrip(".")


def _name(text: str) -> dns.name.Name:
    try:
        return dns.name.from_text(text)
    except (dns.exception.DNSException, ValueError):
        raise NoSuchName(text) from None


async def _ask(tunnel: Tunnel, name: dns.name.Name, kind: dns.rdatatype.RdataType, class_: int) -> list[str]:
    query = dns.message.make_query(name, kind, use_edns=0, payload=DATAGRAM)
    answer = await _by_datagram(tunnel, query, class_)
    if answer.flags & dns.flags.TC:
        answer = await _by_stream(tunnel, query, class_)
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise OSError(f"the resolver says {dns.rcode.to_text(answer.rcode())}")
    try:
        found = answer.resolve_chaining().answer
    except dns.exception.DNSException:
        found = None
    if not found:
        raise NoSuchName(str(name))
    return [str(record) for record in found]


async def _by_datagram(tunnel: Tunnel, query: dns.message.Message, class_: int) -> dns.message.QueryMessage:
    loop = asyncio.get_running_loop()
    for seconds in TRIES:
        with tunnel.open(socket.SOCK_DGRAM, 4, class_) as sock:
            await loop.sock_connect(sock, (INNER4_EXIT, PORT))
            await loop.sock_sendall(sock, query.to_wire())
            try:
                async with asyncio.timeout(seconds):
                    while True:
                        answer = _read(query, await loop.sock_recv(sock, 65_535))
                        if answer is not None:
                            return answer
            except TimeoutError:
                continue
    raise TimeoutError("no answer from the resolver")


async def _by_stream(tunnel: Tunnel, query: dns.message.Message, class_: int) -> dns.message.QueryMessage:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TRIES[-1]):
        sock = tunnel.open(socket.SOCK_STREAM, 4, class_)
        try:
            await loop.sock_connect(sock, (INNER4_EXIT, PORT))
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(query.to_wire(prepend_length=True))
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = _read(query, await reader.readexactly(size))
        except asyncio.IncompleteReadError as error:
            raise OSError("the resolver hung up") from error
        finally:
            writer.close()
    if answer is None:
        raise OSError("the resolver's answer is to another question")
    return answer


def _read(query: dns.message.Message, data: bytes) -> dns.message.QueryMessage | None:
    """Return a message if it answers the query."""
    try:
        answer = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
    return answer if isinstance(answer, dns.message.QueryMessage) and query.is_response(answer) else None
