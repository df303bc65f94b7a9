"""From which block on a video's speed is the steady one, told on streams that are made up."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from longlive_models.timing import BlockTiming
from longlive_recipes.bench.generation import measure_generation
from longlive_recipes.bench.options import BenchOptions


def stream_of(window: int) -> SimpleNamespace:
    """A pipeline of this window whose blocks are there at once."""
    timing = BlockTiming(fps=8)

    def stream(prompt, *, seconds, **how):
        blocks = timing.blocks_covering(timing.frames_in(seconds))
        spent = SimpleNamespace(denoise=1.0, decode=0.5)
        frames = [timing.frames(n + 1) - timing.frames(n) for n in range(1, blocks)]
        counts = [timing.frames(1), *frames]
        return nullcontext([SimpleNamespace(frames=range(n), timing=spent) for n in counts])

    return SimpleNamespace(
        timing=timing,
        settings=SimpleNamespace(window=window),
        runtime=SimpleNamespace(device=torch.device("cpu")),
        stream=stream,
    )


@pytest.mark.parametrize(
    ("window", "blocks", "steady"),
    [(4, 6, 3), (4, 4, 3), (4, 3, 1), (2, 3, 1), (1, 3, 1), (8, 2, 1)],
)
def test_speed_is_steady_from_the_first_full_window_or_else_the_second_block(
    window, blocks, steady
):
    pipe = stream_of(window)
    options = BenchOptions(seconds=float(pipe.timing.seconds(blocks)))
    [row] = measure_generation(pipe, options).values()
    assert row["steady_from_block"] == steady
    assert row["frames"] == pipe.timing.frames(blocks)
    assert row["frames_per_second_steady"] > 0
