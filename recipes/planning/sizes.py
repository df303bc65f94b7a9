"""What a model's sizes imply: parameters, the decoder's convolutions, operations. No weights read.

Counted are multiplications and additions of products and convolutions, which take most of the time.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from longlive_core.nvfp4 import QuantizeConfig
from longlive_models.checkpoints.folder import read_weight_shapes
from longlive_models.checkpoints.hub import is_published, resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.published import LONGLIVE_5B, find_files, open_files
from longlive_models.settings import ModelSpec
from longlive_models.text import UMT5_XXL, UMT5Config
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.vae.light import check_light, find_light
from longlive_models.wan import WanConfig
from longlive_models.wan.block import WanBlock

PUBLISHED = "LongLive-2.0-5B"

_LAYER = re.compile(r"(?:.*\.)?(?:layers|blocks?)\.\d+\.")
"""How the names of a text encoder's weights begin that are in a layer, as far as that."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A model's sizes.

    Attributes:
        name: the model's name.
        spec: the configs of its parts, and its settings.
        block_linears: numbers of the transformer that quantization packs.
        rest: other numbers of the transformer.
        block_rest: the part of ``rest`` that is in the transformer's blocks.
        text: numbers of the text encoder.
        text_layer: numbers of the largest of its layers.
        text_table: numbers of its table of tokens, from which rows are looked up.
        text_length: how many tokens of a prompt the transformer sees.
        vae: numbers of the VAE.
    """

    name: str
    spec: ModelSpec
    block_linears: int
    rest: int
    block_rest: int
    text: int
    text_layer: int
    text_table: int
    text_length: int
    vae: int

    @property
    def tokens(self) -> int:
        """The tokens of a block."""
        wan = self.spec.transformer
        return wan.frames_per_block * wan.tokens_per_frame(*self.spec.latent_size)


def sizes_of(model: str = PUBLISHED, *, vae: str = "full", download: bool = False) -> Sizes:
    """The sizes of a model by name or folder; LongLive-2.0-5B needs no files.

    Args:
        model: the model.
        vae: "full", or "light" for the decoder beside it.
        download: fetch files of a hub id that are missing.

    Raises:
        ValueError: there is no such model, or no light decoder beside it.
    """
    known = model == PUBLISHED or model.endswith(f"/{PUBLISHED}")
    if known and not Path(model).exists():
        if vae == "light":
            raise ValueError(
                f"{PUBLISHED} has no light decoder of its own: one is trained beside its files. "
                f"Name the folder of a model that has vae_light/, or use vae='full'."
            )
        return counted(PUBLISHED, LONGLIVE_5B, umt5(UMT5_XXL))
    folder = resolve(model, download=download)
    if is_published(folder):
        opened = open_files(find_files(folder, download=download))
        spec, text = opened.checked_spec(), umt5(opened.text_config)
    else:
        spec, text = read_spec(folder), _numbers(folder / "text_encoder")
    if vae == "light":
        spec = replace(spec, vae=check_light(find_light(folder), spec.vae))
    return counted(model, spec, text)


@dataclass(frozen=True, kw_only=True)
class TextSizes:
    """Numbers of a text encoder: all, those of its largest layer, those of its table of tokens."""

    numbers: int
    layer: int
    table: int = 0


def umt5(config: UMT5Config) -> TextSizes:
    """The numbers of a UMT5 encoder."""
    layer = 4 * config.dim * config.dim_attn + 3 * config.dim * config.dim_ffn
    layer += 2 * config.dim + config.num_buckets * config.num_heads
    table = config.vocab_size * config.dim
    return TextSizes(
        numbers=table + config.num_layers * layer + config.dim, layer=layer, table=table
    )


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
        stage: which of the decoder's stages it is in; -1 before them, their number after.
        inside: whether it stands in a residual block, beside the input that is added again.
    """

    channels: int
    out: int
    taps: int
    scale: int
    frames: int
    stage: int
    past: bool = True
    inside: bool = False


def decoder_convolutions(config: VAEConfig) -> Iterator[Convolution]:
    """The convolutions of a VAE's decoder, in order; see ``longlive_models.vae.decoder``."""
    dims, scale, frames, stage = config.decoder_dims, 1, 1, -1

    def residual(channels: int, out: int) -> Iterator[Convolution]:
        yield Convolution(channels, out, 27, scale, frames, stage, inside=True)
        yield Convolution(out, out, 27, scale, frames, stage, inside=True)
        if channels != out:
            yield Convolution(channels, out, 1, scale, frames, stage, past=False)

    yield Convolution(config.latent_channels, dims[0], 27, scale, frames, stage)
    yield from residual(dims[0], dims[0])
    yield from residual(dims[0], dims[0])
    times = [2 if doubled else 1 for doubled in reversed(config.temporal_downsample)]
    for stage in range(len(config.dim_mult)):
        widths = [dims[stage]] + [dims[stage + 1]] * (config.num_res_blocks + 1)
        for channels, out in zip(widths[:-1], widths[1:], strict=True):
            yield from residual(channels, out)
        if stage < len(times):
            if times[stage] == 2:
                yield Convolution(widths[-1], 2 * widths[-1], 3, scale, frames, stage)
                frames *= 2
            scale *= 2
            yield Convolution(widths[-1], widths[-1], 4, scale, frames, stage, past=False)
    yield Convolution(dims[-1], config.patch_channels, 27, scale, frames, len(config.dim_mult))


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


NO_TEXT = TextSizes(numbers=0, layer=0)
"""The text encoder of a model that is counted without one."""


def counted(name: str, spec: ModelSpec, text: TextSizes = NO_TEXT) -> Sizes:
    """The sizes of a model with these configs and this text encoder."""
    linears = block_linear_parameters(spec.transformer)
    with torch.device("meta"):
        vae = WanVAE(spec.vae)
        block = WanBlock(spec.transformer, 0, attention="auto", masked_attention="auto")
    in_blocks = spec.transformer.num_layers * sum(p.numel() for p in block.parameters())
    return Sizes(
        name=name,
        spec=spec,
        block_linears=linears,
        rest=spec.transformer.parameters - linears,
        block_rest=in_blocks - linears,
        text=text.numbers,
        text_layer=text.layer,
        text_table=text.table,
        text_length=spec.transformer.text_len,
        vae=sum(parameter.numel() for parameter in vae.parameters()),
    )


def _numbers(folder: Path) -> TextSizes:
    """The numbers of the text encoder in a folder, from the headers of its files."""
    layers: dict[str, int] = defaultdict(int)
    whole = table = 0
    for name, shape in read_weight_shapes(folder).items():
        numbers = torch.Size(shape).numel()
        whole += numbers
        if (layer := _LAYER.match(name)) is not None:
            layers[layer[0]] += numbers
        elif name == "shared.weight":  # of UMT5: others look rows up on the device
            table = numbers
    return TextSizes(numbers=whole, layer=max(layers.values(), default=whole), table=table)
