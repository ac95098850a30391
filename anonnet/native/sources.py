"""Which sources the native module is built from; setup.py asks too, and runs this file by itself."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sources() -> list[Path]:
    """Return the C files beside this one, and their header; none in an installed package."""
    here = Path(__file__).parent
    return sorted([*here.glob("*.c"), *here.glob("*.h")])


def fingerprint() -> str:
    """Return what changes with any of them."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()
