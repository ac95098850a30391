"""Programs that use the SOCKS proxy on a host that is not up: nothing of theirs is seen outside of the links.

caller ---- r1 ---- r2 ---- x1 ~~~ web        one route at t1; nothing else runs on the caller

All that leaves the caller is watched from core while clients of every kind go on trying: while the proxy
waits for its circuit, when it is in use, when the daemon is killed under it, and when it has ended.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from anonnet.lab import services
from anonnet.lab.place import CALLER, CORE
from anonnet.proto.profile import parse_profile
from tests.lab.live import SLOW, WEB4, WEB6, LiveLab, live, until
from tests.leaks.capture import Wire
from tests.leaks.probes import MARK_TOKEN
from tests.leaks.stage import IPV4_HEADER, OWN

pytestmark = pytest.mark.root

PROXY: Final = "socks5h://127.0.0.1:1080"
SECONDS: Final = 3.0  # that clients go on for in each state ...
PATIENCE: Final = 60.0  # ... or until all were served, where they must be
CLIENTS: Final = {
    "tcp, by name": ("curl", "-sS", "-m", "10", "--proxy", PROXY, "http://web.lab/"),
    "tcp, IPv4": ("curl", "-sS", "-m", "10", "--proxy", PROXY, f"http://{WEB4}/"),
    "tcp, IPv6": ("curl", "-sS", "-m", "10", "--proxy", PROXY, f"http://[{WEB6}]/"),
    "udp, by name": ("timeout", "10", "python", "-m", "tests.lab.socks_client", "web.lab"),
    "torsocks": ("timeout", "10", "torsocks", "-P", "1080", "curl", "-sS", "http://web.lab/"),
}
# The kernel tells a neighbour that nobody takes link datagrams any more: ICMP, to it, about protocol 253.
UNREACHABLE: Final = re.compile(r"other: 45.{16}01.{4}.{8}(.{8})0302.{12}45.{16}fd")
MARK: Final = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto({data!r}, ({to!r}, 9))"


class Watched:
    """The caller's wire, and what was seen there in each state."""

    def __init__(self, lab: LiveLab, wire: Wire) -> None:
        self._lab = lab
        self._wire = wire
        self._marks = 0
        self.leaks: dict[str, Counter[str]] = {}
        self.worked: dict[str, Counter[str]] = {}

    @contextmanager
    def state(self, name: str, served: bool = False) -> Iterator[None]:
        """Watch the wire while the block runs, and clients after it; `served`: until all of them were."""
        self._wire.start()
        self.worked[name] = Counter()
        yield
        began = time.monotonic()
        while (lasted := time.monotonic() - began) < SECONDS or (
            served and lasted < PATIENCE and not all(self.worked[name][client] for client in CLIENTS)
        ):
            running = {
                client: subprocess.Popen(
                    ["ip", "netns", "exec", self._lab.place.namespace(CALLER), *command],
                    env=services.environment(self._lab.place, CALLER),
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
                for client, command in CLIENTS.items()
            }  # fmt: skip
            for client, process in running.items():
                self.worked[name][client] += not process.wait()
        self._marks += 1
        data = MARK_TOKEN + self._marks.to_bytes(4, "big")
        self._lab.out(CALLER, "python", "-c", MARK.format(data=data, to=self._lab.address("r1")))
        self._wire.await_mark(self._marks)
        self.leaks[name] = Counter({what: n for what, n in self._wire.leaks.items() if not self._dead(what)})

    def _dead(self, leak: str) -> bool:
        found = UNREACHABLE.match(leak)
        return found is not None and socket.inet_ntoa(bytes.fromhex(found[1])) == self._lab.address("r1")

    def table(self) -> str:
        """A row for each state: packets that left and may not, and which clients were served."""
        width = max(map(len, self.leaks))
        return "\n".join(
            f"{name:<{width}}{leaks.total():>6}   served: "
            + (", ".join(client for client, count in self.worked[name].items() if count) or "none")
            for name, leaks in self.leaks.items()
        )


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("sleak", chain=True, rate="t1") as up:
        yield up


def test_clients_of_the_proxy_leave_by_it_or_not_at_all(
    lab: LiveLab, capsys: pytest.CaptureFixture[str]
) -> None:
    neighbours = [(OWN.ipv4, lab.address(name)) for name in lab.topology.neighbours(CALLER)]
    length = parse_profile(lab.topology.rate).format.datagram_len + IPV4_HEADER
    wire = Wire(lab.place.namespace(CORE), CALLER, neighbours, [length], {})
    watched = Watched(lab, wire)
    try:
        with watched.state("direct (control)"):
            lab.out(CALLER, "curl", "-sS", f"http://{WEB4}/")
        services.stop(lab.place, "x1", "node", signal.SIGTERM, SLOW)
        with lab.running(CALLER, "anonnet-tun", "socks", stderr=subprocess.PIPE) as proxy:
            with watched.state("no circuit yet"):
                until(lambda: "anonsocks0" in lab.out(CALLER, "ip", "link"), SLOW, "the proxy's device")
            lab.start("x1")
            until(lambda: bool(lab.out(CALLER, "ss", "-Hltn", "sport = :1080")), 60, "the proxy")
            with watched.state("in use", served=True):
                pass
            with watched.state("daemon killed"):
                lab.kill(CALLER)
            assert proxy.wait(SLOW) == 1
        with watched.state("proxy ended"):
            pass
    finally:
        wire.close()
    with capsys.disabled():
        print(f"\n{watched.table()}")
    assert watched.leaks.pop("direct (control)"), "the wire shows nothing, and this proves nothing"
    assert set(watched.leaks) == {"no circuit yet", "in use", "daemon killed", "proxy ended"}
    assert not any(leaks for leaks in watched.leaks.values()), watched.leaks
    served = {name: {client for client, n in found.items() if n} for name, found in watched.worked.items()}
    assert served.pop("in use") == set(CLIENTS)
    assert not any(served.values()), served
