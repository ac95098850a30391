"""What must be undone, on disk before it is done.

One JSON file in two places: the run directory (gone after a reboot, as most changes are) and the state
directory (still there, for the changes that outlive a reboot). Each write replaces the file by rename and
reaches the disk before the change is made. So a crash at any instant leaves a list that covers everything
done and at most one thing that was not, and undoing what was not done is harmless.

What a journal says is done with all rights. So it is read only if nobody else could have written it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from anonnet.errors import OperatorError
from anonnet.files import read_own, write_own
from anonnet.tun.plan import Step

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Page(msgspec.Struct, frozen=True):
    """The file's content."""

    boot_id: str
    steps: list[Step]
    version: int = 1


class Journal:
    """The steps made and not yet undone, kept in `run_dir` and `state_dir` as NAME.json."""

    def __init__(self, run_dir: Path, state_dir: Path, name: str) -> None:
        self.paths = (run_dir / f"{name}.json", state_dir / f"{name}.json")
        self.steps = self._load()

    def add(self, step: Step) -> None:
        """Record a step that is about to be made. The first undo of a name wins: it knows what was before."""
        known = self.find(step.name)
        self.put(step if known is None else msgspec.structs.replace(step, undo=known.undo))

    def find(self, name: str) -> Step | None:
        """Return the step of that name, None if it is not recorded."""
        return next((step for step in self.steps if step.name == name), None)

    def put(self, step: Step) -> None:
        """Record a step, in place of the one of that name if there is one."""
        known = self.find(step.name)
        if known == step:
            return
        if known is None:
            self.steps.append(step)
        else:
            self.steps[self.steps.index(known)] = step
        self._write()

    def remove(self, step: Step) -> None:
        """Forget a step that has been undone; the last one takes the files with it."""
        self.steps.remove(step)
        self._write()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the journal, and see what they have changed before.

        For as long as a few changes take: `Lock` is for a whole command.
        """
        directory = self.paths[0].parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise OperatorError(f"cannot open {directory}: {error.strerror}", "run it as root") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self.steps = self._load()
            yield
        finally:
            os.close(descriptor)

    def _write(self) -> None:
        data = msgspec.json.encode(_Page(_boot_id(), self.steps))
        for path in self.paths:
            try:
                if self.steps:
                    write_own(path, data)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                hint = "nothing is changed that a crash could not undo; make room there, or run it as root"
                raise OperatorError(f"cannot write {path}: {error.strerror}", hint) from error

    def _load(self) -> list[Step]:
        """Return the longer of the two lists, since a crash may fall between the two writes."""
        found: list[Step] = []
        for path in self.paths:
            try:
                page = msgspec.json.decode(read_own(path), type=_Page)
            except FileNotFoundError:
                continue
            except (OSError, msgspec.DecodeError) as error:
                hint = "remove it if `nft list ruleset` and `ip rule` look right"
                if getattr(error, "errno", 0) == errno.EACCES:  # and not that it is somebody else's
                    hint = "run this with sudo"
                raise OperatorError(f"cannot read the journal {path}: {error}", hint) from error
            steps = page.steps
            if page.boot_id != _boot_id():
                steps = [step for step in steps if step.survives_reboot]
            found = max(found, steps, key=len)
        return found


class Lock:
    """One `up` or `down` at a time: an advisory lock on a file in the run directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Lock:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise OperatorError(
                "another up or down is running", "wait for it, or press Ctrl-C there"
            ) from error
        except OSError as error:
            raise OperatorError(f"cannot lock {self._path}: {error.strerror}", "run it as root") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
