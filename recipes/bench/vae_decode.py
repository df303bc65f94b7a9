"""How fast the VAE turns blocks of latents into frames."""

import time
from statistics import median

import torch

from longlive_models import LongLivePipeline
from longlive_models.stream import to_frames
from longlive_models.vae import StreamState
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import BenchOptions, Rows
from longlive_recipes.generation.sidecar import peak_memory

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Most difference of a pixel in [-1, 1] between decoding whole and by blocks."""


@torch.no_grad()
def check_vae_decode(pipe: LongLivePipeline, options: BenchOptions) -> str:
    """Decoding block by block through carried state gives what decoding at once gives."""
    blocks = [_latents(pipe, seed) for seed in range(2)]
    first, state = pipe.vae.decode_block(blocks[0])
    second, _ = pipe.vae.decode_block(blocks[1], state)
    whole = pipe.vae.decode(torch.cat(blocks, dim=2))
    worst = (torch.cat([first, second], dim=2) - whole).abs().max().item()
    most = TOLERANCE[whole.dtype]
    require(worst <= most, f"decoding by blocks differs from decoding whole by {worst}")
    return f"by blocks as at once, to {most:g} of a range of 2"


@torch.no_grad()
def measure_vae_decode(pipe: LongLivePipeline, options: BenchOptions) -> Rows:
    """The first block of a video, which gives fewer frames, and any later one."""
    latents = _latents(pipe, 0)
    first, later = [], []
    for _ in range(options.repeats):
        frames_first, state, seconds = _decode(pipe, latents, None)
        first.append(seconds)
        frames_later, _, seconds = _decode(pipe, latents, state)
        later.append(seconds)
    peak = peak_memory(pipe.runtime.decode_device) / 2**20
    return {
        case: {
            "frames": frames,
            "seconds_per_block": median(times),
            "fastest_seconds": min(times),
            "frames_per_second": frames / median(times),
            "peak_memory_mib": peak,
        }
        for case, frames, times in (
            ("first block", frames_first, first),
            ("later block", frames_later, later),
        )
    }


def _decode(
    pipe: LongLivePipeline, latents: torch.Tensor, state: StreamState | None
) -> tuple[int, StreamState, float]:
    began = time.perf_counter()
    video, after = pipe.vae.decode_block(latents, state)
    frames = to_frames(video[0]).cpu()
    return len(frames), after, time.perf_counter() - began


def _latents(pipe: LongLivePipeline, seed: int) -> torch.Tensor:
    """Noise of the size of one block: speed does not depend on what a picture shows."""
    weight = pipe.vae.conv2.weight
    channels, frames = pipe.vae.config.latent_channels, pipe.timing.frames_per_block
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        1,
        channels,
        frames,
        *pipe.spec.latent_size,
        generator=generator,
        dtype=torch.float32,
        device="cpu",
    ).to(weight)
