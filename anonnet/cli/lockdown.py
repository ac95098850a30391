"""`anonnet-tun lockdown`: blocked whenever not up, from boot on."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from pathlib import Path

import click

from anonnet.cli import config_option
from anonnet.cli.host import up_settings
from anonnet.errors import OperatorError
from anonnet.node.config import load
from anonnet.node.peers import read_peers, require_link
from anonnet.node.sections import Config
from anonnet.tun import host
from anonnet.tun import lockdown as mark
from anonnet.tun.commands import require_net_admin


@click.command()
@config_option
@click.argument("wish", type=click.Choice(["on", "off", "start"]), required=False)
@click.option("--yes", is_flag=True, help="Even if it cuts the SSH session that this is typed in.")
def lockdown(config_path: Path, wish: str | None, yes: bool) -> None:
    """Block this host whenever it is not up, also after `down` and from boot on; bare: say how it is.

    `start` is for the unit that runs before the network: it blocks if lockdown is on and does nothing else.
    """
    if wish == "start":
        _start(config_path)
        return
    config = load(config_path)
    state_dir = config.node.state_dir
    if wish is None:
        click.echo("lockdown is on" if mark.is_on(state_dir) else "lockdown is off")
        return
    require_net_admin()
    if wish == "off":
        mark.switch(state_dir, on=False)
        settings = up_settings(config, [])
        state = host.host_state(settings)
        if state.blocked and not state.tun:
            host.down(settings)
        click.echo("lockdown is off: `down` opens this host" if state.tun else "lockdown is off")
    else:
        block(config, str(config_path), warned=yes)
        mark.switch(state_dir, on=True)
        click.echo("lockdown is on: traffic passes only while up")


def _start(config_path: Path) -> None:
    """Block if lockdown is on. Where the configuration cannot be used, not even link datagrams pass."""
    try:
        config = load(config_path)
        if mark.is_on(config.node.state_dir):
            block(config, str(config_path), warned=True)
    except OperatorError:
        bare = host.UpSettings()
        if mark.is_on(bare.state_dir) and not host.host_state(bare).firewall:
            host.shut(bare)
        raise


def ssh_client(pid: int = 0) -> str:
    """Return the address from which this session's SSH client comes, "" without one.

    sudo takes SSH_CONNECTION out of the environment, so its parents are asked, too.
    """
    pid = pid or os.getpid()
    while pid > 1:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(b"SSH_CONNECTION="):
                    return entry.partition(b"=")[2].split()[0].decode(errors="replace")
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return ""


def block(config: Config, source: str, warned: bool) -> None:
    """Raise the firewall, unless it stands already. `warned`: even if that cuts an SSH session."""
    peers = read_peers(config, None, source)
    require_link(peers, source)  # before the first set-up there is nothing that could open the host again
    settings = up_settings(config, peers)
    client = ssh_client()
    if client and not warned and not _passes(client, settings.kept_out.ranges):
        hint = "name its range in caller.lan, or go on with --yes"
        raise OperatorError(f"this would cut your SSH session from {client}", hint)
    if not host.host_state(settings).firewall:
        host.shut(settings)


def _passes(address: str, ranges: object) -> bool:
    with contextlib.suppress(ValueError):
        one = ipaddress.ip_address(address)
        assert isinstance(ranges, tuple)
        return one.is_loopback or any(one in ipaddress.ip_network(text) for text in ranges)
    return False
