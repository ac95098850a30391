"""Runs in the guest from the first moment of its boot: tries every way out, ten times a second, for ever.

A probe bears its number in its payload or its source port, as those of tests.leaks do, which say in JSON what
to send: [[number, kind, address, port], ..]. The guest has nothing but Python.
"""

import contextlib
import json
import socket
import sys
import time


def send(number: int, kind: str, address: str, port: int, token: bytes, first_port: int, mac: str) -> None:
    """Send one probe, if the host lets it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    payload = token + number.to_bytes(2, "big")
    if kind == "tcp":
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", first_port + number))
            sock.setblocking(False)
            sock.connect((address, port))
    elif kind == "udp":
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.sendto(payload, (address, port))
    elif kind == "icmp":
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            body = b"\x08\0\0\0\0\0\0\0" + payload
            sock.sendto(body, (address, 0))
    else:  # a packet socket; the frame is of a protocol for experiments
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("eth0", 0))
            sock.send(bytes.fromhex(mac.replace(":", "")) + bytes(6) + b"\x88\xb5" + payload)


def main() -> None:
    """Send all probes, again and again."""
    probes, token, first_port, mac = json.loads(sys.argv[1])
    while True:
        for number, kind, address, port in probes:
            with contextlib.suppress(OSError):  # no network yet, or refused
                send(number, kind, address, port, token.encode(), first_port, mac)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
