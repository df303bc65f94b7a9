"""A model folder in four bits opens like any other, with the values that its codes stand for."""

import torch

from longlive_core.nvfp4 import QuantizeConfig, dequantize, quantize
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import load_part
from longlive_models.checkpoints.nvfp4 import PackedConfig
from longlive_models.checkpoints.nvfp4_packing import pack_model_folder
from tests.models.tiny_pipeline import FPS, write_tiny_folder


def test_a_packed_folder_generates_with_decoded_weights(tmp_path):
    plain = write_tiny_folder(tmp_path / "plain")
    pack_model_folder(plain, tmp_path / "packed", PackedConfig(weight=QuantizeConfig()))
    pipe = LongLivePipeline.from_pretrained(str(tmp_path / "packed"), device="cpu")
    name = "blocks.0.ffn.0"
    original = load_part(plain / "transformer")[1][f"{name}.weight"].float()
    weight = pipe.transformer.get_submodule(name).weight
    assert not torch.equal(weight, original)
    torch.testing.assert_close(weight, dequantize(quantize(original), torch.float32))
    assert pipe("a red circle", seconds=1.0).frames.shape[0] == FPS
