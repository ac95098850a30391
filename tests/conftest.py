"""What holds for every test: root tests fail without root, and no property fails for being slow."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from anonnet import native
from anonnet.proto.engine import NATIVE, PYTHON, Engine

# A busy machine is no bug; what must be fast is measured by `anonnet-tun bench`. Without ANONNET_FULL=1 the
# examples are the same in every run, so that who changes one thing is not stopped by another's rare one.
hypothesis.settings.register_profile(
    "anonnet",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=not os.environ.get("ANONNET_FULL"),
    database=None,
)
hypothesis.settings.load_profile("anonnet")


def pytest_configure() -> None:
    """Let ^C be heard by what tests start: in the background it is ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail, never skip: a skipped test of the firewall looks like a firewall that holds."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail("needs root: run `sudo make test`", pytrace=False)


@pytest.fixture
def no_child_stays() -> Iterator[None]:
    """Fails a test that leaves a child of this process behind; those of earlier tests do not count."""
    before = _children()
    yield
    assert _children() <= before


def _children() -> set[str]:
    lists = Path("/proc/self/task").glob("*/children")
    return {pid for children in lists for pid in children.read_text().split()}


@pytest.fixture(scope="session")
def fast() -> Engine:
    """The native engine; without it its tests fail, as root's do without root."""
    if NATIVE is None:
        pytest.fail(f"{native.trouble}: {native.HINT}", pytrace=False)
    return NATIVE


@pytest.fixture(params=["python", "native"], scope="session")
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of the two."""
    return PYTHON if request.param == "python" else request.getfixturevalue("fast")  # type: ignore[no-any-return]
