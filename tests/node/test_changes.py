"""A process of its own changes the host: what it hands back, and what its failures become."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from anonnet.errors import OperatorError
from anonnet.node import changes
from anonnet.node.sections import Config


def doing(monkeypatch: pytest.MonkeyPatch, work: Callable[[], int | None]) -> None:
    """Let the process do this instead of changing the host."""
    monkeypatch.setattr(changes, "_apply", lambda _config, _verbose: work())


def test_a_device_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    doing(monkeypatch, lambda: writer)
    descriptor = changes.change(Config(), verbose=False)
    os.close(writer)
    assert descriptor is not None
    os.write(descriptor, b"through it")
    os.close(descriptor)
    assert os.read(reader, 100) == b"through it"
    os.close(reader)


@pytest.mark.usefixtures("no_child_stays")
def test_it_was_another_process_and_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    doing(monkeypatch, lambda: seen.append(os.getpid()))
    assert changes.change(Config(), verbose=False) is None
    assert seen == []


def test_what_it_refuses_is_refused_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OperatorError("the device is taken", "name another")

    doing(monkeypatch, refuse)
    with pytest.raises(OperatorError) as caught:
        changes.change(Config(), verbose=False)
    assert (caught.value.what, caught.value.hint) == ("the device is taken", "name another")


def test_its_crash_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    doing(monkeypatch, lambda: 1 // 0)
    with pytest.raises(OperatorError, match="crashed"):
        changes.change(Config(), verbose=False)
