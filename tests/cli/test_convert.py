"""`longlive convert`: from one layout to another, or to one sentence."""

import json

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from longlive_cli.main import app
from tests.models.adapters.layouts import adapter, in_layout
from tests.models.foreign_files import write_published
from tests.models.tiny_pipeline import write_tiny_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("models") / "model").parent


def longlive(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_a_model_is_written_in_another_layout(model, tmp_path):
    done = longlive(model, "-o", tmp_path / "out", "--to", "diffusers")
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'out'}: transformer, vae, text_encoder, to the bit" in done.stdout
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "WanTransformer3DModel"]
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").is_file()


def test_a_file_becomes_a_file_and_the_record_says_so(model, tmp_path):
    out = tmp_path / "wan.safetensors"
    done = longlive(model / "model_bf16.pt", "-o", out, "--to", "comfyui-fp8", "--json")
    record = json.loads(done.stdout)
    assert record["output"] == str(out)
    assert record["parts"] == ["transformer"]
    assert not record["exact"]
    assert record["bytes"] == out.stat().st_size


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(model, tmp_path):
    done = longlive(
        *(model, "-o", tmp_path / "out", "--to", "comfyui", "--dtype", "fp16"),
        *("--dry-run", "--json"),
    )
    planned = json.loads(done.stdout)
    assert sorted(planned["parts"]) == ["text_encoder", "transformer", "vae"]
    assert (planned["exact"], planned["why"]) == (False, "plain weights are rounded to fp16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "diffuser"], "there is no layout 'diffuser'; did you mean 'diffusers'"),
        (["--to", "gguf"], "is to be one file in the layout gguf, which ends in .gguf"),
        (["--to", "diffusers", "--part", "unet"], "part takes 'all' or 'transformer' or 'vae'"),
        (["--to", "longlive", "--rule", "amax_7"], "no scale rule 'amax_7'; did you mean"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, model, tmp_path):
    done = longlive(model, "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_models_of_this_package_alone_keep_their_text_encoder(tmp_path):
    """The pocket's encoder is this library's own; its transformer goes out like any other."""
    done = longlive("pocket", "-o", tmp_path / "out", "--to", "diffusers")
    assert done.exit_code == 2
    assert "text_encoder holds weights of another model" in done.stderr
    done = longlive(*("pocket", "-o", tmp_path / "out.safetensors", "--to", "comfyui-nvfp4"))
    assert done.exit_code == 0, done.output


def test_an_adapter_is_written_in_another_layout(tmp_path):
    model = write_tiny_folder(tmp_path / "model")
    save_file(in_layout(adapter(), "comfyui"), tmp_path / "in.safetensors")
    given = (model, "--lora", tmp_path / "in.safetensors", "-o", tmp_path / "out")
    done = longlive(*given, "--to", "lora-peft")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    done = longlive(*given, "--to", "lora-kohya", "--dtype", "fp16")
    assert done.exit_code == 2
    assert "dtype='fp16' is about a model's weights" in done.stderr
