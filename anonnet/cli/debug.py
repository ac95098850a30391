"""`anonnet-tun debug`: debugging runs, as ^Z of `run --debug` makes them, one or many at once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from anonnet.cli import config_option
from anonnet.node import api
from anonnet.node.client import Client
from anonnet.node.config import load

SECONDS: Final = 120.0
SECONDS_EACH: Final = 2.0  # many share the slots that are left


@click.command()
@config_option
@click.option("--runs", default=1, show_default=True, type=click.IntRange(1, 1000), help="So many at once.")
def debug(config_path: Path, runs: int) -> None:
    """Build a test circuit, echo from every hop of it, and take it down."""
    report = Client(load(config_path).node.run_dir).call(
        api.Debug(runs),
        api.Circuits,
        on_progress=lambda progress: click.echo(progress.text),
        timeout=SECONDS + SECONDS_EACH * runs,
    )
    click.echo(f"{len(report.circuits)} of {runs} runs ended well")
