"""A pipeline written to a folder and read again, and moved to another type, is the same one."""

import json

import pytest
import torch

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.lora import LoRAConfig, add_lora, fuse_lora
from longlive_models.moving import moved
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.saving import save_pipeline
from tests.models.tiny_pipeline import SPEC, tiny_pipeline

PROMPT = "a red circle"


def runtime(**options) -> Runtime:
    return Runtime.choose(RuntimeOptions(device="cpu", **options))


@pytest.mark.parametrize("weights", ["fp32", "bf16", "nvfp4", "nvfp4-w4a4"])
def test_a_saved_model_makes_the_same_videos(weights, tmp_path):
    pipe = tiny_pipeline(runtime(weights=weights))
    folder = pipe.save_pretrained(tmp_path / "model")
    again = LongLivePipeline.from_pretrained(str(folder), device="cpu", weights=weights)
    assert again.settings == pipe.settings and again.spec == pipe.spec
    how = {"seconds": 1, "seed": 2}
    assert_bitwise_equal(again(PROMPT, **how).frames, pipe(PROMPT, **how).frames)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert ("quantization_config" in config) is weights.startswith("nvfp4")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["pipeline"] == "LongLivePipeline"


def test_a_folder_that_exists_stays_as_it_was(tmp_path):
    (tmp_path / "own").write_text("mine")
    with pytest.raises(ValueError, match="exists: a model is written to a new folder"):
        tiny_pipeline().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_what_has_no_folder_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="weights in FP8 .* have no files"):
        tiny_pipeline(runtime(weights="fp8")).save_pretrained(tmp_path / "a")

    class Strange(torch.nn.Module):
        """A text encoder of somebody else's."""

    pipe = tiny_pipeline()
    pipe.text = Strange()
    with pytest.raises(ValueError, match="the text_encoder is a Strange"):
        pipe.save_pretrained(tmp_path / "a")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("longlive_models.saving.write_index", full)
    with pytest.raises(OSError, match="No space"):
        save_pipeline(tiny_pipeline(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_moving_nowhere_changes_nothing():
    pipe = tiny_pipeline()
    before = pipe.runtime
    assert pipe.to("cpu") is pipe and pipe.to(torch.float32) is pipe
    assert pipe.to(torch.device("cpu"), torch.float32).runtime is before


def test_a_model_moves_to_another_type_as_if_it_had_been_loaded_so():
    pipe = tiny_pipeline().to(torch.bfloat16)
    loaded = tiny_pipeline(runtime(weights="bf16", kv_cache="bf16"))
    assert pipe.runtime == loaded.runtime
    how = {"seconds": 1, "seed": 2}
    assert_bitwise_equal(pipe(PROMPT, **how).frames, loaded(PROMPT, **how).frames)
    assert pipe.fingerprint == loaded.fingerprint


def test_a_cache_of_its_own_and_a_thread_stay():
    was = runtime(weights="fp32", kv_cache="nvfp4", lane="thread")
    now = moved(was, (torch.bfloat16,))
    assert (now.weights, now.kv_cache, now.lane) == ("bf16", "nvfp4", "thread")


def test_adapters_are_fused_before_a_model_is_saved(tmp_path):
    pipe = tiny_pipeline()
    add_lora(pipe.transformer, LoRAConfig(rank=2))
    with pytest.raises(ValueError, match=r"linears have adapters beside .* Fuse them first"):
        pipe.save_pretrained(tmp_path / "a")
    fuse_lora(pipe.transformer)
    assert (pipe.save_pretrained(tmp_path / "a") / "model_index.json").is_file()


def test_every_choice_stays_but_what_moves():
    """Whatever option a runtime has, moving keeps it: none is forgotten where one is added."""
    from dataclasses import fields, replace

    was = runtime(weights="fp32", kv_cache="int8", lane="thread", attention="sdpa", strict=True)
    was = replace(was, vae="light")
    now = moved(was, (torch.bfloat16,))
    changed = {f.name for f in fields(was) if getattr(was, f.name) != getattr(now, f.name)}
    assert changed == {"weights"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ((), "a model moves to one device"),
        (("cpu", "cuda"), "a model moves to one device"),
        ((torch.float16,), r"to\(torch.float16\) is no type"),
        (("nowhere",), "is no device"),
        (("meta",), "not tested on"),
    ],
)
def test_where_there_is_nothing_is_refused(where, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline().to(*where)


def test_quantized_weights_stay_where_they_were_loaded():
    pipe = tiny_pipeline(runtime(weights="nvfp4"))
    assert pipe.to("cpu") is pipe
    with pytest.raises(ValueError, match=r"weights in nvfp4 .* from_pretrained\("):
        pipe.to(torch.bfloat16)


def test_the_spec_is_that_of_the_parts():
    assert tiny_pipeline().spec == SPEC
