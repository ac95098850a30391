"""The benchmark of ssh over a modem: that it measures, over a line that is faster than any modem's."""

from __future__ import annotations

import os
import shutil

import pytest

from anonnet.bench import modem
from anonnet.errors import OperatorError
from tests.bench.test_bench import left_behind


def test_without_sshd_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(OperatorError) as error:
        modem.measure("modem", 1)
    assert "openssh-server" in error.value.hint


@pytest.mark.root
def test_a_real_ssh_logs_in_and_echoes_with_anonnet_and_without() -> None:
    before = modem.PRIVILEGE_SEPARATION.exists()
    found = modem.measure("10m", keys=2)
    assert not left_behind()
    assert modem.PRIVILEGE_SEPARATION.exists() == before
    for one in (found.plain, found.tunnel):
        assert set(one.pages) == set(modem.PAGES)
        assert min(one.echo, one.key, *one.pages.values()) > 0
        assert one.key <= one.key_p95
        assert one.login_s > 0
    assert min(found.tunnel.echo, found.tunnel.key) > found.tick_ms, "through AnonNet, or it would take less"
    assert found.echo_ticks * found.tick_ms == pytest.approx(found.tunnel.key)
