"""What is left of a wire for its user: a chain without idle links, at t3 and over modems.

caller ---- r1 ---- r2 ---- x1 ~~~ web
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

import pytest

from anonnet.lab.content import content_sha256
from anonnet.lab.place import CALLER
from tests.lab.live import FULL, WEB4, LiveLab, live

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def t3() -> Iterator[LiveLab]:
    with live("fast", chain=True, rate="t3") as lab:
        lab.up()
        yield lab


@pytest.fixture(scope="module")
def modem() -> Iterator[LiveLab]:
    with live("slow", chain=True, rate="modem") as lab:
        lab.up()
        yield lab


def test_t3_echoes_within_16_ticks_and_downloads_at_80_percent(t3: LiveLab) -> None:
    echoes = t3.ping(WEB4, 20)
    assert len(echoes) == 20
    goodput = t3.download(f"http://{WEB4}/1GB", 60 if FULL else 15)
    print(f"t3: {goodput / 1e6:.1f} Mbit/s, {goodput / t3.rate:.1%} of the wire; echo {mean(echoes):.1f} ms")
    assert mean(echoes) <= 16 * t3.schedule.tick_ns / 1e6  # 80 ms at t3
    assert goodput >= 0.8 * t3.rate


def test_a_modem_echoes_loads_a_page_and_downloads_at_60_percent(modem: LiveLab) -> None:
    echoes = modem.ping(WEB4, 5, 1.0, 10)
    assert len(echoes) == 5
    page = modem.out(CALLER, "sh", "-c", f"curl -sS --fail http://{WEB4}/20kB.bin | sha256sum")
    assert page.split()[0] == content_sha256("20kB.bin")
    goodput = modem.download(f"http://{WEB4}/10MB", 180 if FULL else 45)
    print(f"modem: {goodput / 1e3:.1f} kbit/s, {goodput / modem.rate:.1%}; echo {mean(echoes):.0f} ms")
    assert goodput >= 0.6 * modem.rate
