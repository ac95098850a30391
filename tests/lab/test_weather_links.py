"""Bad weather on every link: what was lost is sent again, and nothing gets out of step.

caller -~- r1 -~- r2 -~- x1 ~~~ web        -~- 1 % lost, 1 % late (overtaken), 1 % doubled, each way
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from anonnet.lab import network
from anonnet.lab.content import content_sha256
from anonnet.lab.place import CALLER
from anonnet.lab.stalls import StallWatch
from anonnet.lab.weather import Rule
from tests.lab.live import FULL, WEB4, WEB6, LiveLab, live

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SECONDS = 300 if FULL else 60  # 300: two changes of every link's keys
FILE = "300kB.bin"


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("storm", chain=True) as up:
        yield up


def history(lab: LiveLab) -> list[str]:
    """What the nodes wrote down: a line for each change of a link's state."""
    return [line for host in lab.topology.nodes for line in lines(lab, host.name) if "link with" in line]


def lines(lab: LiveLab, host: str) -> list[str]:
    return (lab.place.of(host) / "node.log").read_text().splitlines()


def test_downloads_stay_whole_and_links_stay_up(lab: LiveLab) -> None:
    lab.up()
    circuit = lab.status().circuits
    before = history(lab)
    network.set_weather(lab.place, Rule(drop=0.01, reorder=0.01, duplicate=0.01, seed=2026))
    whole, ends = 0, time.monotonic() + SECONDS
    with StallWatch() as watch:
        while time.monotonic() < ends:
            url = f"http://{WEB4}/{FILE}" if whole % 2 else f"http://[{WEB6}]/{FILE}"
            done = lab.out(CALLER, "sh", "-c", f"curl -sS --fail -m 60 {url} | sha256sum")
            assert done.split()[0] == content_sha256(FILE)
            whole += 1
    counts = network.clear_weather(lab.place)
    print(f"{whole} files of {FILE} in {SECONDS} s; the weather: {counts}")
    assert whole >= SECONDS / 10
    for fate in ("dropped", "reordered", "duplicated"):  # the control: there was weather
        assert 0.008 < counts[fate] / counts["received"] < 0.012
    assert history(lab) == before, "a link went down"
    assert lab.status().circuits == circuit, "the circuit had to be built again"
    link, schedule = lab.link(CALLER, "r1"), lab.schedule
    # What was dropped, and what was due while the machine stood still; not what came late, or twice.
    excused = 2 * watch.ticks_lost(schedule.tick_ns) * schedule.cells_in
    assert 0.005 * link.cells_received < link.cells_missed < 0.018 * link.cells_received + excused
    lab.echoes(WEB4, 50, 0.05)  # in step again at once
