"""The name server of the lab's web host: answers for web.lab, refuses the rest, logs who asked."""

from __future__ import annotations

import socket
import socketserver
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSError, DNSRecord

ZONE: Final = "lab"
TTL: Final = 60  # seconds

Log = Callable[[Mapping[str, object]], None]


def answer(query: bytes, names: Mapping[str, tuple[str, str]]) -> tuple[bytes, str, str, str] | None:
    """Answer one query: (reply, name, type, response code); None if it is not a query at all.

    `names` maps a name to its IPv4 and IPv6 address. Other names of the zone do not exist; other zones are
    refused.
    """
    try:
        request = DNSRecord.parse(query)
    except (DNSError, struct.error, ValueError):
        return None
    if request.header.qr or len(request.questions) != 1:
        return None
    name = str(request.q.qname).rstrip(".").lower()
    kind = QTYPE.get(request.q.qtype)
    reply = request.reply(ra=0, aa=1)
    if name in names:
        ipv4, ipv6 = names[name]
        if kind in ("A", "ANY"):
            reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=TTL, rdata=A(ipv4)))
        if kind in ("AAAA", "ANY"):
            reply.add_answer(RR(request.q.qname, QTYPE.AAAA, ttl=TTL, rdata=AAAA(ipv6)))
    elif name == ZONE or name.endswith(f".{ZONE}"):
        reply.header.rcode = RCODE.NXDOMAIN
    else:
        reply.header.aa, reply.header.rcode = 0, RCODE.REFUSED
    return reply.pack(), name, str(kind), str(RCODE.get(reply.header.rcode))


class _Udp(socketserver.ThreadingUDPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


class _Tcp(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    allow_reuse_address = True


def servers(names: Mapping[str, tuple[str, str]], log: Log, port: int = 53) -> list[socketserver.BaseServer]:
    """Return a UDP and a TCP server, both bound, for IPv4 and IPv6; the caller runs `serve_forever`."""

    def reply(query: bytes, client: Any, transport: str) -> bytes | None:
        result = answer(query, names)
        if result is None:
            return None
        data, name, kind, code = result
        source = {"service": "dns", "client": str(client[0]).removeprefix("::ffff:"), "transport": transport}
        log({**source, "name": name, "type": kind, "code": code})
        return data

    class UdpHandler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, sock = self.request
            if (data := reply(query, self.client_address, "udp")) is not None:
                sock.sendto(data, self.client_address)

    class TcpHandler(socketserver.StreamRequestHandler):
        timeout = 10

        def handle(self) -> None:
            while len(prefix := self.rfile.read(2)) == 2:  # RFC 1035 4.2.2
                data = reply(self.rfile.read(int.from_bytes(prefix, "big")), self.client_address, "tcp")
                if data is None:
                    return
                self.wfile.write(len(data).to_bytes(2, "big") + data)

    return [_Udp(("::", port), UdpHandler), _Tcp(("::", port), TcpHandler)]
