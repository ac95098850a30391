"""What a running node writes for its next run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from anonnet.files import write_own

log: Final = logging.getLogger("anonnet")


def replace(path: Path, text: str) -> None:
    """Write a file that only this user can read; a full disk is said and survived."""
    try:
        write_own(path, text.encode())
    except OSError as error:
        log.error("cannot write %s: %s; free space or mend its permissions", path, error.strerror)
