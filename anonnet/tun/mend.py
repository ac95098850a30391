"""Putting right what others have changed: every journalled change that no longer stands is made again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from anonnet.tun import cgroup, dns, routing
from anonnet.tun.actions import Cgroup, CreateTun, Nft, RestoreFile, Route, Rule, Run, Sysctl, WriteFile
from anonnet.tun.apply import Echo, perform, quiet, read_sysctl
from anonnet.tun.device import device_exists
from anonnet.tun.journal import Journal
from anonnet.tun.nft import Library
from anonnet.tun.plan import Step

_VALUES: Final = (Sysctl, WriteFile)  # changes that replace something, which undo then puts back
_LEARNT: Final = re.compile(r"\s*elements = \{[^}]*\}")  # what packets have added to a named map


@dataclass(slots=True)
class Memory:
    """What the kernel listed when a ruleset had just been made: another listing means another's hand."""

    library: Library
    _listed: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def note(self, step: Step) -> None:
        """Remember how a ruleset looks."""
        if isinstance(step.do, Nft):
            self._listed[step.name] = (step.do.script, self._listing(step.do))

    def stands(self, step: Step) -> bool:
        """Return whether a change is in place. Of one that cannot be looked at, it is believed."""
        match step.do:
            case Nft() as nft:
                listing = self._listing(nft)
                if nft.learns and step.name not in self._listed:
                    self._listed[step.name] = (nft.script, listing)
                return listing is not None and self._listed.get(step.name) == (nft.script, listing)
            case Rule() as rule:
                return routing.rule_stands(rule)
            case Route() as route:
                return routing.route_stands(route)
            case Sysctl(key, value):
                return read_sysctl(key, value) == value
            case WriteFile(content=content):  # as it was when the plan was made, or a change since were lost
                return isinstance(step.undo, RestoreFile) and step.undo.prior == content
            case Cgroup(path=path):
                return cgroup.stands(path)
            case Run() as run:
                return dns.stands(run)
        return True

    def known(self, step: Step) -> bool:
        """Return whether this very ruleset was made by this process before."""
        return step.name in self._listed and isinstance(step.do, Nft) and (
            self._listed[step.name][0] == step.do.script
        )  # fmt: skip

    def _listing(self, nft: Nft) -> str | None:
        words = (line.split() for line in nft.script.splitlines() if line.startswith("delete table "))
        listing = self.library.listing([(family, table) for _, _, family, table in words])
        return listing and _LEARNT.sub("", listing)


def mend(journal: Journal, plan: Iterable[Step], memory: Memory, echo: Echo = quiet) -> list[str]:
    """Bring the host in line with the plan, in those phases that the journal has begun.

    Returns the names of the steps that somebody else had undone. What a crash or `up` in progress has not
    begun is left alone, and so is the device, which lives and dies with the daemon.
    """
    begun = {step.phase for step in journal.steps}
    wanted = [step for step in plan if step.phase in begun]
    undone: list[str] = []
    for step in wanted:
        prior = journal.find(step.name)
        stands = memory.stands(step)
        if isinstance(step.do, CreateTun) or (stands and prior is not None and prior.do == step.do):
            continue
        if isinstance(step.do, Route | Run) and not device_exists(_device(step)):
            continue
        journal.put(step if prior is None else msgspec.structs.replace(step, undo=_undo(prior, step)))
        if not stands:
            echo(f"[#] {step.do}")
            perform(step.do)
            if prior is not None and prior.do == step.do and (memory.known(step) or step.name != "firewall"):
                undone.append(step.name)
        memory.note(step)
    names = {step.name for step in wanted}
    for step in reversed([step for step in journal.steps if step.phase in begun and step.name not in names]):
        if not isinstance(step.do, CreateTun):
            echo(f"[#] {step.undo}")
            perform(step.undo)
            journal.remove(step)
    return undone


def _undo(prior: Step, now: Step) -> object:
    """Return what undoes the step from now on.

    A value that somebody else has set since is the newer truth, which is to come back in the end; but not
    the beginning of ours, which is what a write leaves that was cut short.
    """
    if not isinstance(now.do, _VALUES) or prior.do != now.do:
        return prior.undo if isinstance(now.do, _VALUES) else now.undo
    if isinstance(now.undo, RestoreFile) and now.undo.ours.startswith(now.undo.prior or b""):
        return prior.undo
    return now.undo


def _device(step: Step) -> str:
    """Return the device without which a step cannot be made."""
    if isinstance(step.do, Route):
        return step.do.device
    assert isinstance(step.do, Run)
    return dns.device_of(step.do)
