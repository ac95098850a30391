"""What is left of a wire for its user: a chain without idle links, at t3 and over modems.

caller ---- r1 ---- r2 ---- x1 ~~~ web
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

import pytest

from anonnet.lab.content import content_sha256
from anonnet.lab.place import CALLER
from tests.lab.live import FULL, WEB4, LiveLab, again, live

pytestmark = pytest.mark.root

# Of the wire, as promised; and as much as a machine has for us that others use, too.
T3_SHARE = 0.8 if FULL else 0.65
MODEM_SHARE = 0.6 if FULL else 0.5


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


def best(lab: LiveLab, url: str, seconds: float, share: float) -> float:
    """Bit/s of a download that has its share of the wire, or of the last of three."""
    return again(lambda: lab.download(url, seconds), lambda goodput: goodput >= share * lab.rate)


def test_t3_echoes_within_16_ticks_and_downloads_at_its_share(t3: LiveLab) -> None:
    most = 16 * t3.schedule.tick_ns / 1e6  # 80 ms at t3
    echoes = again(lambda: t3.echoes(WEB4, 20), lambda found: mean(found) <= most)
    goodput = best(t3, f"http://{WEB4}/1GB", 60 if FULL else 15, T3_SHARE)
    print(f"t3: {goodput / 1e6:.1f} Mbit/s, {goodput / t3.rate:.1%} of the wire; echo {mean(echoes):.1f} ms")
    assert mean(echoes) <= most
    assert goodput >= T3_SHARE * t3.rate


def test_a_modem_echoes_loads_a_page_and_downloads_at_its_share(modem: LiveLab) -> None:
    echoes = modem.echoes(WEB4, 5, 1.0, 10)
    page = modem.out(CALLER, "sh", "-c", f"curl -sS --fail http://{WEB4}/20kB.bin | sha256sum")
    assert page.split()[0] == content_sha256("20kB.bin")
    goodput = best(modem, f"http://{WEB4}/10MB", 180 if FULL else 45, MODEM_SHARE)
    print(f"modem: {goodput / 1e3:.1f} kbit/s, {goodput / modem.rate:.1%}; echo {mean(echoes):.0f} ms")
    assert goodput >= MODEM_SHARE * modem.rate
