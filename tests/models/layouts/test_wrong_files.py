"""One file in the place of another: a sentence that says what it is, and nothing is run."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.layouts.fit import require_fit
from longlive_models.layouts.part_files import open_part
from longlive_models.published import TEXT, TOKENIZER, VAE
from tests.models.foreign_files import (
    PACKABLE,
    scaled_fp8,
    text_state,
    transformer_state,
    vae_state,
    write_comfyui,
    write_published,
)
from tests.models.layouts.test_loading import packed


@pytest.fixture
def model(tmp_path) -> Path:
    return write_published(tmp_path / "model").parent


def lora() -> dict[str, torch.Tensor]:
    return {
        "base_model.model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 128),
        "base_model.model.blocks.0.self_attn.q.lora_B.weight": torch.zeros(128, 4),
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_bf16.pt", vae_state, "holds the VAE, and the transformer of Wan2.2 or Long"),
        ("model_bf16.pt", text_state, "holds the text encoder, and the transformer of"),
        ("model_bf16.pt", lora, r"holds a LoRA \(adapters for a model\), and the transformer"),
        ("model_bf16.pt", lambda: {"generator_lora": lora()}, "holds a LoRA"),
        (VAE, transformer_state, "holds the transformer, and the VAE of Wan2.2 or LongLive-2.0"),
        (TEXT, vae_state, "holds the VAE, and the text encoder of Wan2.2"),
        (
            VAE,
            lambda: {"encoder.downsamples.0.residual.2.weight": torch.zeros(4, 4, 3, 3, 3)},
            "holds the VAE of Wan2.1, with 16 latent channels, and the VAE of Wan2.2",
        ),
        (
            "model_bf16.pt",
            lambda: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 3)},
            "holds a transformer of Flux or HunyuanVideo, and the transformer of Wan2.2",
        ),
        (
            "model_bf16.pt",
            lambda: {"model.layers.0.self_attn.q_proj.weight": torch.zeros(3, 3)},
            "holds a language model, and the transformer",
        ),
        (
            "model_bf16.pt",
            lambda: {"fc.weight": torch.zeros(3, 3)},
            r"holds weights of another model \(fc.weight\), and the transformer of",
        ),
        ("model_bf16.pt", dict, "holds no state dict: .* got nothing"),
    ],
)
def test_another_file_in_its_place_is_told(name, content, message, model):
    torch.save(content(), model / name)
    with pytest.raises(ValueError, match=message):
        read_spec(model)


def test_another_file_is_told_before_the_files_that_lack_beside_it(tmp_path):
    """Who names an adapter as the model is not sent to fetch the rest of a model first."""
    save_file(lora(), tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match=r"mine.safetensors holds a LoRA .* this file with --lora"):
        read_spec(tmp_path / "mine.safetensors")


class Code:
    """An object whose pickle would write a file where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("as_archive", [True, False])
def test_a_pickle_with_code_runs_none_of_it(as_archive, model, tmp_path):
    mark, file = tmp_path / "ran", model / "model_bf16.pt"
    content = {"generator": Code(mark)}
    if as_archive:
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="without running code .* Nothing of it was run"):
        read_spec(model)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model_bf16.pt", VAE, TEXT])
def test_a_file_that_was_cut_is_told(name, model):
    data = (model / name).read_bytes()
    (model / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"{name} is not whole: .* Fetch it again"):
        read_spec(model)


def test_a_gguf_file_that_was_cut_or_is_none_is_told(tmp_path):
    pytest.importorskip("gguf", reason="gguf is not installed")
    path = tmp_path / "wan.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + b"\5" * 40)
    with pytest.raises(ValueError, match="wan.gguf cannot be read as GGUF"):
        open_part(path, "transformer")
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="is no GGUF file"):
        open_part(path, "transformer")


def changed(model: Path, change) -> None:
    state = {f"model.{k}": v for k, v in change(transformer_state()).items()}
    torch.save({"generator": state}, model / "model_bf16.pt")


