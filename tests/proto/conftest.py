"""What several tests of proto/ are about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anonnet import native
from anonnet.proto.engine import NATIVE, Engine


@pytest.fixture(scope="session")
def fast() -> Engine:
    """The native engine."""
    if NATIVE is None:
        pytest.fail(f"{native.trouble}: {native.HINT}", pytrace=False)
    return NATIVE


@pytest.fixture(scope="module", params=[1, 2, 3], ids="{}-threads".format)
def crew(request: pytest.FixtureRequest, fast: Engine) -> Iterator[Engine]:
    """The native engine, with threads."""
    assert fast.threads(request.param) == request.param
    yield fast
    assert fast.threads(1) == 1
