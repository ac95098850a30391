"""What happens to a host while it is up: each row does it, and waits until what must be put right is."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptRouteInfo,
    IPv6,
)
from scapy.layers.l2 import Ether

from anonnet.lab import namespaces
from anonnet.lab.place import CALLER, CORE
from anonnet.tun.routing import TABLE
from tests.lab.live import SLOW, LiveLab, until
from tests.leaks.capture import within
from tests.leaks.stage import HOME

SUSPENDED_SECONDS: Final = 1.0
BURSTS_SECONDS: Final = 1.0  # enough for one burst of probes at the least


def sh(lab: LiveLab, command: str) -> str:
    """Run a shell command on the caller."""
    return lab.out(CALLER, "sh", "-ec", command)


def address_changes(lab: LiveLab) -> None:
    """A second address comes, and goes again."""
    sh(lab, "ip addr add 100.64.0.77/24 dev eth0; sleep 0.5; ip addr del 100.64.0.77/24 dev eth0")


def default_route_changes(lab: LiveLab) -> None:
    """The home router takes over, and the former one comes back."""
    sh(lab, f"ip route replace default via {HOME.ipv4}; ip -6 route replace default via {HOME.ipv6} dev eth0")
    time.sleep(0.5)
    gateway = lab.topology.host(CALLER)
    sh(
        lab,
        f"ip route replace default via {gateway.net4[1]}; ip -6 route del default via {HOME.ipv6} dev eth0",
    )
    sh(lab, f"ip -6 route replace default via {gateway.net6[1]} dev eth0")


def link_flaps(lab: LiveLab) -> None:
    """The cable is out for half a second, and all that went with it is set anew, as a DHCP client would."""
    host = lab.topology.host(CALLER)
    sh(lab, "ip link set eth0 down; sleep 0.5")
    batch = [
        line for line in namespaces.host_batch(host) if "lo up" not in line and str(host.ipv4) not in line
    ]
    batch = [line.replace("neigh add", "neigh replace") for line in batch]
    batch.append(f"addr add {HOME.ipv6[:-1]}2/64 dev eth0 nodad")
    mac = lab.out(CORE, "cat", f"/sys/class/net/{CALLER}/address").strip()
    batch += [f"neigh replace {one} lladdr {mac} dev eth0" for one in (HOME.ipv4, HOME.ipv6)]
    batch.sort(key=lambda line: line.startswith("route"))
    batch.sort(key=lambda line: not line.startswith("link"))
    namespaces.ip(batch, lab.place.namespace(CALLER))


def dhcp_pushes_routes(lab: LiveLab) -> None:
    """TunnelVision: a renewed lease with option 121, more specific than the tunnel's default route."""
    ranges = ("198.51.100.0/25", "203.0.113.2/32", "0.0.0.0/1", "128.0.0.0/1")
    sh(lab, "; ".join(f"ip route add {one} via {HOME.ipv4} dev eth0" for one in ranges))
    time.sleep(0.5)
    sh(lab, "; ".join(f"ip route del {one} via {HOME.ipv4} dev eth0" for one in ranges))


def router_advertises(lab: LiveLab) -> None:
    """A router offers itself, a prefix, a more specific route and a name server."""
    sh(lab, "sysctl -qw net.ipv6.conf.eth0.accept_ra=2")
    packet = (
        Ether(dst="33:33:00:00:00:01")
        / IPv6(src="fe80::1", dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(routerlifetime=60, prf=1)
        / ICMPv6NDOptPrefixInfo(prefix="2001:db8:ad::", prefixlen=64, validlifetime=60, preferredlifetime=60)
        / ICMPv6NDOptRouteInfo(prefix="2001:db8:7::", plen=48, rtlifetime=60, len=2)
        / ICMPv6NDOptRDNSS(dns=["2001:db8:ad::53"], lifetime=60)
    )

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind((CALLER, 0))
        return sock

    with within(lab.place.namespace(CORE), make) as sock:
        sock.send(bytes(packet))
    until(lambda: "proto ra" in sh(lab, "ip -6 route"), SLOW, "the advertised route")
    time.sleep(0.5)
    sh(lab, "sysctl -qw net.ipv6.conf.eth0.accept_ra=0; ip -6 route flush proto ra; "
       "ip -6 addr del $(ip -6 -o addr show dev eth0 | grep -o '2001:db8:ad:[^ ]*') dev eth0; "
       "ip -6 route flush 2001:db8:ad::/64")  # fmt: skip


def warden_pid(lab: LiveLab) -> int:
    """Return the process id of the caller's warden."""
    return int((lab.place.of(CALLER) / "run" / "warden.pid").read_text().split()[0])


@contextmanager
def nobody_mends(lab: LiveLab) -> Iterator[None]:
    """What is done in the block stays so for some bursts of probes: the warden stands still."""
    pid = warden_pid(lab)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(BURSTS_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)


def ruleset_flushed(lab: LiveLab) -> None:
    """Another program replaces all firewalls, as `systemctl reload nftables` does."""
    with nobody_mends(lab):
        sh(lab, "nft flush ruleset")
    until(lambda: "table inet anonnet\n" in sh(lab, "nft list tables"), SLOW, "the firewall put right")


def rules_deleted(lab: LiveLab) -> None:
    """Another VPN clears the policy rules and our table."""
    with nobody_mends(lab):
        sh(lab, "ip rule del priority 1110; ip -6 rule del priority 1110")
        sh(lab, f"ip route flush table {TABLE}; ip -6 route flush table {TABLE}")
    until(lambda: "1110" in sh(lab, "ip rule") and "1110" in sh(lab, "ip -6 rule"), SLOW, "rules put right")
    until(lambda: "default" in sh(lab, f"ip route show table {TABLE} 2>&1 || true"), SLOW, "our route back")


def resolv_conf_rewritten(lab: LiveLab) -> None:
    """A DHCP client writes its own name server."""
    with nobody_mends(lab):
        sh(lab, "echo nameserver 100.64.0.1 > /etc/resolv.conf")
    until(lambda: "192.0.0.1" in sh(lab, "cat /etc/resolv.conf"), SLOW, "resolv.conf put right")


def machine_suspended(lab: LiveLab) -> None:
    """Every process of AnonNet stands still for a second."""
    pids = [*lab.daemon_pids(CALLER), warden_pid(lab)]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(SUSPENDED_SECONDS)


def warden_killed(lab: LiveLab) -> None:
    """The warden dies, its twin of the firewall with it; `up` starts another."""
    os.kill(warden_pid(lab), signal.SIGKILL)
    until(lambda: "anonnet_twin" not in sh(lab, "nft list tables"), SLOW, "the twin's end")
    lab.up()
    assert "anonnet_twin" in sh(lab, "nft list tables")


EVENTS: Final[tuple[Callable[[LiveLab], None], ...]] = (
    address_changes,
    default_route_changes,
    link_flaps,
    dhcp_pushes_routes,
    router_advertises,
    ruleset_flushed,
    rules_deleted,
    resolv_conf_rewritten,
    machine_suspended,
    warden_killed,
)
