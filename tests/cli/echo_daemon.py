"""A daemon of the tests' own: it speaks the control socket, and answers pings on the TUN device by itself.

    echo_daemon.py RUN_DIR [deaf | refuse | slow]

deaf: the circuit is built but nothing comes back; refuse: no circuit; slow: it never answers `up`.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from pathlib import Path

import msgspec

from anonnet.net.tunfile import TunFile
from anonnet.node import api

HOPS = ("r1" * 16, "r2" * 16, "x1" * 16)
ECHO_REQUEST = 8


def serve(run_dir: Path, mood: str) -> None:
    """Answer until killed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(run_dir / api.SOCKET_NAME))
    listener.listen()
    print("ready", flush=True)
    held: list[socket.socket] = []  # connections that a slow daemon keeps
    tun = -1
    while True:
        readable, _, _ = select.select([listener, tun] if tun >= 0 else [listener], [], [])
        if tun in readable:
            answer_ping(TunFile(tun), mood)
        if listener in readable:
            peer, _ = listener.accept()
            line, fds, _, _ = socket.recv_fds(peer, 65536, 1)
            request = api.decode_request(line)
            if isinstance(request, api.Up) and mood == "slow":
                print("waiting", flush=True)
                held.append(peer)
                os.close(fds[0])
                continue
            if isinstance(request, api.Up) and mood == "refuse":
                peer.sendall(api.encode(api.Failed("no exit is known", "add a peer that is one")))
                peer.close()
                os.close(fds[0])
                continue
            if isinstance(request, api.Up):
                tun = fds[0] if fds else tun
                for hop in HOPS:
                    peer.sendall(api.encode(api.Progress(f"hop {hop[:8]}")))
            if isinstance(request, api.Down) and tun >= 0:
                os.close(tun)
                tun = -1
            peer.sendall(api.encode(api.done(answer(request, tun >= 0))))
            peer.close()


def answer(request: api.Request, up: bool) -> msgspec.Struct:
    """Return what a real daemon would say, shortened."""
    route = api.RouteStatus(1, HOPS, "open", 4)
    circuits = (api.CircuitStatus(1, HOPS[-1], (route,)),) if up else ()
    if isinstance(request, api.GetCircuits):
        return api.Circuits(circuits)
    if isinstance(request, api.GetPeers):
        return api.Peers((api.PeerStatus(HOPS[0], "r1", False, ("raw:198.51.100.1",), "up"),))
    if isinstance(request, api.Ping):
        return api.Pinged(request.node, (41.5, None, 43.5)[: request.count])
    links = (api.LinkStatus(HOPS[0], "up", "raw", "10m", 5008.0, 5, 1000, 998, 2, 0, 0),)
    exit_ = HOPS[-1] if up else None
    return api.Status(api.SCHEMA, "me" * 16, "up" if up else "down", exit_, circuits, links)


def answer_ping(tun: TunFile, mood: str) -> None:
    """Turn an ICMP echo request round in place."""
    for packet in tun.read():
        _answer(tun, packet, mood)


def _answer(tun: TunFile, packet: bytearray, mood: str) -> None:
    if mood == "deaf" or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_ICMP:
        return
    header = (packet[0] & 15) * 4
    if packet[header] != ECHO_REQUEST:
        return
    packet[12:16], packet[16:20] = packet[16:20], packet[12:16]
    packet[header] = 0
    checksum = int.from_bytes(packet[header + 2 : header + 4], "big") + (ECHO_REQUEST << 8)  # RFC 1624
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    packet[header + 2 : header + 4] = checksum.to_bytes(2, "big")
    tun.write(packet)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