def without(*names: str):
    return lambda state: {k: v for k, v in state.items() if not k.startswith(names)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("blocks.0.ffn.2.weight", "blocks.1.ffn.2.weight"),
            r"2 missing: blocks.\*.ffn.2.weight \(2 times\)\): it was saved in part",
        ),
        (
            lambda s: {
                k: v for k, v in s.items() if not k.endswith(".bias") or "ffn.0" in k or "head" in k
            },
            "missing: .*: biases were left out",
        ),
        (
            lambda s: s | {"control.weight": torch.zeros(2)},
            "1 unexpected: control.weight.: they are of a branch for control signals",
        ),
        (
            lambda s: s | {"blocks.1.cross_attn.k_img.weight": torch.zeros(2)},
            r"1 unexpected: blocks.\*.cross_attn.k_img.weight.: they are of the image branch of W",
        ),
        (
            lambda s: s | {"freqs": torch.zeros(2, dtype=torch.complex64)},
            "1 unexpected: freqs.: they are tables of positions, which are computed here. Take",
        ),
        (
            lambda s: s | {"other.weight": torch.zeros(2)},
            "1 unexpected: other.weight.: it holds more than this model",
        ),
        (
            lambda s: {k: (100 * v).to(torch.int8) for k, v in s.items()},
            "holds 69 weights as integers .*the first is torch.int8.: a program packed them in a f",
        ),
        (
            lambda s: s | {"blocks.1.ffn.0.weight": torch.zeros(9, 128)},
            r"1 of wrong shapes: blocks.1.ffn.0.weight \[9, 128\] for \[192, 128\]\): it is a "
            "model of the same family",
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed_in_groups_with_the_reason(change, message, model):
    from longlive_models.loading import load_model
    from longlive_models.runtime import Runtime
    from longlive_models.runtime_options import RuntimeOptions

    changed(model, change)
    with pytest.raises(ValueError, match=message):
        load_model(model, Runtime.choose(RuntimeOptions(device="cpu")))


TEXT_CASES = {
    "part of a block": (
        lambda s: {k: v for k, v in s.items() if "blocks.1.ffn" not in k},
        r"3 missing: blocks.\*.ffn.gate.0.weight, .*it was saved in part",
    ),
    "a head": (
        lambda s: s | {"lm_head.weight": torch.zeros(3)},
        "1 unexpected: lm_head.weight.: it holds more than this model",
    ),
    "another width": (
        lambda s: s | {"blocks.0.attn.k.weight": torch.zeros(3, 64)},
        r"1 of wrong shapes: blocks.0.attn.k.weight \[3, 64\] for \[32, 64\]",
    ),
}
VAE_CASES = {
    "a stage lacks": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("decoder.upsamples.1.")},
        r"16 missing: decoder.upsamples.\*.upsamples.\*.residual.0.gamma \(2 times\)",
    ),
    "losses": (
        lambda s: s | {"loss.weight": torch.zeros(2)},
        "1 unexpected: loss.weight.: it holds more than this model",
    ),
    "another width": (
        lambda s: s | {"decoder.middle.0.residual.2.weight": torch.zeros(3, 16, 3, 3, 3)},
        r"residual.2.weight \[3, 16, 3, 3, 3\] for \[16, 16, 3, 3, 3\]",
    ),
}


