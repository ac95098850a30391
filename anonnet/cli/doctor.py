"""`anonnet-tun doctor`: what this host lacks, and what to do about it."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import click
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from anonnet.cli import config_option
from anonnet.cli.host import up_settings
from anonnet.crypto.keys import load_keys
from anonnet.errors import AnonNetError, OperatorError
from anonnet.node import api
from anonnet.node.client import Client, DaemonDownError
from anonnet.node.config import load
from anonnet.node.peers import Peer, read_peers, require_link
from anonnet.node.privileges import find_user, require_cling
from anonnet.node.sections import Config
from anonnet.proto.profile import Profile
from anonnet.tun import cgroup, commands, lockdown, nft, warden
from anonnet.tun.dns import dns_facts, nameservers
from anonnet.tun.host import host_state
from anonnet.tun.upplan import supports

Check = Callable[[Config, list[Peer]], str]
LOCKDOWN_UNIT: Final = "anonnet-lockdown.service"
BUFFERS: Final = Path("/proc/sys/net/ipv4")
ECHO_TICKS: Final = 8  # there and back over three hops
QUEUE_SECONDS: Final = 0.1  # what a fast download keeps waiting besides, so that no slot goes unused
SLOW_CLOCK_SECONDS: Final = 60  # an invite may be so much younger than this host's clock says


@click.command()
@config_option
def doctor(config_path: Path) -> None:
    """Look for what keeps AnonNet from working here; exit code 1 if there is anything."""
    config, peers = load(config_path), []
    broken = 0
    try:
        peers = read_peers(config, None, str(config_path))
    except OperatorError as error:
        broken += _tell("peers", f"{error.what}: {error.hint}", bad=True)
    for name, check in CHECKS.items():
        try:
            broken += _tell(name, check(config, peers), bad=False)
        except AnonNetError as error:
            broken += _tell(name, str(error), bad=True)
    if broken:
        raise OperatorError(f"{broken} of {len(CHECKS)} checks found something", "see the lines marked !")


def _tell(name: str, text: str, *, bad: bool) -> int:
    click.echo(f"{'!' if bad else ' '} {name:<14}{text}")
    return int(bad)


# -- checks: each returns what is well, or raises OperatorError with what is not and what to do -----


def _keys(config: Config, peers: list[Peer]) -> str:
    load_keys(config.node.state_dir)
    find_user(config.node.user)
    return f"this node has its keys, and becomes user {config.node.user}"


def _links(config: Config, peers: list[Peer]) -> str:
    require_link(peers, "configuration")
    number = sum(peer.link for peer in peers)
    return f"{number} neighbour{'s' * (number != 1)} to link with"


def _rights(config: Config, peers: list[Peer]) -> str:
    commands.require_net_admin()
    require_cling(config.data_plane.realtime_priority, config.data_plane.lock_memory)
    return "may change the network, run in real time and lock memory"


def _kernel(config: Config, peers: list[Peer]) -> str:
    if not Path("/dev/net/tun").exists():
        raise OperatorError("no /dev/net/tun", "load the driver (modprobe tun); in a container, ask its host")
    commands.run(["nft", "--check", "-f", "-"], nft.fresh("inet", "anonnet_probe", []))
    if not supports("netdev"):
        hint = "a kernel of 5.16 or later has it; until then programs with root's rights could send past `up`"
        raise OperatorError("nf_tables has no egress hook", hint)
    if not supports("arp"):
        raise OperatorError(
            "nf_tables cannot filter ARP", "load it: modprobe nf_tables_arp, or CONFIG_NF_TABLES_ARP"
        )
    nft.Library().close()
    return "TUN, nf_tables with egress hook and ARP"


def _policy_routing(config: Config, peers: list[Peer]) -> str:
    try:
        with IPRoute() as netlink:
            found = len(list(netlink.get_rules()))
    except NetlinkError as error:
        raise OperatorError(f"no policy routing ({error})", "CONFIG_IP_MULTIPLE_TABLES") from None
    return f"{found} rules"


def _programs(config: Config, peers: list[Peer]) -> str:
    return f"`exclude` puts programs into {cgroup.path()}"


def _addresses(config: Config, peers: list[Peer]) -> str:
    own = {str(one.host) for one in config.transport.parsed}
    with IPRoute() as netlink:
        here = {one.get_attr("IFA_ADDRESS") for one in netlink.get_addr()}
        routes = {route["family"] for route in netlink.get_default_routes()}
    if not routes:
        raise OperatorError("no default route", "connect this host to the Internet")
    if missing := sorted(own - here):
        # No fault by itself: a router may forward to this host.
        return f"{', '.join(missing)} is announced but on no device here: behind a router?"
    versions = "IPv4 and IPv6" if len(routes) > 1 else "one IP version"
    return f"{', '.join(sorted(own)) or 'none announced'}; default route for {versions}"


def _clock(config: Config, peers: list[Peer]) -> str:
    newest = max((peer.descriptor.epoch for peer in peers), default=0)
    behind = newest - time.time()
    if behind > SLOW_CLOCK_SECONDS:
        hint = "set it: timedatectl set-ntp true"
        raise OperatorError(f"this host's clock is at least {behind:.0f} s behind that of a peer", hint)
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _daemon(config: Config, peers: list[Peer]) -> str:
    try:
        report = Client(config.node.run_dir).call(api.GetStatus(), api.Status)
    except DaemonDownError as error:
        raise OperatorError("the node is not running", error.hint) from None
    down = [link for link in report.links if link.state != "up"]
    if down:
        trouble = "; ".join(f"{link.peer[:8]} is {link.state} {link.trouble}".strip() for link in down)
        hint = "is the other node running, does it know this one, and does a firewall on the way pass"
        hint += f' IP protocol {config.transport.ip_protocol}? (transport = "udp" passes more routers)'
        raise OperatorError(f"{len(down)} of {len(report.links)} links are not up: {trouble}", hint)
    return f"running, {len(report.links)} links up"


def _reach(config: Config, peers: list[Peer]) -> str:
    """Whether there is a way to each neighbour's addresses."""
    lost = []
    with IPRoute() as netlink:
        for link in up_settings(config, peers).links:
            if link.address is None:
                continue
            host = str(ipaddress.ip_network(link.address).network_address)
            try:
                netlink.route("get", dst=host, mark=config.transport.mark)
            except NetlinkError:
                lost.append(host)
    if lost:
        raise OperatorError(
            f"no route to {', '.join(lost)}", "is IPv6 on this host? give the peer an `address`"
        )
    return "there is a route to every neighbour's address"


