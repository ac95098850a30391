"""What the proxy changes on a host that is not up: a TUN device that only sockets bound to it can reach.

Nothing else is routed otherwise than before. The plan is journalled and undone as that of `up`; where the
host is up, the proxy uses the device of `up` and changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anonnet import spec
from anonnet.errors import OperatorError
from anonnet.tun import firewall, nft, routing
from anonnet.tun.actions import CreateTun, DeleteTun, Nft, Rule, Sysctl
from anonnet.tun.apply import read_sysctl
from anonnet.tun.journal import Journal
from anonnet.tun.plan import Phase, Step
from anonnet.tun.upplan import supports
from anonnet.tun.users import user_classes

OWNER: Final = "socks"  # of the journal and the device
TABLE: Final = "anonnet_socks"  # nftables
ROUTES: Final = routing.TABLE + 1  # the routing table
PRIORITY: Final = routing.LAN_PRIORITY - 5  # of its rule: before those of `up`
_LOOSE: Final = "2"  # rp_filter


@dataclass(frozen=True, slots=True)
class SocksSettings:
    """What the plan follows from.

    `user`: id of the user as whom the proxy runs. `classes`: whether the data plane tells its users apart.
    `caller_tun`: the device of `up`, should there be one in the end.
    """

    tun: str
    caller_tun: str
    mark: int
    user: int
    classes: bool
    run_dir: Path
    state_dir: Path


def plan_socks(settings: SocksSettings) -> list[Step]:
    """Return the steps, in the order of `Phase`."""
    tun = settings.tun
    inner = {4: spec.INNER4_CALLER}
    if read_sysctl("net/ipv6/conf/all/disable_ipv6", "1") == "0":
        inner[6] = spec.INNER6_CALLER
    addresses = tuple(f"{address}/{32 if version == 4 else 128}" for version, address in inner.items())
    # Strict by the host's setting would drop all answers: no route of the main table leads into the tunnel.
    loose = Sysctl(f"net/ipv4/conf/{tun}/rp_filter", _LOOSE)
    steps = [
        _wall(settings),
        Step("tun", Phase.TUN, CreateTun(tun, OWNER, addresses, spec.TUN_MTU), DeleteTun(tun, OWNER)),
        Step("rp-filter", Phase.ROUTES, loose, loose),  # goes with the device
    ]
    for version, source in inner.items():
        rule = Rule(True, version, PRIORITY, ROUTES, by=tun)
        steps += [
            routing.route_step(Phase.ROUTES, version, "default", tun, table=ROUTES, source=source),
            routing.rule_step(f"rule-socks-ipv{version}", rule),
        ]
    return steps


def journal(run_dir: Path, state_dir: Path) -> Journal:
    """Return the proxy's journal."""
    return Journal(run_dir, state_dir, OWNER)


@contextlib.contextmanager
def announced(run_dir: Path, address: str) -> Iterator[None]:
    """Say to `listening` where the proxy listens while the block runs; OperatorError if one does already."""
    path = _notice(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperatorError("a SOCKS proxy runs already", f"it listens at {file.read()}") from None
        file.truncate()
        file.write(address)
        file.flush()
        yield


def listening(run_dir: Path) -> str:
    """Return where a proxy listens, "" if none runs."""
    with contextlib.suppress(OSError), _notice(run_dir).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read()
    return ""


def _notice(run_dir: Path) -> Path:
    return run_dir / "socks.lock"


def _wall(settings: SocksSettings) -> Step:
    """The device's own firewall: nothing comes in that nobody asked for, or goes in by another's address."""
    tun = settings.tun
    filters = "type filter hook {0} priority filter; policy accept"
    outside = firewall.outside_mark(settings.mark)
    chains = [
        firewall.anti_probe(tun, settings.caller_tun),
        nft.chain(
            "input",
            filters.format("input"),
            [f'iifname "{tun}" ct state established,related accept', f'iifname "{tun}" drop'],
        ),
        nft.chain(
            "output",
            filters.format("output"),
            [
                *(f'oifname "{tun}" {match.format("saddr")} accept' for match in firewall.INNER),
                f'oifname "{tun}" drop',
            ],
        ),
        nft.chain(
            "forward", filters.format("forward"), [f'{way} "{tun}" drop' for way in ("iifname", "oifname")]
        ),
    ]
    if settings.classes:
        chains = [*user_classes(tun, outside, settings.user), *chains]
    tables = {"inet": chains} | ({"arp": firewall.arp_chains()} if supports("arp") else {})
    return Step(
        name="firewall",
        phase=Phase.FIREWALL,
        do=Nft(
            "".join(nft.fresh(family, TABLE, contents) for family, contents in tables.items()),
            f"table {TABLE}: {tun} for what is bound to it",
        ),
        undo=Nft("".join(nft.gone(family, TABLE) for family in tables), f"delete table {TABLE}"),
    )
