"""Memory of a generation by part, from a model's sizes: what is held, and what comes on top.

Weights and cache are exact. What denoising and decoding take on top is counted from the tensors
that are alive at their widest place (a feed-forward layer; a residual block or an upsampling of the
decoder), and checked against measured peaks.
"""

from dataclasses import dataclass, replace

import torch

from longlive_core.block_offload import SLOTS
from longlive_core.kv_cache import PlainCodec
from longlive_core.nvfp4 import QuantizeConfig
from longlive_models.runtime import PRECISIONS, Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.vae.decoding import latents_at_once
from longlive_models.vae.tiles import first_tiled_stage, halo_of, tiles_of
from longlive_recipes.planning.hardware import Hardware
from longlive_recipes.planning.sizes import Convolution, Sizes, decoder_convolutions

_BLOCK = QuantizeConfig().block[1]  # numbers that share a scale

WORKSPACE = 1.1
"""How much more than its tensors a GPU takes: cuDNN's own, and what the allocator rounds up to."""

LIBRARIES = 150 * 2**20
"""Bytes of cuBLAS's workspaces on a GPU: one for each stream."""

ONE_DNN = 1.25
"""How much more than the tensors counted a CPU's decoder holds: partial sums of convolutions."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a model is run, as far as memory and time depend on it.

    Attributes:
        weights, kv_cache: precisions (``longlive_models.choices``).
        steps: denoising steps of a block.
        guidance: whether guidance doubles all passes.
        ranks: GPUs that make one video together.
        decode_apart: whether another GPU decodes.
        image: height and width of a frame in pixels; None for the model's own.
        vae_latents: how many latents are decoded at a time; 0 for what their size allows.
        vae_tiles: into how many strips the decoder cuts a frame.
        offload: whether the transformer's blocks wait in the host's memory.
        text_encoder: where the text encoder is: "device", "offload" or "cpu".
        videos: how many videos are open at a time, each with its own past.
        beside: whether a block is decoded while the next one is denoised, or in turn with it.
        quality: a name of ``longlive_models.choices.QUALITIES``.
    """

    weights: str
    kv_cache: str
    steps: int
    guidance: bool
    ranks: int = 1
    decode_apart: bool = False
    image: tuple[int, int] | None = None
    vae_latents: int = 0
    vae_tiles: int = 1
    offload: bool = False
    text_encoder: str = "device"
    videos: int = 1
    beside: bool = True
    quality: str = "lossless"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by part on one device, and in the host's memory beside it.

    ``denoising`` and ``decoding`` are what comes on top of what is held, at its most; they add up
    where a block is decoded ``beside`` the denoising of the next one on the same device, and
    ``fragments`` are what torch's allocator then holds and cannot hand out. A text encoder that
    visits the device does so before a block is denoised. ``host`` are the weights that wait on the
    host, page-locked ones alone: others are mapped from their files.
    """

    transformer: int
    text_encoder: int
    vae: int
    cache: int
    text: int
    decoder_state: int
    denoising: int
    decoding: int
    libraries: int = 0
    fragments: int = 0
    host: int = 0
    beside: bool = True

    @property
    def held(self) -> int:
        """What is held between two blocks."""
        held = self.transformer + self.text_encoder + self.vae + self.cache
        return held + self.text + self.decoder_state + self.libraries

    @property
    def peak(self) -> int:
        """The most that tensors take at any time, and libraries."""
        if self.beside:
            return self.held + self.denoising + self.decoding
        return self.held + max(self.denoising, self.decoding)

    @property
    def needed(self) -> int:
        """What a device has to have for it: the peak, and what the allocator loses in fragments."""
        return self.peak + self.fragments

    def parts(self) -> dict[str, int]:
        """The parts by the names that people read, ``needed`` in all; those of nothing are left
        out."""
        names = {
            "transformer": self.transformer,
            "text encoder": self.text_encoder,
            "VAE": self.vae,
            "keys and values": self.cache,
            "the prompt's keys": self.text,
            "the decoder's past": self.decoder_state,
        }
        if self.beside:
            names |= {"denoising, at most": self.denoising, "decoding, at most": self.decoding}
        else:
            both = max(self.denoising, self.decoding)
            names |= {"denoising or decoding": both}
        names["workspaces of libraries"] = self.libraries
        names["fragments"] = self.fragments
        return {name: count for name, count in names.items() if count}


def memory_of(sizes: Sizes, choice: Choice, hardware: Hardware) -> Memory:
    """The memory of the device that denoises: the first of ``choice.ranks``.

    Args:
        sizes: the model's.
        choice: how it is run.
        hardware: the device, of which it matters whether it is a GPU.
    """
    sized = resized(sizes, choice)
    spec, wan = sized.spec, sized.spec.transformer
    options = RuntimeOptions(device="cpu", weights=choice.weights, kv_cache=choice.kv_cache)
    codec = replace(Runtime.choose(options), device=_device(hardware)).codec()
    compute = computed_bytes(choice.weights, hardware)
    samples = 2 if choice.guidance else 1
    layout = spec.cache_layout(samples)
    shared = replace(layout, heads=-(-layout.heads // choice.ranks))
    tokens = samples * -(-sized.tokens // choice.ranks)
    decodes = not choice.decode_apart
    history = decoder_state(sized) * compute if decodes else 0
    weights = transformer_bytes(sized, choice.weights, hardware)
    waiting = 0
    if choice.offload:
        waiting = blocks_bytes(sized, choice.weights, hardware)
        weights -= waiting - min(SLOTS, wan.num_layers) * waiting // wan.num_layers
    text = {"device": sized.text * compute}.get(choice.text_encoder, 0)
    denoising = _denoising(sized, choice, tokens, compute, hardware)
    if choice.text_encoder == "offload":
        denoising = max(denoising, _encoding(sized, compute, hardware))
    windows = eight_bits(choice, hardware) and isinstance(codec, PlainCodec)
    taken = shared.bytes(codec, spec.settings.policy.capacity, windows=windows)
    pages = taken.total - taken.windows
    beside = choice.beside and decodes and hardware.gpu
    keys = 2 * samples * sized.text_length * wan.dim * wan.num_layers * compute
    return Memory(
        transformer=weights,
        text_encoder=text,
        vae=sized.vae * compute if decodes else 0,
        cache=choice.videos * pages + taken.windows,  # windows are of the block that is made
        text=choice.videos * keys,
        decoder_state=choice.videos * history,
        denoising=denoising,
        decoding=_decoding(sized, choice, compute, hardware) if decodes else 0,
        libraries=LIBRARIES if hardware.gpu else 0,
        fragments=_fragments(sized, choice, compute, hardware) if beside else 0,
        host=waiting if hardware.gpu else 0,
        beside=choice.beside,
    )


def eight_bits(choice: Choice, hardware: Hardware) -> bool:
    """Whether attention is of eight bits."""
    return choice.quality == "high" and hardware.fp8_attention


def resized(sizes: Sizes, choice: Choice) -> Sizes:
    """The sizes with frames of ``choice.image``. Raises ValueError for what cannot be divided."""
    if choice.image is None:
        return sizes
    height, width = choice.image
    settings = replace(sizes.spec.settings, height=height, width=width)
    return replace(sizes, spec=replace(sizes.spec, settings=settings))


def computed_bytes(weights: str, hardware: Hardware) -> int:
    """Bytes of a number that is computed with: of float32 or bfloat16."""
    return 2 if hardware.gpu and weights != "fp32" else 4


def transformer_bytes(sizes: Sizes, weights: str, hardware: Hardware) -> int:
    """The bytes of the transformer's weights.

    Four bits take half a byte a number and a byte for each block of 16; eight bits a byte, and four
    for each row, which are left out.
    """
    outside = sizes.rest - sizes.block_rest
    number = computed_bytes(weights, hardware)
    return blocks_bytes(sizes, weights, hardware) + outside * number


def blocks_bytes(sizes: Sizes, weights: str, hardware: Hardware) -> int:
    """The bytes of the weights of the transformer's blocks."""
    number = computed_bytes(weights, hardware)
    packed = {"fp8": 1.0, "nvfp4": 0.5 + 1 / _BLOCK, "nvfp4-w4a4": 0.5 + 1 / _BLOCK}
    each = packed.get(weights, float(number))
    return int(sizes.block_linears * each) + sizes.block_rest * number


