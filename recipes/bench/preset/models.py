"""The models that a preset names: their sizes, and pipelines whose weights are on the device."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core.backends import Request
from longlive_core.fused import NORM
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import unfilled
from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.loading import ALONE
from longlive_models.published import LONGLIVE_5B
from longlive_models.runtime import Runtime
from longlive_models.settings import GenerationSettings, ModelSpec
from longlive_models.text import UMT5_XXL, UMT5Config
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import WanConfig, WanTransformer
from longlive_recipes.bench.preset.decoding import plain_decoding
from longlive_recipes.bench.preset.earlier_worker import random_weights_

TINY = ModelSpec(
    transformer=WanConfig(
        dim=64,
        ffn_dim=128,
        num_heads=2,
        num_layers=2,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        text_len=8,
        freq_dim=16,
        frames_per_block=2,
    ),
    vae=VAEConfig(
        encoder_dim=8,
        decoder_dim=8,
        latent_channels=4,
        dim_mult=(1, 1, 1),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        latent_mean=(0.1, -0.2, 0.3, 0.0),
        latent_std=(0.5, 1.5, 1.0, 0.7),
    ),
    settings=GenerationSettings(height=32, width=32, fps=8, steps=3, window=3),
)
"""Small enough for a test of everything that a preset measures."""

TINY_TEXT = UMT5Config(
    vocab_size=32, dim=16, dim_attn=16, dim_ffn=16, num_heads=2, num_layers=1, text_len=8
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model to be measured.

    Attributes:
        name: what the preset is called.
        spec: the sizes of its parts, and its settings.
        folder: the name or folder of a model with weights; None for random ones.
        text: the text encoder that goes with random weights.
        side: rows and columns of the products that say what the device can do.
        copied: bytes of the copy that says so.
    """

    name: str
    spec: ModelSpec
    folder: str | None = None
    text: UMT5Config | None = None
    side: int = 8192
    copied: int = 2**32

    @property
    def tokens(self) -> int:
        """The tokens of a block."""
        wan = self.spec.transformer
        return wan.frames_per_block * wan.tokens_per_frame(*self.spec.latent_size)


def preset_of(name: str, device: torch.device) -> Preset:
    """The preset of this name; on a CPU the products and the copy beside it are small."""
    side, copied = (8192, 2**32) if device.type == "cuda" else (256, 2**20)
    if name == "pocket":
        spec = read_spec(resolve("pocket"))
        return Preset(name=name, spec=spec, folder="pocket", side=side, copied=copied)
    spec, text = (LONGLIVE_5B, UMT5_XXL) if name == "5b" else (TINY, TINY_TEXT)
    return Preset(name=name, spec=spec, text=text, side=side, copied=copied)


CONTRAST = 0.65
"""What the last convolution's random weights are times, so that pixels deviate by about 0.4."""


@dataclass(frozen=True)
class NoText:
    """Stands for a text encoder, which is measured by itself."""

    text_len: int
    text_dim: int
    device: torch.device

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "prompts text_len text_dim"]:
        """Features of each prompt, random, and the same for all."""
        drawn = torch.Generator(self.device).manual_seed(5)
        shape = (self.text_len, self.text_dim)
        one = torch.randn(shape, generator=drawn, device=self.device, dtype=torch.float32)
        return one.expand(len(prompts), *shape)


def build(preset: Preset, runtime: Runtime, group: SequenceGroup = ALONE) -> LongLivePipeline:
    """The preset's model as ``runtime`` says. Random weights are drawn on the device, in bf16."""
    if preset.folder is not None:
        return LongLivePipeline.load(preset.folder, runtime, group=group)
    spec = preset.spec
    with unfilled():
        transformer, vae = WanTransformer(spec.transformer), WanVAE(spec.vae)
    random_weights_(transformer, runtime.device, 1)
    random_weights_(vae, runtime.decode_device, 2)
    with torch.no_grad():  # pixels that are seldom clamped, as those of pictures
        cast(Tensor, vae.decoder.head[2].weight).mul_(CONTRAST)
    text = NoText(spec.transformer.text_len, spec.transformer.text_dim, runtime.device)
    return LongLivePipeline(
        transformer, vae, text, settings=spec.settings, runtime=runtime, group=group
    )


def unfuse_(pipe: LongLivePipeline, *, written_out: bool) -> None:
    """Let a pipeline compute the plain path, in place: no fused kernels, a block decoded at once.

    ``written_out`` takes the operations whose order of sums is that of the kernels, where there
    are any; else torch's own.
    """
    weight = pipe.transformer.patch_embedding.weight
    asked = Request(device=weight.device, dtype=weight.dtype)
    usable = NORM.explain(asked)["reference"].startswith("usable")
    fused = "reference" if written_out and usable else "torch"
    pipe.transformer.set_quality(pipe.runtime.quality, fused=fused)
    pipe.vae.decode_with_(plain_decoding(pipe.spec.transformer.frames_per_block))


def with_cache(pipe: LongLivePipeline, kv_cache: str) -> LongLivePipeline:
    """The same pipeline, its parts shared, with another form of cache."""
    other = copy(pipe)
    other.runtime = replace(pipe.runtime, kv_cache=kv_cache)
    return other


def nbytes(module: object) -> int:
    """The bytes of a module's weights; 0 for what has none."""
    if not isinstance(module, nn.Module):
        return 0
    return sum(held.nbytes for held in (*module.parameters(), *module.buffers()))
