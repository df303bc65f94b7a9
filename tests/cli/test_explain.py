"""Help: every option says its default, a command shows examples, and what stands behind `--set`."""

import json
import re
import shlex

import pytest
import yaml
from typer.core import TyperOption
from typer.main import get_command
from typer.testing import CliRunner

from longlive_cli.catalog import presets
from longlive_cli.explain import EXAMPLES
from longlive_cli.main import app
from longlive_cli.overrides import configure
from longlive_recipes.configs.generate import Generate

NAMES = {command.name: command for command in get_command(app).commands.values()}
BOTH = [
    (name, *([inner] if inner else []))
    for name, command in NAMES.items()
    for inner in getattr(command, "commands", {"": None})
]


def longlive(*arguments: str):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})


def in_one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("words", BOTH, ids=" ".join)
def test_every_option_says_its_default(words):
    command = get_command(app)
    for word in words:
        command = command.commands[word]
    shown = longlive(*words, "--help").stdout
    texts = re.split(r"\n  (?=-)", shown[shown.index("\nOptions:") :])
    for option in (p for p in command.params if isinstance(p, TyperOption)):
        [text] = [text for text in texts if re.match(rf"(-\w, )?{option.opts[0]}\b(?!-)", text)]
        assert option.is_flag or option.required or "[default:" in text, text


def test_defaults_that_depend_on_the_model_say_so():
    shown = in_one_line(longlive("generate", "--help").stdout)
    for option in ("--steps", "--guidance", "--negative-prompt", "--fps"):
        text = shown[shown.index(f" {option} <") :]
        assert re.match(r"[^\[]*\[default: the model's\]", text), option


@pytest.mark.parametrize("words", BOTH, ids=" ".join)
def test_help_ends_with_examples_that_are_understood(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = longlive(*words, "--help").stdout
    assert EXAMPLES[words[-1]]
    for line in EXAMPLES[words[-1]]:
        assert f"\n  {line}\n" in shown
        call = shlex.split(line.rpartition("| ")[2])
        assert call[: 1 + len(words)] == ["longlive", *words]
        known = shown + longlive("--help").stdout
        for word in call:
            if word.startswith("-"):
                assert re.search(rf"(^|[ ,]){word}\b", known), f"{line}: no option {word}"


@pytest.mark.parametrize("command", ["generate", "live"])
def test_help_lists_what_can_be_set(command):
    shown = longlive(command, "--help").stdout
    rows = dict(
        line.split(maxsplit=1) for line in shown[shown.index("Fields of") :].splitlines()[1:]
    )
    assert list(rows) == list(vars(Generate()))
    assert (
        in_one_line(rows["steps"])
        == "none (the model's) a whole number or a list like 1,2 of whole numbers or none"
    )
    assert in_one_line(rows["kv_cache"]) == "auto text"
    assert in_one_line(rows["strict"]) == "false true or false"


@pytest.mark.parametrize(
    ("command", "start"), [("train", ("train_", "distill_")), ("evaluate", "evaluate")]
)
def test_help_names_the_recipes(command, start):
    shown = longlive(command, "--help").stdout
    found = [preset for preset in presets() if preset.recipe.startswith(start)]
    assert found
    for preset in found:
        assert re.search(rf"^  {preset.name} +{re.escape(preset.about)}$", shown, re.MULTILINE)


@pytest.mark.parametrize("name", ["generate", *(preset.name for preset in presets())])
def test_fields_are_named_as_set_takes_them(name):
    rows = json.loads(longlive("recipes", "show", name, "--fields", "--json").stdout)
    config = Generate() if name == "generate" else None
    for preset in presets():
        if preset.name == name:
            config = preset.build()
    assert len(rows) >= 10
    whole = [row for row in rows if not row["default"].endswith("...")]
    settings = [f"{row['name']}={row['default']}" for row in whole if row["default"]]
    assert configure(config, overrides=settings) == config
    assert all(row["kind"] for row in rows)


def test_fields_are_shown_in_columns():
    lines = longlive("recipes", "show", "ar_tiny", "--fields").stdout.splitlines()
    assert any(re.fullmatch(r"budget\.steps +4 +a whole number", line) for line in lines)


def test_long_lists_are_folded_and_read_back():
    shown = longlive("recipes", "show", "ar_tiny").stdout
    folded = yaml.safe_load(shown)
    assert folded == json.loads(longlive("recipes", "show", "ar_tiny", "--json").stdout)
    assert max(len(line) for line in shown.splitlines()) <= 110
    words = folded["text"]["vocab"]
    assert len(words) > 90
    vocab = shown[shown.index("vocab: [") :]
    assert vocab[: vocab.index("]")].count("\n") < 12
