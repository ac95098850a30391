"""`anonnet-tun bench`: what a cell costs on this machine (docs/performance.md)."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console

from anonnet.bench import report


@click.command()
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there."
)
@click.option("--quick", is_flag=True, help="A look in seconds instead of a measurement.")
def bench(json_file: Path | None, quick: bool) -> None:
    """Measure what a cell costs at one hop, and a node's memory. As root, also on real sockets."""
    done = report.measure(quick, lambda text: click.echo(f"{text} ...", err=True))
    console = Console()
    for table in report.tables(done):
        console.print(table)
    for line in report.verdict(done):
        click.echo(line)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(done), indent=1) + b"\n")
