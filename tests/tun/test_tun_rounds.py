"""`up` and `down` fifty times, interrupted at every step in every way: never open in between, nothing left.

While our firewall stands, a burst of probes goes out after each single change to the host, and none may
reach the wire: `Guarded` is where changes are made, in `up`, in undoing and in `down`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import product

import msgspec
import pytest
from tun_namespaces import HOST, Wire, inside, interrupted, performing, snapshot
from tun_probes import probes
from tun_ups import raised

from anonnet.errors import OperatorError
from anonnet.tun import apply, cgroup, host
from anonnet.tun.actions import Action, Nft
from anonnet.tun.device import Tun
from anonnet.tun.host import UpSettings, gather_facts, host_state, plan_up

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts"), pytest.mark.timeout(600)]

ROUNDS = 50
WAYS = tuple(product(("fails", "killed"), (False, True)))


class Guarded:
    """Looks at the wire after each change, for as long as the firewall should stand."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.stands = False
        self.looks = 0

    def look(self) -> None:
        """Try every way out; nothing may come."""
        self.looks += 1
        for number, probe in enumerate(probes(self._wire.mac)):
            with contextlib.suppress(OSError):
                probe()
            assert self._wire.packets() == [], f"probe {number} left"

    @contextlib.contextmanager
    def changes(self) -> Iterator[None]:
        """Look after each change that is made in this block."""
        real = apply.perform

        def perform(action: Action) -> Tun | None:
            made = real(action)
            if isinstance(action, Nft):
                self.stands = "table inet anonnet {" in action.script
            if self.stands:
                self.look()
            return made

        with performing(perform):
            yield


def fail() -> None:
    raise OperatorError("injected", "none")


def one_round(settings: UpSettings, number: int, way: str, after: bool) -> int:
    """Interrupt `up` at a step, and put the host back; return how often the wire was looked at."""
    guarded = Guarded(Wire())
    if way == "fails":
        with (
            guarded.changes(),
            interrupted(number, after, fail),
            pytest.raises(OperatorError, match="injected"),
            raised(settings),
        ):
            pass
        return guarded.looks

    def killed() -> None:
        with Guarded(Wire()).changes(), interrupted(number, after, lambda: os._exit(9)), raised(settings):
            raise AssertionError("not killed")

    assert inside(HOST, killed) is None
    guarded.stands = host_state(settings).firewall
    if guarded.stands:
        guarded.look()
    with guarded.changes():
        assert host.down(settings)
    return guarded.looks


def whole_round(settings: UpSettings) -> int:
    """`up`, `down`, and nothing between."""
    guarded = Guarded(Wire())
    with guarded.changes(), raised(settings):
        guarded.look()
    return guarded.looks


def test_fifty_rounds(settings: UpSettings) -> None:
    settings = msgspec.structs.replace(
        settings, outside_users=(12345,), programs=cgroup.path(), users=True, forward=("nest*",)
    )
    steps = inside(HOST, lambda: len(plan_up(settings, gather_facts(settings))))
    before = snapshot(HOST, settings.resolv_conf)
    looks = 0
    cases = [(number, way, after) for number in range(steps) for way, after in WAYS]
    for case in cases:
        looks += inside(HOST, one_round, settings, *case)
        assert snapshot(HOST, settings.resolv_conf) == before, case
    for _ in range(max(1, ROUNDS - len(cases))):
        looks += inside(HOST, whole_round, settings)
        assert snapshot(HOST, settings.resolv_conf) == before
    assert len(cases) >= ROUNDS - 10, "the plan has become short: too few ways to interrupt it"
    print(f"{max(ROUNDS, len(cases) + 1)} rounds, {looks} looks at the wire")
