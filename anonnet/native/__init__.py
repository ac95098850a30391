"""The native module, if it was built: the hot path of the data plane in C, on OpenSSL's ciphers.

What it is made of is beside this file; what it replaces, and how each is chosen, in proto/engine.py. It is
left alone, with the reason in `trouble`, when it was built from other sources than those that are here.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

from anonnet.errors import OperatorError
from anonnet.native.sources import fingerprint, sources

OVERRIDE: Final = "ANONNET_NATIVE"  # auto, true, false: for tests and comparisons
HINT: Final = "build it: python setup.py build_ext --inplace (it needs gcc, python3-dev, libssl-dev)"


def _load() -> tuple[ModuleType | None, str]:
    try:
        from anonnet import _native  # noqa: PLC0415  it may not be there
    except (ImportError, RuntimeError) as error:  # not built, or no OpenSSL that has what it needs
        return None, f"the native data plane cannot be loaded: {error}"
    if sources() and fingerprint() != _native.SOURCES:
        return None, "the native data plane was built from other sources than these"
    return _native, ""


module, trouble = _load()


def wanted(configured: bool | None) -> bool | None:
    """Return what the environment, else the configuration, says of using it; None: if it is there."""
    override = os.environ.get(OVERRIDE, "")
    if override == "auto":
        return None
    return {"true": True, "false": False}.get(override, configured)


def missing() -> OperatorError:
    """Say why it cannot be used."""
    return OperatorError(trouble, HINT)
