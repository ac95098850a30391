"""`anonnet-tun ping`: echoes to a node inside the network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from anonnet.cli import long_config_option
from anonnet.errors import OperatorError
from anonnet.node import api
from anonnet.node.client import Client
from anonnet.node.config import load
from anonnet.node.peers import find_node, read_peers

SECONDS_EACH: Final = 10.0  # generous: the slowest modem's round trip over many hops
SECONDS_FIRST: Final = 70.0  # a route to the node may have to be built


@click.command()
@long_config_option
@click.option("-c", "--count", default=4, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@click.argument("node")
def ping(config_path: Path, count: int, node: str) -> None:
    """Send echoes to NODE: an id, its beginning, or a name.

    They go over a test route, which has few of the links' slots: what `up` carries is much faster.
    """
    config = load(config_path)
    node_id = find_node(read_peers(config, None, str(config_path)), node)
    report = Client(config.node.run_dir).call(
        api.Ping(node_id, count),
        api.Pinged,
        on_progress=lambda progress: click.echo(progress.text),
        timeout=SECONDS_FIRST + SECONDS_EACH * count,
    )
    back = [rtt for rtt in report.rtts_ms if rtt is not None]
    click.echo(f"{len(report.rtts_ms)} sent, {len(back)} came back")
    if not back:
        raise OperatorError(f"no echo from {node}", "`anonnet-tun status` shows the links")
    click.echo(f"rtt min/avg/max {min(back):.1f}/{sum(back) / len(back):.1f}/{max(back):.1f} ms")
