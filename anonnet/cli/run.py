"""`anonnet-tun run`: the daemon, in the foreground."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

import anonnet
from anonnet.cli import config_option


@click.command()
@config_option
@click.option("--debug", is_flag=True, help="Log more; ^Z runs a test circuit and prints every step of it.")
@click.option("--verbose", is_flag=True, help="Show each change that is made to this host.")
@click.pass_context
def run(ctx: click.Context, config_path: Path, debug: bool, verbose: bool) -> None:
    """Run the node until SIGTERM or ^C."""
    asked = {"debug": debug, "verbose": verbose, "traceback": ctx.find_root().params["debug"]}
    wishes = [name for name, wish in asked.items() if wish]
    # No module is to come from where the operator happens to be, unless that is where ours come from.
    at_home = os.path.isdir("anonnet") and os.path.samefile("anonnet", anonnet.__path__[0])
    # What tracebacks need for columns would be in the memory of each of the three processes.
    python = [sys.executable, "-X", "no_debug_ranges", *([] if at_home else ["-P"])]
    os.execv(sys.executable, [*python, "-m", "anonnet.node", str(config_path), *wishes])  # noqa: S606  ours
