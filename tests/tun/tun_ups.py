"""Ways to be up, for tests: see tun_namespaces for the topology."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tun_namespaces import drain

from anonnet.tun.device import Tun
from anonnet.tun.host import HostSession, Phase, UpSettings


@contextlib.contextmanager
def raised(settings: UpSettings) -> Iterator[Tun]:
    """`up` while the block runs."""
    with HostSession(settings) as session:
        for phase in Phase:
            session.apply(phase)
        yield session.tun


@contextlib.contextmanager
def quiet_tun(settings: UpSettings) -> Iterator[int]:
    """`up` while the block runs; yields the TUN's descriptor, with nothing left in it to read."""
    with raised(settings) as tun:
        drain(tun.fd)
        yield tun.fd


def up_and_die(settings: UpSettings) -> None:
    """`up` in a process that ends, its TUN with it: what a dead daemon leaves."""
    with HostSession(settings) as session:
        for phase in Phase:
            session.apply(phase)
        session.keep()
