"""`anonnet-tun bench`: what AnonNet costs, and how fast it is, on this machine (docs/performance.md)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click
import msgspec
from rich.console import Console

from anonnet.bench import plots, report, tables, verdicts
from anonnet.errors import OperatorError

ALL = "all"
PAGE_WIDTH = 200  # of what is written to a file: nine chains side by side


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
    # What cannot be written is said before half an hour of measuring, not after.
    if json_file is not None:
        _require_writable(json_file)
    if plot_dir is not None:
        plots.require()
        _make(plot_dir)

    def keep(so_far: report.Report) -> None:
        if json_file is not None:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(so_far), indent=1) + b"\n")

    if source is not None:
        done = report.load(_read(source))
        keep(done)
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as by ^C, no namespace is left
        groups = list(report.GROUPS) if group == ALL else [group]
        done = report.measure(groups, quick, lambda text: click.echo(text, err=True), keep)
    console = Console()
    if not console.is_terminal:
        console.width = PAGE_WIDTH
    for table in tables.tables(done):
        console.print(table)
    for line in verdicts.verdicts(done):
        click.echo(line)
    if plot_dir is not None:
        for path in plots.draw(done, plot_dir):
            click.echo(path)


def _require_writable(file: Path) -> None:
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise OperatorError(f"{file} cannot be written", "choose another file for --json")


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{directory} cannot be made: {error.strerror}"
        raise OperatorError(what, "choose another directory for --plot") from None


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise OperatorError(f"{source} cannot be read: {error.strerror}", "") from None
