"""The operations of a transformer and a VAE at a preset's sizes, each with its things to split."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from longlive_core import float8, fused
from longlive_core.attention import ATTENTION, Request, attention
from longlive_core.float8 import Float8Linear
from longlive_core.fused import Modulation
from longlive_models.vae import DecodeOptions, VAEConfig, WanVAE
from longlive_models.vae.layers import CausalConv3d, ChannelNorm, FrameAttention, TemporalConv3d
from longlive_models.vae.streaming import History, rows
from longlive_models.wan.attention import RMSNorm
from longlive_models.wan.config import WanConfig
from longlive_models.wan.embeddings import modulate
from longlive_models.wan.rope import rotate, rotation
from longlive_recipes.bench.invariance.splits import Split
from longlive_recipes.bench.preset.earlier_worker import random_weights_
from longlive_recipes.bench.preset.models import Preset
from longlive_recipes.planning.sizes import decoder_convolutions

SLOW = ("fa4", "reference")
"""Backends of attention that compile for minutes, or hold all scores."""


def compute_type(device: torch.device) -> torch.dtype:
    """What a pipeline computes in there."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def drawn(device: torch.device, *shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in the type that a pipeline computes in."""
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    return x.to(compute_type(device))


def products(preset: Preset, device: torch.device) -> Iterator[Split]:
    """Each linear's shape, with plain weights and in FP8, by rows."""
    wan, tokens = preset.spec.transformer, preset.tokens
    patch = wan.patch_size[1] * wan.patch_size[2]
    frames = wan.frames_per_block
    shapes = (
        ("attention's projections", wan.dim, wan.dim, tokens),
        ("feed-forward, up", wan.dim, wan.ffn_dim, tokens),
        ("feed-forward, down", wan.ffn_dim, wan.dim, tokens),
        ("patch embedding", wan.in_channels * patch, wan.dim, tokens),
        ("head", wan.dim, wan.out_channels * patch, tokens),
        ("time embedding", wan.freq_dim, wan.dim, frames),
        ("time projection", wan.dim, 6 * wan.dim, frames),
    )
    for name, inner, outer, count in shapes:
        linear = _linear(inner, outer, device)
        yield _by_rows(f"{name}, {inner} to {outer}", linear, drawn(device, count, inner, seed=1))
        if count == tokens and name.startswith(("attention", "feed")):
            packed = Float8Linear.from_linear(linear)
            x = drawn(device, count, inner, seed=1)
            yield _by_rows(f"{name}, {inner} to {outer}, FP8", packed, x)


def elementwise(preset: Preset, device: torch.device) -> Iterator[Split]:
    """Norms, activations, modulation, rotation and rounding, by rows."""
    wan, tokens, dtype = preset.spec.transformer, preset.tokens, compute_type(device)
    x = drawn(device, tokens, wan.dim, seed=1)
    wide = drawn(device, tokens, wan.ffn_dim, seed=1)
    norm = nn.LayerNorm(wan.dim, wan.eps, elementwise_affine=False)
    rms = RMSNorm(wan.dim, wan.eps, dtype=torch.float32).to(device, dtype)
    shift, scale, gate = (drawn(device, 1, 1, 1, wan.dim, seed=seed) for seed in (2, 3, 4))
    yield _by_rows("layer norm", norm, x)
    yield _by_rows("RMS norm", rms, x)
    yield _by_rows("GELU", nn.GELU(approximate="tanh"), wide)
    yield _by_rows("modulation", lambda y: modulate(y[None, None], shift, scale)[0, 0], x)
    yield _by_rows("gate and residual", lambda y: torch.addcmul(y, y, gate[0, 0]), x)
    yield _by_rows("rounding to FP8", lambda y: float8.quantize(y).codes.view(torch.uint8), x)
    yield _rotation(preset, device)
    yield from _fused(preset, device)


