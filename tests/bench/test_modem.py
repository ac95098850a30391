"""ssh over a slow chain: typed, echoed, and nothing left of it."""

from __future__ import annotations

import os
import shutil

import pytest

from anonnet.bench import modem
from anonnet.errors import OperatorError

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")


def test_without_sshd_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(OperatorError) as error:
        modem.measure("modem", 1)
    assert "openssh-server" in error.value.hint


@pytest.mark.root
@pytest.mark.skipif(SSHD is None, reason="no sshd here")
@pytest.mark.usefixtures("no_child_stays")
def test_keys_are_echoed_with_and_without_the_tunnel() -> None:
    found = modem.measure("2m", 3)
    for how in (found.plain, found.tunnel):
        assert min(how.echo, how.login_s, how.key, *how.pages.values()) > 0
        assert how.key <= how.key_p95
    assert found.tunnel.key > 3 * found.tick_ms, "three links, each with a tick to wait for, there and back"
