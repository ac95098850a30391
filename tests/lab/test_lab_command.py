"""The commands of `anonnet-tun lab`, apart from the lab itself."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from anonnet.cli import main
from anonnet.cli.lab import duration, share


@pytest.fixture
def nowhere(tmp_path: Path) -> CliRunner:
    return CliRunner(env={"ANONNET_LAB_DIR": str(tmp_path / "none"), "ANONNET_LAB_PREFIX": "antest-none-"})


@pytest.mark.parametrize(("text", "value"), [("1%", 0.01), ("0.25", 0.25), ("0%", 0.0), ("100%", 1.0)])
def test_shares(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("20ms", 20_000_000), ("1.5s", 1_500_000_000), ("500us", 500_000)]
)
def test_durations(text: str, value: int) -> None:
    assert duration(text) == value


@pytest.mark.parametrize("text", ["", "20", "ms", "-5ms", "1%"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="20ms"):
        duration(text)


@pytest.mark.parametrize(
    "command", [["status"], ["exec", "r1", "true"], ["capture", "r1", "x.pcap"], ["weather", "--drop", "1%"]]
)
def test_without_a_lab_commands_say_how_to_start_one(nowhere: CliRunner, command: list[str]) -> None:
    result = nowhere.invoke(main, ["lab", *command])
    assert result.exit_code == 1
    assert "anonnet-tun lab up" in result.output


def test_down_is_harmless_without_a_lab(nowhere: CliRunner) -> None:
    result = nowhere.invoke(main, ["lab", "down"])
    assert (result.exit_code, result.output) == (0, "no lab was up\n")


@pytest.mark.parametrize("options", [["--relays", "1"], ["--rate", "fast"], ["--hops", "9"]])
def test_impossible_labs_are_refused_before_anything_is_made(nowhere: CliRunner, options: list[str]) -> None:
    result = nowhere.invoke(main, ["lab", "up", *options])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("hops", ["0", "17", "three"])
def test_hops_that_no_lab_has_are_a_usage_error(nowhere: CliRunner, hops: str) -> None:
    result = nowhere.invoke(main, ["lab", "up", "--hops", hops])
    assert (result.exit_code, "--hops" in result.output) == (2, True)
