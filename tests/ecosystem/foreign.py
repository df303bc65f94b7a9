"""Tiny models of other libraries, random and alike in every run, and what they are called with."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Foreign:
    """A model: how it is made, what it is called with, and which linears one would pick by hand."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    blocks: tuple[str, ...]
    adapted: tuple[str, ...] = ("to_q", "to_v")

    def built(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def run(self, model: nn.Module) -> Tensor:
        return model(**self.inputs(), return_dict=False)[0]

    def error(self, model: nn.Module, plain: nn.Module) -> float:
        """How far a model's answer is from the plain one's, as a part of its norm."""
        with torch.no_grad():
            got, want = self.run(model), self.run(plain)
        return float((got - want).norm() / want.norm())


def _wan() -> nn.Module:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=128,
        num_layers=2,
        rope_max_seq_len=32,
    )


def _ltx() -> nn.Module:
    from diffusers import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=4,
        attention_head_dim=16,
        cross_attention_dim=64,
        num_layers=2,
        caption_channels=32,
    )


def _flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )


def _cogvideox() -> nn.Module:
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=16,
        out_channels=16,
        time_embed_dim=16,
        text_embed_dim=32,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=8,
    )


def _hunyuan() -> nn.Module:
    from diffusers import HunyuanVideoTransformer3DModel

    return HunyuanVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=4,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=32,
        pooled_projection_dim=32,
        rope_axes_dim=(4, 6, 6),
    )


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
    )


def _wan_inputs() -> dict[str, Any]:
    return {
        "hidden_states": drawn(1, 16, 4, 8, 8),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": drawn(1, 7, 32, seed=2),
    }


def _ltx_inputs() -> dict[str, Any]:
    return {
        "hidden_states": drawn(1, 16, 16),
        "encoder_hidden_states": drawn(1, 7, 32, seed=2),
        "timestep": torch.tensor([500]),
        "encoder_attention_mask": torch.ones(1, 7),
        "num_frames": 1,
        "height": 4,
        "width": 4,
    }


def _flux_inputs() -> dict[str, Any]:
    return {
        "hidden_states": drawn(1, 16, 16),
        "encoder_hidden_states": drawn(1, 8, 32, seed=2),
        "pooled_projections": drawn(1, 32, seed=3),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        "txt_ids": torch.zeros(8, 3),
        "guidance": None,
    }


def _cogvideox_inputs() -> dict[str, Any]:
    return {
        "hidden_states": drawn(1, 3, 16, 8, 8),
        "encoder_hidden_states": drawn(1, 8, 32, seed=2),
        "timestep": torch.tensor([500]),
    }


def _hunyuan_inputs() -> dict[str, Any]:
    return {
        "hidden_states": drawn(1, 16, 2, 8, 8),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": drawn(1, 7, 32, seed=2),
        "encoder_attention_mask": torch.ones(1, 7),
        "pooled_projections": drawn(1, 32, seed=3),
        "guidance": torch.tensor([1000.0]),
    }


MODELS = {
    "Wan": Foreign(_wan, _wan_inputs, ("blocks",)),
    "LTX": Foreign(_ltx, _ltx_inputs, ("transformer_blocks",)),
    "Flux": Foreign(_flux, _flux_inputs, ("transformer_blocks", "single_transformer_blocks")),
    "CogVideoX": Foreign(_cogvideox, _cogvideox_inputs, ("transformer_blocks",)),
    "HunyuanVideo": Foreign(
        _hunyuan, _hunyuan_inputs, ("transformer_blocks", "single_transformer_blocks")
    ),
    "Llama": Foreign(
        _llama,
        lambda: {"input_ids": torch.arange(12)[None]},
        ("model.layers",),
        ("q_proj", "v_proj"),
    ),
}
