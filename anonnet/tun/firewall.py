"""The caller's firewall, and the untracked links of every node, as nftables rulesets (nft(8))."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from anonnet import spec
from anonnet.tun.actions import Nft
from anonnet.tun.nft import chain, fresh, gone, owned, range_match
from anonnet.tun.plan import Phase, Step

TABLE: Final = "anonnet"
TWIN_TABLE: Final = "anonnet_twin"  # the same once more, owned by the warden
LINK_TABLE: Final = "anonnet_link"

# Neighbour discovery without redirects, and the listener reports that snooping switches want of it.
# RFC 4861: hop limit 255 proves that the sender is on this wire.
_ND_OUT = (
    "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
    "icmpv6 type mld2-listener-report ip6 hoplimit 1 accept",
)
_ND_IN = "icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept"
_DHCP_OUT = ("udp sport 68 udp dport 67 accept", "udp sport 546 udp dport 547 accept")
_DHCP_IN = ("udp sport 67 udp dport 68 accept", "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept")
INNER: Final = (f"ip {{}} {spec.INNER4_CALLER}", f"ip6 {{}} {spec.INNER6_CALLER}")  # {}: saddr or daddr
_DNS = "meta l4proto { tcp, udp } th dport 53"


@dataclass(frozen=True, slots=True)
class LinkEndpoint:
    """Whom link datagrams go to and come from.

    `port` is the IP protocol number for "raw" and the neighbour's UDP port for "udp". With no `address`
    (neighbours that find us, or roam) anybody may write to us, and `port` of "udp" is our own.
    """

    transport: Literal["raw", "udp"]
    address: str | None
    port: int

    def matching(self, direction: Literal["out", "in"]) -> str:
        """Return the nft expression that picks this endpoint's datagrams out of those going out or in."""
        own, theirs = ("sport", "dport") if direction == "out" else ("dport", "sport")
        if self.transport == "raw":
            protocol = f"meta l4proto {self.port}"
        else:
            protocol = f"udp {theirs if self.address else own} {self.port}"
        if self.address is None:
            return protocol
        return f"{range_match(self.address, 'daddr' if direction == 'out' else 'saddr')} {protocol}"


@dataclass(frozen=True, slots=True)
class Outside:
    """What stays outside of the tunnel: address ranges, both ways, and programs, by user id or cgroup.

    `cgroup` is a child of the root cgroup, as a path below /sys/fs/cgroup; "" for none. What such programs
    look up is still resolved inside: port 53 anywhere else is closed to them as to everybody.
    """

    ranges: Sequence[str] = ()
    users: Sequence[int] = ()
    cgroup: str = ""

    @property
    def programs(self) -> bool:
        """Whether anything but ranges is meant."""
        return bool(self.users or self.cgroup)


@dataclass(frozen=True, slots=True)
class Wall:
    """All that the caller's firewall depends on. `devices`: those whose packet sockets are blocked too.

    Packet sockets bypass `output`; `devices` is None where the kernel has no egress hook. `arp`: whether
    it can filter ARP. `forward`: devices, `veth*` for all whose name begins so, behind which are hosts of our
    own whose traffic goes into the tunnel too: containers, virtual machines.
    """

    tun: str
    mark: int
    links: Sequence[LinkEndpoint]
    outside: Outside
    devices: Sequence[str] | None
    arp: bool
    forward: Sequence[str] = ()

    @property
    def families(self) -> list[str]:
        """The nftables families in which there is a table."""
        return ["inet", *(["netdev"] if self.devices is not None else []), *(["arp"] if self.arp else [])]

    @property
    def outside_mark(self) -> int:
        """What marks packets of programs outside of the tunnel."""
        return outside_mark(self.mark)


def outside_mark(mark: int) -> int:
    """Return the mark for programs outside of the tunnel, given that of link datagrams."""
    return mark ^ 1


def caller_firewall(wall: Wall) -> Step:
    """Return the step that blocks everything but the tunnel, the links and what keeps the wire alive."""
    chains = _filters(wall)
    chains["inet"] += _reroute(wall) + _forwarding_nat(wall)
    return Step(
        name="firewall",
        phase=Phase.FIREWALL,
        do=Nft(
            "".join(fresh(family, TABLE, chains[family]) for family in wall.families),
            f"table {TABLE}: only {wall.tun}, {len(wall.links)} links, DHCP, neighbour discovery",
        ),
        undo=Nft("".join(gone(family, TABLE) for family in wall.families), f"delete table {TABLE}"),
    )


