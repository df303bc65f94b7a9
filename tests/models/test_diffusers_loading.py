"""What users of Diffusers type to load a pipeline: it means the same, or is refused with a way."""

import inspect

import pytest
import torch

from longlive_models import LongLivePipeline
from longlive_models.diffusers_loading import INSTEAD, OWN, where_and_how
from tests.models.tiny_pipeline import tiny_pipeline


@pytest.mark.parametrize(
    ("words", "device", "weights"),
    [
        ({"torch_dtype": torch.bfloat16}, "auto", "bf16"),
        ({"dtype": "float32", "device_map": "cpu"}, "cpu", "fp32"),
        ({"device_map": torch.device("cuda", 1), "torch_dtype": None}, "cuda:1", "auto"),
        ({"use_safetensors": True, "low_cpu_mem_usage": True}, "auto", "auto"),
        ({"local_files_only": True, "torch_dtype": "auto"}, "auto", "auto"),
    ],
)
def test_words_of_diffusers_mean_our_own(words, device, weights):
    assert where_and_how(words, "auto", "auto") == (device, weights)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"torch_dtype": torch.float16}, "torch_dtype=torch.float16 is no type .* overflows"),
        ({"torch_dtype": 16}, "torch_dtype=16 is no type"),
        ({"torch_dtype": torch.bfloat16, "dtype": "auto"}, "torch_dtype and dtype are names of on"),
        ({"torch_dtype": torch.bfloat16, "weights": "fp8"}, "torch_dtype and weights are names of"),
        ({"device_map": "cuda", "device": "cpu"}, "device_map and device are names of one setting"),
        ({"device_map": "balanced"}, "device_map='balanced' would spread .*name one device"),
        ({"device_map": {"vae": 1}}, "device_map=.* would spread one model's parts"),
        ({"local_files_only": False}, "nothing touches the network unless download=True"),
        ({"use_safetensors": False}, "use_safetensors=False means nothing here: a file is read as"),
        ({"variant": "fp16"}, "variant means nothing here: name the file itself"),
        (
            {"revision": "main"},
            "revision means nothing here: fetch it with `hf download MODEL --",
        ),
        ({"quantization_config": 1}, "pass weights='fp8' or weights='nvfp4'"),
        ({"devise": "cpu"}, "has no argument 'devise'; did you mean 'device'"),
    ],
)
def test_words_that_mean_nothing_here_are_refused_with_what_there_is(words, message):
    with pytest.raises(ValueError, match=message):
        LongLivePipeline.from_pretrained("pocket", **words)


def test_a_type_and_a_device_are_taken():
    pipe = LongLivePipeline.from_pretrained("pocket", torch_dtype=torch.float32, device_map="cpu")
    assert pipe.runtime.weights == "fp32" and str(pipe.runtime.device) == "cpu"


def test_the_words_of_our_own_are_those_of_the_function():
    own = inspect.signature(LongLivePipeline.from_pretrained).parameters
    assert set(OWN) == set(own) - {"model", "theirs"}


@pytest.mark.parametrize("name", INSTEAD)
def test_what_pipelines_of_diffusers_have_is_told_with_what_there_is_here(name):
    pipe = tiny_pipeline()
    assert not hasattr(pipe, name)
    with pytest.raises(AttributeError, match=f"no attribute '{name}': use "):
        getattr(pipe, name)


def test_other_attributes_are_missing_as_ever():
    with pytest.raises(AttributeError, match="LongLivePipeline has no attribute 'nothing'$"):
        tiny_pipeline().nothing  # noqa: B018
