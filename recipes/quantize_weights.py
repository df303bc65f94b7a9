"""Pack a model's weights in four bits: a model folder in, a smaller one out.

Only the transformer's block linears are packed; the ends of the network, the VAE and the text
encoder stay in bfloat16. Weights are read, rounded and written one after another.

Command:  longlive quantize MODEL -o FOLDER --rule four_over_six_mse --pack time_projection
"""

import difflib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from longlive_core.linear_swap import KEEP, ConversionReport
from longlive_core.nvfp4 import QuantizeConfig, ScaleRule
from longlive_models.hub import resolve
from longlive_models.nvfp4_checkpoint import PackedConfig
from longlive_models.nvfp4_packing import Progress, pack_model_folder, plan_packing
from longlive_models.placement import Placement


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights:
    """What is packed, and how.

    Attributes:
        model: a folder or a hub id; in bfloat16 or float32.
        rule: a scale rule of ``longlive_core.nvfp4.ScaleRule`` for the weights.
        bound: the largest block scale; the rule's own unless given.
        block: "16x16" gives W and its transpose the same values, as training has them.
        activation: the rule that inputs are meant to be rounded by where the model runs in four
            bits throughout; "none" if it is not meant to.
        keep: patterns of further modules that stay as they are.
        pack: modules to pack although they are kept by default.
        device: where weights are rounded.
    """

    model: str
    rule: str = "four_over_six_mse"
    bound: int | None = None
    block: Literal["1x16", "16x16"] = "1x16"
    activation: str = "four_over_six_mse"
    keep: tuple[str, ...] = ()
    pack: tuple[str, ...] = ()
    device: str = "auto"

    @property
    def packed(self) -> PackedConfig:
        """How weights and activations are rounded. Raises ValueError for what NVFP4 has not."""
        height = 16 if self.block == "16x16" else 1
        weight = QuantizeConfig(rule=find_rule(self.rule), bound=self.bound, block=(height, 16))
        if self.activation == "none":
            return PackedConfig(weight=weight)
        activation = QuantizeConfig(rule=find_rule(self.activation))
        return PackedConfig(weight=weight, activation=activation)

    @property
    def kept(self) -> tuple[str, ...]:
        """Patterns of everything that stays as it is."""
        if strangers := [name for name in self.pack if name not in KEEP]:
            raise ValueError(
                f"pack={strangers[0]!r} is not kept by default, so there is nothing to change: "
                f"{', '.join(KEEP)} are."
            )
        return (*(name for name in KEEP if name not in self.pack), *self.keep)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before a weight is read."""

    config: QuantizeWeights
    source: str
    output: str
    device: str
    quantization: dict[str, Any]
    packed: tuple[str, ...]
    kept: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A packed model is in its folder; bytes are the transformer's."""

    folder: Path
    source_sha256: str
    sha256: str
    report: ConversionReport
    seconds: float


def find_rule(name: str) -> ScaleRule:
    """The scale rule of this name. Raises ValueError with the nearest one."""
    names = [rule.value for rule in ScaleRule]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no scale rule {name!r}; {hint}The rules: {', '.join(names)}.")
    return ScaleRule(name)


def plan(config: QuantizeWeights, output: Path) -> Plan:
    """Check everything that can be checked without reading weights.

    Raises:
        ValueError: an unknown model, rule or pattern, a model that is packed already, an output
            that exists.
    """
    packed = config.packed
    source = resolve(config.model)
    if output.exists():
        raise ValueError(f"{output} exists: name another folder with --output, or remove it.")
    chosen = plan_packing(source, config.kept)
    return Plan(
        config=config,
        source=str(source),
        output=str(output),
        device=str(Placement.choose(config.device).device),
        quantization=packed.to_dict(),
        packed=chosen.swapped,
        kept=dict(chosen.kept),
    )


def run(config: QuantizeWeights, output: Path, *, progress: Progress | None = None) -> Result:
    """Pack the model. Raises ValueError for whatever ``plan`` refuses."""
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