def attentions(preset: Preset, device: torch.device) -> Iterator[Split]:
    """Every backend of attention that runs here, by queries and by heads, and over the text."""
    wan, tokens = preset.spec.transformer, preset.tokens
    request = Request(device=device, dtype=compute_type(device), head_dim=wan.head_dim)
    keys = tokens * preset.spec.settings.window
    for backend, standing in ATTENTION.explain(request).items():
        if not standing.startswith("usable") or backend in SLOW:
            continue
        for what, seen in (("window", keys), ("text", wan.text_len)):
            q = drawn(device, 1, tokens, wan.num_heads, wan.head_dim, seed=1)
            k, v = (drawn(device, 1, seen, wan.num_heads, wan.head_dim, seed=s) for s in (2, 3))
            yield from _attention(backend, what, q, k, v)


def convolutions(preset: Preset, device: torch.device) -> Iterator[Split]:
    """Each 3-D convolution of the VAE's decoder, its norms and its attention, by frames."""
    config: VAEConfig = preset.spec.vae
    height, width = preset.spec.latent_size
    latents = preset.spec.transformer.frames_per_block
    seen: set[tuple[int, ...]] = set()
    for conv in decoder_convolutions(config):
        key = (conv.channels, conv.out, conv.taps, conv.scale)
        if conv.taps not in (3, 27) or key in seen:
            continue
        seen.add(key)
        kind: type[nn.Conv3d] = CausalConv3d if conv.taps == 27 else TemporalConv3d
        size = (latents * conv.frames, height * conv.scale, width * conv.scale)
        yield _convolution(kind, conv.channels, conv.out, size, device)
    dim = config.decoder_dims[0]
    for name, layer in (("norm", ChannelNorm(dim)), ("frame attention", FrameAttention(dim))):
        made = layer.to(device, compute_type(device))
        x = _features(device, dim, latents, height, width)
        yield Split(
            name=f"{name}, {dim} channels at {height}x{width}",
            things="frames",
            total=latents,
            compute=_of_frames(made, x),
            dim=2,
        )


def decoder(preset: Preset, device: torch.device) -> Iterator[Split]:
    """The whole decoder of later latents, which are decoded in pieces, one after another."""
    with torch.device("meta"):
        vae = WanVAE(preset.spec.vae)
    random_weights_(vae, device, 2)
    vae.to(compute_type(device)).eval().requires_grad_(False)
    vae.reset_statistics()
    vae.channels_last_()
    latents = preset.spec.transformer.frames_per_block
    shape = (1, preset.spec.vae.latent_channels, latents, *preset.spec.latent_size)
    x = drawn(device, *shape, seed=4)
    _, state = vae.decode_block(x[:, :, :1])

    def compute(start: int, stop: int) -> Tensor:
        """All latents, ``stop - start`` at a time: the frames of those from start to stop."""
        vae.decode_with_(DecodeOptions(latents=stop - start))
        frames, _ = vae.decode_block(x, state)
        return frames.unflatten(2, (latents, -1))[:, :, start:stop]

    yield Split(
        name="the whole decoder, by latents a call",
        things="latents",
        total=latents,
        compute=compute,
        counts=tuple(n for n in (1, 2, 4) if n < latents and latents % n == 0),
        dim=2,
    )


def _linear(inner: int, outer: int, device: torch.device) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(inner, outer, dtype=torch.float32)
    random_weights_(linear, device, 0)
    return linear.to(compute_type(device))


def _by_rows(name: str, run: Callable[[Tensor], Tensor], x: Tensor) -> Split:
    def compute(start: int, stop: int) -> Tensor:
        return run(x[start:stop].clone())

    return Split(name=name, things="rows", total=len(x), compute=compute)


