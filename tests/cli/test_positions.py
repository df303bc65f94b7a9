"""Words with a name that they need none for, or without one: the message shows the right line."""

import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from longlive_cli.main import app

TREE = get_command(app)
COMMANDS = {
    (name, *([inner] if inner else [])): command
    for name, group in TREE.commands.items()
    for inner, command in getattr(group, "commands", {"": group}).items()
}
ARGUMENTS = [
    (words, one.name)
    for words, command in COMMANDS.items()
    for one in command.params
    if one.param_type_name == "argument"
]


def refusal(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 2 and not result.stdout
    [line] = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(("words", "name"), ARGUMENTS)
@pytest.mark.parametrize("joined", [True, False])
def test_every_argument_that_is_typed_as_an_option_is_told_with_the_line(words, name, joined):
    options = {option for one in COMMANDS[words].params for option in one.opts}
    if f"--{name}" in options:
        pytest.skip(f"--{name} is another option of this command")
    typed = [f"--{name}=a b"] if joined else [f"--{name}", "a b"]
    line = refusal(*words, *typed)
    right = shlex.join(["longlive", *words, "a b"])
    assert f"No such option: --{name}; {words[-1]} takes its {name} by position: {right} (" in line


def test_the_rest_of_the_line_stays():
    line = refusal("plan", "--gpu", "h200", "--model", "pocket", "--json")
    assert line == (
        "longlive: No such option: --model; plan takes its model by position: longlive plan --gpu "
        "h200 --json pocket (longlive plan --help says more)"
    )
    assert "by position: longlive train RECIPE (" in refusal("train", "--recipe")
    assert "by position: longlive evaluate a.mp4 (" in refusal("evaluate", "--video", "a.mp4")


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("serve pocket --port 0", "serve takes a model by its option: longlive serve --port 0"),
        ("serve ./mine", "longlive serve --model ./mine ("),
        ("generate hi pocket", "longlive generate hi --model pocket ("),
        ("live hi LongLive-2.0-5B", "longlive live hi --model LongLive-2.0-5B ("),
        ("generate a red circle", "; a prompt of several words stands in quotes ("),
    ],
)
def test_a_model_by_position_is_told_with_its_option(typed, right):
    line = refusal(*typed.split())
    assert "unexpected extra argument" in line and right in line


def test_a_field_that_is_typed_as_an_option_is_told_with_set():
    line = refusal("train", "ar_tiny", "--seed", "1")
    assert "; fields of its config are set by --set, as in --set seed=1 (" in line


def test_other_words_are_refused_as_before():
    assert refusal("doctor", "pocket").startswith("longlive: Got unexpected extra argument")
    assert "Possible options: --quality" in refusal("doctor", "--qualty", "high")
    assert ";" not in refusal("doctor", "--qualty", "high")
