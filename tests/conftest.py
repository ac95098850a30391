"""What holds for every test: root tests fail without root, and no property fails for being slow."""

from __future__ import annotations

import os

import hypothesis
import pytest

# A busy machine is no bug; what must be fast is measured by `anonnet-tun bench`.
hypothesis.settings.register_profile("anonnet", deadline=None, print_blob=True)
hypothesis.settings.load_profile("anonnet")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail, never skip: a skipped test of the firewall looks like a firewall that holds."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.fail("needs root: run `sudo make test`", pytrace=False)
