"""The constants of the NVFP4 number format, and the choices that are part of it."""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from longlive_core.checks import shown, whole
from longlive_core.names import did_you_mean

BLOCK = 16  # neighboring columns that share one block scale

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by magnitude code; bit 3 is the sign
E2M1_MAX = 6.0
E4M3_MAX = 448.0

BlockShape = tuple[int, int]  # rows and columns under one block scale
Rounding = Literal["nearest", "stochastic"]


class ScaleRule(StrEnum):
    """How a block's scale follows from its values.

    ``AMAX_n``: the block's largest magnitude lands on n. ``FOUR_OVER_SIX_*``: it lands on 6 or on
    4, whichever leaves the smaller error (mean squared, mean absolute, or largest absolute); on 4
    the values between 4 and 6, where the grid is coarsest, are not used.
    """

    AMAX_6 = "amax_6"
    AMAX_4 = "amax_4"
    FOUR_OVER_SIX_MSE = "four_over_six_mse"
    FOUR_OVER_SIX_MAE = "four_over_six_mae"
    FOUR_OVER_SIX_ABS_MAX = "four_over_six_abs_max"

    @property
    def row(self) -> "ScaleRuleRow":
        """What distinguishes this rule from the others."""
        return SCALE_RULES[self]

    @property
    def adaptive(self) -> bool:
        """Whether each block chooses between two scales."""
        return self.row.error is not None

    @property
    def target(self) -> float:
        """The E2M1 value on which a block's largest magnitude lands (the first choice)."""
        return self.row.targets[0]

    @property
    def bounds(self) -> tuple[int, ...]:
        """The largest block scales that the rule can be used with, its default first."""
        return self.row.bounds


class BlockError(StrEnum):
    """The error of a block by which an adaptive rule chooses between two scales."""

    MEAN_SQUARED = "mean_squared"
    MEAN_ABSOLUTE = "mean_absolute"
    LARGEST_ABSOLUTE = "largest_absolute"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleRuleRow:
    """A scale rule: a row of ``SCALE_RULES``.

    A further rule is a member of ``ScaleRule`` and a row. One that measures errors in a new way is
    a member of ``BlockError`` too, with a case in ``scale_rules.py`` and in
    ``kernels/arithmetic.py``.

    Attributes:
        number: the rule in files, ``stored_weight.py``; never given to another rule.
        targets: the E2M1 values on which a block's largest magnitude may land: one, or two, of
            which ``error`` chooses, the first where both are as good.
        bounds: the largest block scales that the rule can be used with, its default first.
        error: what chooses between two targets; None where there is one.
        original: the rule's name in LongLive-2.0 (arXiv 2605.18739) and in its checkpoints.
    """

    number: int
    targets: tuple[float, ...]
    bounds: tuple[int, ...]
    error: BlockError | None
    original: str


