"""The exit's ruleset: source NAT towards the Internet, what circuits may reach, and the DNS redirect.

The host's other firewall rules are left alone: an `accept` of ours ends our chain, not theirs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from anonnet import spec
from anonnet.tun.nft import chain, fresh

TABLE: Final = "anonnet_exit"
POOL4: Final = "100.127.0.0/16"  # the end of RFC 6598's range, where carriers rarely begin
POOL6: Final = "fd61:6e6f:6e6e:1::/64"

# What is not the Internet: the exit's own networks, its cloud's metadata service, groups, and address forms
# that a gateway may translate into any of these (v4-mapped and NAT64 in ::/8, 6to4).
DENIED: Final = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/8", "100::/64", "2002::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
)

# Above the usual service ports, so that no answer to a caller can be taken for a datagram to this node's own
# UDP port (those are untracked), and drawn at random, so that a caller's own choice of port does not show.
_NAT_PORTS = "32768-60999"


@dataclass(frozen=True, slots=True)
class ExitSettings:
    """What an exit is told. `allow` beats `deny`. `resolvers`: IPv4 and IPv6; empty means the host's own."""

    tun: str = "anonnet0"
    pool4: str = POOL4
    pool6: str = POOL6
    resolvers: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = DENIED
    deny_tcp_ports: tuple[int, ...] = (25,)  # mail straight to a server is nearly always spam
    connections_per_circuit: int = 1024
    link_protocol: int = spec.IP_PROTOCOL  # of this node's raw links; closed to callers
    new_per_second: int = 100  # connections and UDP flows, per circuit
    new_burst: int = 400  # a web page's worth of them at once


def exit_ruleset(settings: ExitSettings, resolvers: Iterable[str]) -> str:
    """Return the ruleset: one table, replaced whole."""
    tun, pool4, pool6 = settings.tun, settings.pool4, settings.pool6
    outwards = f'oifname != "{tun}"'
    return fresh(
        "inet",
        TABLE,
        [
            _range_set("deny4", 4, settings.deny),
            _range_set("deny6", 6, settings.deny),
            _range_set("allow4", 4, settings.allow),
            _range_set("allow6", 6, settings.allow),
            *(_meter(f"{kind}{version}", version) for kind in ("open", "rate") for version in (4, 6)),
            chain(
                "resolver",
                "type nat hook prerouting priority dstnat; policy accept",
                [_redirect(tun, resolver) for resolver in resolvers],
            ),
            chain(
                "translate",
                "type nat hook postrouting priority srcnat; policy accept",
                [
                    f"{outwards} {source} {what}"
                    for source in (f"ip saddr {pool4}", f"ip6 saddr {pool6}")
                    for what in (
                        f"meta l4proto {{ tcp, udp }} masquerade to :{_NAT_PORTS} fully-random",
                        "masquerade",
                    )
                ],
            ),
            chain("from_circuits", "", _from_circuits(settings)),
            chain(
                "forward",
                "type filter hook forward priority filter; policy accept",  # other forwarding is not ours
                [
                    # Both ways round: no segment is longer than the narrower of TUN and uplink carries.
                    f'iifname "{tun}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu',
                    f'oifname "{tun}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu',
                    f'iifname "{tun}" jump from_circuits',
                    f'oifname "{tun}" ct state established,related accept',
                    f'oifname "{tun}" drop',  # nobody opens a connection towards a caller
                ],
            ),
            chain("input", "type filter hook input priority filter; policy accept", _to_this_host(settings)),
        ],
    )


def _to_this_host(settings: ExitSettings) -> list[str]:
    here = f'iifname "{settings.tun}"'
    return [
        f"{here} ct state established,related accept",
        # The redirected resolver may run on this very host.
        f"{here} ct status dnat ct original ip daddr {spec.INNER4_EXIT} accept",
        f"{here} ct status dnat ct original ip6 daddr {spec.INNER6_EXIT} accept",
        f"{here} ip saddr {settings.pool4} ip daddr {spec.INNER4_EXIT} icmp type echo-request accept",
        f"{here} ip6 saddr {settings.pool6} ip6 daddr {spec.INNER6_EXIT} icmpv6 type echo-request accept",
        f"{here} drop",  # no other service of this host, at any of its addresses
    ]


def _from_circuits(settings: ExitSettings) -> list[str]:
    refuse = "reject with icmpx admin-prohibited"  # the caller's program learns at once
    rate = f"limit rate over {settings.new_per_second}/second burst {settings.new_burst} packets"
    ports = ", ".join(map(str, settings.deny_tcp_ports))
    return [
        f"meta nfproto ipv4 ip saddr != {settings.pool4} drop",  # only addresses that stand for a circuit
        f"meta nfproto ipv6 ip6 saddr != {settings.pool6} drop",
        f'oifname "{settings.tun}" drop',  # circuits do not reach each other
        "ct state established,related accept",
        "ct state != new drop",
        f"meta l4proto {settings.link_protocol} drop",  # the answer would be taken for link traffic
        f"update @rate4 {{ ip saddr {rate} }} drop",
        f"update @rate6 {{ ip6 saddr {rate} }} drop",
        f"add @open4 {{ ip saddr ct count over {settings.connections_per_circuit} }} {refuse}",
        f"add @open6 {{ ip6 saddr ct count over {settings.connections_per_circuit} }} {refuse}",
        # The redirected resolver may well be in a private network; nothing else there is in reach.
        f"ct status dnat ct original ip daddr {spec.INNER4_EXIT} accept",
        f"ct status dnat ct original ip6 daddr {spec.INNER6_EXIT} accept",
        *([f"tcp dport {{ {ports} }} {refuse}"] if ports else []),
        "ip daddr @allow4 accept",
        "ip6 daddr @allow6 accept",
        f"ip daddr @deny4 {refuse}",
        f"ip6 daddr @deny6 {refuse}",
        "accept",
    ]


def _redirect(tun: str, resolver: str) -> str:
    """Send queries to the inner resolver address on to the real one, of the same family."""
    version = ipaddress.ip_address(resolver).version
    ip, inner = ("ip", spec.INNER4_EXIT) if version == 4 else ("ip6", spec.INNER6_EXIT)
    return (
        f'iifname "{tun}" {ip} daddr {inner} meta l4proto {{ tcp, udp }} th dport 53 dnat {ip} to {resolver}'
    )


def _range_set(name: str, version: int, ranges: Iterable[str]) -> str:
    members = [text for text in ranges if ipaddress.ip_network(text).version == version]
    elements = f"\t\telements = {{ {', '.join(members)} }}\n" if members else ""
    return f"\tset {name} {{\n\t\ttype ipv{version}_addr; flags interval; auto-merge;\n{elements}\t}}\n"


def _meter(name: str, version: int) -> str:
    """A set that the rules themselves fill, with one counter or limit per circuit's address."""
    expiry = "flags dynamic,timeout; timeout 1m" if name.startswith("rate") else "flags dynamic"
    return f"\tset {name} {{\n\t\ttype ipv{version}_addr; size 65536; {expiry};\n\t}}\n"