@pytest.mark.parametrize(
    ("name", "state", "change", "message"),
    [(TEXT, text_state, *case) for case in TEXT_CASES.values()]
    + [(VAE, vae_state, *case) for case in VAE_CASES.values()],
)
def test_weights_of_every_part_are_compared_before_any_is_read(
    name, state, change, message, model, tmp_path
):
    """By what plans a run, what converts a part, and what loads it; the file is named."""
    from longlive_models.loading import load_model
    from longlive_models.runtime import Runtime
    from longlive_models.runtime_options import RuntimeOptions
    from longlive_recipes.convert import Convert
    from longlive_recipes.convert import plan as plan_conversion

    torch.save(change(state()), model / name)
    with pytest.raises(ValueError, match=f"{name} does not hold the weights of this .*{message}"):
        read_spec(model)
    with pytest.raises(ValueError, match=message):
        plan_conversion(Convert(model=str(model), to="longlive"), tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        load_model(model, Runtime.choose(RuntimeOptions(device="cpu")))


def test_whole_blocks_that_lack_are_told_from_parts_of_them():
    own = {f"blocks.{i}.{name}": (2,) for i in range(3) for name in ("a", "b")} | {"head": (2,)}
    for lacking, reason in (
        (("blocks.1.a", "blocks.1.b"), r"blocks.\*.a, blocks.\*.b\): whole blocks lack"),
        (("blocks.1.a", "blocks.2.a"), r"2 missing: blocks.\*.a \(2 times\)\): it was saved in pa"),
        (("head",), "1 missing: head.: it was saved in part"),
    ):
        given = {name: shape for name, shape in own.items() if name not in lacking}
        with pytest.raises(ValueError, match=reason):
            require_fit(given, own, "a file", "model")
    require_fit(own | {"more": (3,)}, own, "a file", "model", more=True)


def test_a_tokenizer_that_lacks_its_file_is_told_before_anything_is_read(model):
    (model / TOKENIZER / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="google/umt5-xxl holds no tokenizer.json"):
        read_spec(model)


def test_a_download_that_was_not_finished_is_told(model):
    from longlive_models.checkpoints.hub import resolve

    (model / "model_bf16.pt").rename(model / "model_bf16.pt.part")
    with pytest.raises(ValueError, match="no model yet, but model_bf16.pt.part: the download"):
        resolve(str(model))


def test_two_models_below_names_of_their_own_are_told(model):
    state = transformer_state()
    both = {f"{one}.model.{k}": v for one in ("student", "critic") for k, v in state.items()}
    torch.save(both, model / "model_bf16.pt")
    message = r"several models at once \(below student.model., critic.model.\), which are to be"
    with pytest.raises(ValueError, match=message):
        read_spec(model)


def test_two_models_in_one_file_are_refused(model):
    changed(model, lambda s: s | {"_orig_mod.head.head.bias": torch.zeros(192)})
    with pytest.raises(ValueError, match="two keys of the checkpoint become 'head.head.bias'"):
        read_spec(model)


def test_packed_weights_of_nobody_are_refused(tmp_path):
    from longlive_core.nvfp4 import CONVENTIONS, quantize

    state = transformer_state()
    weight = quantize(state.pop("blocks.0.ffn.0.weight").float())
    written = CONVENTIONS["modelopt"].write(weight)
    state |= {f"blocks.0.ffn.0.{key}": value for key, value in written.items()}
    save_file(state, tmp_path / "packed.safetensors")
    with pytest.raises(ValueError, match="ModelOpt and ComfyUI share.*--source modelopt"):
        open_part(tmp_path / "packed.safetensors", "transformer")


def test_packed_weights_of_a_kind_that_is_not_known_are_told_with_their_file(tmp_path):
    state = transformer_state()
    state["blocks.0.ffn.0.weight_packed"] = torch.zeros(192, 64, dtype=torch.uint8)
    state["blocks.0.ffn.0.weight_scale"] = torch.zeros(192, 4, dtype=torch.uint8)
    del state["blocks.0.ffn.0.weight"]
    save_file(state, tmp_path / "packed.safetensors")
    with pytest.raises(ValueError, match="packed.safetensors: blocks.0.ffn.0: tensors named weigh"):
        open_part(tmp_path / "packed.safetensors", "transformer")


def test_inputs_that_are_scaled_are_refused(tmp_path):
    path = write_comfyui(tmp_path, packed("comfyui"))
    tensors = load_file(path)
    name = f"model.diffusion_model.{PACKABLE[0]}"
    tensors[f"{name}.pre_quant_scale"] = torch.ones(128)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"pre_quant_scale: each input of that layer is multi"):
        open_part(path, "transformer")


@pytest.mark.parametrize("scales", [torch.uint8, torch.float8_e8m0fnu, torch.float32])
def test_mxfp8_is_refused_by_name(tmp_path, scales):
    """By its marker, and by the type of its scales where nothing else says it."""
    state = scaled_fp8(transformer_state(), newer=True)
    for name in PACKABLE:
        rows, cols = state[f"{name}.weight"].shape
        exponents = torch.full((rows, cols // 32), 120, dtype=torch.uint8)
        state[f"{name}.weight_scale"] = (
            exponents.view(scales) if scales.itemsize == 1 else exponents.to(scales)
        )
        note = b'{"format": "mxfp8"}'
        state[f"{name}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
        if scales == torch.uint8:
            del state[f"{name}.comfy_quant"]
    path = write_comfyui(tmp_path, state)
    with pytest.raises(ValueError, match=r"(in MXFP8|type 'F8_E8M0'), which is not read here: "):
        open_part(path, "transformer")
