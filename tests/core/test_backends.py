"""A named backend runs or says why not, auto takes the first that will, and both are on record."""

import pytest
import torch

from longlive_core.attention import attention
from longlive_core.backends import (
    Backend,
    BackendUnavailable,
    Operation,
    Request,
    all_of,
    find_function,
    forward_only,
    needs_compute_capability,
    needs_cuda,
    needs_dtype,
    needs_function,
    needs_head_dim,
)
from longlive_core.float8 import Float8Config, matmul, quantize
from longlive_core.fused import gelu

CPU = Request(device=torch.device("cpu"), dtype=torch.float32, head_dim=64)
GRAD = Request(device=torch.device("cpu"), dtype=torch.float32, head_dim=64, needs_grad=True)


def table(*backends: Backend) -> Operation:
    return Operation("add", backends)


FUSED = Backend(name="fused", run=lambda: "fused", why_not=forward_only)
SLOW = Backend(name="slow", run=lambda: "slow", why_not_auto=lambda request: "it is slow here")
EMULATED = Backend(name="emulated", run=lambda: "emulated", emulates=True)
REFERENCE = Backend(name="reference", run=lambda: "reference")
GPU = Backend(name="gpu", run=lambda: "gpu", why_not=needs_cuda)


def test_auto_takes_the_first_that_is_usable():
    add = table(GPU, FUSED, REFERENCE)
    assert add.select(CPU)() == "fused"
    assert add.select(GRAD)() == "reference"


def test_auto_passes_over_what_asks_for_it_but_a_name_is_obeyed():
    add = table(SLOW, REFERENCE)
    assert add.select(CPU)() == "reference"
    assert add.select(CPU, "slow")() == "slow"
    assert add.explain(CPU)["slow"] == "usable when named: it is slow here"


def test_a_named_backend_never_falls_back():
    with pytest.raises(
        BackendUnavailable,
        match="add cannot use backend 'fused' on cpu: it has no backward, and a gradient is "
        "needed. Pass backend='auto'",
    ):
        table(FUSED, REFERENCE).select(GRAD, "fused")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BackendUnavailable, match="no backend 'fusde'; it has fused, reference"):
        table(FUSED, REFERENCE).select(CPU, "fusde")


def test_strict_refuses_emulation():
    add = table(EMULATED, REFERENCE)
    assert add.select(CPU)() == "emulated"
    assert add.select(CPU, strict=True)() == "reference"
    with pytest.raises(BackendUnavailable, match="strict=True refuses emulation"):
        add.select(CPU, "emulated", strict=True)


def test_auto_with_nothing_left_says_why_of_each():
    with pytest.raises(BackendUnavailable, match="gpu: it needs a CUDA.*emulated: it emulates"):
        table(GPU, EMULATED).select(CPU, strict=True)


def test_a_receipt_names_the_choice_and_every_reason():
    receipt = table(GPU, SLOW, REFERENCE).receipt(CPU)
    assert (receipt.backend, receipt.requested, receipt.device) == ("reference", "auto", "cpu")
    assert list(receipt.reasons) == ["gpu", "slow", "reference"]
    assert str(receipt) == (
        "add: reference on cpu (asked for auto); not gpu: it needs a CUDA device, not cpu; "
        "not slow: usable when named: it is slow here"
    )


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        (needs_cuda, "it needs a CUDA device, not cpu"),
        (needs_compute_capability((9, 0)), "it needs a CUDA device, not cpu"),
        (needs_dtype(torch.bfloat16, torch.float16), "it needs bfloat16 or float16, not float32"),
        (
            needs_head_dim(multiple_of=128, high=256),
            "it needs a head size from 1 to 256 divisible by 128, not 64",
        ),
        (
            needs_head_dim(multiple_of=8, high=32),
            "it needs a head size from 1 to 32 divisible by 8, not 64",
        ),
        (all_of(forward_only, needs_dtype(torch.float32)), None),
        (needs_function("torch", ("torch", "add")), None),
    ],
)
def test_conditions_answer_in_one_sentence(condition, sentence):
    assert condition(CPU) == sentence


def test_the_first_condition_that_fails_speaks():
    asked = []
    late = all_of(needs_cuda, lambda request: asked.append(request))
    assert late(CPU) == "it needs a CUDA device, not cpu"
    assert not asked


def test_a_missing_package_is_a_sentence():
    why = needs_function("flash-attn", ("no_such_module", "f"), ("torch", "no_such_function"))(CPU)
    assert why is not None
    assert why.startswith("it needs the package flash-attn (no_such_module: No module named")
    assert why.endswith("torch has no no_such_function)")


def test_find_function_takes_the_first_place_that_has_it():
    found, failures = find_function(("no_such_module", "f"), ("torch", "add"))
    assert found is torch.add
    assert failures == ()


@pytest.mark.parametrize("quality", ["High", "best"])
def test_an_unknown_quality_is_no_silent_lossless(quality):
    q = torch.randn(1, 4, 2, 8)
    for asked in (
        lambda: Request(device=CPU.device, dtype=torch.float32, quality=quality),
        lambda: attention(q, q, q, quality=quality),
        lambda: gelu(q, encode=True, quality=quality),
        lambda: Float8Config(quality=quality),
        lambda: matmul(quantize(q[0, 0].repeat(16, 2)), quantize(q[0, 0].repeat(16, 2)),
                       quality=quality),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="quality is 'lossless' or 'high', got "):
            asked()


@pytest.mark.parametrize(("found", "usable"), [((8, 9), False), ((9, 0), True), ((10, 0), False)])
def test_compute_capability_has_both_ends(monkeypatch, found, usable):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found)
    request = Request(device=torch.device("cuda", 0), dtype=torch.bfloat16)
    why = needs_compute_capability((9, 0), (9, 0))(request)
    assert (why is None) == usable
    if not usable:
        assert f"this GPU has {found[0]}.{found[1]}" in why
