"""How fast a video is made, end to end."""

import time
from statistics import median

import torch

from longlive_models import LongLivePipeline
from longlive_models.stream import VideoBlock
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import BenchOptions, Rows
from longlive_recipes.generation.sidecar import peak_memory

PROMPT = "a red circle moves right on a navy background"


def check_generation(pipe: LongLivePipeline, options: BenchOptions) -> str:
    """The same seed gives the same frames, and a longer video starts with a shorter one's."""
    one, two = (pipe.timing.seconds(blocks) for blocks in (1, 2))
    short, again = (pipe(PROMPT, seconds=one, seed=1, steps=1).frames for _ in range(2))
    longer = pipe(PROMPT, seconds=two, seed=1, steps=1).frames
    require(torch.equal(short, again), "the same seed gave other frames")
    require(torch.equal(longer[: len(short)], short), "a longer video starts with other frames")
    return "same seed, same bytes; a longer video starts with the bytes of a shorter one"


def measure_generation(pipe: LongLivePipeline, options: BenchOptions) -> Rows:
    """One video of whole blocks, at least ``options.seconds`` long."""
    timing = pipe.timing
    blocks = max(2, timing.blocks_covering(timing.frames_in(options.seconds)))
    began = time.perf_counter()
    made: list[VideoBlock] = []
    arrived: list[float] = []
    seconds = timing.seconds(blocks)
    with pipe.stream(
        PROMPT, seconds=seconds, seed=7, steps=options.steps, guidance=options.guidance
    ) as stream:
        for block in stream:
            made.append(block)
            arrived.append(time.perf_counter() - began)
    frames = [len(block.frames) for block in made]
    full = pipe.settings.window - 1  # the first block whose window is full
    first = full if 1 <= full < blocks else 1  # the first of the steady state
    steady = sum(frames[first:]) / (arrived[-1] - arrived[first - 1])
    return {
        f"{seconds:.1f} s of video": {
            "frames": sum(frames),
            "seconds_to_first_frame": arrived[0],
            "frames_per_second_steady": steady,
            "frames_per_second_overall": sum(frames) / arrived[-1],
            "steady_from_block": first,
            "denoise_seconds_per_block": median(b.timing.denoise for b in made[first:]),
            "decode_seconds_per_block": median(b.timing.decode for b in made[first:]),
            "peak_memory_mib": peak_memory(pipe.runtime.device) / 2**20,
        }
    }
