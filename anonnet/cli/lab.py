"""`anonnet-tun lab`: a network of real nodes on this machine (docs/lab.md)."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from anonnet.cli import Seconds
from anonnet.cli.show import table
from anonnet.crypto.suite import DEFAULT_SUITE, SUITE_CODES
from anonnet.lab import network, nodes, topology
from anonnet.lab.place import CORE, WEB, Place
from anonnet.lab.services import LabError, running
from anonnet.lab.weather import Rule

_UNITS: Final = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


def share(text: str) -> float:
    """Read a share, `1%` or `0.01`, as 0..1."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a share: write 1% or 0.01") from None


def duration(text: str) -> int:
    """Read a time, `20ms`, `500us` or `1s`, as nanoseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a time: write 20ms, 500us or 1s")
    return round(float(match[1]) * _UNITS[match[2]])


def layout_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which network to build; `topology.build` takes them by the same names."""
    for option in (
        click.option(
            "--ip", type=click.Choice([4, 6]), default=4, show_default=True, help="IP version of links."
        ),
        click.option(
            "--suite", type=click.Choice(list(SUITE_CODES)), default=DEFAULT_SUITE, show_default=True
        ),
        click.option("--chain", is_flag=True, help="Only caller - r1 - r2 .. - x1: no idle link."),
        click.option("--transport", type=click.Choice(["raw", "udp"]), default="raw", show_default=True),
        click.option(
            "--hops",
            default=3,
            show_default=True,
            type=click.IntRange(1, 16),
            help="Relays and exit of a route.",
        ),
        click.option("--rate", default="10m", show_default=True, help="Profile of every link."),
        click.option("--exits", default=1, show_default=True),
        click.option("--relays", default=4, show_default=True),
    ):
        command = option(command)
    return command


@click.group()
def lab() -> None:
    """A network of real nodes in network namespaces on this machine. Needs root."""


@lab.command()
@layout_options
@click.option("--replace", is_flag=True, help="End a lab that is up first.")
def up(replace: bool, **options: object) -> None:
    """Build the network, start its nodes and wait for their links."""
    place = Place.from_env()
    plan = topology.build(**options)  # type: ignore[arg-type]  # click has checked them
    if replace:
        network.destroy(place)
    with _log_shown():
        nodes.bring_up(place, plan, click.echo)
    _print_status(place, plan)


@lab.command()
def down() -> None:
    """Remove the lab, also one that was killed. Harmless if there is none."""
    click.echo("lab removed" if network.destroy(Place.from_env()) else "no lab was up")


@lab.command()
def status() -> None:
    """Show the hosts, their addresses, and how their links are."""
    place = _place()
    _print_status(place, network.load(place))


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def execute(ctx: click.Context, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST: `lab exec caller -- anonnet-tun up`. Its exit code is ours."""
    ctx.exit(network.execute(_place(), host, command))


@lab.command()
@click.argument("host")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seconds", type=Seconds(), help="End by itself after so long; else at ^C.")
@click.option("--snaplen", default=network.SNAPLEN, show_default=True, help="Bytes kept of each packet.")
def capture(host: str, file: Path, seconds: float | None, snaplen: int) -> None:
    """Capture HOST's outer interface (of core: all its ports) into FILE, a pcap."""
    with network.Capture(_place(), host, file.absolute(), snaplen=snaplen) as running_capture:
        try:
            time.sleep(seconds if seconds is not None else 10**9)
        except KeyboardInterrupt:
            click.echo()
    click.echo(f"{running_capture.captured} packets in {file}")
    if running_capture.dropped:
        raise LabError(
            f"the kernel dropped {running_capture.dropped} packets",
            "the machine is too busy for this capture",
        )


@lab.command()
@click.option("--drop", type=share, metavar="SHARE", default="0%", help="Share of packets that get lost.")
@click.option(
    "--duplicate", type=share, metavar="SHARE", default="0%", help="Share of packets that arrive twice."
)
@click.option(
    "--reorder", type=share, metavar="SHARE", default="0%", help="Share of packets that later ones overtake."
)
@click.option("--delay", type=duration, metavar="TIME", default="0ms", help="Added to every packet.")
@click.option(
    "--jitter", type=duration, metavar="TIME", default="0ms", help="At most so much more, keeping the order."
)
@click.option(
    "--hold",
    type=duration,
    metavar="TIME",
    default="10ms",
    show_default=True,
    help="How long a reordered one waits.",
)
@click.option("--seed", default=0, show_default=True, help="Same seed, same fates.")
@click.option("--only", "hosts", multiple=True, metavar="HOST", help="Only packets to and from HOST.")
@click.option("--all", "everything", is_flag=True, help="Also to and from web; else only between nodes.")
@click.option("--clear", is_flag=True, help="End the weather.")
def weather(hosts: tuple[str, ...], everything: bool, clear: bool, **values: float) -> None:
    """Let the router drop, delay, reorder and duplicate packets by a seeded rule; bare: show the counts."""
    place = _place()
    network.load(place)
    rule = Rule(**values)  # type: ignore[arg-type]  # click has checked them
    if clear:
        counts = network.clear_weather(place)
        click.echo(f"weather cleared; it was: {_counts(counts)}")
    elif rule == Rule(seed=rule.seed) and not hosts and not everything:
        click.echo(_counts(network.weather_counts(place)))
    else:
        network.set_weather(place, rule, hosts, everything=everything)
        click.echo("weather set")


@lab.command()
@layout_options
@click.option("--mesh", is_flag=True, help="The layout of `lab up`, not the chain.")
@click.option(
    "--seconds", default=8.0, show_default=True, type=Seconds(1), help="How long each picture of the wire is."
)
def demo(mesh: bool, seconds: float, **options: object) -> None:
    """Build a lab, show that it does its work, and remove it. Exit code 0 only if all of it held."""
    from anonnet.lab.demo import run  # noqa: PLC0415  the audit needs numpy, the rest does not

    plan = topology.build(**{**options, "chain": not mesh})  # type: ignore[arg-type]
    with _log_shown():
        held = run(Place.from_env(), plan, seconds)
    sys.exit(0 if held else 1)


def _place() -> Place:
    """Return where the lab is, of which only root can see all."""
    network.require_root()
    return Place.from_env()


@contextmanager
def _log_shown() -> Iterator[None]:
    """Print the end of a failed part's log before the one line of the error."""
    try:
        yield
    except LabError as error:
        if error.log:
            click.echo(error.log, err=True)
        raise


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "fair"


def _print_status(place: Place, plan: topology.Topology) -> None:
    ids = {name: node_id for node_id, name in nodes.names(place).items()}
    rows = []
    for host in plan.hosts:
        if host.name == WEB:
            node, state, links = "none", "serving" if running(place, WEB, "web") else "not running", "none"
        else:
            neighbours, missing = plan.neighbours(host.name), nodes.missing_links(place, plan, host.name)
            report = nodes.status(place, host.name)
            node, state = ids.get(host.name, "none")[:8], report.state if report else "not running"
            links = " ".join(f"{name}{'?' if name in missing else ''}" for name in neighbours) or "none"
        rows.append((host.name, place.namespace(host.name), host.ipv4, host.ipv6, node, state, links))
    click.echo(table("host namespace IPv4 IPv6 node state links", rows))
    click.echo(f"links: {plan.rate} over {plan.transport}, IPv{plan.ip}; a link not up is marked ?")
    click.echo(f"suite: {plan.suite}")
    if running(place, CORE, "weather"):
        click.echo(f"weather: {_counts(network.weather_counts(place))}")