SCALE_RULES: Mapping[ScaleRule, ScaleRuleRow] = {
    ScaleRule.AMAX_6: ScaleRuleRow(
        number=0, targets=(6.0,), bounds=(448,), error=None, original="static_6"
    ),
    ScaleRule.AMAX_4: ScaleRuleRow(
        number=1, targets=(4.0,), bounds=(448,), error=None, original="static_4"
    ),
    ScaleRule.FOUR_OVER_SIX_MSE: ScaleRuleRow(
        number=2,
        targets=(6.0, 4.0),
        bounds=(256, 448),
        error=BlockError.MEAN_SQUARED,
        original="mse",
    ),
    ScaleRule.FOUR_OVER_SIX_MAE: ScaleRuleRow(
        number=3,
        targets=(6.0, 4.0),
        bounds=(256, 448),
        error=BlockError.MEAN_ABSOLUTE,
        original="mae",
    ),
    ScaleRule.FOUR_OVER_SIX_ABS_MAX: ScaleRuleRow(
        number=4,
        targets=(6.0, 4.0),
        bounds=(256,),
        error=BlockError.LARGEST_ABSOLUTE,
        original="abs_max",
    ),
}
"""What distinguishes the scale rules, by rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeConfig:
    """Everything that decides the bits besides the values themselves; stored with the tensor.

    ``bound`` is the block scale that the tensor's largest magnitude gets: 448 fills E4M3's range,
    256 leaves room for 1.5 times as much (384), which four-over-six needs; None takes the rule's
    default. ``block`` is (1, 16), or (16, 16) for weights whose transpose must hold the same
    values. ``rounding`` is to the nearest value with ties to the even code, or stochastic.
    """

    rule: ScaleRule = ScaleRule.AMAX_6
    bound: int | None = None
    block: BlockShape = (1, BLOCK)
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", find_rule(self.rule))
        if self.bound is None:
            object.__setattr__(self, "bound", self.rule.bounds[0])
        why = "It is the largest block scale. Leave it out to get the rule's default."
        object.__setattr__(self, "bound", whole("QuantizeConfig.bound", self.bound, why=why))
        if self.bound not in self.rule.bounds:
            raise ValueError(
                f"QuantizeConfig(rule={self.rule.value!r}, bound={self.bound}): the largest block "
                f"scale of this rule is {' or '.join(map(str, self.rule.bounds))}. "
                f"Leave bound out to get the rule's default."
            )
        is_pair = isinstance(self.block, tuple) and all(type(side) is int for side in self.block)
        if not is_pair or self.block not in ((1, BLOCK), (BLOCK, BLOCK)):
            raise ValueError(
                f"QuantizeConfig(block={shown(self.block)}): an NVFP4 block is (1, {BLOCK}) or "
                f"({BLOCK}, {BLOCK}), because one scale covers {BLOCK} neighboring columns."
            )
        if self.rounding not in ("nearest", "stochastic"):
            raise ValueError(
                f"QuantizeConfig(rounding={shown(self.rounding)}): use 'nearest', or 'stochastic' "
                f"for gradients."
            )

    @property
    def largest_scale(self) -> int:
        """``bound``, which is never None once the object is made."""
        assert self.bound is not None
        return self.bound

    @property
    def full_scale(self) -> float:
        """Value times block scale of the tensor's largest magnitude: 2688, 1792 or 1536."""
        return self.rule.target * self.largest_scale

    def to_dict(self) -> dict[str, str | int | list[int] | None]:
        """As plain values, for a JSON file; ``from_dict`` reads it back."""
        return {**asdict(self), "rule": self.rule.value, "block": list(self.block)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QuantizeConfig":
        """The inverse of ``to_dict``. Raises for values that it does not know."""
        fields = ("rule", "bound", "block", "rounding")
        if not isinstance(values, Mapping) or set(values) != set(fields):
            raise ValueError(
                f"a quantized format has the fields {', '.join(fields)}, got {shown(values)}. Take "
                f"the config that was written with the weights."
            )
        block = values["block"]
        return cls(
            rule=find_rule(values["rule"]),
            bound=values["bound"],
            block=tuple(block) if isinstance(block, list) else block,
            rounding=values["rounding"],
        )


def config_text(config: QuantizeConfig) -> str:
    """A config as one argument of a custom operation, as in ``"amax_6 448 1x16 nearest"``."""
    rows, cols = config.block
    return f"{config.rule.value} {config.largest_scale} {rows}x{cols} {config.rounding}"


@functools.cache
def config_from_text(text: str) -> QuantizeConfig:
    """The config that ``config_text`` wrote. Raises ``ValueError`` for one that is none."""
    rule, bound, block, rounding = text.split(" ")
    rows, cols = block.split("x")
    return QuantizeConfig.from_dict(
        {
            "rule": rule,
            "bound": int(bound),
            "block": [int(rows), int(cols)],
            "rounding": rounding,
        }
    )


def find_rule(rule: str) -> ScaleRule:
    """The scale rule of this name. Raises ``ValueError`` with the nearest one."""
    if isinstance(rule, ScaleRule):
        return rule
    names = [known.value for known in ScaleRule]
    if not isinstance(rule, str) or rule not in names:
        raise ValueError(
            f"there is no scale rule {shown(rule)}{did_you_mean(rule, names)}The rules: "
            f"{', '.join(names)}."
        )
    return ScaleRule(rule)


def check_format(owner: str, config: object) -> None:
    """Raise ``ValueError`` unless ``config`` is a ``QuantizeConfig``; ``owner`` is its field."""
    if not isinstance(config, QuantizeConfig):
        raise ValueError(
            f"{owner} is a QuantizeConfig, which says how numbers are rounded, got "
            f"{shown(config)}: write QuantizeConfig(rule=...)."
        )
