"""Which engine is used, and what becomes of one that cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import anonnet
from anonnet import native
from anonnet.errors import OperatorError
from anonnet.proto import engine as engines
from anonnet.proto.engine import Engine


@pytest.mark.parametrize(
    ("override", "configured", "name"),
    [("", None, "native"), ("", False, "python"), ("", True, "native"), ("true", False, "native"),
     ("false", True, "python"), ("auto", False, "native")],
)  # fmt: skip
def test_choice(
    fast: Engine, monkeypatch: pytest.MonkeyPatch, override: str, configured: bool | None, name: str
) -> None:
    monkeypatch.setenv(native.OVERRIDE, override)
    assert engines.choose(wanted=configured).name == name


def test_without_it_python_does_its_work_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.OVERRIDE, raising=False)
    monkeypatch.setattr(engines, "NATIVE", None)
    monkeypatch.setattr(native, "trouble", "no compiler")
    assert engines.choose().name == engines.choose(wanted=False).name == "python"
    with pytest.raises(OperatorError, match="no compiler"):
        engines.choose(wanted=True)


def test_what_cannot_be_loaded_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(anonnet, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "anonnet._native", None)
    module, trouble = native._load()
    assert module is None
    assert "cannot be loaded" in trouble


def test_a_stale_build_is_noticed(fast: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert native._load()[1] == ""
    (tmp_path / "aead.c").write_text("something else")
    module = sys.modules[native.sources.__module__]
    monkeypatch.setattr(module, "__file__", str(tmp_path / "sources.py"))
    loaded, trouble = native._load()
    assert loaded is None
    assert "other sources" in trouble
