"""Network namespaces for these tests, and what a host looks like before and after.

    host (eth0 10.9.0.2, fd09::2) ---- veth ---- (eth0 10.9.0.1, fd09::1) outside

`host` has its default routes by `outside`, which also owns 198.51.100.7, an address "on the Internet".
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyroute2 import netns

from anonnet.lab.namespaces import processes
from anonnet.net.tunfile import TunFile
from anonnet.tun import apply
from anonnet.tun.actions import Action
from anonnet.tun.device import Tun
from anonnet.tun.routing import MARK

HOST, OUTSIDE = f"antest-host-{os.getpid()}", f"antest-out-{os.getpid()}"

_SYSCTLS = ("forwarding", "rp_filter", "src_valid_mark", "accept_redirects", "accept_ra")


def sh(*argv: str, stdin: str = "") -> str:
    return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True).stdout


def ip(namespace: str, command: str) -> str:
    return sh("ip", "-n", namespace, *command.split())


def inside(namespace: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a child process in the namespace; return its result, or fail with its traceback."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            netns.setns(namespace)
            answer = (True, function(*args))
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        return None  # it ended itself, as a killed process does
    ok, value = pickle.loads(data)
    assert ok, value
    return value


def snapshot(namespace: str, *files: Path) -> dict[str, object]:
    """Everything that must be the same, byte for byte, after `down`."""
    return {
        **inside(namespace, _look),
        "files": [(f.read_bytes(), f.stat().st_mode, f.stat().st_ino) for f in files],
    }


def _look() -> dict[str, object]:
    commands = (
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "ip -o link",
    )
    seen: dict[str, object] = {command: sh(*command.split()) for command in commands}
    seen["nft"] = sh("nft", "list", "ruleset")
    for version in ("ipv4", "ipv6"):
        for path in sorted(Path(f"/proc/sys/net/{version}/conf").glob("*/*")):
            if path.name in _SYSCTLS:
                seen[str(path)] = path.read_text()
    return seen


@contextlib.contextmanager
def two_hosts() -> Iterator[None]:
    try:
        for name, number in ((HOST, 2), (OUTSIDE, 1)):
            sh("ip", "netns", "add", name)
            inside(name, lambda: Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0"))
            if number == 2:
                continue
            ip(HOST, f"link add eth0 type veth peer name eth0 netns {OUTSIDE}")
        for name, number in ((HOST, 2), (OUTSIDE, 1)):
            ip(name, "link set lo up")
            ip(name, f"addr add 10.9.0.{number}/24 dev eth0")
            ip(name, f"addr add fd09::{number}/64 dev eth0 nodad")
            ip(name, "link set eth0 up")
        ip(OUTSIDE, "addr add 198.51.100.7/32 dev lo")
        ip(OUTSIDE, "addr add 2001:db8::7/128 dev lo nodad")
        # Known beforehand, so that datagrams leave in the order in which they were sent.
        mac = ip(OUTSIDE, "-br link show dev eth0").split()[2]
        for address in ("10.9.0.1", "fd09::1"):
            ip(HOST, f"neigh add {address} lladdr {mac} dev eth0 nud permanent")
        ip(HOST, "route add default via 10.9.0.1")
        ip(HOST, "route add default via fd09::1")
        inside(
            HOST, lambda: Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("1")
        )  # as distributions do
        yield
    finally:
        for pid in processes([HOST, OUTSIDE]):  # the warden of a test that failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for name in (HOST, OUTSIDE):
            subprocess.run(["ip", "netns", "del", name], check=False)


@contextlib.contextmanager
def performing(perform: Callable[[Action], Tun | None]) -> Iterator[None]:
    """Have changes to the host made by another function."""
    real = apply.perform
    apply.perform = perform
    try:
        yield
    finally:
        apply.perform = real


@contextlib.contextmanager
def interrupted(number: int, after: bool, interrupt: Callable[[], None]) -> Iterator[None]:
    """Interrupt the change of this number, before or after it is made; undoing goes on as usual."""
    real, count = apply.perform, 0

    def perform(action: Action) -> Tun | None:
        nonlocal count
        count += 1
        if count - 1 == number and not after:
            interrupt()
        made = real(action)
        if count - 1 == number and after:
            interrupt()
        return made

    with performing(perform):
        yield


class Wire:
    """Packet socket on the far end of the host's only wire; a last marked datagram says that all is in."""

    def __init__(self) -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # what leaves by one core stays in order
        netns.setns(OUTSIDE)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        self._socket.bind(("eth0", 0))
        self._socket.settimeout(5)
        self.mac = self._socket.getsockname()[4]
        netns.setns(HOST)

    def packets(self, *, mark: int = MARK) -> list[bytes]:
        """Return the IP packets that came since the last call, but for neighbour discovery."""
        raw(b"the end", "10.9.0.1", mark)
        found = []
        while True:
            frame, address = self._socket.recvfrom(65536)
            if address[2] == socket.PACKET_OUTGOING or address[1] not in (0x0800, 0x86DD):
                continue
            packet = frame[14:]
            if b"the end" in packet:
                return found
            if not (packet[0] >> 4 == 6 and packet[6] in (0, 58)):
                found.append(packet)


def raw(data: bytes, to: str, mark: int = 0) -> None:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, 253) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sender.sendto(data, (to, 0))


def udp(data: bytes, to: str, port: int, *, mark: int = 0, device: str = "", source: str = "") -> None:
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if device:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if source:
            sender.bind((source, 0))
        sender.sendto(data, (to, port))


def give(fd: int, packet: bytes) -> None:
    """Let a packet come out of the TUN."""
    TunFile(fd).write(bytearray(packet))


def drain(fd: int) -> list[bytes]:
    """Return the packets waiting in the TUN."""
    return [bytes(packet) for packet in TunFile(fd).read()]
