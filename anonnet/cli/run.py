"""`anonnet-tun run`: the daemon, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from anonnet.cli import config_option
from anonnet.node.config import load


@click.command()
@config_option
@click.option("--debug", is_flag=True, help="Log more; ^Z runs a test circuit and prints every step of it.")
@click.option("--verbose", is_flag=True, help="Show each change that is made to this host.")
@click.pass_context
def run(ctx: click.Context, config_path: Path, debug: bool, verbose: bool) -> None:
    """Run the node until SIGTERM or ^C."""
    config = load(config_path)
    from anonnet.node.keeper import run as keep  # noqa: PLC0415  nothing else needs the whole daemon

    ctx.exit(keep(config, debug, verbose))
