"""A terminal for `anonnet-tun run --debug`: press ^Z and read what it says."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Terminal:
    """The far end of a pseudo-terminal on which a command runs."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._descriptor, keys)

    def expect(self, text: str, seconds: float) -> None:
        """Read until `text` is on the screen."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} not seen within {seconds:g} s:\n{self.text}"
            if select.select([self._descriptor], [], [], left)[0]:
                try:
                    self.text += (
                        os.read(self._descriptor, 65536).decode(errors="replace").replace("\r\n", "\n")
                    )
                except OSError:
                    raise AssertionError(f"it ended before {text!r}:\n{self.text}") from None


@contextmanager
def on_terminal(
    command: list[str], env: dict[str, str]
) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """Run a command as on a terminal of its own, so that ^Z reaches it as a signal."""
    far, near = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=near, stdout=near, stderr=near, env=env, start_new_session=False
    )
    os.close(near)
    try:
        yield Terminal(far), process
    finally:
        process.terminate()
        process.wait(20)
        os.close(far)
