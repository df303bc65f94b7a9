"""Round trips through the layouts that are written, and what they cannot hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from longlive_models.adapters import Adapter, convert_adapter, read_adapter, write_adapter
from longlive_models.lora import load_lora
from longlive_models.wan import WanTransformer
from tests.models.adapters.layouts import LAYOUTS, LINEARS, adapter, in_layout, product, tiny_model
from tests.models.tiny_pipeline import SPEC

MODEL = tiny_model()


@settings(max_examples=20)
@given(
    st.sampled_from(["peft", "kohya"]),
    st.integers(1, 4),
    st.floats(0.125, 50),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_written_and_read_again_it_is_the_same(tmp_path_factory, layout, rank, alpha, dtype):
    folder = tmp_path_factory.mktemp("adapter")
    want = adapter(rank=rank, alpha=alpha)
    path = folder if layout == "peft" else folder / "a.safetensors"
    got = read_adapter(write_adapter(want, path, layout=layout, dtype=dtype), MODEL)
    assert got.layout == layout
    for name, pair in want.matrices.items():
        again = got.matrices[name]
        assert torch.equal(again.down, pair.down.to(dtype).float())
        assert torch.equal(again.up, pair.up.to(dtype).float())
        assert again.scale == pytest.approx(pair.scale, rel=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target", ["peft", "kohya"])
def test_every_layout_is_converted_for_a_model_without_memory(layout, target, tmp_path):
    from safetensors.torch import save_file

    want = adapter()
    save_file(in_layout(want, layout), tmp_path / "in.safetensors")
    with torch.device("meta"):
        model = WanTransformer(SPEC.transformer)
    place = tmp_path / ("out" if target == "peft" else "out.safetensors")
    got = read_adapter(
        convert_adapter(tmp_path / "in.safetensors", place, model, layout=target), MODEL
    )
    for name in LINEARS:
        torch.testing.assert_close(product(got, name), product(want, name), rtol=1e-6, atol=1e-5)


def test_peft_and_our_own_loader_read_the_folder(tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is the oracle, and not installed")
    small, large = adapter(rank=2, alpha=4.0, names=LINEARS[:2]), adapter(names=LINEARS[2:])
    both = Adapter(matrices={**small.matrices, **large.matrices})  # ranks 2 and 3, both scaled by 2
    write_adapter(both, tmp_path)
    ours, x = tiny_model(), torch.randn(2, 32)
    load_lora(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path)).base_model.model
    for name in LINEARS:
        want = nn.functional.linear(x, product(both, name).float())
        want = want + MODEL.get_submodule(name)(x)
        torch.testing.assert_close(ours.get_submodule(name)(x), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(theirs.get_submodule(name)(x), want, rtol=1e-4, atol=1e-5)


def test_what_a_layout_cannot_hold_is_refused(tmp_path):
    several = Adapter(
        matrices={
            **adapter(alpha=1.0, names=LINEARS[:1]).matrices,
            **adapter(alpha=9.0, names=LINEARS[1:]).matrices,
        }
    )
    with pytest.raises(ValueError, match="scaled by 2 factors, from 0.333333 to 3, and PEFT's"):
        write_adapter(several, tmp_path / "p")
    write_adapter(several, tmp_path / "k.safetensors", layout="kohya")
    differing = Adapter(matrices={}, differences={"head.head.bias": torch.ones(1)})
    for layout in ("peft", "kohya"):
        with pytest.raises(
            ValueError, match="1 differences of whole parameters, as head.head.bias"
        ):
            write_adapter(differing, tmp_path / "d", layout=layout)
    with pytest.raises(ValueError, match="layout='comfyui' is not written"):
        write_adapter(several, tmp_path / "c", layout="comfyui")
    assert not (tmp_path / "d").exists()
