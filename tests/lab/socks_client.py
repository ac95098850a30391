"""A client of UDP ASSOCIATE (RFC 1928), byte by byte: asks a name server for web.lab through a SOCKS proxy.

    python -m tests.lab.socks_client NAME-SERVER     prints the addresses that came back

The name server is given by name, which the far end must resolve.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

import dns.message

PROXY: Final = ("127.0.0.1", 1080)
PATIENCE: Final = 3.0  # seconds for an answer, then it is asked again
TRIES: Final = 5


def main(server: str) -> None:
    """Associate, ask until an answer comes, and hang up."""
    with socket.create_connection(PROXY, 10) as control, socket.socket(type=socket.SOCK_DGRAM) as sender:
        control.sendall(b"\x05\x01\x00")  # no authentication
        assert control.recv(2) == b"\x05\x00"
        control.sendall(b"\x05\x03\x00\x01" + bytes(6))  # UDP ASSOCIATE, from anywhere
        reply = control.recv(10)
        assert reply[:4] == b"\x05\x00\x00\x01", reply
        relay = (socket.inet_ntoa(reply[4:8]), int.from_bytes(reply[8:10], "big"))
        query = dns.message.make_query("web.lab", "A")
        where = b"\x03" + bytes([len(server)]) + server.encode() + (53).to_bytes(2, "big")
        sender.settimeout(PATIENCE)
        for _ in range(TRIES):
            sender.sendto(b"\x00\x00\x00" + where + query.to_wire(), relay)
            try:
                data = sender.recv(2048)
                break
            except TimeoutError:
                continue
        else:
            sys.exit("no answer")
        assert data[:4] == b"\x00\x00\x00\x01", data  # whole, from an IPv4 address: 4 and 2 bytes
        answer = dns.message.from_wire(data[10:])
        assert query.is_response(answer)
        print(socket.inet_ntoa(data[4:8]), *(str(record) for found in answer.answer for record in found))


if __name__ == "__main__":
    main(sys.argv[1])
