"""What several tests of proto/ are about."""

from __future__ import annotations

import pytest

from anonnet import native
from anonnet.proto.engine import NATIVE, Engine


@pytest.fixture(scope="session")
def fast() -> Engine:
    """The native engine."""
    if NATIVE is None:
        pytest.fail(f"{native.trouble}: {native.HINT}", pytrace=False)
    return NATIVE
