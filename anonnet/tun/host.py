"""The caller's host: `up`, `down`, what may change in between, and what state it is in.

with HostSession(settings, echo) as host:      # takes the lock, puts right what a crash left
    host.apply(Phase.FIREWALL)
    host.apply(Phase.TUN)                      # host.tun.fd goes to the daemon
    ...                                        # wait for the circuit
    host.apply(Phase.ROUTES)
    host.apply(Phase.DNS)
    host.keep()                                # without it, leaving the block undoes everything
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import msgspec

from anonnet.errors import OperatorError
from anonnet.tun import commands, firewall, lockdown, routing, warden
from anonnet.tun.apply import Echo, Session, perform, quiet
from anonnet.tun.device import Tun, tun_exists
from anonnet.tun.firewall import LinkEndpoint
from anonnet.tun.journal import Journal, Lock
from anonnet.tun.mend import Memory, mend
from anonnet.tun.nft import Library
from anonnet.tun.plan import Phase
from anonnet.tun.upplan import OWNER, HostFacts, UpSettings, gather_facts, plan_up

_SHUT: Final = frozenset({Phase.FIREWALL})


@dataclass(frozen=True, slots=True)
class HostState:
    """Which of our changes are in place."""

    firewall: bool
    tun: bool
    rules: bool
    journal: bool

    @property
    def down(self) -> bool:
        """Nothing of ours is in place."""
        return not (self.firewall or self.tun or self.rules or self.journal)

    @property
    def blocked(self) -> bool:
        """The firewall stands, but there is no tunnel to pass it (the daemon died, or `up` is under way)."""
        return self.firewall and not (self.tun and self.rules)


class HostSession:
    """One `up`. A context manager: what it made is undone on the way out, unless `keep` was called.

    But never the firewall if it stood before, or if lockdown is on: who was safe stays so. `watched`: leave a
    warden behind.
    """

    def __init__(self, settings: UpSettings, echo: Echo = quiet, *, watched: bool = False) -> None:
        self._settings = settings
        self._echo = echo
        self._watched = watched
        self._lock = Lock(settings.run_dir / f"{OWNER}.lock")
        self._session: Session | None = None
        self._stays: frozenset[Phase] = frozenset()
        self._kept = False

    def __enter__(self) -> HostSession:
        commands.require_net_admin()
        self._lock.__enter__()
        try:
            self._session = Session(journal(self._settings), self._echo)
            if self._session.journal.find("firewall") or lockdown.is_on(self._settings.state_dir):
                self._stays = _SHUT
            # A crash left these. The firewall stays, so that nothing passes until ours replaces it.
            self._session.undo(keep=_SHUT)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    @property
    def tun(self) -> Tun:
        """The open device, after `apply(Phase.TUN)`. Its descriptor is closed when the session ends."""
        assert self._session is not None
        assert self._session.tun is not None
        return self._session.tun

    def apply(self, phase: Phase) -> None:
        """Make the changes of one phase, planned from the host as it is at this moment."""
        assert self._session is not None
        facts = gather_facts(self._settings)
        if phase is Phase.FIREWALL:
            msgspec.structs.replace(self._settings, whole=False).save()
        self._session.apply(step for step in plan_up(self._settings, facts) if step.phase is phase)
        if phase is Phase.FIREWALL and self._watched:
            warden.restart(self._settings.run_dir)

    def keep(self) -> None:
        """Leave everything in place when the session ends; `down` undoes it from the journal."""
        self._settings.save()
        self._kept = True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        try:
            if not self._kept:
                _take_back(self._settings, self._session, self._stays)
            elif self._session.tun is not None:
                self._session.tun.close()
        finally:
            self._lock.__exit__(kind, value, trace)


def down(settings: UpSettings, echo: Echo = quiet) -> bool:
    """Undo `up`, also of a dead daemon or a killed command. Return False if there was nothing to undo.

    With lockdown on, the firewall stays.
    """
    commands.require_net_admin()
    stays = _SHUT if lockdown.is_on(settings.state_dir) else frozenset()
    with Lock(settings.run_dir / f"{OWNER}.lock"):
        session = Session(journal(settings), echo)
        if session.journal.steps:
            before = len(session.journal.steps)
            _take_back(settings, session, stays)
            return len(session.journal.steps) < before
        warden.stop(settings.run_dir)
        settings.forget()
        if host_state(settings).down:
            return False
        # Somebody removed the journal. What is tagged as ours needs no prior values to go.
        for step in reversed(plan_up(settings, gather_facts(settings))):
            if step.phase is not Phase.DNS and step.name != "rp-filter" and step.phase not in stays:
                echo(f"[#] {step.undo}")
                perform(step.undo)
        return True


def shut(settings: UpSettings, echo: Echo = quiet) -> None:
    """Raise the firewall alone, over nothing or over what stands: the host is blocked until `up`."""
    with HostSession(settings, echo, watched=True) as session:
        session.apply(Phase.FIREWALL)
        session.keep()


def change(settings: UpSettings, echo: Echo = quiet) -> None:
    """Bring what `up` has made in line with other settings, without a moment in the open."""
    with Lock(settings.run_dir / f"{OWNER}.lock"):
        pages, library = journal(settings), Library()
        try:
            settings.save()
            with pages.locked():
                mend(pages, plan_up(settings, gather_facts(settings)), Memory(library), echo)
        finally:
            library.close()
        warden.restart(settings.run_dir)


def _take_back(settings: UpSettings, session: Session, stays: frozenset[Phase]) -> None:
    """Undo all but some phases; the warden first, who would put everything right again."""
    if not stays:
        warden.stop(settings.run_dir)
    session.undo(keep=stays)
    if not session.journal.steps:
        with contextlib.suppress(OSError):
            settings.forget()


def host_state(settings: UpSettings) -> HostState:
    """Look which of our changes are in place. Needs CAP_NET_ADMIN."""
    try:
        listed = commands.run(["nft", "list", "tables"]).splitlines()
    except OperatorError:
        listed = []
    return HostState(
        firewall=f"table inet {firewall.TABLE}" in listed,
        tun=tun_exists(settings.tun, OWNER),
        rules=routing.rules_in_place(),
        journal=bool(journal(settings).steps),
    )


def journal(settings: UpSettings) -> Journal:
    """Return the journal of `up`."""
    return Journal(settings.run_dir, settings.state_dir, OWNER)


__all__ = [
    "HostFacts",
    "HostSession",
    "HostState",
    "LinkEndpoint",
    "Phase",
    "UpSettings",
    "change",
    "down",
    "gather_facts",
    "host_state",
    "plan_up",
    "shut",
]
