"""Files that outlive a run: written whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

log: Final = logging.getLogger("anonnet")


def replace(path: Path, text: str) -> None:
    """Write a file that only this user can read; a full disk is said and survived."""
    fresh = path.with_suffix(".new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # the rename itself
        finally:
            os.close(directory)
    except OSError as error:
        log.error("cannot write %s: %s; free space or mend its permissions", path, error.strerror)
