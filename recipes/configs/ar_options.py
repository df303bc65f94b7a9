"""Options of AR training beside its phases: recycled errors, products in few bits, adapters."""

from dataclasses import dataclass
from typing import Any

from longlive_core.checks import shown
from longlive_core.float8 import Float8TrainingConfig
from longlive_core.nvfp4 import TrainingConfig
from longlive_models.lora_config import LoRAConfig
from longlive_models.objectives.error_recycling import ErrorRecycling
from longlive_recipes.configs.checked import real_field, whole_field
from longlive_recipes.configs.idle_fields import refuse_idle
from longlive_recipes.configs.plain_parts import PlainParts

NO_ERRORS = ErrorRecycling(context=0.0, start=0.0, noise=0.0)
"""No errors are added: the model learns from clips as they are."""

PLAIN = TrainingConfig(forward=False, input_gradient=False, weight_gradient=False)
"""None of the linears' products in four bits."""

PLAIN_8 = Float8TrainingConfig(forward=False, input_gradient=False, weight_gradient=False)
"""None of the linears' products in eight bits."""

MOST_RANK = 1 << 14
MOST_PARTS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """LoRA adapters that are trained in place of the weights, beside a base that is frozen.

    Attributes:
        rank: the inner width of an adapter's two matrices; 0 trains the weights themselves.
        alpha: an adapter's output is scaled by ``alpha / rank``.
        dropout: the share of an adapter's inputs that are left out in training.
        targets: the linears that get one, by the ends of their names.
    """

    rank: int = 0
    alpha: float = 128.0
    dropout: float = 0.0
    targets: tuple[str, ...] = LoRAConfig().targets

    def __post_init__(self) -> None:
        whole_field(
            self,
            "rank",
            at_least=0,
            at_most=MOST_RANK,
            why="an adapter's two matrices have so many rows and columns. Use 32, say, or 0 to "
            "train the weights themselves.",
        )
        real_field(
            self,
            "alpha",
            above=0,
            at_most=1e6,
            why="an adapter's output is scaled by alpha / rank. Use the rank, say.",
        )
        real_field(
            self,
            "dropout",
            at_least=0,
            at_most=0.99,
            why="it is the share of an adapter's inputs that are left out. Use 0 for none.",
        )
        targets = self.targets
        if (
            not isinstance(targets, list | tuple)
            or not targets
            or not all(isinstance(one, str) and one for one in targets)
        ):
            raise ValueError(
                f"Adapter.targets are the ends of linears' names, got {targets!r}: they get an "
                f"adapter each. Use q,k,v,o, say."
            )
        object.__setattr__(self, "targets", tuple(targets))
        if not self.rank:
            for name in ("alpha", "dropout", "targets"):
                refuse_idle(
                    self,
                    name,
                    type(self).__dataclass_fields__[name].default,
                    because="it is of adapters, and rank=0 trains the weights themselves",
                    way_out="Set rank",
                )

    @property
    def lora(self) -> LoRAConfig | None:
        """The config of the adapters; None without any."""
        if not self.rank:
            return None
        return LoRAConfig(
            rank=self.rank, alpha=self.alpha, dropout=self.dropout, targets=self.targets
        )


def check_recycling(recycling: ErrorRecycling, levels: int) -> None:
    """Raise ValueError for banks that do not fit a run's schedule, or that ranks would share out.

    Every rank keeps the same errors, so that a run does not depend on how many there are.
    """
    bank = recycling.bank
    if bank.levels != levels or bank.ranks != 1 or bank.rank:
        raise ValueError(
            f"recycling.bank has levels={bank.levels}, rank={bank.rank}, ranks={bank.ranks}: "
            f"training has {levels} noise levels, and every rank keeps the same errors. Leave the "
            f"three out."
        )


def check_products(
    quantized: TrainingConfig, float8: Float8TrainingConfig, *, frozen: bool
) -> None:
    """Raise ValueError for products that cannot be computed so: with both, or of a frozen base."""
    if quantized.quantizes and float8.quantizes:
        raise ValueError(
            "quantized and float8 both say how the linears of the transformer's blocks multiply, "
            "and a product has operands of four bits or of eight. Leave one out."
        )
    for name, config in (("quantized", quantized), ("float8", float8)):
        if frozen and (config.input_gradient or config.weight_gradient):
            raise ValueError(
                f"{name}.input_gradient and {name}.weight_gradient are for weights that are "
                f"trained: beside adapters the base is packed, and its gradient is that of the "
                f"packed weight. Set {name}.forward alone."
            )


def refuse_idle_products(config: Any) -> None:
    """Raise ValueError for settings of products in few bits that none of the products takes."""
    four, eight = config.quantized, config.float8
    if not (four.quantizes or eight.quantizes):
        refuse_idle(
            config,
            "plain",
            PlainParts(),
            because="it says what stays as it is where the rest has products in four or eight bits",
            way_out="Set quantized or float8",
        )
    takes = {
        "activation": four.forward or four.weight_gradient,
        "weight": four.forward or four.input_gradient,
        "gradient": four.input_gradient or four.weight_gradient,
        "hadamard": four.weight_gradient,
    }
    for told, products, plain in (("quantized", four, PLAIN), ("float8", eight, PLAIN_8)):
        used = takes if told == "quantized" else {}
        for name in (*used, "backend", "strict"):
            value = getattr(products, name)
            if value != getattr(plain, name) and not used.get(name, products.quantizes):
                raise ValueError(
                    f"{told}.{name}={shown(value)} changes nothing: of the products forward="
                    f"{products.forward}, input_gradient={products.input_gradient} and "
                    f"weight_gradient={products.weight_gradient} none takes it. Switch one on that "
                    f"does, or leave it at {shown(getattr(plain, name))}."
                )


PLAIN_STEPS: dict[str, Any] = {
    "weighting": "bell",
    "recycling": NO_ERRORS,
    "image_to_video": 0.0,
    "least_blocks": 0,
    "accumulate": 1,
    "adapter": Adapter(),
}
"""The options of AR training, each as it is where nothing is asked of it."""


def refuse_options(config: Any, recipe: str) -> None:
    """Raise ValueError where an objective of its own is given options of AR training alone."""
    for name, plain in PLAIN_STEPS.items():
        if vars(config)[name] != plain:
            raise ValueError(
                f"{name} is an option of AR training, and {recipe} has a loss and a batch of its "
                f"own, which would not follow it. Leave it out."
            )
