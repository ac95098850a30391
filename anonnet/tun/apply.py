"""Makes the changes of a plan, journal first, and takes them back."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from anonnet.errors import OperatorError
from anonnet.tun import cgroup, commands, device, dns, routing
from anonnet.tun.actions import (
    Action,
    Cgroup,
    CreateTun,
    DeleteTun,
    Nft,
    RestoreFile,
    Route,
    Rule,
    Run,
    Sysctl,
    WriteFile,
)
from anonnet.tun.device import Tun
from anonnet.tun.journal import Journal
from anonnet.tun.plan import Phase, Step

Echo = Callable[[str], None]


def quiet(_line: str) -> None:
    """An echo that shows nothing."""


class Session:
    """A host being changed: each step is journalled, shown and done; `undo` takes all back, latest first.

    `tun` is the device that a CreateTun step made in this session, until `take_tun` hands it on.
    """

    def __init__(self, journal: Journal, echo: Echo = quiet) -> None:
        self.journal = journal
        self.tun: Tun | None = None
        self._echo = echo

    def apply(self, steps: Iterable[Step]) -> None:
        """Make the changes in order. A failure leaves what was made, in the journal, for `undo`."""
        with self.journal.locked():
            for step in steps:
                self.journal.add(step)
                self._echo(f"[#] {step.do}")
                made = perform(step.do)
                if made is not None:
                    self.tun = made

    def undo(self, keep: frozenset[Phase] = frozenset()) -> None:
        """Undo every journalled step but those of the phases to keep, latest first.

        Goes on past a step that cannot be undone, which then stays in the journal, and raises the first
        such error at the end. Ctrl-C waits until it is over.
        """
        failed: OperatorError | None = None
        with signals_held(), self.journal.locked():
            for step in reversed(list(self.journal.steps)):
                if step.phase in keep:
                    continue
                self._echo(f"[#] {step.undo}")
                try:
                    perform(step.undo)
                except OperatorError as error:
                    failed = failed or error
                else:
                    self.journal.remove(step)
            if self.tun is not None:
                self.tun.close()
                self.tun = None
        if failed is not None:
            raise OperatorError(
                f"not everything could be undone: {failed.what}", f"{failed.hint}; then run it again"
            )


def apply_all(journal: Journal, plan: Callable[[], Iterable[Step]], echo: Echo = quiet) -> Session:
    """Undo what a crash left in `journal`, then make the plan's changes, all or none.

    `plan` is called after that undo, so that it sees the host as it really was.
    """
    session = Session(journal, echo)
    session.undo()
    try:
        session.apply(plan())
    except BaseException:
        session.undo()
        raise
    return session


def perform(action: Action) -> Tun | None:
    """Make one change; return the device if it made one. Raise OperatorError if it cannot be made."""
    match action:
        case Nft():
            commands.run(["nft", "-f", "-"], action.script)
        case Rule():
            routing.change_rule(action)
        case Route():
            routing.change_route(action)
        case Sysctl():
            _write_sysctl(action)
        case WriteFile():
            dns.write_file(action)
        case RestoreFile():
            dns.restore_file(action)
        case Run():
            try:
                commands.run(action.argv, action.stdin)
            except OperatorError:
                if action.required:
                    raise
        case CreateTun():
            return device.create_tun(action)
        case DeleteTun():
            device.delete_tun(action.name, action.owner)
        case Cgroup():
            cgroup.change(action.add, action.path)
    return None


def read_sysctl(key: str, default: str | None = None) -> str:
    """Return the value below /proc/sys; `default` if there is no such key, else raise OperatorError."""
    try:
        return Path("/proc/sys", key).read_text().strip()
    except OSError as error:
        if default is not None:
            return default
        raise OperatorError(f"cannot read /proc/sys/{key}: {error.strerror}", "is /proc mounted?") from error


def _write_sysctl(action: Sysctl) -> None:
    try:
        Path("/proc/sys", action.key).write_text(action.value)
    except FileNotFoundError:
        return  # its device is gone, and the setting with it
    except OSError as error:
        hint = "run it as root; in a container, /proc/sys must be writable"
        raise OperatorError(f"cannot write /proc/sys/{action.key}: {error.strerror}", hint) from error


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM: an undo that stops half-way helps nobody."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