def twin(wall: Wall) -> str:
    """Return the script that makes the same filters once more, as tables that only their maker can touch."""
    chains = _filters(wall)
    return "".join(owned(family, TWIN_TABLE, chains[family]) for family in wall.families)


def link_table(protocols: Sequence[int], udp_ports: Sequence[int], *tuns: str) -> Step:
    """Return the step, for every node, that keeps link datagrams out of connection tracking.

    Tracking would cost time per datagram and fill its table, and its timeouts say when links were alive.
    `udp_ports` are our own. What travels inside our TUN devices is none of it, so that the exit's NAT
    still sees a caller's packets that happen to use the same numbers.
    """
    raw = [f"meta l4proto {number} notrack" for number in protocols]
    incoming = [
        *(f'iifname "{tun}" accept' for tun in tuns),
        *raw,
        *(f"udp dport {port} notrack" for port in udp_ports),
    ]
    outgoing = [
        *(f'oifname "{tun}" accept' for tun in tuns),
        *raw,
        *(f"udp sport {port} notrack" for port in udp_ports),
    ]
    chains = [
        chain("prerouting", "type filter hook prerouting priority raw; policy accept", incoming),
        chain("output", "type filter hook output priority raw; policy accept", outgoing),
    ]
    return Step(
        name="links-untracked",
        phase=Phase.FIREWALL,
        do=Nft(fresh("inet", LINK_TABLE, chains), f"table {LINK_TABLE}: link datagrams untracked"),
        undo=Nft(gone("inet", LINK_TABLE), f"delete table {LINK_TABLE}"),
    )


def anti_probe(*tuns: str) -> str:
    """Return the chain by which nobody on the wire can guess at connections in tunnels (CVE-2019-14899)."""
    known = ", ".join(f'"{name}"' for name in ("lo", *tuns))
    return chain(
        "anti_probe",
        "type filter hook prerouting priority raw; policy accept",
        [f"iifname != {{ {known} }} {match.format('daddr')} drop" for match in INNER],
    )


def arp_chains() -> list[str]:
    """Return the chains by which nobody on the wire learns by asking that this host has the inner address."""
    hook = "type filter hook {} priority filter; policy accept"
    inner = spec.INNER4_CALLER
    return [
        chain("input", hook.format("input"), [f"arp daddr ip {inner} drop"]),
        chain("output", hook.format("output"), [f"arp saddr ip {inner} drop"]),
    ]


# -- the caller's chains --------------------------------------------------------------------------


def _filters(wall: Wall) -> dict[str, list[str]]:
    """Return the chains of each family that let nothing pass but what may."""
    return {"inet": _caller_chains(wall), "netdev": _egress_chains(wall), "arp": arp_chains()}


def _caller_chains(wall: Wall) -> list[str]:
    tun, links, lan = wall.tun, wall.links, wall.outside.ranges
    marked = f"meta mark {wall.mark:#x}"
    programs = [f"{_DNS} reject", "accept"] if wall.outside.programs else []
    answers = f"ct mark {wall.outside_mark:#x} ct state established,related"
    return [
        anti_probe(tun),
        chain(
            "input",
            "type filter hook input priority filter; policy drop",
            [
                'iifname "lo" accept',
                f'iifname "{tun}" ct state established,related accept',
                *([f"{answers} accept"] if wall.outside.programs else []),
                f'iifname "{tun}" drop',  # the exit may not open connections to this host
                *(f"{link.matching('in')} accept" for link in links),
                *_DHCP_IN,
                _ND_IN,
                *(f"{match} accept" for match in _lan_matches(lan, "saddr")),
            ],
        ),
        chain(
            "output",
            "type filter hook output priority filter; policy drop",
            [
                'oifname "lo" accept',
                # Before all that looks at the device, which is still the one from before the rerouting.
                *(f"meta mark {wall.outside_mark:#x} {rule}" for rule in programs),
                *(f'oifname "{tun}" {match.format("saddr")} accept' for match in INNER),
                # Connections from before `up` carry the host's own address, which the exit must not see.
                f'oifname "{tun}" meta l4proto tcp reject with tcp reset',
                *(f"{marked} {link.matching('out')} accept" for link in links),
                f"{_DNS} reject",
                *(f'oifname != "{tun}" {rule}' for rule in _DHCP_OUT),
                *_ND_OUT,
                *(f"{match} accept" for match in _lan_matches(lan, "daddr")),
                "reject with icmpx admin-prohibited",  # programs learn at once; nothing reaches a wire
            ],
        ),
        chain("forward", "type filter hook forward priority filter; policy drop", _forwarded(wall)),
    ]