def _rotation(preset: Preset, device: torch.device) -> Split:
    wan: WanConfig = preset.spec.transformer
    height, width = preset.spec.latent_size
    grid = (height // wan.patch_size[1], width // wan.patch_size[2])
    frames = wan.frames_per_block
    x = drawn(device, 1, preset.tokens, wan.num_heads, wan.head_dim, seed=1)
    each = grid[0] * grid[1]

    def compute(start: int, stop: int) -> Tensor:
        positions = torch.arange(start, stop, dtype=torch.float64, device=device)[None]
        turned = rotation(
            positions, grid, wan.head_dim, theta=wan.rope_theta, t_scale=1.0, dtype=torch.float32
        )
        return rotate(x[:, start * each : stop * each].clone(), turned).unflatten(1, (-1, each))

    return Split(name="rotation", things="frames", total=frames, compute=compute, dim=1)


def _fused(preset: Preset, device: torch.device) -> Iterator[Split]:
    """The kernels between products, by frames."""
    wan, frames = preset.spec.transformer, preset.spec.transformer.frames_per_block
    shape = (1, frames, preset.tokens // frames, wan.dim)
    x, y = (drawn(device, *shape, seed=seed) for seed in (1, 2))
    shift, scale, gate = (drawn(device, 1, frames, wan.dim, seed=seed) for seed in (3, 4, 5))
    weight = drawn(device, wan.dim, seed=6)

    def normed(a: int, b: int) -> Tensor:
        after = Modulation(shift[:, a:b], scale[:, a:b])
        made = fused.norm(x[:, a:b].clone(), after, eps=wan.eps)
        assert isinstance(made, Tensor), "rows are not encoded"
        return made

    def added(a: int, b: int) -> Tensor:
        after = Modulation(shift[:, a:b], scale[:, a:b])
        some, more = x[:, a:b].clone(), y[:, a:b].clone()
        made, also = fused.add_norm(some, more, gate[:, a:b], after, eps=wan.eps)
        assert isinstance(also, Tensor), "rows are not encoded"
        return torch.cat((made, also), -1)

    def turned(a: int, b: int) -> Tensor:
        rows_of = x[:, a:b].flatten(1, 2)
        heads = fused.rotate_heads(rows_of, wan.num_heads, weight=weight, eps=wan.eps)
        return heads.unflatten(1, (b - a, -1))

    for name, compute in (
        ("fused norm and modulation", normed),
        ("fused residual, norm and modulation", added),
        ("fused norm of heads", turned),
    ):
        yield Split(name=name, things="frames", total=frames, compute=compute, dim=1)


def _attention(backend: str, what: str, q: Tensor, k: Tensor, v: Tensor) -> Iterator[Split]:
    def queries(start: int, stop: int) -> Tensor:
        return attention(q[:, start:stop].contiguous(), k, v, backend=backend)

    def heads(start: int, stop: int) -> Tensor:
        some = (x[:, :, start:stop].contiguous() for x in (q, k, v))
        return attention(*some, backend=backend)

    name = f"{backend}, {q.shape[1]} x {k.shape[1]} ({what})"
    yield Split(
        name=f"{name}, by queries", things="queries", total=q.shape[1], compute=queries, dim=1
    )
    yield Split(name=f"{name}, by heads", things="heads", total=q.shape[2], compute=heads, dim=2)


def _convolution(
    kind: type[nn.Conv3d],
    channels: int,
    out: int,
    size: tuple[int, int, int],
    device: torch.device,
) -> Split:
    with torch.device("meta"):
        conv = kind(channels, out)  # type: ignore[call-arg]
    random_weights_(conv, device, 0)
    conv.to(compute_type(device))
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
    frames, height, width = size
    x = _features(device, channels, frames + 2, height, width)

    def compute(start: int, stop: int) -> Tensor:
        past, piece = x[:, :, start : start + 2], x[:, :, start + 2 : stop + 2]
        if isinstance(conv, TemporalConv3d):
            return conv(x[:, :, start : stop + 2])
        return conv(piece, History((rows(past).contiguous(),), record=False))

    taps = "x".join(map(str, conv.kernel_size))
    return Split(
        name=f"{taps}, {channels} to {out} at {height}x{width}",
        things="frames",
        total=frames,
        compute=compute,
        dim=2,
    )


def _features(device: torch.device, channels: int, frames: int, height: int, width: int) -> Tensor:
    x = drawn(device, 1, frames, height, width, channels, seed=3)
    return x.permute(0, 4, 1, 2, 3)


def _of_frames(layer: nn.Module, x: Tensor) -> Callable[[int, int], Tensor]:
    def compute(start: int, stop: int) -> Tensor:
        some = x[:, :, start:stop].contiguous(memory_format=torch.channels_last_3d)
        made: Tensor = layer(some)
        return made

    return compute
