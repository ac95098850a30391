"""The caller's firewall, and the untracked links of every node, as nftables rulesets (nft(8)).

A ruleset is text for `nft -f -`, which applies it in one transaction: the table is declared (so that it
surely exists), deleted, and created anew, and no packet ever meets a half-built one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from anonnet import spec
from anonnet.proto.isolation import CLASSES
from anonnet.tun.actions import Nft
from anonnet.tun.plan import Phase, Step

TABLE: Final = "anonnet"
LINK_TABLE: Final = "anonnet_link"
USERS: Final = "users"  # map in TABLE: which class of packets is whose

# Neighbour discovery without redirects, and the listener reports that snooping switches want of it.
# RFC 4861: hop limit 255 proves that the sender is on this wire.
_ND_OUT = (
    "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
    "icmpv6 type mld2-listener-report ip6 hoplimit 1 accept",
)
_ND_IN = "icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept"
_DHCP_OUT = ("udp sport 68 udp dport 67 accept", "udp sport 546 udp dport 547 accept")
_DHCP_IN = ("udp sport 67 udp dport 68 accept", "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept")
_CLASS_TAG = 0x616E0000  # in connection marks: that they are ours, and a class
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


def caller_firewall(
    tun: str, mark: int, links: Sequence[LinkEndpoint], lan: Sequence[str], egress_devices: Sequence[str],
    users: bool = False,
) -> Step:  # fmt: skip
    """Return the step that blocks everything but the tunnel, the links and what keeps the wire alive.

    `lan`: ranges that stay outside of the tunnel, both ways. `egress_devices`: where packet sockets are
    blocked too; they bypass `output`. Empty where the kernel has no egress hook. `users`: tell the data plane
    of each packet in the tunnel which user sent it.
    """
    chains = _caller_chains(tun, mark, links, lan)
    tables = fresh("inet", TABLE, [*chains, *_user_classes(tun)] if users else chains)
    removal = gone("inet", TABLE)
    if egress_devices:
        tables += fresh("netdev", TABLE, _egress_chains(egress_devices, mark, links, lan))
        removal += gone("netdev", TABLE)
    return Step(
        name="firewall",
        phase=Phase.FIREWALL,
        do=Nft(tables, f"table {TABLE}: only {tun}, {len(links)} links, DHCP, neighbour discovery"),
        undo=Nft(removal, f"delete table {TABLE}"),
    )


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


# -- the caller's chains --------------------------------------------------------------------------


def _caller_chains(tun: str, mark: int, links: Sequence[LinkEndpoint], lan: Sequence[str]) -> list[str]:
    marked = f"meta mark {mark:#x}"
    inner = (f"ip {{}} {spec.INNER4_CALLER}", f"ip6 {{}} {spec.INNER6_CALLER}")
    return [
        # CVE-2019-14899: a neighbour on the wire may not guess at connections inside the tunnel.
        chain(
            "anti_probe",
            "type filter hook prerouting priority raw; policy accept",
            [f'iifname != {{ "lo", "{tun}" }} {match.format("daddr")} drop' for match in inner],
        ),
        chain(
            "input",
            "type filter hook input priority filter; policy drop",
            [
                'iifname "lo" accept',
                f'iifname "{tun}" ct state established,related accept',
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
                *(f'oifname "{tun}" {match.format("saddr")} accept' for match in inner),
                # Connections from before `up` carry the host's own address, which the exit must not see.
                f'oifname "{tun}" meta l4proto tcp reject with tcp reset',
                *(f"{marked} {link.matching('out')} accept" for link in links),
                f"{_DNS} reject",
                *_DHCP_OUT,
                *_ND_OUT,
                *(f"{match} accept" for match in _lan_matches(lan, "daddr")),
                "reject with icmpx admin-prohibited",  # programs learn at once; nothing reaches a wire
            ],
        ),
        chain("forward", "type filter hook forward priority filter; policy drop", []),
    ]


def _user_classes(tun: str) -> list[str]:
    """A class in the DSCP field for each user, from 1 on as they appear, whatever programs wrote there.

    nft 1.0.6 cannot write a field that is no whole byte from a map, so a chain for each class does. The class
    is kept in the connection's mark for packets that no socket answers for: the rest of what a program had
    sent when it ended, acknowledgements after that.
    """
    tagged = {number: f"{_CLASS_TAG + number:#x}" for number in CLASSES}
    chains = [chain(f"class_{n}", "", [f"ip dscp set {n}", f"ip6 dscp set {n}"]) for n in CLASSES]
    give = f"numgen inc mod {len(CLASSES)} offset {tagged[CLASSES[0]]}"
    return [
        f"\tmap {USERS} {{\n\t\ttype uid : mark\n\t\tsize 65535\n\t\tflags dynamic\n\t}}\n",
        *chains,
        chain(
            "classes",
            "type filter hook output priority mangle; policy accept",
            [
                f'oifname != "{tun}" accept',
                "ip dscp set 0",
                "ip6 dscp set 0",
                f"meta skuid != @{USERS} add @{USERS} {{ meta skuid : {give} }}",
                f"ct mark set meta skuid map @{USERS}",
                f"ct mark vmap {{ {', '.join(f'{mark} : goto class_{n}' for n, mark in tagged.items())} }}",
            ],
        ),
    ]


def _egress_chains(
    devices: Iterable[str], mark: int, links: Sequence[LinkEndpoint], lan: Sequence[str]
) -> list[str]:
    rules = [
        *(f"meta mark {mark:#x} {link.matching('out')} accept" for link in links),
        f"{_DNS} drop",
        *_DHCP_OUT,
        *_ND_OUT,
        *(f"{match} accept" for match in _lan_matches(lan, "daddr")),
        # ARP; 802.1X, without which some ports and all of Wi-Fi go dead; PPPoE, which wraps what another
        # device has let through already.
        "meta protocol { arp, 0x888e, 0x8863, 0x8864 } accept",
    ]
    hook = 'type filter hook egress device "{}" priority filter; policy drop'
    return [chain(f"egress_{number}", hook.format(device), rules) for number, device in enumerate(devices)]


# -- nft's grammar --------------------------------------------------------------------------------


def fresh(family: str, table: str, contents: Iterable[str]) -> str:
    """Return the text that creates a table with these sets and chains, replacing any former one."""
    return f"{gone(family, table)}table {family} {table} {{\n" + "".join(contents) + "}\n"


def gone(family: str, table: str) -> str:
    """Return the text that deletes a table, declared first since deleting an absent one is an error."""
    return f"table {family} {table}\ndelete table {family} {table}\n"


def chain(name: str, hook: str, rules: Iterable[str]) -> str:
    """Return the text of a chain; `hook` is "" for one that others jump to."""
    head = f"\t\t{hook};\n" if hook else ""
    return f"\tchain {name} {{\n{head}" + "".join(f"\t\t{rule}\n" for rule in rules) + "\t}\n"


def range_match(text: str, field: Literal["saddr", "daddr"]) -> str:
    version = ipaddress.ip_network(text).version
    return f"{'ip' if version == 4 else 'ip6'} {field} {text}"


def _lan_matches(lan: Iterable[str], field: Literal["saddr", "daddr"]) -> list[str]:
    return [range_match(text, field) for text in lan]