def _forwarded(wall: Wall) -> list[str]:
    """Nobody out there opens a connection to those behind us, and they reach nothing but the tunnel.

    What they write into the DSCP field is not for the data plane, which takes it for a class.
    """
    into, out = f'oifname "{wall.tun}"', f'iifname "{wall.tun}"'
    return [
        f"{into} ip dscp set 0",
        f"{into} ip6 dscp set 0",
        *(f'iifname "{device}" {into} accept' for device in wall.forward),
        *(f'{out} oifname "{device}" ct state established,related accept' for device in wall.forward),
    ]


def _forwarding_nat(wall: Wall) -> list[str]:
    """Those behind us share the inner address, and ask the inner resolver, whomever they mean to ask."""
    if not wall.forward:
        return []
    resolvers = (("ip", spec.INNER4_EXIT), ("ip6", spec.INNER6_EXIT))
    return [
        chain(
            "forward_dns",
            "type nat hook prerouting priority dstnat; policy accept",
            [
                f'iifname "{device}" meta nfproto {family} {_DNS} dnat {ip} to {resolver}'
                for device in wall.forward
                for (ip, resolver), family in zip(resolvers, ("ipv4", "ipv6"), strict=True)
            ],
        ),
        chain(
            "forward_nat",
            "type nat hook postrouting priority srcnat; policy accept",
            [f'iifname "{device}" oifname "{wall.tun}" masquerade' for device in wall.forward],
        ),
    ]


def _egress_chains(wall: Wall) -> list[str]:
    marked, outside = f"meta mark {wall.mark:#x}", f"meta mark {wall.outside_mark:#x}"
    rules = [
        *(f"{marked} {link.matching('out')} accept" for link in wall.links),
        f"{_DNS} drop",
        *([f"{outside} accept"] if wall.outside.programs else []),
        *_DHCP_OUT,
        *_ND_OUT,
        *(f"{match} accept" for match in _lan_matches(wall.outside.ranges, "daddr")),
        # ARP; 802.1X, without which some ports and all of Wi-Fi go dead; PPPoE, which wraps what another
        # device has let through already.
        "meta protocol { arp, 0x888e, 0x8863, 0x8864 } accept",
    ]
    hook = 'type filter hook egress device "{}" priority filter; policy drop'
    return [
        chain(f"egress_{number}", hook.format(device), rules)
        for number, device in enumerate(wall.devices or ())
    ]


def _reroute(wall: Wall) -> list[str]:
    """Return the chains that take programs out: marked, routed anew, from the host's own address."""
    outside, mark = wall.outside, wall.outside_mark
    if not outside.programs:
        return []
    matches = []
    if outside.users:
        matches.append(f"meta skuid {{ {', '.join(map(str, outside.users))} }}")
    if outside.cgroup:
        matches.append(f'socket cgroupv2 level 1 "{outside.cgroup}"')
    kept = ('oifname "lo"', f"ip daddr {spec.INNER4_EXIT}", f"ip6 daddr {spec.INNER6_EXIT}", "meta mark != 0")
    rules = [*(f"{match} accept" for match in kept)]
    rules += [f"{match} meta mark set {mark:#x} ct mark set {mark:#x}" for match in matches]
    nat = f'meta mark {mark:#x} oifname != "{wall.tun}" masquerade'
    return [
        chain("outside", "type route hook output priority mangle - 1; policy accept", rules),
        chain("outside_nat", "type nat hook postrouting priority srcnat; policy accept", [nat]),
    ]


def _lan_matches(lan: Iterable[str], field: Literal["saddr", "daddr"]) -> list[str]:
    return [range_match(text, field) for text in lan]
