"""The caller's host: `up`, `down` and what state it is in.

with HostSession(settings, echo) as host:      # takes the lock, puts right what a crash left
    host.apply(Phase.FIREWALL)
    host.apply(Phase.TUN)                      # host.tun.fd goes to the daemon
    ...                                        # wait for the circuit
    host.apply(Phase.ROUTES)
    host.apply(Phase.DNS)
    host.keep()                                # without it, leaving the block undoes everything
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from anonnet import spec
from anonnet.errors import OperatorError
from anonnet.tun import commands, dns, firewall, routing
from anonnet.tun.actions import CreateTun, DeleteTun
from anonnet.tun.apply import Echo, Session, perform, quiet, read_sysctl
from anonnet.tun.device import Tun, tun_exists
from anonnet.tun.dns import DnsFacts
from anonnet.tun.firewall import LinkEndpoint
from anonnet.tun.journal import Journal, Lock
from anonnet.tun.plan import Phase, Step

_OWNER: Final = "host"  # of the journal and the device
_EGRESS_PROBE: Final = firewall.fresh(
    "netdev", "anonnet_probe", [firewall.chain("c", 'type filter hook egress device "lo" priority 0', [])]
)


@dataclass(frozen=True, slots=True)
class UpSettings:
    """What `up` is told. `lan`: address ranges that stay outside of the tunnel, both ways.

    `users`: circuits isolate by user, so the data plane must know whose packets it reads.
    """

    tun: str = "anonnet0"
    mark: int = routing.MARK
    links: tuple[LinkEndpoint, ...] = ()
    lan: tuple[str, ...] = ()
    users: bool = False
    run_dir: Path = Path("/run/anonnet")
    state_dir: Path = Path("/var/lib/anonnet")
    resolv_conf: Path = field(default=dns.RESOLV_CONF)

    def __post_init__(self) -> None:
        for text in self.lan:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                hint = "write it like 192.168.1.0/24 or fd00::/8"
                raise OperatorError(f"{text!r} is no address range", hint) from error


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a plan must know of the host as it is now."""

    ipv6: bool
    rp_filter: str
    devices: tuple[str, ...]  # for the egress hook; empty without kernel support
    dns: DnsFacts


@dataclass(frozen=True, slots=True)
class HostState:
    """Which of our changes are in place."""

    firewall: bool
    tun: bool
    rules: bool
    journal: bool

    @property
    def down(self) -> bool:
        """Nothing of ours is in place."""
        return not (self.firewall or self.tun or self.rules or self.journal)

    @property
    def blocked(self) -> bool:
        """The firewall stands, but there is no tunnel to pass it (the daemon died, or `up` is under way)."""
        return self.firewall and not (self.tun and self.rules)


def gather_facts(settings: UpSettings) -> HostFacts:
    """Look at the host. Raises OperatorError if something that `up` needs is missing."""
    commands.require_net_admin()
    devices: tuple[str, ...] = ()
    with contextlib.suppress(OperatorError):
        commands.run(["nft", "--check", "-f", "-"], _EGRESS_PROBE)
        devices = tuple(name for _, name in socket.if_nameindex() if name not in ("lo", settings.tun))
    return HostFacts(
        ipv6=read_sysctl("net/ipv6/conf/all/disable_ipv6", "1") == "0",
        rp_filter=read_sysctl(routing.RP_FILTER),
        devices=devices,
        dns=dns.dns_facts(settings.resolv_conf),
    )


def plan_up(settings: UpSettings, facts: HostFacts) -> list[Step]:
    """Return all of `up`'s steps, in the order of `Phase`."""
    addresses = [f"{spec.INNER4_CALLER}/32"]
    if facts.ipv6:
        addresses.append(f"{spec.INNER6_CALLER}/128")
    return [
        firewall.caller_firewall(
            settings.tun, settings.mark, settings.links, settings.lan, facts.devices, settings.users
        ),
        Step(
            name="tun",
            phase=Phase.TUN,
            do=CreateTun(settings.tun, _OWNER, tuple(addresses), spec.TUN_MTU),
            undo=DeleteTun(settings.tun, _OWNER),
        ),
        *routing.routing_steps(
            settings.tun,
            settings.mark,
            settings.lan,
            prior_rp_filter=facts.rp_filter,
            ipv6=facts.ipv6,
        ),
        *dns.dns_steps(settings.tun, facts.dns),
    ]


