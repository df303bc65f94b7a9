"""`longlive quantize`: from a folder to a packed one, or to one sentence."""

import json

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from tests.cli.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "model")


def longlive(*arguments):
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_a_model_becomes_a_packed_one(model, tmp_path):
    done = longlive(model, "-o", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'out'}: 10 linears swapped, 6 kept; ")
    config = json.loads((tmp_path / "out" / "transformer" / "config.json").read_text())
    assert config["quantization_config"]["weight"]["rule"] == "four_over_six_mse"


def test_the_record_names_both_models_and_what_was_kept(model, tmp_path):
    done = longlive(
        model, "-o", tmp_path / "out", "--rule", "amax_6", "--keep", "blocks.0.ffn", "--json"
    )
    record = json.loads(done.stdout)
    assert record["output"] == str(tmp_path / "out")
    assert len(record["packed"]) == 8
    assert record["kept"]["blocks.0.ffn.0"] == "as 'blocks.0.ffn' says"
    assert record["bytes_after"] < record["bytes_before"]
    assert len(record["source_sha256"]) == len(record["sha256"]) == 64


def test_a_dry_run_writes_nothing(model, tmp_path):
    done = longlive(model, "-o", tmp_path / "out", "--block", "16x16", "--dry-run", "--json")
    assert json.loads(done.stdout)["quantization"]["weight"]["block"] == [16, 16]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "amax_7"], "no scale rule 'amax_7'; did you mean 'amax_6'"),
        (["--block", "8x8"], "block takes '1x16' or '16x16', got '8x8'"),
        (["--keep", "blocks.9"], "keep='blocks.9' names no module"),
        (["--device", "gpu"], "device='gpu' is no device"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, model, tmp_path):
    done = longlive(model, "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_and_a_packed_model_are_refused(model, tmp_path):
    assert longlive(model, "-o", tmp_path / "out").exit_code == 0
    assert "out exists" in longlive(model, "-o", tmp_path / "out").stderr
    assert "is packed already" in longlive(tmp_path / "out", "-o", tmp_path / "again").stderr