def decoder_state(sizes: Sizes) -> int:
    """How many numbers the decoder keeps from call to call: two frames before each convolution."""
    rows, columns = sizes.spec.latent_size
    return sum(
        2 * one.channels * rows * columns * one.scale**2
        for one in decoder_convolutions(sizes.spec.vae)
        if one.past
    )


def _encoding(sizes: Sizes, compute: int, hardware: Hardware) -> int:
    """The most that a text encoder takes whose layers visit the device.

    Two of them, and beside them the features of a prompt, which are small.
    """
    table = 0 if sizes.text_table else sizes.text - sizes.text_layer
    taken = (SLOTS * sizes.text_layer + table) * compute
    return int(taken * (WORKSPACE if hardware.gpu else 1.0))


def _decoding(sizes: Sizes, choice: Choice, compute: int, hardware: Hardware) -> int:
    """The most that decoding takes beside its state, which is let go of layer by layer.

    The last stages may run on strips, beside their whole input. What a strip sees of the state is
    copied, and seams of it that the next strip needs are put aside.
    """
    vae, (rows, columns) = sizes.spec.vae, sizes.spec.latent_size
    block = sizes.spec.transformer.frames_per_block
    at_once = decoded_at_once(sizes, choice, hardware)
    tiled, share, before = len(vae.dim_mult) + 1, 1.0, 0
    if choice.vae_tiles > 1:
        tiled = first_tiled_stage(vae)
        share = strips_share(sizes, choice.vae_tiles)
        stage = [one for one in decoder_convolutions(vae) if one.stage == tiled][0]
        before = stage.channels * stage.frames * stage.scale**2 * at_once
        kept = sum(
            2 * one.channels * one.scale**2
            for one in decoder_convolutions(vae)
            if one.past and one.stage >= tiled
        )
        before += int(kept * min(1.0, halo_of(vae) / strips_length(sizes)))
    widest = 0.0
    for one in decoder_convolutions(vae):
        past = 2 * one.channels * one.scale**2 if one.past else 0
        taken: float = _alive(one) * one.frames * one.scale**2 * at_once + past
        if one.stage >= tiled:
            taken = before + share * (taken + past)
        widest = max(widest, taken)
    frames = block * vae.temporal_stride * vae.patch_channels * vae.spatial_stride**2
    made = rows * columns * frames // vae.patch_size**2  # of the pieces before
    numbers = rows * columns * widest + made
    return int(numbers * compute * (WORKSPACE if hardware.gpu else ONE_DNN))