class HostSession:
    """One `up`. A context manager: what it made is undone on the way out, unless `keep` was called."""

    def __init__(self, settings: UpSettings, echo: Echo = quiet) -> None:
        self._settings = settings
        self._echo = echo
        self._lock = Lock(settings.run_dir / f"{_OWNER}.lock")
        self._session: Session | None = None
        self._kept = False

    def __enter__(self) -> HostSession:
        commands.require_net_admin()
        self._lock.__enter__()
        try:
            self._session = Session(_journal(self._settings), self._echo)
            # A crash left these. The firewall stays, so that nothing passes until ours replaces it.
            self._session.undo(keep=frozenset({Phase.FIREWALL}))
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    @property
    def tun(self) -> Tun:
        """The open device, after `apply(Phase.TUN)`. Its descriptor is closed when the session ends."""
        assert self._session is not None
        assert self._session.tun is not None
        return self._session.tun

    def apply(self, phase: Phase) -> None:
        """Make the changes of one phase, planned from the host as it is at this moment."""
        assert self._session is not None
        facts = gather_facts(self._settings)
        self._session.apply(step for step in plan_up(self._settings, facts) if step.phase is phase)

    def keep(self) -> None:
        """Leave everything in place when the session ends; `down` undoes it from the journal."""
        self._kept = True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        try:
            if not self._kept:
                self._session.undo()
            elif self._session.tun is not None:
                self._session.tun.close()
        finally:
            self._lock.__exit__(kind, value, trace)


def tell_users(settings: UpSettings, echo: Echo = quiet) -> None:
    """Make the firewall of an `up` that stands tell users apart, unless it does already."""
    with Lock(settings.run_dir / f"{_OWNER}.lock"):
        try:  # made anew, it would number them anew, and connections would change circuits
            commands.run(["nft", "list", "map", "inet", firewall.TABLE, firewall.USERS])
        except OperatorError:
            steps = plan_up(settings, gather_facts(settings))
            Session(_journal(settings), echo).apply(step for step in steps if step.phase is Phase.FIREWALL)


def down(settings: UpSettings, echo: Echo = quiet) -> bool:
    """Undo `up`, also of a dead daemon or a killed command. Return False if there was nothing to undo."""
    commands.require_net_admin()
    with Lock(settings.run_dir / f"{_OWNER}.lock"):
        session = Session(_journal(settings), echo)
        if session.journal.steps:
            session.undo()
            return True
        if host_state(settings).down:
            return False
        # Somebody removed the journal. What is tagged as ours needs no prior values to go.
        for step in reversed(plan_up(settings, gather_facts(settings))):
            if step.phase is not Phase.DNS and step.name != "rp-filter":
                echo(f"[#] {step.undo}")
                perform(step.undo)
        return True


def host_state(settings: UpSettings) -> HostState:
    """Look which of our changes are in place. Needs CAP_NET_ADMIN."""
    try:
        listed = commands.run(["nft", "list", "tables"]).splitlines()
    except OperatorError:
        listed = []
    return HostState(
        firewall=f"table inet {firewall.TABLE}" in listed,
        tun=tun_exists(settings.tun, _OWNER),
        rules=routing.rules_in_place(),
        journal=bool(_journal(settings).steps),
    )


def _journal(settings: UpSettings) -> Journal:
    return Journal(settings.run_dir, settings.state_dir, _OWNER)


__all__ = [
    "HostFacts",
    "HostSession",
    "HostState",
    "LinkEndpoint",
    "Phase",
    "UpSettings",
    "down",
    "gather_facts",
    "host_state",
    "plan_up",
]
