"""Two thousand blocks of the smallest model: memory and time per block stay what they were.

In a process of its own, where shapes are not checked: that takes most of the time.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from longlive_models import LongLivePipeline
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.text import PocketTextEncoder
from longlive_models.vae import WanVAE
from longlive_models.wan import WanTransformer
from tests.models.tiny_pipeline import SPEC, TEXT

BLOCKS = 2000
SCRIPT = """
import gc, json, math, statistics, time

import torch

from tests.models.test_long_stream import BLOCKS, smallest_pipeline

torch.set_num_threads(1)
pipe = smallest_pipeline()
plan = pipe.plan("a red circle", seconds=math.inf)

def seconds(generator, block):
    began = time.process_time()
    latents = generator.generate(block, [plan.block(block)]).latents
    took = time.process_time() - began
    assert latents.isfinite().all()
    return took

generator, held = pipe.generator([0], pipe.settings), {}
for block in range(BLOCKS):
    seconds(generator, block)
    if block in (100, BLOCKS - 1):
        gc.collect()
        alive = [x for x in gc.get_objects() if type(x) is torch.Tensor]
        held[block] = (len(alive), sum(x.nbytes for x in alive))
        del alive
fresh = pipe.generator([0], pipe.settings)
for block in range(100):
    seconds(fresh, block)
turns = [(seconds(fresh, 100 + n), seconds(generator, BLOCKS + n)) for n in range(200)]
medians = [statistics.median(times) for times in zip(*turns)]
print(json.dumps([list(held.values()), medians]))
"""


def smallest_pipeline() -> LongLivePipeline:
    sizes = {"dim": 8, "ffn_dim": 8, "num_heads": 1, "num_layers": 1, "frames_per_block": 1}
    return LongLivePipeline(
        WanTransformer(replace(SPEC.transformer, **sizes)),
        WanVAE(SPEC.vae),
        PocketTextEncoder(TEXT),
        settings=replace(SPEC.settings, height=16, width=16, steps=1, guidance=1.0),
        runtime=Runtime.choose(RuntimeOptions(device="cpu")),
    )


def test_two_thousand_blocks():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (early, late), (young, old) = json.loads(done.stdout)
    assert early == late  # tensors, and the bytes in them
    assert old < 1.5 * young  # the processor's time of streams that take turns, block by block
