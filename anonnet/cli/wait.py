"""`anonnet-tun wait`: for scripts and units that must not begin before."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from anonnet.cli import Seconds, config_option
from anonnet.cli.host import current
from anonnet.errors import OperatorError
from anonnet.node.config import load

EVERY: Final = 0.2  # seconds between two looks


@click.command()
@config_option
@click.option("--timeout", default=60.0, show_default=True, type=Seconds(), help="Seconds.")
@click.option(
    "--for", "wish", type=click.Choice(["up", "links", "down", "blocked"]), default="up", show_default=True,
    help="links: every link of the node is up.",
)  # fmt: skip
def wait(config_path: Path, timeout: float, wish: str) -> None:
    """Return when this host is up, or otherwise as wished; exit code 1 if that takes too long."""
    config = load(config_path)
    deadline = time.monotonic() + timeout
    while True:
        report = current(config)
        links = [link.state for link in report.links]
        if report.state == wish or (wish == "links" and links and set(links) == {"up"}):
            return
        if time.monotonic() >= deadline:
            what = f"this host is {report.state}, not {wish},"
            if wish == "links":
                what = f"{links.count('up')} of {len(links)} links are up"
            raise OperatorError(f"{what} after {timeout:g} s", "see `anonnet-tun status`")
        time.sleep(EVERY)