def _dns(config: Config, peers: list[Peer]) -> str:
    facts = dns_facts()
    servers = nameservers((facts.content or b"").decode(errors="replace"))
    if not servers:
        raise OperatorError(f"{facts.path} names no server", "set one, or start systemd-resolved")
    return f"{facts.manager.value}: {', '.join(servers)}"


def _buffers(config: Config, peers: list[Peer]) -> str:
    """Whether TCP on this host may keep on its way what all links can: a hint, and no fault."""
    if config.exit.enabled:
        return "an exit ends no TCP connection"
    sent, received = tcp_buffers(one.profile for one in peers if one.link)
    hints = []
    for name, need in (("tcp_wmem", sent), ("tcp_rmem", received)):
        try:
            least, usual, most = (BUFFERS / name).read_text().split()
        except (OSError, ValueError):
            continue
        if int(most) < need:
            better = 1 << (need - 1).bit_length()
            hints.append(f"sysctl -w net.ipv4.{name}='{least} {usual} {better}'")
    if hints:
        return f"too small for one connection to fill these links; to mend that: {'; '.join(hints)}"
    return "TCP may keep on its way what these links hold"


def tcp_buffers(profiles: Iterable[Profile]) -> tuple[int, int]:
    """Return how many bytes the kernel's buffers must be allowed for one TCP connection to fill all links.

    For what is sent and what is received. The kernel counts about twice what it holds (tcp(7)).
    """
    sent = received = 0.0
    for profile in profiles:
        echo = ECHO_TICKS * profile.schedule("raw", 4).tick_ns / 1e9
        sent += profile.rate_out / 8 * (echo + QUEUE_SECONDS)
        received += profile.rate_in / 8 * (echo + QUEUE_SECONDS)
    return round(2 * sent), round(2 * received)


def _host(config: Config, peers: list[Peer]) -> str:
    state = host_state(up_settings(config, []))
    if state.down:
        return "nothing of `up` is in place"
    if state.firewall and not warden.runs(config.node.run_dir):
        raise OperatorError("nobody watches the firewall", "`anonnet-tun up` starts a warden")
    if state.blocked:
        return "blocked: `up` reconnects, `down` opens this host"
    return "up, and watched"


def _boot(config: Config, peers: list[Peer]) -> str:
    """Whether lockdown, if it is on, begins before there is a network."""
    if not lockdown.is_on(config.node.state_dir):
        return "lockdown is off: a boot is open until `up`"
    try:
        commands.run(["systemctl", "is-enabled", LOCKDOWN_UNIT])
    except OperatorError as error:
        hint = f"systemctl enable {LOCKDOWN_UNIT} ({error.what})"
        raise OperatorError("lockdown is on, but does not begin at boot", hint) from None
    return "lockdown begins before there is a network"


CHECKS: Final[dict[str, Check]] = {
    "keys": _keys,
    "links": _links,
    "rights": _rights,
    "kernel": _kernel,
    "routing": _policy_routing,
    "programs": _programs,
    "addresses": _addresses,
    "reachability": _reach,
    "clock": _clock,
    "dns": _dns,
    "buffers": _buffers,
    "node": _daemon,
    "this host": _host,
    "boot": _boot,
}
