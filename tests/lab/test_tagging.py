"""A relay that cheats: its victim loses cells, and nobody else can tell (tests/lab/cheat.py).

caller ---- r1 ---- r2 (cheats) ---- x1 ~~~ web
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anonnet.audit import wire
from anonnet.audit.pcap import read
from anonnet.lab import network, services
from anonnet.lab.content import content_sha256
from anonnet.lab.place import CALLER
from anonnet.lab.stalls import StallWatch
from tests.lab.live import SLOW, WEB4, LiveLab, again, live, until

pytestmark = pytest.mark.root

SHARE = 5  # per cent of the cells of each direction
ECHOES = 200
SLIP = 2  # a new queue may slip by a tick, once in each direction
FILE = "200kB.bin"


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("cheat", chain=True) as up:
        yield up


def employ(lab: LiveLab, act: str) -> None:
    """Let r2's node cheat from now on (once told to), by stopping the one that is there."""
    services.stop(lab.place, "r2", "node", signal.SIGTERM, SLOW)
    until(lambda: not lab.links_up(), SLOW, "nobody misses r2")
    config = str(lab.place.config("r2"))
    counter(lab).unlink(missing_ok=True)
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.lab.cheat", config, act, str(SHARE)]
    services.start(lab.place, "r2", "node", command, env)
    until(lab.links_up, SLOW, "links with the cheat")


def counter(lab: LiveLab) -> Path:
    """The file in which the cheat counts."""
    return lab.place.config("r2").with_suffix(".cheated")


def watch(lab: LiveLab, directory: Path) -> tuple[list[float], dict[str, Any]]:
    """Echoes and a download through the route; return round trips, and what the other nodes can see."""
    before = {host: lab.status(host) for host in (CALLER, "r1", "x1")}
    files = {host: directory / f"{host}.pcap" for host in ("r1", "x1")}
    with (
        StallWatch() as stalls,
        network.Capture(lab.place, "r1", files["r1"]),
        network.Capture(lab.place, "x1", files["x1"]),
    ):
        options = ["-n", "-c", str(ECHOES), "-i", "0.02", "-W", "2", "-s", "1000", "-p", "a5"]
        said = lab.run(CALLER, "ping", *options, WEB4).stdout
        sum_ = lab.out(CALLER, "sh", "-c", f"curl -sS --fail http://{WEB4}/{FILE} | sha256sum")
    assert sum_.split()[0] == content_sha256(FILE)
    assert "wrong data" not in said
    assert "DUP" not in said
    time.sleep(0.6)  # the counts come twice a second
    tick, cells = lab.schedule.tick_ns, lab.schedule.cells_out
    seen: dict[str, Any] = {}
    for host, others in (("r1", (CALLER, "r2")), ("x1", ("r2",))):
        trace = read(files[host])
        for other in others:
            for ends in ((lab.address(host), lab.address(other)), (lab.address(other), lab.address(host))):
                stream = wire.stream(trace.between(*ends), tick).without(stalls.stalls)
                seen[f"{ends} per tick"] = set(stream.histogram) - {cells}
                seen[f"{ends} lengths"] = set(stream.lengths)
    for host, old in before.items():
        for was, link in zip(old.links, lab.status(host).links, strict=True):
            seen[f"{host} {link.peer} missed"] = link.cells_missed - was.cells_missed
            seen[f"{host} {link.peer} state"] = link.state
    echoes = [float(line.split("time=")[1].split()[0]) for line in said.splitlines() if "time=" in line]
    return echoes, seen


def calm(echoes: list[float], seen: dict[str, Any]) -> bool:
    """Whether the machine has cost no link a cell or a tick, and no echo much."""
    spoilt = (value for what, value in seen.items() if what.endswith(("missed", "per tick")))
    return len(echoes) >= ECHOES - SLIP and not any(spoilt)


def more(cheated: dict[str, Any], honest: dict[str, Any]) -> dict[str, Any]:
    """What others see that they do not see without a cheat: more missed, other numbers, lengths or states."""
    return {
        what: value
        for what, value in cheated.items()
        if (value != honest[what] if isinstance(value, str) else not value <= honest[what])
    }


@pytest.mark.parametrize("act", ["flip", "swap", "replay", "drop"])
def test_cheating_is_loss_to_its_victim_and_nothing_to_others(lab: LiveLab, tmp_path: Path, act: str) -> None:
    employ(lab, act)
    lab.up()
    try:
        # The control: nothing else is lost while the cheat keeps still.
        fair, honest = again(lambda: watch(lab, tmp_path), lambda seen: calm(*seen))
        assert len(fair) >= ECHOES - SLIP
        lab.place.config("r2").with_suffix(".active").touch()
        until(lambda: int(counter(lab).read_text() or 0) > 20, SLOW, "the cheat does not begin")
        echoes, cheated = again(lambda: watch(lab, tmp_path), lambda seen: not more(seen[1], honest))
        route = lab.status().circuits[0].routes[0]
    finally:
        lab.place.config("r2").with_suffix(".active").unlink(missing_ok=True)
        lab.down()
    # A cell of each direction carries an echo and its answer, perhaps two: 5 % each, no more and no less.
    assert 0.75 * ECHOES < len(echoes) < 0.97 * ECHOES
    assert more(cheated, honest) == {}
    assert route.state == "open"
