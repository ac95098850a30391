"""`anonnet-tun down` and `cleanup`: this host as it was before `up`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from anonnet.cli import config_option, stay
from anonnet.cli.host import up_settings
from anonnet.errors import OperatorError
from anonnet.node import api
from anonnet.node.client import Client, DaemonDownError
from anonnet.node.config import load
from anonnet.node.sections import Config
from anonnet.tun import host, lockdown
from anonnet.tun.apply import Session, quiet
from anonnet.tun.journal import Journal
from anonnet.tun.socks.plan import journal

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show every change to this host.")


@click.command()
@config_option
@verbose_option
def down(config_path: Path, verbose: bool) -> None:
    """Go back to the plain Internet. The node goes on relaying, and its links do not show this."""
    config = load(config_path)
    stay.end(config.node.run_dir)
    # The daemon may be dead, or hang: the host must come back all the same.
    with contextlib.suppress(OperatorError):
        Client(config.node.run_dir).call(api.Down(), api.Status)
    was_up = _undo(config, verbose)
    if lockdown.is_on(config.node.state_dir):
        click.echo("blocked: lockdown is on, and `anonnet-tun lockdown off` opens this host")
    else:
        click.echo("down: this host is as it was before `up`" if was_up else "already down")


@click.command()
@config_option
@verbose_option
def cleanup(config_path: Path, verbose: bool) -> None:
    """Undo every change to this host that a crash left behind; refuse while the node runs."""
    config = load(config_path)
    try:
        Client(config.node.run_dir).call(api.GetStatus(), api.Status)
    except DaemonDownError:
        pass
    else:
        raise OperatorError("the node is running", "stop it first, or use `anonnet-tun down`")
    stay.end(config.node.run_dir)
    from anonnet.node.changes import JOURNAL  # noqa: PLC0415  `down` is quick, and needs no daemon at all

    was_dirty = _undo(config, verbose)
    of_node = Journal(config.node.run_dir, config.node.state_dir, JOURNAL)
    if of_node.steps:  # of a daemon that was killed: connection tracking, and an exit's NAT
        was_dirty = True
        Session(of_node, click.echo if verbose else quiet).undo()
    click.echo("cleaned up" if was_dirty else "nothing to clean up")


def _undo(config: Config, verbose: bool) -> bool:
    """Undo what `up` and a SOCKS proxy have made; return whether there was anything."""
    echo = click.echo if verbose else quiet
    proxy = journal(config.node.run_dir, config.node.state_dir)
    was_dirty = bool(proxy.steps)
    Session(proxy, echo).undo()
    return host.down(up_settings(config, []), echo) or was_dirty
