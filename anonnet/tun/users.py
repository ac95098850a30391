"""Which user sent what: a class in the DSCP field of each packet into the tunnel, by nftables (nft(8))."""

from __future__ import annotations

from typing import Final

from anonnet.proto.isolation import CLASSES, SOCKS_CLASSES
from anonnet.tun.actions import Nft
from anonnet.tun.firewall import outside_mark
from anonnet.tun.nft import chain, fresh, gone
from anonnet.tun.plan import Phase, Step

TABLE: Final = "anonnet_users"
USERS: Final = "users"  # map in it: which class of packets is whose
_TAG = 0x616E0000  # in connection marks: that they are ours, and a class


def users_table(tun: str, mark: int, socks: int | None) -> Step:
    """Return the step that tells the data plane of each packet in the tunnel which user sent it.

    A table of its own: made anew, it numbers users anew, and their connections change circuits. `socks`: id
    of the user as whom the SOCKS proxy runs, which knows its own users.
    """
    return Step(
        name="users",
        phase=Phase.FIREWALL,
        do=Nft(
            fresh("inet", TABLE, user_classes(tun, outside_mark(mark), socks)),
            f"table {TABLE}: who sent what",
            True,
        ),
        undo=Nft(gone("inet", TABLE), f"delete table {TABLE}"),
    )


def user_classes(tun: str, outside: int, socks: int | None) -> list[str]:
    """Return what writes a class into the DSCP field: each user's, from 1 on as they appear.

    Whatever programs wrote there is gone, but for the SOCKS proxy. nft 1.0.6 cannot write a field that is no
    whole byte from a map, so a chain for each class does. The class is kept in the connection's mark for
    packets that no socket answers for: the rest of what a program had sent when it ended, acknowledgements
    after that.
    """
    every = [*CLASSES, *SOCKS_CLASSES]
    tagged = {number: f"{_TAG + number:#x}" for number in every}
    chains = [chain(f"class_{n}", "", [f"ip dscp set {n}", f"ip6 dscp set {n}"]) for n in every]
    give = f"numgen inc mod {len(CLASSES)} offset {tagged[CLASSES[0]]}"
    proxied = []
    if socks is not None:
        chains += [chain(f"socks_{n}", "", [f"ct mark set {tagged[n]} accept"]) for n in SOCKS_CLASSES]
        known = ", ".join(f"{n} : goto socks_{n}" for n in SOCKS_CLASSES)
        proxied = [f"meta skuid {socks} {ip} dscp vmap {{ {known} }}" for ip in ("ip", "ip6")]
    return [
        f"\tmap {USERS} {{\n\t\ttype uid : mark\n\t\tsize 65535\n\t\tflags dynamic\n\t}}\n",
        *chains,
        chain(
            "classes",
            "type filter hook output priority mangle; policy accept",
            [
                f'oifname != "{tun}" accept',
                f"meta mark {outside:#x} accept",  # on its way out of the tunnel
                *proxied,
                "ip dscp set 0",
                "ip6 dscp set 0",
                f"meta skuid != @{USERS} add @{USERS} {{ meta skuid : {give} }}",
                f"ct mark set meta skuid map @{USERS}",
                f"ct mark vmap {{ {', '.join(f'{mark} : goto class_{n}' for n, mark in tagged.items())} }}",
            ],
        ),
    ]
