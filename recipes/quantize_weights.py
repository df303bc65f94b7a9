"""Packing a model's weights in four bits: reads a model folder and writes a smaller one.

Only the transformer's block linears are packed; the ends of the network, the VAE and the text
encoder stay in bfloat16. Weights are read, rounded and written one after another.

Command:  longlive quantize MODEL -o FOLDER --rule four_over_six_mse --pack time_projection
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longlive_core.module_swap import ConversionReport
from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.nvfp4_packing import Progress, pack_model_folder, plan_packing
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_recipes.configs.quantize_weights import QuantizeWeights as QuantizeWeights
from longlive_recipes.configs.quantize_weights import check_output


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before weights are read."""

    config: QuantizeWeights
    source: str
    output: str
    device: str
    quantization: dict[str, Any]
    packed: tuple[str, ...]
    kept: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of packing a model; sizes in bytes are the transformer's."""

    folder: Path
    source_sha256: str
    sha256: str
    report: ConversionReport
    seconds: float


def plan(config: QuantizeWeights, output: Path) -> Plan:
    """Check everything that can be checked without reading weights.

    Raises:
        ValueError: an unknown model, rule or pattern, a model that is packed already, an output
            that exists.
    """
    packed = config.packed
    source = resolve(config.model)
    check_output(config, output)
    chosen = plan_packing(source, config.kept)
    if not chosen.swapped:
        raise ValueError(
            f"nothing of {source} would be packed: keep={', '.join(config.keep)} names all of it. "
            f"Keep less."
        )
    return Plan(
        config=config,
        source=str(source),
        output=str(output),
        device=str(Runtime.choose(RuntimeOptions(device=config.device)).device),
        quantization=packed.to_dict(),
        packed=chosen.swapped,
        kept=dict(chosen.kept),
    )


def run(config: QuantizeWeights, output: Path, *, progress: Progress | None = None) -> Result:
    """Pack the model. Raises ValueError as ``plan`` does."""
    began = time.perf_counter()
    planned = plan(config, output)
    packed = pack_model_folder(
        Path(planned.source),
        output,
        config.packed,
        keep=config.kept,
        device=torch.device(planned.device),
        progress=progress,
    )
    return Result(
        folder=packed.folder,
        source_sha256=packed.source_sha256,
        sha256=packed.sha256,
        report=packed.report,
        seconds=time.perf_counter() - began,
    )