def _fragments(sizes: Sizes, choice: Choice, compute: int, hardware: Hardware) -> int:
    """What torch's allocator holds and cannot hand out while two streams take from it.

    A stream uses again only what it took itself, and a hole only serves what is no larger. Each
    convolution of the decoder copies its input behind the frames of the past, so two sizes that
    differ by that past come by turns, and denoising's small tensors go into what either leaves.
    The widest such pair is counted. On an H200 of 18 GB, one latent at a time, 3.8 GiB lay idle
    when 1.3 were asked for; this is 2.1, beside a peak that was said 1.0 too high.
    """
    at_once = decoded_at_once(sizes, choice, hardware)
    tiled, share = len(sizes.spec.vae.dim_mult) + 1, 1.0
    if choice.vae_tiles > 1:
        tiled, share = first_tiled_stage(sizes.spec.vae), strips_share(sizes, choice.vae_tiles)
    rows, columns = sizes.spec.latent_size
    widest = max(
        one.channels
        * one.scale**2
        * (2 * one.frames * at_once + 2)
        * (share if one.stage >= tiled else 1.0)
        for one in decoder_convolutions(sizes.spec.vae)
        if one.past
    )
    return int(rows * columns * widest * compute)


def decoded_at_once(sizes: Sizes, choice: Choice, hardware: Hardware) -> int:
    """How many latent frames are decoded at a time."""
    rows, columns = sizes.spec.latent_size
    default = latents_at_once(sizes.spec.vae, rows * columns, gpu=hardware.gpu)
    return min(sizes.spec.transformer.frames_per_block, choice.vae_latents or default)


def strips_share(sizes: Sizes, tiles: int) -> float:
    """The widest strip's share of a frame, what it sees around it included."""
    length = strips_length(sizes)
    widest = max(len(tile.seen) for tile in tiles_of(length, tiles, halo_of(sizes.spec.vae)))
    return widest / length


def strips_length(sizes: Sizes) -> int:
    """Positions along the side of a frame that strips divide, where they begin."""
    return max(sizes.spec.latent_size) * 2 ** first_tiled_stage(sizes.spec.vae)


def _alive(one: Convolution) -> int:
    """Channels that are alive while a convolution runs, at its output's size.

    In a residual block those are its input, which is added again, the convolution's own input after
    the activation, that with the past before it, and its output. An upsampling holds the stage's
    input, its own input, four phases, and both joins of them, all at a quarter of the output.
    """
    if one.inside:
        return 3 * one.channels + one.out
    if one.taps == 4:
        return (2 * one.channels + 12 * one.out) // 4
    return 2 * one.channels + one.out


def _denoising(sizes: Sizes, choice: Choice, tokens: int, compute: int, hardware: Hardware) -> int:
    """The most that a pass over a block takes: in the feed-forward layer, or in attention."""
    wan = sizes.spec.transformer
    feed_forward = 2 * wan.dim + 2 * wan.ffn_dim
    attention = 10 * wan.dim
    taken = tokens * max(feed_forward, attention) * compute
    if choice.weights not in PRECISIONS:  # one weight at a time is decoded, or an input quantized
        taken += wan.dim * wan.ffn_dim * compute
    return int(taken * (WORKSPACE if hardware.gpu else 1.0))


def _device(hardware: Hardware) -> torch.device:
    return torch.device("cuda" if hardware.gpu else "cpu")
