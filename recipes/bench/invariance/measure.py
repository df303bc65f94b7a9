"""Examine every operation at a preset's sizes, and a block over ranks if that is asked."""

from typing import Any

import torch

from longlive_recipes.bench.invariance import operations
from longlive_recipes.bench.invariance.ranks import compare_ranks
from longlive_recipes.bench.invariance.splits import table_of
from longlive_recipes.bench.options import Table
from longlive_recipes.bench.preset.models import preset_of
from longlive_recipes.bench.preset_options import InvarianceOptions

PARTS = {
    "Products, by rows": operations.products,
    "Between products, by rows": operations.elementwise,
    "Attention": operations.attentions,
    "The VAE's decoder, by frames": operations.convolutions,
    "The VAE's decoder, whole": operations.decoder,
}


def measure(told: InvarianceOptions, device: torch.device, about: str) -> dict[str, Any]:
    """The record of a preset's invariance."""
    preset = preset_of(told.preset, device)
    parts: dict[str, Table] = {}
    for heading, splits in PARTS.items():
        parts[heading] = table_of(splits(preset, device))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if told.ranks > 1:
        sharing = device.type == "cuda" and torch.cuda.device_count() < told.ranks
        which = f"{told.ranks} ranks that share a GPU" if sharing else f"{told.ranks} ranks"
        parts[f"A block over {which}"] = compare_ranks(told, preset, device.type)
    return {
        "about": about,
        "parts": parts,
        "checked": "bits, by torch.equal; nothing is timed here",
    }
