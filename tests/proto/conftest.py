"""What several tests of proto/ are about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anonnet.proto.engine import Engine


@pytest.fixture(scope="module", params=[1, 2, 3], ids="{}-threads".format)
def crew(request: pytest.FixtureRequest, fast: Engine) -> Iterator[Engine]:
    """The native engine, with threads."""
    assert fast.threads(request.param) == request.param
    yield fast
    assert fast.threads(1) == 1
