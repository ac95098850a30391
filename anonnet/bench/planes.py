"""Planes with a route over them, as control would have set them up: what every benchmark runs on.

    caller plane --LEFT-- relay plane --RIGHT-- exit plane     one route, both ways, every slot its own

A link has the same handle, and the same receiver index, at both of its ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from anonnet.crypto.onion import LayerKeys
from anonnet.proto import orders as o
from anonnet.proto.plane import Plane
from anonnet.proto.profile import Schedule
from anonnet.spec import Format

LEFT: Final = 1
RIGHT: Final = 2
ROUTE: Final = 1
ROUTE_ID: Final = 256


@dataclass(frozen=True)
class Site:
    """Where the three planes are, as their neighbours see them."""

    caller: o.Endpoint
    relay: o.Endpoint
    exit: o.Endpoint


def layer_keys() -> LayerKeys:
    """Return fresh subkeys."""
    return LayerKeys(os.urandom(32), os.urandom(32), os.urandom(32))


def join(one: Plane, other: Plane, link: int, fmt: Format, schedule: Schedule,
         towards_one: o.Endpoint, towards_other: o.Endpoint) -> None:  # fmt: skip
    """Link two planes, with a session each."""
    there, back = os.urandom(32), os.urandom(32)
    for plane, endpoint, send, receive in (
        (one, towards_other, there, back),
        (other, towards_one, back, there),
    ):
        plane.obey(
            o.AddLink(link, fmt.code, endpoint, schedule.tick_ns, schedule.cells_out, schedule.cells_in)
        )
        plane.obey(o.SetSession(link, link, link, send, receive, confirm=False))


def lay_route(caller: Plane, relay: Plane, exit_: Plane, fmt: Format, schedule: Schedule, site: Site) -> None:
    """Link three planes in a row and lay a route over them that owns every slot."""
    join(caller, relay, LEFT, fmt, schedule, site.caller, site.relay)
    join(relay, exit_, RIGHT, fmt, schedule, site.relay, site.exit)
    rate = schedule.cells_out * o.RATE_UNIT // schedule.tick_ns
    caller.obey(o.AddCallerRoute(ROUTE, LEFT, ROUTE_ID, rate, rate))
    for plane, link, shift in ((relay, LEFT, 7), (exit_, RIGHT, 11)):
        forward, backward = layer_keys(), layer_keys()
        plane.obey(o.AddRelayRoute(ROUTE, link, ROUTE_ID, rate, rate, forward, backward, shift))
        caller.obey(o.AddHop(ROUTE, forward, backward, shift, 0))
    relay.obey(o.ExtendRelayRoute(ROUTE, RIGHT, ROUTE_ID))
