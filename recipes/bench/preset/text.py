"""How long a prompt takes to encode, and what its encoder holds."""

import torch

from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import unfilled
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.text import UMT5TextEncoder
from longlive_recipes.bench.generation import PROMPT
from longlive_recipes.bench.preset.earlier_worker import random_weights_
from longlive_recipes.bench.preset.models import Preset, nbytes
from longlive_recipes.bench.timing import median_seconds

TOKENS = 64
"""Tokens of the prompt that random weights encode: a long sentence."""


@torch.no_grad()
def measure_text(preset: Preset, device: torch.device, repeats: int) -> tuple[float, int]:
    """Seconds of encoding a prompt on the device, and bytes of the encoder's weights there."""
    if preset.text is None:
        assert preset.folder is not None, "a preset has weights or sizes"
        runtime = Runtime.choose(RuntimeOptions(device=str(device)))
        text = LongLivePipeline.load(preset.folder, runtime).text
        return median_seconds(lambda: text.encode([PROMPT]), device, repeats), nbytes(text)
    with unfilled():
        encoder = UMT5TextEncoder(preset.text)
    random_weights_(encoder, device, 3)
    encoder.to(torch.bfloat16 if device.type == "cuda" else torch.float32)
    tokens = min(TOKENS, preset.text.text_len)
    ids = torch.arange(tokens, dtype=torch.int64, device=device)[None] % preset.text.vocab_size
    mask = torch.ones_like(ids, dtype=torch.bool)
    return median_seconds(lambda: encoder(ids, mask), device, repeats), nbytes(encoder)
