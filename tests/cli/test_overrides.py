"""Every field can be set by name, typed, and what cannot be is named."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_cli.overrides import apply_mapping, configure, refuse_given_twice


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Phase:
    length: int


class Rule(StrEnum):
    SIX = "amax_6"
    FOUR = "amax_4"


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 10
    name: str = "a"
    fast: bool = False
    limit: float | None = None
    output: Path = Path("runs")
    sizes: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ()
    weights: Literal["bf16", "nvfp4"] = "bf16"
    rule: Rule = Rule.SIX
    inner: Inner = field(default_factory=Inner)
    phases: tuple[Phase, ...] = (Phase(length=1), Phase(length=2))

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Outer.steps is at least 1, got {self.steps}.")


@pytest.mark.parametrize(
    ("setting", "want"),
    [
        ("steps=1_000", Outer(steps=1000)),
        ("name=1", Outer(name="1")),
        ("name=a=b", Outer(name="a=b")),
        ("fast=yes", Outer(fast=True)),
        ("limit=2", Outer(limit=2.0)),
        ("limit=none", Outer(limit=None)),
        ("output=x/y", Outer(output=Path("x/y"))),
        ("sizes=3, 4,5", Outer(sizes=(3, 4, 5))),
        ("sizes=(3,)", Outer(sizes=(3,))),
        ("sizes=[]", Outer(sizes=())),
        ("sizes=[3, 4]", Outer(sizes=(3, 4))),
        ("words=blocks.[01],[a]", Outer(words=("blocks.[01]", "[a]"))),
        ("weights=nvfp4", Outer(weights="nvfp4")),
        ("rule=amax_4", Outer(rule=Rule.FOUR)),
        ("inner.rate=1e-4", Outer(inner=Inner(rate=1e-4))),
        ("inner.betas=(0.5,0.6)", Outer(inner=Inner(betas=(0.5, 0.6)))),
        ("inner.betas.1=0.7", Outer(inner=Inner(betas=(0.9, 0.7)))),
        ("phases.1.length=9", Outer(phases=(Phase(length=1), Phase(length=9)))),
    ],
)
def test_a_setting_is_read_as_its_field_says(setting, want):
    got = configure(Outer(limit=1.0) if "none" in setting else Outer(), overrides=[setting])
    assert got == want
    assert type(got.limit) is type(want.limit)


@given(st.integers(1, 10**9), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_what_is_printed_can_be_set(steps, rate, fast):
    overrides = [f"steps={steps}", f"inner.rate={rate!r}", f"fast={fast}"]
    assert configure(Outer(), overrides=overrides) == Outer(
        steps=steps, fast=fast, inner=Inner(rate=rate)
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stesp=1", r"Outer has no field 'stesp'; did you mean 'steps'\? Its fields: steps, name"),
        ("inner.rat=1", r"Inner has no field 'rat' \(in inner.rat\); did you mean 'rate'"),
        ("sizes=3,,5", "sizes takes a list like 1,2"),
        ("sizes=,5", "sizes takes a list like 1,2"),
        ("sizes=3,", "sizes takes a list like 1,2 of whole numbers, got '3,'"),
        ("sizes=[3,5,]", "sizes takes a list like 1,2"),
        ("sizes=,", "sizes takes a list like 1,2"),
        ("sizes=3,5)", "sizes takes a list like 1,2"),
        ("sizes=(3,5]", "sizes takes a list like 1,2"),
        ("words=a,", "words takes a list like a,b of texts, got 'a,'"),
        ("zzz=1", "no field 'zzz'. Its fields"),
        ("steps", "--set takes name=value, got 'steps'"),
        ("steps=1.5", "steps takes a whole number, got '1.5'"),
        ("fast=maybe", "fast takes true or false, got 'maybe'"),
        ("limit=long", "limit takes a number or none, got 'long'"),
        ("weights=fp4", "weights takes 'bf16' or 'nvfp4', got 'fp4'"),
        ("inner.betas=0.5", "inner.betas takes a list like 1,2 of 2 numbers"),
        ("inner=3", "inner has fields of its own; set one of them: rate, betas"),
        ("steps.x=3", "steps.x: 'x' cannot be set, a whole number has no fields"),
        ("phases.2.length=3", "'2' is no place in a list of 2; from 0"),
        ("phases.first=3", "'first' is no place in a list of 2"),
        ("phases.0.len=3", r"Phase has no field 'len' \(in phases.0.len\); did you mean 'length'"),
        ("steps=0", "Outer.steps is at least 1, got 0"),
    ],
)
def test_what_cannot_be_set_is_named(setting, message):
    with pytest.raises(ValueError, match=message):
        configure(Outer(), overrides=[setting])


def test_a_config_is_checked_when_all_is_set():
    first, last = "steps=0", "steps=4"
    assert configure(Outer(), overrides=[first, last]) == Outer(steps=4)
    with pytest.raises(ValueError, match="Outer.steps is at least 1, got 0"):
        configure(Outer(), overrides=[last, first])


def test_a_list_is_set_as_a_whole_or_in_part():
    with pytest.raises(ValueError, match=r"inner.betas is set as a whole and then in part"):
        configure(Outer(), overrides=["inner.betas=0.5,0.6", "inner.betas.1=0.7"])
    both = ["inner.betas.1=0.7", "inner.betas.0=0.6", "inner.rate=1"]
    assert configure(Outer(), overrides=both).inner == Inner(rate=1.0, betas=(0.6, 0.7))


def test_a_file_comes_first_and_settings_after_it(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 5\nsizes: [7]\ninner:\n  rate: 1e-2\n")
    got = configure(Outer(), file, ["steps=6"])
    assert got == Outer(steps=6, sizes=(7,), inner=Inner(rate=1e-2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp: 1", "did you mean 'steps'"),
        ("inner: {rat: 1}", r"in inner\.rat"),
        ("phases: [{len: 1}]", "phases takes a list like 1,2 of Phase"),
        ("phases: [3]", "phases takes a list like 1,2 of Phase"),
        ("steps: true", "steps takes a whole number, got True"),
        ("steps: 1.5", "steps takes a whole number, got 1.5"),
        ("just words", "holds no fields"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_file_that_does_not_fit_is_named(text, message, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"run.yaml.*{message}"):
        configure(Outer(), file)


@pytest.mark.parametrize("value", ["[]", "{}", "[a, b]", "null", "2024-01-01"])
def test_a_list_in_a_file_is_no_text(value, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"name: {value}\n")
    with pytest.raises(ValueError, match="run.yaml: name takes text, got "):
        configure(Outer(), file)


def test_a_setting_that_does_not_fit_is_not_said_to_be_the_files(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 5\n")
    with pytest.raises(ValueError, match="^steps takes a whole number, got 'x'"):
        configure(Outer(), file, ["steps=x"])


def test_a_file_can_hold_a_list_of_configs(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("phases: [{length: 5}]\n")
    assert configure(Outer(), file) == Outer(phases=(Phase(length=5),))


def test_a_config_is_not_changed_in_place():
    config = Outer()
    apply_mapping(config, {"inner": {"rate": 0.5}})
    assert config == Outer()


@pytest.mark.parametrize("settings", [["steps=4,2"], ["seed=1", " steps = 3"]])
def test_a_field_of_an_option_and_of_set_is_refused(settings):
    with pytest.raises(ValueError, match="'steps' is given twice, by --steps and by --set"):
        refuse_given_twice(["seconds", "steps"], settings)
    refuse_given_twice(["seconds"], settings)
    refuse_given_twice(["seconds"], None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "a red circle", "--kv-cache", "fp32", "--set", "kv_cache=bf16"),
        ("evaluate", "--device", "cpu", "--set", "device=cpu"),
        ("bench", "generation", "--seconds", "2", "--set", "seconds=3"),
    ],
)
def test_commands_refuse_what_is_given_twice(arguments):
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2
    assert "given twice" in done.output
