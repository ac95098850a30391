"""`anonnet-tun bench`: what AnonNet costs, and how fast it is, on this machine (docs/performance.md)."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console

from anonnet.bench import plots, report, tables

ALL = "all"


@click.command(
    help="Measure what AnonNet costs, and how fast it is, on this machine; all but micro need root.\n\n\b\n"
    + "\n".join(f"{name:10}{what}" for name, what in report.GROUPS.items())
    + f"\n{ALL:10}all of these (default)"
)
@click.argument("group", type=click.Choice([*report.GROUPS, ALL]), default=ALL)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there."
)
@click.option(
    "--plot", "plot_dir", type=click.Path(file_okay=False, path_type=Path), help="Draw pictures (SVG) there."
)
@click.option(
    "--from", "source", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing: show what --json wrote.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="A look in seconds instead of a measurement.")
def bench(
    group: str, json_file: Path | None, plot_dir: Path | None, source: Path | None, quick: bool
) -> None:
    """Measure, print, write."""
    if source is not None:
        done = report.load(source.read_bytes())
    else:
        groups = list(report.GROUPS) if group == ALL else [group]
        done = report.measure(groups, quick, lambda text: click.echo(text, err=True))
    console = Console()
    for table in tables.tables(done):
        console.print(table)
    for line in tables.verdict(done):
        click.echo(line)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(done), indent=1) + b"\n")
    if plot_dir is not None:
        for path in plots.draw(done, plot_dir):
            click.echo(path)
