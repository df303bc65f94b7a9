"""`longlive serve`: what is refused before anything is loaded; how the process begins and ends."""

import importlib.util
import signal
import socket

import pytest
from typer.testing import CliRunner

from longlive_cli.commands import serve as command
from longlive_cli.main import app
from tests.cli.tiny_model import write_tiny_model
from tests.recipes.serve.servers import process


def refused(*words: str) -> str:
    done = CliRunner().invoke(app, ["serve", *words])
    assert done.exit_code == 2, done.output
    assert done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


def test_another_address_needs_a_token():
    assert "pass --token" in refused("--host", "0.0.0.0")
    assert "pass --token" in refused("--host", "example.org", "--dry-run")
    words = ["serve", "--host", "0.0.0.0", "--token", "long-enough", "--dry-run"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "long-enough" not in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--port", "70000"), "port"),
        (("--model", "nowhere"), "there is no model"),
        (("--lora", "nowhere.safetensors", "--dry-run"), "which is to be read as --lora"),
        (("--offer", "fp7"), "no precision"),
        (("--sessions", "0"), "sessions"),
        (("--token", "a b"), "a token has"),
        (("--output", ""), "names no file"),
        (("--weights", "fp7"), "fp7"),
        (("--json",), "--json says how --dry-run prints the config"),
    ],
)
def test_values_are_refused(words, said):
    assert said in refused(*words)


def test_a_missing_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        command, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    assert "uvicorn, which is not installed: pip install 'longlive[serve]'" in refused()


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        model = str(write_tiny_model(tmp_path / "model"))
        said = refused("--port", port, "--model", model, "-o", str(tmp_path / "served"))
    assert f"cannot listen at 127.0.0.1:{port}" in said and "--port" in said
    assert not (tmp_path / "served").exists()


def test_the_address_is_its_first_line_and_a_signal_its_end(tmp_path):
    with process(tmp_path / "served") as (running, client):
        assert client.get("/").status_code == 200
        name = client.begin("a red circle")["id"]
        client.block(name, 1)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (128 + signal.SIGINT, "")
    assert err.count("\n") == 1 and "can be resumed" in err
    assert (tmp_path / "served" / name / "video.json").is_file()
