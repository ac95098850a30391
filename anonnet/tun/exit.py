"""The exit's host: its TUN, the ruleset of `exit_rules`, routes to the circuits, forwarding.

Every circuit has an address of the pools; the exit's own inner addresses sit on the same TUN. A node does

    session = apply_all(journal, lambda: [link_table(...), *plan_exit(settings, gather_exit_facts(settings))])

and hands `session.tun.fd` to the data plane; `session.undo()`, or a later process's, takes all back.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anonnet import spec
from anonnet.errors import OperatorError
from anonnet.tun import commands, dns, rtnl
from anonnet.tun.actions import CreateTun, DeleteTun, Nft, Sysctl
from anonnet.tun.apply import read_sysctl
from anonnet.tun.exit_rules import DENIED, POOL4, POOL6, TABLE, ExitSettings, exit_ruleset
from anonnet.tun.nft import gone
from anonnet.tun.plan import Phase, Step
from anonnet.tun.routing import route_step

_OWNER: Final = "exit"
_ALL6: Final = "net/ipv6/conf/all/forwarding"


@dataclass(frozen=True, slots=True)
class ExitFacts:
    """What the plan must know of the exit's host. `sysctls`: values now, by path below /proc/sys."""

    ipv6: bool
    uplinks: tuple[str, ...]
    resolvers: tuple[str, ...]
    sysctls: Mapping[str, str]


def gather_exit_facts(settings: ExitSettings) -> ExitFacts:
    """Look at the host. Raises OperatorError if rights or a resolver are missing."""
    commands.require_net_admin()
    ipv6 = read_sysctl("net/ipv6/conf/all/disable_ipv6", "1") == "0"
    uplinks = _uplinks(settings.tun)
    keys = [f"net/ipv4/conf/{device}/forwarding" for device in uplinks]
    if ipv6:
        keys += [f"net/ipv6/conf/{device}/accept_ra" for device in uplinks]
        keys += [
            f"net/ipv6/conf/{path.name}/forwarding" for path in Path("/proc/sys/net/ipv6/conf").iterdir()
        ]
    return ExitFacts(
        ipv6=ipv6,
        uplinks=uplinks,
        resolvers=settings.resolvers or _host_resolvers(),
        sysctls={key: read_sysctl(key) for key in keys},
    )


def plan_exit(settings: ExitSettings, facts: ExitFacts) -> list[Step]:
    """Return all the steps: policy first and forwarding last, since nothing may be forwarded without it."""
    addresses = [f"{spec.INNER4_EXIT}/32"]
    routes = [route_step(Phase.ROUTES, 4, settings.pool4, settings.tun)]
    if facts.ipv6:
        addresses.append(f"{spec.INNER6_EXIT}/128")
        routes.append(route_step(Phase.ROUTES, 6, settings.pool6, settings.tun))
    return [
        Step(
            name="exit-policy",
            phase=Phase.FIREWALL,
            do=Nft(
                exit_ruleset(settings, facts.resolvers),
                f"table {TABLE}: source NAT, exit policy, DNS redirect",
            ),
            undo=Nft(gone("inet", TABLE), f"delete table {TABLE}"),
        ),
        Step(
            name="exit-tun",
            phase=Phase.TUN,
            do=CreateTun(settings.tun, _OWNER, tuple(addresses), spec.TUN_MTU),
            undo=DeleteTun(settings.tun, _OWNER),
        ),
        *routes,
        *_forwarding_steps(settings.tun, facts),
    ]


def _forwarding_steps(tun: str, facts: ExitFacts) -> list[Step]:
    """Turn forwarding on where circuits need it, and nowhere else if that can be helped.

    IPv4 checks the device a packet came in by, so TUN and uplinks suffice. IPv6 checks `all`, which writes
    through to every device: their values are journalled first and so come back last. A forwarding host
    ignores router advertisements, and would lose its own default route, unless accept_ra is 2.
    """
    steps = [_sysctl_step(f"net/ipv4/conf/{tun}/forwarding", "1", "0")]
    for device in facts.uplinks:
        key = f"net/ipv4/conf/{device}/forwarding"
        steps.append(_sysctl_step(key, "1", facts.sysctls[key]))
    if not facts.ipv6:
        return steps
    for device in facts.uplinks:
        key = f"net/ipv6/conf/{device}/accept_ra"
        if facts.sysctls[key] == "1":
            steps.append(_sysctl_step(key, "2", "1"))
    forwarding = [key for key in facts.sysctls if key.startswith("net/ipv6/") and key.endswith("/forwarding")]
    for key in sorted(set(forwarding) - {_ALL6}):
        steps.append(_sysctl_step(key, facts.sysctls[key], facts.sysctls[key]))
    return [*steps, _sysctl_step(_ALL6, "1", facts.sysctls[_ALL6])]


def _sysctl_step(key: str, value: str, prior: str) -> Step:
    return Step(name=f"sysctl-{key}", phase=Phase.ROUTES, do=Sysctl(key, value), undo=Sysctl(key, prior))


def _uplinks(tun: str) -> tuple[str, ...]:
    """Return the devices of the default routes; all if there are none (an exit into a closed network)."""
    found: set[str] = set()
    with rtnl.IPRoute() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in netlink.get_default_routes(family=family):
                index = route.get_attr("RTA_OIF")
                if index is not None:
                    with contextlib.suppress(OSError):
                        found.add(socket.if_indextoname(index))
    names = found or {name for _, name in socket.if_nameindex() if name != "lo"}
    return tuple(sorted(names - {tun}))


def _host_resolvers() -> tuple[str, ...]:
    """Return the host's first IPv4 and IPv6 nameserver that is no loopback stub."""
    for path in (dns.RESOLV_CONF, dns.RESOLVED_CONF):
        with contextlib.suppress(OSError):
            addresses = [ipaddress.ip_address(text) for text in dns.nameservers(path.read_text())]
            chosen = {
                address.version: str(address) for address in reversed(addresses) if not address.is_loopback
            }
            if 4 in chosen:
                return tuple(chosen[version] for version in sorted(chosen))
    raise OperatorError(
        "this host has no IPv4 resolver that callers' queries could go to", "set the exit's resolver"
    )


__all__ = ["DENIED", "POOL4", "POOL6", "ExitFacts", "ExitSettings", "gather_exit_facts", "plan_exit"]
