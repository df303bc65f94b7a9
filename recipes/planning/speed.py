"""Seconds of a generation, from a model's sizes and a device's rates.

The shares of peak rates that are reached were measured on an H200 with LongLive-2.0-5B, each part
by itself (benchmarks/results, 5b_fused_block.json and 5b_vae_pieces.json): a block over a full
window takes 1.06 s in bf16, of which products 0.43, attention 0.55 and the rest 0.08, and decoding
its 8 latents 0.79 s. On one GPU both share it: from block to block it takes most of the sum
(5b_plan.json).
"""

from dataclasses import dataclass

from longlive_models.vae.tiles import halo_of, tiles_of
from longlive_recipes.planning.hardware import GPUS, Hardware
from longlive_recipes.planning.memory import (
    Choice,
    blocks_bytes,
    computed_bytes,
    eight_bits,
    resized,
    strips_length,
)
from longlive_recipes.planning.sizes import Sizes, decoder_operations, transformer_operations

PRODUCTS, ATTENTION = 0.715, 0.695
"""The shares of the peak that products and attention reach."""

CONVOLUTIONS = 0.762
"""The same for the decoder's convolutions."""

SWEEPS = 63.0
"""How often a layer's activations are read or written beside its products."""

DECODER_SHARE = 0.14
"""Seconds of an H200 that decoding 8 latents of 704x1280 takes beside its convolutions; they go
with memory's bandwidth."""

EIGHT_BIT_PRODUCTS, FAST_SUMS, EIGHT_BIT_ATTENTION = 0.62, 0.545, 0.74
"""Seconds of products in eight bits, of those whose sums stay in the tensor cores, and of attention
in eight bits over those in bf16, rounding included."""

LAYER_SECONDS, CONVOLUTION_SECONDS = 2.4e-3, 2.5e-4
"""Seconds that starting a layer's, or a convolution's, operations takes, whatever their size."""

OVERLAP = 0.84
"""Seconds of denoising and decoding on one GPU, over their sum: they overlap a little. Each
takes longer than alone then."""

LOADING = 1.5e9
"""Bytes a second of reading weights from files that are in the system's cache."""

WEIGHT_ONLY = 1.05
"""Seconds of a product with weights in four bits and inputs in bf16, over those in bf16."""

EMULATED = 2.4
"""The same where inputs are in four bits too, and the hardware has none."""

LINK = 0.9
"""The share of a link's rate at which blocks are fetched from page-locked memory."""

MAPPED = 5e9
"""Bytes a second that a GPU fetches from mapped files."""

CPU_SHARE = 0.75
"""The share of a large product's rate that a model reaches on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds of the parts of a generation.

    Attributes:
        loading: reading the weights, once.
        text: encoding a prompt.
        first_block: denoising the first block, and its clean pass.
        block: the same over a full window.
        decoding: decoding a block; like the two before, without anything beside it.
        together: from one block to the next in the steady state, denoised and decoded.
        first_frame: from the prompt to the first frames, the model being loaded.
        frames_per_second: in the steady state.
    """

    loading: float
    text: float
    first_block: float
    block: float
    decoding: float
    together: float
    first_frame: float
    frames_per_second: float


def speed_of(sizes: Sizes, choice: Choice, hardware: Hardware) -> Speed:
    """The seconds of a generation on ``choice.ranks`` such devices."""
    sized = resized(sizes, choice)
    settings, timing = sized.spec.settings, sized.spec.timing
    window = settings.window
    passes = choice.steps + 1
    block = passes * _pass(sized, choice, hardware, window)
    first = passes * _pass(sized, choice, hardware, 1)
    decoding = _decoding(sized, choice, hardware)
    text = _text(sized, choice, hardware)
    both = max(block, decoding) if choice.decode_apart else block + decoding
    if hardware.gpu and choice.beside and not choice.decode_apart:
        both *= OVERLAP
    frames = timing.frames(2) - timing.frames(1)
    return Speed(
        loading=file_bytes(sized, choice.weights) / LOADING,
        text=text,
        first_block=first,
        block=block,
        decoding=decoding,
        together=both,
        first_frame=text + first + decoding,
        frames_per_second=frames / both,
    )


