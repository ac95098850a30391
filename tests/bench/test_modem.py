"""The benchmark of ssh over a modem: here only that it asks for what it needs, which CI need not have."""

from __future__ import annotations

import os
import shutil

import pytest

from anonnet.bench import modem
from anonnet.errors import OperatorError


def test_without_sshd_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(OperatorError) as error:
        modem.measure("modem", 1)
    assert "openssh-server" in error.value.hint
