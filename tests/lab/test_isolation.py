r"""Two circuits at once: the Internet sees two users, or two destinations, come from two exits.

          .- r1 -- r2 -.      .- x1 ~.
caller --+     \/       +----+        ~ web         raw links at 10 Mbit/s
          '- r3 -- r4 -'      '- x2 ~'
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count

import pytest

from anonnet.lab.place import CALLER
from tests.lab.live import SLOW, WEB4, WEB6, LiveLab, live, until

pytestmark = pytest.mark.root

ALICE, BOB = 4001, 4002
FOUR, SIX = f"http://{WEB4}", f"http://[{WEB6}]"
_names = count(1)


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with live("apart", exits=2) as up:
        yield up


def exit_of(lab: LiveLab, user: int, url: str) -> str:
    """Fetch something as a user, and return from which exit the Internet saw it fetched."""
    name = f"{next(_names)}kB.bin"
    ids = ["--reuid", str(user), "--regid", str(user), "--clear-groups"]
    lab.out(CALLER, "setpriv", *ids, "curl", "-sS", "--fail", "-m", "20", "-o", "/dev/null", f"{url}/{name}")
    lines = [json.loads(line) for line in lab.access_log().splitlines()]
    (client,) = {line["client"] for line in lines if line.get("path") == f"/{name}"}
    found = [h.name for h in lab.topology.nodes if client in (str(h.ipv4), str(h.ipv6))]
    assert found, f"{client} is no node's"
    return found[0]


def test_two_users_then_two_destinations_come_from_two_exits(lab: LiveLab) -> None:
    lab.up("--circuits", "2", "--isolate", "user", "--distinct-exits", "true")
    try:
        alice, bob = ({exit_of(lab, user, url) for url in (FOUR, SIX, FOUR)} for user in (ALICE, BOB))
        assert len(alice) == len(bob) == 1
        assert alice | bob == {"x1", "x2"}
        circuits = lab.status().circuits
        assert [circuit.state for circuit in circuits] == ["up", "up"]
        assert len({circuit.exit for circuit in circuits}) == 2
        assert sum(circuit.keys for circuit in circuits) >= 2
        said = lab.out(CALLER, "anonnet-tun", "circuits")
        assert said.splitlines()[0].split() == ["circuit", "state", "exit", "keys"]

        lab.out(CALLER, "anonnet-tun", "up", "--circuits", "2", "--isolate", "destination")
        four, six = ({exit_of(lab, user, url) for user in (ALICE, BOB)} for url in (FOUR, SIX))
        assert len(four) == len(six) == 1
        assert four | six == {"x1", "x2"}

        three = ("--circuits", "3", "--isolate", "user", "--distinct-exits", "true", "--wait", "8")
        failed = lab.run(CALLER, "anonnet-tun", "up", *three)
        assert failed.returncode == 1
        assert "circuit 3: no exit is left that no other circuit has" in failed.stderr
        # Each takes back its part of the links, by a new route.
        until(lambda: [one.state for one in lab.status().circuits] == ["up", "up"], SLOW, "the two circuits")
        assert {exit_of(lab, ALICE, url) for url in (FOUR, SIX)} == {"x1", "x2"}  # by destination, as before
    finally:
        lab.down()
