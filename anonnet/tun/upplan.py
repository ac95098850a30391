"""What `up` is told, what it must know of the host, and the plan that follows from both. Changes nothing."""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from anonnet import spec
from anonnet.errors import OperatorError
from anonnet.files import read_own, write_own
from anonnet.tun import commands, dns, firewall, nft, routing
from anonnet.tun.actions import Cgroup, CreateTun, DeleteTun
from anonnet.tun.apply import read_sysctl
from anonnet.tun.dns import DnsFacts
from anonnet.tun.firewall import LinkEndpoint, Outside, Wall
from anonnet.tun.plan import Phase, Step
from anonnet.tun.users import users_table

OWNER: Final = "host"  # of the journal and the device
_SETTINGS: Final = "up.json"
_PROBES: Final = {
    "netdev": 'type filter hook egress device "lo" priority 0',
    "arp": "type filter hook input priority 0",
}


class UpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `up` is told.

    `lan`, `outside`: address ranges that stay outside of the tunnel, both ways. `outside_users`: ids of the
    users whose programs do; `programs`: the cgroup of those that `anonnet-tun exclude` starts, "" until then.
    `forward`: devices behind which are hosts of our own, who get into the tunnel too (`firewall.Wall`).
    `users`: circuits isolate by user, so the data plane must know whose packets it reads; `socks`: id of the
    user as whom the SOCKS proxy runs. `whole`: the `up` that was told so has done all of it.
    """

    tun: str = "anonnet0"
    mark: int = routing.MARK
    links: tuple[LinkEndpoint, ...] = ()
    lan: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    outside_users: tuple[int, ...] = ()
    programs: str = ""
    forward: tuple[str, ...] = ()
    users: bool = False
    socks: int | None = None
    whole: bool = True
    run_dir: Path = Path("/run/anonnet")
    state_dir: Path = Path("/var/lib/anonnet")
    resolv_conf: Path = dns.RESOLV_CONF

    def __post_init__(self) -> None:
        for text in (*self.lan, *self.outside):
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                hint = "write it like 192.168.1.0/24 or fd00::/8"
                raise OperatorError(f"{text!r} is no address range", hint) from error

    @property
    def kept_out(self) -> Outside:
        """What stays outside of the tunnel."""
        ranges = tuple(dict.fromkeys((*self.lan, *self.outside)))
        return Outside(ranges, self.outside_users, self.programs)

    def save(self) -> None:
        """Keep the settings beside the journal, for the warden and for commands that change one of them."""
        write_own(self.run_dir / _SETTINGS, msgspec.json.encode(self, enc_hook=str))

    def forget(self) -> None:
        """Remove what `save` wrote."""
        (self.run_dir / _SETTINGS).unlink(missing_ok=True)


def saved_settings(run_dir: Path) -> UpSettings | None:
    """Return what the present `up` was told, None when nothing is up."""
    try:
        return msgspec.json.decode(read_own(run_dir / _SETTINGS), type=UpSettings, dec_hook=_path)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        hint = "`anonnet-tun down` and `up` write it anew"
        raise OperatorError(f"cannot read {run_dir / _SETTINGS}: {error}", hint) from error


def whole(run_dir: Path) -> bool:
    """Return whether the last `up` has done all of it: none is under way, and none was killed half-way."""
    settings = saved_settings(run_dir)
    return settings is None or settings.whole


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a plan must know of the host as it is now."""

    ipv6: bool
    rp_filter: str
    devices: tuple[str, ...] | None  # for the egress hook; None without kernel support
    dns: DnsFacts
    arp: bool = True  # whether the kernel filters ARP


def gather_facts(settings: UpSettings) -> HostFacts:
    """Look at the host. Raises OperatorError if something that `up` needs is missing."""
    commands.require_net_admin()
    names = [name for _, name in socket.if_nameindex() if name not in ("lo", settings.tun)]
    behind = [name for name in names if any(fnmatch.fnmatchcase(name, one) for one in settings.forward)]
    if behind and (leading := sorted(set(behind) & routing.uplinks())):
        hint = "name only devices of containers and virtual machines in caller.forward"
        raise OperatorError(f"the way to the Internet is by {', '.join(leading)}", hint)
    return HostFacts(
        ipv6=read_sysctl("net/ipv6/conf/all/disable_ipv6", "1") == "0",
        rp_filter=read_sysctl(routing.RP_FILTER),
        devices=tuple(name for name in names if name not in behind) if supports("netdev") else None,
        dns=dns.dns_facts(settings.resolv_conf),
        arp=supports("arp"),
    )


@functools.cache
def supports(family: str) -> bool:
    """Return whether this kernel filters packet sockets (netdev) or ARP (arp)."""
    script = nft.fresh(family, "anonnet_probe", [nft.chain("c", _PROBES[family], [])])
    try:
        commands.run(["nft", "--check", "-f", "-"], script)
    except OperatorError:
        return False
    return True


def wall(settings: UpSettings, facts: HostFacts) -> Wall:
    """Return what the firewall depends on."""
    kept_out = settings.kept_out
    return Wall(
        settings.tun, settings.mark, settings.links, kept_out, facts.devices, facts.arp, settings.forward
    )


def plan_up(settings: UpSettings, facts: HostFacts) -> list[Step]:
    """Return all of `up`'s steps, in the order of `Phase`."""
    addresses = [f"{spec.INNER4_CALLER}/32"]
    if facts.ipv6:
        addresses.append(f"{spec.INNER6_CALLER}/128")
    outside = settings.kept_out
    made = [Step("cgroup", Phase.FIREWALL, Cgroup(True, outside.cgroup), Cgroup(False, outside.cgroup))]
    return [
        *(made if outside.cgroup else []),
        firewall.caller_firewall(wall(settings, facts)),
        *([users_table(settings.tun, settings.mark, settings.socks)] if settings.users else []),
        Step(
            name="tun",
            phase=Phase.TUN,
            do=CreateTun(settings.tun, OWNER, tuple(addresses), spec.TUN_MTU),
            undo=DeleteTun(settings.tun, OWNER),
        ),
        *routing.routing_steps(
            settings.tun,
            settings.mark,
            outside,
            forward=bool(settings.forward),
            prior_rp_filter=facts.rp_filter,
            ipv6=facts.ipv6,
        ),
        *dns.dns_steps(settings.tun, facts.dns),
    ]


def _path(kind: type, value: Any) -> Any:
    return kind(value)
