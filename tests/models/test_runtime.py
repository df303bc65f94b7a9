"""Where and how precisely a pipeline computes: what "auto" means, and what is refused early."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from longlive_core.backends import BackendUnavailable, Receipt
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.wan import POCKET

ON_CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="tests a machine without a GPU")


def test_auto_on_a_cpu_is_fp32_and_inline():
    assert Runtime.choose(RuntimeOptions(device="cpu")).to_dict() == {
        "device": "cpu",
        "quality": "lossless",
        "weights": "fp32",
        "compute": "fp32",
        "kv_cache": "fp32",
        "attention": "auto",
        "lane": "inline",
        "linear": "auto",
        "strict": False,
        "vae": "full",
        "vae_latents": 0,
        "vae_tiles": 1,
        "lora": [],
        "offload": False,
        "text_encoder": "auto",
    }


@ON_CPU_ONLY
def test_auto_takes_the_cpu_where_there_is_no_gpu():
    assert Runtime.choose(RuntimeOptions()) == Runtime.choose(RuntimeOptions(device="cpu"))


def test_a_gpu_computes_in_the_precision_of_its_weights():
    for weights, compute in {
        "fp32": "fp32",
        "bf16": "bf16",
        "fp8": "bf16",
        "nvfp4": "bf16",
    }.items():
        on_gpu = Runtime(
            device=torch.device("cuda"),
            weights=weights,
            kv_cache="bf16",
            attention="auto",
            lane="stream",
        )
        assert on_gpu.compute == compute
        assert on_gpu.decode_device == torch.device("cuda")


def test_what_is_named_is_what_is_taken():
    chosen = Runtime.choose(
        RuntimeOptions(
            device="cpu", weights="bf16", kv_cache="bf16", attention="reference", lane="thread"
        )
    )
    assert json.loads(json.dumps(chosen.to_dict())) == {
        "device": "cpu",
        "quality": "lossless",
        "weights": "bf16",
        "compute": "fp32",
        "kv_cache": "bf16",
        "attention": "reference",
        "lane": "thread",
        "linear": "auto",
        "strict": False,
        "vae": "full",
        "vae_latents": 0,
        "vae_tiles": 1,
        "lora": [],
        "offload": False,
        "text_encoder": "auto",
    }
    assert chosen.receipt(16).backend == "reference"


def test_the_vae_goes_where_its_lane_is():
    assert Runtime.choose(
        RuntimeOptions(device="cpu", lane="device:cpu")
    ).decode_device == torch.device("cpu")
    split = Runtime(
        device=torch.device("cuda:0"),
        weights="bf16",
        kv_cache="bf16",
        attention="auto",
        lane="device:cuda:1",
    )
    assert split.decode_device == torch.device("cuda:1")


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_weights_are_rounded_as_said_and_widened_on_a_cpu(weights):
    module = nn.Linear(5, 7)
    kept = module.weight.detach().clone()
    Runtime.choose(RuntimeOptions(device="cpu", weights=weights)).put(module)
    assert module.weight.dtype == torch.float32
    rounded = kept.bfloat16().float()
    assert torch.equal(module.weight, kept if weights == "fp32" else rounded)
    assert not torch.equal(kept, rounded)
    assert not module.training
    assert not module.weight.requires_grad


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"weights": "int2"},
            "weights='int2' is no precision of this version: it has fp32, bf16, fp8, nvfp4",
        ),
        ({"kv_cache": "int3"}, "kv_cache='int3' is no precision"),
        ({"linear": "cublas"}, "linear='cublas' names a product of quantized weights, and "),
        ({"device": "abacus"}, "device='abacus' is no device"),
        ({"device": ""}, "device='' is no device"),
        ({"device": "meta"}, "device='meta' is a device that this library is not tested on"),
        ({"lane": "motorway"}, "there is no lane 'motorway'"),
        ({"lane": "stream"}, "lane='stream' needs a CUDA device"),
        ({"lane": "device:abacus"}, "lane='device:abacus' is no device"),
        ({"lane": "device:"}, "there is no lane|is no device"),
    ],
)
def test_what_does_not_exist_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        Runtime.choose(RuntimeOptions(**{"device": "cpu", **how}))


@ON_CPU_ONLY
@pytest.mark.parametrize("how", [{"device": "cuda"}, {"device": "cpu", "lane": "device:cuda:1"}])
def test_a_gpu_that_is_not_there_is_refused(how):
    with pytest.raises(ValueError, match="asks for a GPU, but this torch .* sees none"):
        Runtime.choose(RuntimeOptions(**how))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"weights": "nvfp4", "linear": "humming"}, "'humming' on cpu: it needs a CUDA device"),
        ({"weights": "nvfp4-w4a4", "linear": "cublas"}, "'cublas' on cpu: it needs a CUDA device"),
        ({"weights": "nvfp4-w4a4", "strict": True}, "emulates the number format, and strict=True"),
        ({"weights": "fp8", "strict": True}, "emulates the number format, and strict=True"),
        ({"weights": "fp8", "linear": "scaled_mm"}, "'scaled_mm' on cpu: it needs"),
    ],
)
def test_linears_that_cannot_run_are_refused_before_a_weight_is_read(how, message):
    with pytest.raises(BackendUnavailable, match=message):
        Runtime.choose(RuntimeOptions(device="cpu", **how)).check(POCKET)


def test_storing_four_bits_is_no_emulation():
    runtime = Runtime.choose(RuntimeOptions(device="cpu", weights="nvfp4", strict=True))
    assert [receipt.backend for receipt in runtime.linear_receipts(64)] == ["decode", "reference"]


def test_high_quality_without_the_hardware_is_lossless_and_says_so():
    runtime = Runtime.choose(RuntimeOptions(device="cpu", quality="high"))
    assert (runtime.quality, runtime.weights, runtime.kv_cache) == ("high", "fp32", "fp32")
    receipt = runtime.receipt(64)
    assert receipt.backend == "sdpa"
    assert receipt.reasons["fa3-fp8"] == "it needs a CUDA device, not cpu"


def test_high_quality_takes_eight_bits_where_products_have_them(monkeypatch):
    monkeypatch.setattr("longlive_models.runtime.why_not_eight_bits", lambda device: None)
    options = RuntimeOptions(device="cpu", quality="high")
    assert Runtime.choose(options).weights == "fp8"
    assert Runtime.choose(replace(options, weights="nvfp4")).weights == "nvfp4"
    assert Runtime.choose(replace(options, quality="lossless")).weights == "fp32"


def test_an_attention_that_cannot_run_is_refused():
    with pytest.raises(BackendUnavailable, match="no backend 'magic'"):
        Runtime.choose(RuntimeOptions(device="cpu", attention="magic")).receipt(16)


@pytest.mark.parametrize(
    ("backend", "kv_cache", "reads"),
    [
        ("fa3-fp8", "bf16", True),
        ("fa3-fp8", "nvfp4", False),
        ("fa3-fp8", "fp8", False),
        ("fa3", "bf16", False),
        ("fa3-fp8-smooth", "bf16", False),
    ],
)
def test_windows_in_eight_bits_are_for_attention_in_eight_bits_over_plain_pages(
    monkeypatch, backend, kv_cache, reads
):
    receipt = Receipt(
        operation="attention", requested="auto", backend=backend, device="cuda", reasons={}
    )
    monkeypatch.setattr(Runtime, "receipt", lambda self, head_dim: receipt)
    options = RuntimeOptions(device="cpu", quality="high", kv_cache=kv_cache)
    assert Runtime.choose(options).reads_windows(128) is reads


def test_a_cpu_reads_no_windows():
    assert not Runtime.choose(RuntimeOptions(device="cpu", quality="high")).reads_windows(128)
