"""The config of quantizing weights, which is checked before torch is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from longlive_core.names import did_you_mean
from longlive_models.checkpoints.hub import EMBEDDED
from longlive_recipes.configs.checked import choice_field
from longlive_recipes.generation.outputs import check_writable

if TYPE_CHECKING:
    from longlive_models.checkpoints.nvfp4 import PackedConfig

RULES = ("amax_6", "amax_4", "four_over_six_mse", "four_over_six_mae", "four_over_six_abs_max")
"""The names of ``longlive_core.nvfp4.ScaleRule``."""

BLOCKS = {"1x16": (1, 16), "16x16": (16, 16)}
"""Rows and columns of the numbers that share a scale, by name."""


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights:
    """The config of quantizing weights. Raises ValueError for an unknown rule.

    Attributes:
        model: a folder or a hub id; in bfloat16 or float32.
        rule: a scale rule of ``longlive_core.nvfp4.ScaleRule`` for the weights.
        bound: the largest block scale; the rule's own by default.
        block: "16x16" gives W and its transpose the same values, as training has them.
        activation: the scale rule for inputs if the model runs in four bits throughout (W4A4);
            "none" if it is not to.
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

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.activation != "none":
            check_rule(self.activation)
        why = "it is what shares a scale: 1x16, or 16x16 as in training."
        choice_field(self, "block", tuple(BLOCKS), why=why)

    @property
    def packed(self) -> "PackedConfig":
        """The formats of weights and activations. Raises ValueError for one that NVFP4 has not."""
        from longlive_core.nvfp4 import QuantizeConfig, ScaleRule
        from longlive_models.checkpoints.nvfp4 import PackedConfig

        block = BLOCKS[self.block]
        weight = QuantizeConfig(rule=ScaleRule(self.rule), bound=self.bound, block=block)
        if self.activation == "none":
            return PackedConfig(weight=weight)
        activation = QuantizeConfig(rule=ScaleRule(self.activation))
        return PackedConfig(weight=weight, activation=activation)

    @property
    def kept(self) -> tuple[str, ...]:
        """Patterns of everything that stays as it is."""
        from longlive_core.module_swap import KEEP

        patterns = [rule for rule in KEEP if isinstance(rule, str)]  # they name all of our ends
        if strangers := [name for name in self.pack if name not in patterns]:
            raise ValueError(
                f"pack={strangers[0]!r} is not kept by default, so there is nothing to change: "
                f"{', '.join(patterns)} are."
            )
        return (*(name for name in patterns if name not in self.pack), *self.keep)


def check_rule(name: str) -> None:
    """Raise ValueError unless ``name`` is a scale rule."""
    if name not in RULES:
        hint = did_you_mean(name, RULES)
        raise ValueError(f"there is no scale rule {name!r}{hint}The rules: {', '.join(RULES)}.")


def check_output(config: QuantizeWeights, output: Path) -> None:
    """Raise ValueError if a new folder cannot be made at ``output``, or lies in the model's."""
    if output.exists() or output.is_symlink():
        raise ValueError(f"{output} exists: name another folder with --output, or remove it.")
    source = EMBEDDED.get(config.model, Path(config.model).expanduser())
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"{output} lies in the model's own folder {source}, and would become a part of it. "
            f"Name another --output."
        )
    check_writable(output, "output")
