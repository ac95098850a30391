"""Planes with routes over them, as control would have set them up: what every benchmark runs on.

    caller plane --left(0)-- relay plane --right(0)-- exit plane     routes both ways; every slot is theirs
                 --left(1)--             --right(1)--

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

FIRST_ROUTE_ID: Final = 256
SHIFT: Final = 7  # of slot numbers at each hop


def left(index: int) -> int:
    """Return the handle of a link between caller and relay."""
    return 2 * index + 1


def right(index: int) -> int:
    """Return the handle of a link between relay and exit."""
    return 2 * index + 2


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
    add_link(one, link, fmt, schedule, towards_other, there, back)
    add_link(other, link, fmt, schedule, towards_one, back, there)


def add_link(plane: Plane, link: int, fmt: Format, schedule: Schedule, endpoint: o.Endpoint,
             send: bytes, receive: bytes) -> None:  # fmt: skip
    """Give a plane its end of a link, with a session."""
    plane.obey(o.AddLink(link, fmt.code, endpoint, schedule.tick_ns, schedule.cells_out, schedule.cells_in))
    plane.obey(o.SetSession(link, link, link, send, receive, confirm=False))


def lay_routes(
    caller: Plane, relay: Plane, exit_: Plane, fmt: Format, schedule: Schedule, site: Site,
    links: int = 1, routes: int = 1,
) -> None:  # fmt: skip
    """Link three planes in a row, `links` times on each side; lay routes over them that share every slot."""
    for index in range(links):
        join(caller, relay, left(index), fmt, schedule, site.caller, site.relay)
        join(relay, exit_, right(index), fmt, schedule, site.relay, site.exit)
    rate = schedule.cells_out * o.RATE_UNIT // schedule.tick_ns // -(-routes // links)
    for route in range(routes):
        add_route(caller, relay, exit_, route, route % links, rate)


def add_route(caller: Plane, relay: Plane, exit_: Plane, route: int, link: int, rate: int) -> None:
    """Lay one route over the links of that index; `rate` in millicells a second, each way."""
    caller.obey(o.AddCallerRoute(route, left(link), FIRST_ROUTE_ID + route, rate, rate))
    for plane, incoming in ((relay, left(link)), (exit_, right(link))):
        forward, backward = layer_keys(), layer_keys()
        add_hop(plane, route, incoming, rate, forward, backward)
        caller.obey(o.AddHop(route, forward, backward, SHIFT, 0))
    relay.obey(o.ExtendRelayRoute(route, right(link), FIRST_ROUTE_ID + route))


def add_hop(plane: Plane, route: int, link: int, rate: int, forward: LayerKeys, backward: LayerKeys) -> None:
    """Give a plane a route that comes in over a link and ends there."""
    plane.obey(o.AddRelayRoute(route, link, FIRST_ROUTE_ID + route, rate, rate, forward, backward, SHIFT))
