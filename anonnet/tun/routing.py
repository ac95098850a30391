"""Policy routing: everything without the mark goes by our table, whatever the main table says.

wg-quick lets main's specific routes win (`suppress_prefixlength 0`); that is what TunnelVision
(CVE-2024-3661) abuses, with routes handed out by DHCP option 121. Here main is asked only for marked
datagrams and for the ranges in `lan`. The local table (priority 0) stays first: a host's own addresses work.
Sockets bound to a device (most DHCP clients) find no route for it in our table and fall through to main;
dhclient's renewals, from a socket that is not bound, have a rule. The firewall lets DHCP pass, but not here.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from anonnet import spec
from anonnet.errors import OperatorError
from anonnet.tun import rtnl
from anonnet.tun.actions import MAIN_TABLE, Route, Rule, Sysctl
from anonnet.tun.firewall import Outside, outside_mark
from anonnet.tun.plan import Phase, Step

TABLE: Final = 0x616E  # 24942, "an"
MARK: Final = 0x616E  # SO_MARK of link traffic, unless configured
LAN_PRIORITY: Final = 1100  # before any rule of a VPN; after those of VRFs (1000)
OUTSIDE_PRIORITY: Final = 1105
DHCP_PRIORITY: Final = 1106
FORWARD_PRIORITY: Final = 1107
TUNNEL_PRIORITY: Final = 1110

DHCP_PORTS: Final = {4: (68, 67), 6: (546, 547)}  # client's, server's: RFC 2131 4.1, RFC 8415 7.2

RP_FILTER: Final = "net/ipv4/conf/all/rp_filter"  # the greater of this and a device's own holds
_FIB_RULE_INVERT = 2  # linux/fib_rules.h
_EEXIST, _ABSENT = 17, (2, 3, 19)  # ENOENT, ESRCH, ENODEV


def routing_steps(
    tun: str, mark: int, outside: Outside, *, forward: bool, prior_rp_filter: str, ipv6: bool
) -> list[Step]:
    """Return the steps that turn all unmarked traffic, but for what stays outside, into the tunnel.

    `forward`: what comes out of it may be for others than this host, to whom the main table knows the way.
    """
    inner = {4: spec.INNER4_CALLER, 6: spec.INNER6_CALLER}
    versions = (4, 6) if ipv6 else (4,)
    steps = [
        Step(
            # Strict (1) would look up senders in our table, find the tunnel, and drop link datagrams and,
            # what no mark can prevent, ARP. Loose (2) gives nothing away: the firewall names who may write.
            name="rp-filter",
            phase=Phase.ROUTES,
            do=Sysctl(RP_FILTER, "2"),
            undo=Sysctl(RP_FILTER, prior_rp_filter),
        )
    ]
    for version in versions:
        steps.append(route_step(Phase.ROUTES, version, "default", tun, table=TABLE, source=inner[version]))
    for network in map(ipaddress.ip_network, outside.ranges):
        if network.version in versions:
            name, to = f"rule-{network}-ipv{network.version}", str(network)
            steps.append(rule_step(name, Rule(True, network.version, LAN_PRIORITY, MAIN_TABLE, to=to)))
    for version in versions if outside.programs else ():
        rule = Rule(True, version, OUTSIDE_PRIORITY, MAIN_TABLE, fwmark=outside_mark(mark))
        steps.append(rule_step(f"rule-outside-ipv{version}", rule))
    for version in versions if forward else ():
        rule = Rule(True, version, FORWARD_PRIORITY, MAIN_TABLE, came_by=tun)
        steps.append(rule_step(f"rule-forward-ipv{version}", rule))
    for version in versions:
        rule = Rule(True, version, DHCP_PRIORITY, MAIN_TABLE, udp=DHCP_PORTS[version])
        steps.append(rule_step(f"rule-dhcp-ipv{version}", rule))
    for version in versions:
        rule = Rule(True, version, TUNNEL_PRIORITY, TABLE, not_fwmark=mark)
        steps.append(rule_step(f"rule-tunnel-ipv{version}", rule))
    return steps


def route_step(
    phase: Phase, version: int, to: str, device: str, *, table: int = MAIN_TABLE, source: str = ""
) -> Step:
    """Return the step that adds one route."""
    return Step(
        name=f"route-{to}-ipv{version}",
        phase=phase,
        do=Route(True, version, to, device, table, source),
        undo=Route(False, version, to, device, table, source),
    )


def rule_step(name: str, rule: Rule) -> Step:
    """Return the step that adds a policy rule, and deletes it again."""
    return Step(name=name, phase=Phase.ROUTES, do=rule, undo=msgspec.structs.replace(rule, add=False))


# -- netlink --------------------------------------------------------------------------------------


def change_rule(rule: Rule) -> None:
    """Add or delete a rule; one that is already there, or already gone, is fine."""
    with rtnl.IPRoute() as netlink:
        _change(
            lambda: netlink.rule("add" if rule.add else "del", **_rule_request(rule)), str(rule), rule.add
        )


def rule_stands(rule: Rule) -> bool:
    """Return whether the kernel has exactly this rule."""
    invert = _FIB_RULE_INVERT if rule.not_fwmark is not None else 0
    mark = rule.fwmark if rule.not_fwmark is None else rule.not_fwmark
    to = ipaddress.ip_network(rule.to) if rule.to else None
    to_range = (str(to.network_address), to.prefixlen) if to else (None, 0)
    devices = (rule.by or None, rule.came_by or None)
    wanted = (rule.table, mark, invert, *to_range, *devices, rule.udp)
    with rtnl.IPRoute() as netlink:
        return any(
            wanted
            == (
                found.get_attr("FRA_TABLE"),
                found.get_attr("FRA_FWMARK"),
                found["flags"] & _FIB_RULE_INVERT,
                found.get_attr("FRA_DST"),
                found["dst_len"],
                found.get_attr("FRA_OIFNAME"),
                found.get_attr("FRA_IIFNAME"),
                _ports(found),
            )
            for found in netlink.get_rules(family=rule.family)
            if found.get_attr("FRA_PRIORITY") == rule.priority
        )


def _ports(found: rtnl.nlmsg) -> tuple[int, int] | None:
    """Return the UDP ports that a rule asks for."""
    if found.get_attr("FRA_IP_PROTO") != socket.IPPROTO_UDP:
        return None
    source, destination = found.get_attr("FRA_SPORT_RANGE"), found.get_attr("FRA_DPORT_RANGE")  # as 68:68
    return (int(source.split(":")[0]), int(destination.split(":")[0])) if source and destination else None


def _rule_request(rule: Rule) -> dict[str, object]:
    request: dict[str, object] = {"family": rule.family, "priority": rule.priority, "table": rule.table}
    if rule.not_fwmark is not None:
        request |= {"fwmark": rule.not_fwmark, "fwmask": 0xFFFFFFFF, "flags": _FIB_RULE_INVERT}
    if rule.fwmark is not None:
        request |= {"fwmark": rule.fwmark, "fwmask": 0xFFFFFFFF}
    if rule.to is not None:
        network = ipaddress.ip_network(rule.to)
        request |= {"dst": str(network.network_address), "dst_len": network.prefixlen}
    if rule.by:
        request["oifname"] = rule.by
    if rule.udp is not None:
        source, destination = (f"{port}:{port}" for port in rule.udp)
        request |= {"ip_proto": socket.IPPROTO_UDP, "sport_range": source, "dport_range": destination}
    if rule.came_by:
        request["iifname"] = rule.came_by
    return request


def change_route(route: Route) -> None:
    """Add or delete a route; one that is already there, or already gone, is fine."""
    with rtnl.IPRoute() as netlink:
        index = _index(netlink, route.device)
        if index is None:
            if route.add:
                raise OperatorError(
                    f"`{route}`: there is no device {route.device}", "is the daemon still running?"
                )
            return
        request = {"family": route.family, "dst": route.to, "oif": index, "table": route.table}
        if route.source:
            request["prefsrc"] = route.source
        verb = "add" if route.add else "del"
        _change(lambda: netlink.route(verb, proto="static", **request), str(route), route.add)


def route_stands(route: Route) -> bool:
    """Return whether the kernel has this route."""
    to = None if route.to == "default" else ipaddress.ip_network(route.to)
    with rtnl.IPRoute() as netlink:
        index = _index(netlink, route.device)
        return index is not None and any(
            found.get_attr("RTA_DST") == (str(to.network_address) if to else None)
            and found["dst_len"] == (to.prefixlen if to else 0)
            for found in netlink.get_routes(family=route.family, table=route.table, oif=index)
        )


def rules_in_place() -> bool:
    """Return whether a rule of ours leads into our table."""
    with rtnl.IPRoute() as netlink:
        return any(rule.get_attr("FRA_TABLE") == TABLE for rule in netlink.get_rules())


def uplinks() -> set[str]:
    """Return the devices by which the main table's default routes lead."""
    with rtnl.IPRoute() as netlink:
        families = (socket.AF_INET, socket.AF_INET6)
        routes = (route for family in families for route in netlink.get_default_routes(family=family))
        indexes = {route.get_attr("RTA_OIF") for route in routes}
        return {str(link.get_attr("IFLA_IFNAME")) for link in netlink.get_links() if link["index"] in indexes}


def _index(netlink: rtnl.IPRoute, device: str) -> int | None:
    found = netlink.link_lookup(ifname=device)
    return int(found[0]) if found else None


def _change(request: Callable[[], object], shown: str, add: bool) -> None:
    try:
        request()
    except rtnl.NetlinkError as error:
        if (add and error.code == _EEXIST) or (not add and error.code in _ABSENT):
            return
        hint = "does this kernel have policy routing? run it as root"
        raise OperatorError(f"`{shown}` failed: {error}", hint) from error
