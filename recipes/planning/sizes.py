"""What a model's sizes imply: parameters, the decoder's convolutions, operations. No weights read.

Counted are multiplications and additions of products and convolutions, which take most of the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from longlive_core.nvfp4 import QuantizeConfig
from longlive_models.checkpoints.folder import read_weight_shapes
from longlive_models.checkpoints.hub import is_published, resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.published import LONGLIVE_5B
from longlive_models.settings import ModelSpec
from longlive_models.text import UMT5_XXL, UMT5Config
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import WanConfig

PUBLISHED = "LongLive-2.0-5B"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A model's sizes.

    Attributes:
        name: the model's name.
        spec: the configs of its parts, and its settings.
        block_linears: numbers of the transformer that quantization packs.
        rest: other numbers of the transformer.
        text: numbers of the text encoder.
        text_length: how many tokens of a prompt the transformer sees.
        vae: numbers of the VAE.
    """

    name: str
    spec: ModelSpec
    block_linears: int
    rest: int
    text: int
    text_length: int
    vae: int

    @property
    def tokens(self) -> int:
        """The tokens of a block."""
        wan = self.spec.transformer
        return wan.frames_per_block * wan.tokens_per_frame(*self.spec.latent_size)


def sizes_of(model: str = PUBLISHED) -> Sizes:
    """The sizes of a model by name or folder; LongLive-2.0-5B needs no files.

    Raises:
        ValueError: there is no such model.
    """
    if model == PUBLISHED or model.endswith(f"/{PUBLISHED}"):
        return counted(PUBLISHED, LONGLIVE_5B, umt5_parameters(UMT5_XXL))
    folder = resolve(model)
    if is_published(folder):
        return counted(PUBLISHED, LONGLIVE_5B, umt5_parameters(UMT5_XXL))
    return counted(model, read_spec(folder), _numbers(folder / "text_encoder"))


def umt5_parameters(config: UMT5Config) -> int:
    """The number of parameters of a UMT5 encoder."""
    layer = 4 * config.dim * config.dim_attn + 3 * config.dim * config.dim_ffn
    layer += 2 * config.dim + config.num_buckets * config.num_heads
    return config.vocab_size * config.dim + config.num_layers * layer + config.dim


def block_linear_parameters(config: WanConfig) -> int:
    """How many numbers of a transformer quantization packs: the matrices of its blocks."""
    block = QuantizeConfig().block[1]
    if config.dim % block or config.ffn_dim % block:
        return 0
    return config.num_layers * (8 * config.dim**2 + 2 * config.dim * config.ffn_dim)


@dataclass(frozen=True)
class Convolution:
    """A convolution of the decoder.

    Attributes:
        channels, out: its channels.
        taps: positions that each output sees.
        scale: how much finer its output is than latents, along a side.
        frames: frames of its output for each latent frame.
        past: whether it keeps frames for the next call, at its input's size.
        inside: whether it stands in a residual block, beside the input that is added again.
    """

    channels: int
    out: int
    taps: int
    scale: int
    frames: int
    past: bool = True
    inside: bool = False


def decoder_convolutions(config: VAEConfig) -> Iterator[Convolution]:
    """The convolutions of a VAE's decoder, in order; see ``longlive_models.vae.decoder``."""
    dims, scale, frames = config.decoder_dims, 1, 1

    def residual(channels: int, out: int) -> Iterator[Convolution]:
        yield Convolution(channels, out, 27, scale, frames, inside=True)
        yield Convolution(out, out, 27, scale, frames, inside=True)
        if channels != out:
            yield Convolution(channels, out, 1, scale, frames, past=False)

    yield Convolution(config.latent_channels, dims[0], 27, scale, frames)
    yield from residual(dims[0], dims[0])
    yield from residual(dims[0], dims[0])
    times = [2 if doubled else 1 for doubled in reversed(config.temporal_downsample)]
    for stage in range(len(config.dim_mult)):
        widths = [dims[stage]] + [dims[stage + 1]] * (config.num_res_blocks + 1)
        for channels, out in zip(widths[:-1], widths[1:], strict=True):
            yield from residual(channels, out)
        if stage < len(times):
            if times[stage] == 2:
                yield Convolution(widths[-1], 2 * widths[-1], 3, scale, frames)
                frames *= 2
            scale *= 2
            yield Convolution(widths[-1], widths[-1], 4, scale, frames, past=False)
    yield Convolution(dims[-1], config.patch_channels, 27, scale, frames)


def decoder_operations(spec: ModelSpec) -> float:
    """Operations of decoding one latent frame."""
    rows, columns = spec.latent_size
    return sum(
        2.0 * one.channels * one.out * one.taps * rows * columns * one.scale**2 * one.frames
        for one in decoder_convolutions(spec.vae)
    )


def transformer_operations(sizes: Sizes, seen: int) -> tuple[float, float]:
    """Operations of one pass over a block that sees ``seen`` blocks: of products, of attention."""
    wan, tokens = sizes.spec.transformer, sizes.tokens
    square = wan.dim * wan.dim
    linears = wan.num_layers * (6 * square + 2 * wan.dim * wan.ffn_dim)
    attended = tokens * seen + sizes.text_length
    return 2.0 * linears * tokens, 4.0 * wan.num_layers * tokens * attended * wan.dim


def counted(name: str, spec: ModelSpec, text: int) -> Sizes:
    """The sizes of a model with these configs, and ``text`` numbers in its text encoder."""
    linears = block_linear_parameters(spec.transformer)
    with torch.device("meta"):
        vae = WanVAE(spec.vae)
    return Sizes(
        name=name,
        spec=spec,
        block_linears=linears,
        rest=spec.transformer.parameters - linears,
        text=text,
        text_length=spec.transformer.text_len,
        vae=sum(parameter.numel() for parameter in vae.parameters()),
    )


def _numbers(folder: Path) -> int:
    shapes = read_weight_shapes(folder).values()
    return sum(torch.Size(shape).numel() for shape in shapes)
