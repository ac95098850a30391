"""This host as the commands see it: what `up` changes, and the state that daemon and host make together."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from typing import Final

import msgspec

from anonnet.crypto.keys import load_keys
from anonnet.errors import OperatorError
from anonnet.ids import node_id_text
from anonnet.node import api
from anonnet.node.client import Client, DaemonDownError
from anonnet.node.peers import Peer
from anonnet.node.privileges import find_user
from anonnet.node.sections import Config, TransportName
from anonnet.tun import lockdown, warden
from anonnet.tun.device import device_exists
from anonnet.tun.firewall import LinkEndpoint
from anonnet.tun.host import UpSettings, host_state
from anonnet.tun.routing import rules_in_place
from anonnet.tun.socks.plan import listening
from anonnet.tun.upplan import saved_settings, whole
from anonnet.wire.descriptor import Address, Transport

_NAMES: Final[dict[Transport, TransportName]] = {Transport.RAW: "raw", Transport.UDP: "udp"}


def up_settings(config: Config, peers: list[Peer], users: bool = False) -> UpSettings:
    """Return what `up` needs to know; `down` and `status` do without the peers, and without `users`."""
    return UpSettings(
        tun=config.caller.tun,
        mark=config.transport.mark,
        links=tuple(dict.fromkeys(link for peer in peers if peer.link for link in _endpoints(config, peer))),
        lan=config.caller.lan,
        outside=config.caller.outside,
        outside_users=user_ids(config.caller.outside_users),
        forward=config.caller.forward,
        users=users,
        socks=find_user(config.node.user).uid if users else None,
        run_dir=config.node.run_dir,
        state_dir=config.node.state_dir,
    )


def current(config: Config) -> api.Status:
    """Return the daemon's status, its state corrected by what is in place on this host."""
    try:
        report = Client(config.node.run_dir).call(api.GetStatus(), api.Status)
    except DaemonDownError:
        bare = api.Status(api.SCHEMA, _own_id(config), "down", None, (), ())
        report = msgspec.structs.replace(bare, suite=config.node.suite, warnings=config.warnings)
    firewall, tunnel = in_place(config)
    seen = msgspec.structs.replace(
        report,
        state=combine(report.state, firewall, tunnel),
        lockdown=lockdown.is_on(config.node.state_dir),
        watched=warden.runs(config.node.run_dir),
        socks=listening(config.node.run_dir),
    )
    if os.geteuid() == 0 and firewall and (settings := saved_settings(config.node.run_dir)):
        seen = msgspec.structs.replace(seen, outside=tuple(_outside(settings)))
    return seen


def _outside(settings: UpSettings) -> Iterator[str]:
    """Yield what stays outside of the tunnel, for people."""
    yield from settings.kept_out.ranges
    yield from (f"user {uid}" for uid in settings.outside_users)
    if settings.programs:
        yield "programs started by `anonnet-tun exclude`"


def in_place(config: Config) -> tuple[bool, bool]:
    """Return whether our firewall stands, and whether with it the device and the rules that lead there do.

    These not before the `up` that makes them has proved that packets pass: it may fail yet, or be killed.
    """
    if os.geteuid() == 0:
        host = host_state(up_settings(config, []))
        stands = host.firewall and host.tun and host.rules
        return host.firewall, stands and whole(config.node.run_dir)
    rules = rules_in_place()  # only root may list a firewall; ours stands wherever our rules do
    return rules, rules and device_exists(config.caller.tun)


def combine(daemon: api.State, firewall: bool, tunnel: bool) -> api.State:
    """Return the state of daemon and host together."""
    if not firewall:
        return "down"  # whatever the daemon holds, this host's packets leave in the clear
    if daemon == "down":
        return "blocked"
    return daemon if tunnel else "connecting"


def user_ids(names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the ids of users given by name or number; OperatorError for one that does not exist."""
    found = []
    for name in names:
        try:
            found.append(int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid)
        except KeyError:
            raise OperatorError(f"no user {name!r}", "name one of /etc/passwd, or a number") from None
    return tuple(found)


def _own_id(config: Config) -> str | None:
    """Return this node's id if its keys are there and may be read."""
    with contextlib.suppress(OperatorError):
        return node_id_text(load_keys(config.node.state_dir).node_id)
    return None


def _endpoints(config: Config, peer: Peer) -> list[LinkEndpoint]:
    """Return where a link's datagrams may go to and come from."""
    if peer.address:
        return [_endpoint(config, peer.address)]
    wanted = [Transport[name.upper()] for name in ("raw", "udp") if getattr(config.transport, name)]
    if peer.transport:
        wanted = [peer.transport]
    known = [address for address in peer.descriptor.addresses if address.transport in wanted]
    if known:
        return [_endpoint(config, address) for address in known]
    ports = {Transport.RAW: config.transport.ip_protocol, Transport.UDP: config.transport.udp_port}
    return [LinkEndpoint(_NAMES[transport], None, ports[transport]) for transport in wanted]


def _endpoint(config: Config, address: Address) -> LinkEndpoint:
    port = config.transport.ip_protocol if address.transport is Transport.RAW else address.port
    return LinkEndpoint(_NAMES[address.transport], str(address.host), port)
