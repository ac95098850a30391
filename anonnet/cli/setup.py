"""`anonnet-tun init`, `keygen`, `invite`: from nothing to a node that others can know."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from anonnet.cli import config_option
from anonnet.cli.template import Choices, render
from anonnet.crypto.keys import KEYS_FILE, NodeKeys, load_keys, save_keys
from anonnet.errors import OperatorError
from anonnet.ids import node_id_text
from anonnet.node import config as configuration
from anonnet.node.invite import own_invite
from anonnet.node.peers import read_peers


@click.command()
@config_option
@click.option("--name", default="", help="What people who know this node call it.")
@click.option("--address", "addresses", multiple=True, help="raw:198.51.100.1, udp:198.51.100.1:2531.")
@click.option("--profile", default="10m", show_default=True, help="Of links: modem ... 100m, or such as 2m.")
@click.option("--exit", "exit_", is_flag=True, help="Forward other people's traffic to the Internet.")
@click.option("--from-invite", "invites", multiple=True, help="A node to link with; repeat it.")
@click.option("--state-dir", default="/var/lib/anonnet", show_default=True, type=click.Path(path_type=Path))
@click.option("--run-dir", default="/run/anonnet", show_default=True, type=click.Path(path_type=Path))
@click.option("--user", default="anonnet", show_default=True, help="Whom the daemon becomes.")
@click.option("--force", is_flag=True, help="Replace a configuration that is there. Keys stay.")
def init(
    config_path: Path,
    name: str,
    addresses: tuple[str, ...],
    profile: str,
    exit_: bool,
    invites: tuple[str, ...],
    state_dir: Path,
    run_dir: Path,
    user: str,
    force: bool,
) -> None:
    """Write an annotated configuration file, and this node's keys unless it has some."""
    if config_path.exists() and not force:
        raise OperatorError(f"{config_path} exists", "edit it, or replace it with --force")
    choices = Choices(name, state_dir, run_dir, user, addresses, profile, exit_, invites)
    text = render(choices)
    config = configuration.parse(text.encode(), str(config_path))
    keys = _keys(config.node.state_dir)
    read_peers(config, keys.node_id, str(config_path))
    _write(config_path, text)
    click.echo(f"wrote {config_path}")
    click.echo(f"this node is {node_id_text(keys.node_id)}")
    if not addresses:
        click.echo("it has no address: it can call other nodes, but none can call it (--address)")


@click.command()
@config_option
@click.option("--state-dir", type=click.Path(path_type=Path), help="Put them here, not where the file says.")
@click.option("--force", is_flag=True, help="Replace the keys that are there: a new identity.")
def keygen(config_path: Path, state_dir: Path | None, force: bool) -> None:
    """Make this node's keys and print its id."""
    directory = state_dir or configuration.load(config_path).node.state_dir
    keys = NodeKeys.generate()
    path = save_keys(keys, directory, replace=force)
    click.echo(f"wrote {path}", err=True)
    click.echo(node_id_text(keys.node_id))


@click.command()
@config_option
def invite(config_path: Path) -> None:
    """Print the line that makes this node known to another."""
    config = configuration.load(config_path)
    keys = load_keys(config.node.state_dir)
    peers = read_peers(config, keys.node_id, str(config_path))
    neighbours = [peer.descriptor.node_id for peer in peers if peer.link]
    if not config.transport.addresses:
        click.echo("anonnet-tun: warning: no transport.addresses: nobody can call this node", err=True)
    click.echo(own_invite(config, keys, neighbours, int(time.time())))


def _keys(state_dir: Path) -> NodeKeys:
    if (state_dir / KEYS_FILE).exists():
        return load_keys(state_dir)
    keys = NodeKeys.generate()
    save_keys(keys, state_dir)
    return keys


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all; only root reads whom this node knows."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        hint = "run this with sudo, or name another file with -c"
        raise OperatorError(f"cannot write {path}: {error.strerror}", hint) from None
