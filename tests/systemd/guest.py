"""A Debian with a systemd of its own, booted by systemd-nspawn in a network namespace of ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.lab.live import until
from tests.systemd import tree

BOOT_SECONDS: Final = 120  # until something of a boot is there: the first program, a unit, its links
OFF_SECONDS: Final = 90
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Guest:
    """What is written to its disk stays from boot to boot and goes with the object; not to the tree."""

    def __init__(self, base: Path, directory: Path, namespace: str) -> None:
        self.root = directory / "root"
        self._namespace = namespace
        self._console = directory / "console.log"
        self._machine: subprocess.Popen[bytes] | None = None
        for name in ("root", "upper", "work"):
            (directory / name).mkdir()
        options = f"lowerdir={base},upperdir={directory}/upper,workdir={directory}/work"
        subprocess.run(["mount", "-t", "overlay", "anonnet-guest", "-o", options, self.root], check=True)

    def close(self) -> None:
        """Remove its disk."""
        subprocess.run(["umount", self.root], check=True)
        tree.forget()

    def write(self, path: str, text: str) -> None:
        """Put a file on its disk."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    @contextmanager
    def booted(self) -> Iterator[None]:
        """Boot, and shut down in order at the end of the block. Entered as soon as commands can be run."""
        environment = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}  # /proc/sys/net
        with self._console.open("ab") as console:
            self._machine = subprocess.Popen(
                [*tree.alone(), "systemd-nspawn", *tree.SPAWN, f"--directory={self.root}", "--boot",
                 f"--network-namespace-path=/run/netns/{self._namespace}", "--machine=caller",
                 "--capability=all", "--bind=/dev/net/tun", "--resolv-conf=off"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip
        try:
            until(self._commanded, BOOT_SECONDS, "systemd to boot")
            yield
            self.run("systemctl", "poweroff", "--no-block")
            until(lambda: self._exit_code() is not None, OFF_SECONDS, "the machine to go off")
            assert self._exit_code() == 0, self.console()
        finally:
            if self._exit_code() is None:  # a test has failed
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._leader() or self._machine.pid, signal.SIGKILL)
            self._machine.wait()

    def _exit_code(self) -> int | None:
        assert self._machine is not None
        return self._machine.poll()

    def finished_booting(self) -> bool:
        """Whether systemd has started all that it was to start."""
        return self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def run(self, *command: str, text: str = "", patience: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in the booted guest and return how it ended."""
        clean = ["env", "-i", f"PATH={PATH}", "SYSTEMD_COLORS=0"]
        inside = ["nsenter", "--all", f"--target={self._leader()}", "--", *clean, *command]
        return subprocess.run(
            inside, input=text, capture_output=True, text=True, timeout=patience, check=False
        )

    def out(self, *command: str, text: str = "", patience: float = 120) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.run(*command, text=text, patience=patience)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def unit(self, name: str, key: str) -> str:
        """Return a property of a unit, as systemd shows it."""
        return self.out("systemctl", "show", "--value", f"--property={key}", name).strip()

    def log(self, unit: str) -> str:
        """Return what a unit has said of late."""
        return self.run("journalctl", "-b", "-q", "--no-pager", "-n", "40", "-u", unit).stdout

    def kill(self, unit: str, number: signal.Signals, whom: str = "all") -> None:
        """`systemctl kill`."""
        self.out("systemctl", "kill", "-s", number.name, f"--kill-whom={whom}", unit)

    def console(self) -> str:
        """Return the end of what the console showed."""
        return self._console.read_text(errors="replace")[-3000:]

    def _commanded(self) -> bool:
        assert self._machine is not None
        assert self._exit_code() is None, f"it ended: {self.console()}"
        return bool(self._leader()) and not self.run("systemctl", "show", "--property=Version").returncode

    def _leader(self) -> int:
        """Return the process id that its systemd has outside, 0 before there is one."""
        assert self._machine is not None
        todo = [self._machine.pid]
        while todo:
            pid = todo.pop()
            children = [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]
            for child in children:
                status = _read(f"/proc/{child}/status").splitlines()
                if any(line.startswith("NSpid:") and line.split()[2:] == ["1"] for line in status):
                    return child
            todo += children
        return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # it has ended
        return ""
