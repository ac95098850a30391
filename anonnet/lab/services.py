"""Long-running processes of the lab: started in a host's namespace, logged, remembered by pid."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from anonnet.errors import OperatorError
from anonnet.lab import namespaces
from anonnet.lab.place import Place

POLL_SECONDS: Final = 0.05
LOG_TAIL: Final = 12  # lines of a failed process's log that the error shows


class LabError(OperatorError):
    """A part of the lab does not do its work; `log` is the end of what it said."""

    def __init__(self, what: str, hint: str, log: str = "") -> None:
        super().__init__(what, hint)
        self.log = log


def start(
    place: Place, host: str, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a host's namespace; its output goes to NAME.log, its pid to NAME.pid."""
    directory = place.of(host)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            namespaces.inside(place, host, command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment(place, host), **(env or {})},
            start_new_session=True,  # ^C in the terminal is for `lab up`, which then clears up in order
        )
    (directory / f"{name}.pid").write_text(f"{process.pid}\n")
    return process


def environment(place: Place, host: str) -> dict[str, str]:
    """Return the environment for a command on a host: its configuration, this installation of AnonNet."""
    path = [str(place.bin), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    import_path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "ANONNET_CONFIG": str(place.config(host)),
        "ANONNET_LAB_DIR": str(place.directory),
        "ANONNET_LAB_PREFIX": place.prefix,
        "PATH": ":".join([*path, "/usr/sbin", "/sbin"]),
        "PYTHONPATH": ":".join(filter(None, import_path)),
    }


def running(place: Place, host: str, name: str) -> bool:
    """Tell whether a process started by `start` still runs, in its namespace."""
    return _pid(place, host, name) is not None


def stop(place: Place, host: str, name: str, signal_number: int, patience: float = 5.0) -> None:
    """Signal a process and wait until it is gone; it is only ours if it is in the host's namespace."""
    pid = _pid(place, host, name)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
        wait_for(lambda: not running(place, host, name), patience, f"{host}: {name} does not end")
    (place.of(host) / f"{name}.pid").unlink(missing_ok=True)


def wait_for(
    condition: Callable[[], bool],
    seconds: float,
    failure: str,
    log: Path | None = None,
    process: subprocess.Popen[bytes] | None = None,
) -> None:
    """Poll until the condition holds; LabError with the log when too late or `process` ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            why = "it ended" if ended else f"gave up after {seconds:g} s"
            raise LabError(failure, why, tail(log) if log else "")
        time.sleep(POLL_SECONDS)


def tail(log: Path, lines: int = LOG_TAIL) -> str:
    """Return the last lines of a log, or a remark that it is empty or missing."""
    with contextlib.suppress(OSError):
        text = log.read_text(errors="replace").splitlines()[-lines:]
        if text:
            return "\n".join(text)
    return f"(nothing in {log})"


def _pid(place: Place, host: str, name: str) -> int | None:
    """Return the pid of a running process of ours; None if it ended or the number went to another."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((place.of(host) / f"{name}.pid").read_text())
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return None
        if pid in namespaces.processes([place.namespace(host)]):
            return pid
    return None