def file_bytes(sizes: Sizes, weights: str) -> int:
    """The bytes of a model's files, with the transformer in four bits or in bf16."""
    linear = 0.5625 if weights.startswith("nvfp4") else 2.0
    return int(sizes.block_linears * linear + 2 * (sizes.rest + sizes.text + sizes.vae))


def _rate(hardware: Hardware, share: float) -> float:
    """Operations a second, where a GPU reaches ``share`` of its peak."""
    return hardware.bf16 * 1e12 * (share if hardware.gpu else CPU_SHARE)


def _pass(sizes: Sizes, choice: Choice, hardware: Hardware, seen: int) -> float:
    """Seconds of one pass over a block, on each of the ranks; guidance makes it of two samples."""
    wan = sizes.spec.transformer
    products, attention = transformer_operations(sizes, seen)
    seconds = products / _rate(hardware, PRODUCTS) * _products_factor(choice, hardware)
    factor = EIGHT_BIT_ATTENTION if eight_bits(choice, hardware) else 1.0
    seconds += attention / _rate(hardware, ATTENTION) * factor
    number = computed_bytes(choice.weights, hardware)
    if hardware.gpu:  # a CPU's share of its rate has this in it
        moved = SWEEPS * sizes.tokens * wan.dim * number * wan.num_layers
        seconds += moved / hardware.bandwidth
    seconds *= (2 if choice.guidance else 1) / choice.ranks
    started = LAYER_SECONDS * wan.num_layers if hardware.gpu else 0.0
    fetched = 0.0
    if choice.offload and hardware.gpu:
        fetched = blocks_bytes(sizes, choice.weights, hardware) / (LINK * hardware.link)
    return max(seconds, started, fetched)


def _text(sizes: Sizes, choice: Choice, hardware: Hardware) -> float:
    """Seconds of encoding a prompt."""
    computer = hardware if choice.text_encoder != "cpu" else GPUS["cpu"]
    seconds = 2.0 * sizes.text * sizes.text_length / _rate(computer, PRODUCTS)
    if choice.text_encoder == "offload" and hardware.gpu:
        seconds += 2.0 * (sizes.text - sizes.text_table) / MAPPED
    return seconds


def _products_factor(choice: Choice, hardware: Hardware) -> float:
    """Seconds of products with the choice's weights, over those in bf16."""
    weights = choice.weights
    if not hardware.gpu or weights == "bf16":
        return 1.0
    if weights == "fp32":
        return 2.0
    if weights == "fp8":
        has = FAST_SUMS if choice.quality == "high" else EIGHT_BIT_PRODUCTS
        return has if hardware.fp8 else EMULATED
    if weights == "nvfp4-w4a4":
        return 0.45 if hardware.fp4 else EMULATED
    return WEIGHT_ONLY


def _decoding(sizes: Sizes, choice: Choice, hardware: Hardware) -> float:
    spec = sizes.spec
    latents = spec.transformer.frames_per_block
    twice = _twice(sizes, choice.vae_tiles)
    operations = decoder_operations(spec) * latents * twice
    if not hardware.gpu:
        return operations / _rate(hardware, CONVOLUTIONS)
    pixels = spec.settings.height * spec.settings.width * spec.vae.decoder_dim
    share = pixels / (704 * 1280 * 256) * latents / 8 * twice
    moved = DECODER_SHARE * share * 4.8e12 / hardware.bandwidth
    seconds = operations / _rate(hardware, CONVOLUTIONS) + moved
    stages = len(spec.vae.dim_mult) * (spec.vae.num_res_blocks + 1) * 2
    return max(seconds, CONVOLUTION_SECONDS * stages)


def _twice(sizes: Sizes, tiles: int) -> float:
    """How much more is computed where strips of a frame see something of their neighbors."""
    length, halo = strips_length(sizes), halo_of(sizes.spec.vae)
    return sum(len(tile.seen) for tile in tiles_of(length, tiles, halo)) / length
