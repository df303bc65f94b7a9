"""The optimizers that a config names: AdamW, fused where the device has it, or with 8-bit states.

On disk AdamW's states are ``exp_avg`` and ``exp_avg_sq`` in float32, or, of 8-bit states, their
codes and scales (``exp_avg.codes``, ``exp_avg.scale``), so that a run goes on exactly. Either kind
is read by either optimizer, whatever wrote it.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from longlive_recipes.training.eight_bit import AVERAGES, CODES, SCALE, decoded, eight_bit_adamw
from longlive_recipes.training.muon import MuonAdamW
from longlive_recipes.training.optimizers import AdamW, select


class PlainAdamW(torch.optim.AdamW):
    """torch's AdamW, which reads states of 8 bits, too, and computes as it was made to.

    torch's own takes over how the optimizer computed that wrote a state.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a stored state, whatever kind of AdamW wrote it."""
        kept = {name: self.defaults[name] for name in ("foreach", "fused")}
        values = {number: _plain(one) for number, one in state_dict["state"].items()}
        groups = [{**group, **kept} for group in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "state": values, "param_groups": groups})


class FusedAdamW(PlainAdamW):
    """AdamW as one kernel, whose gradients Lightning may cut.

    torch marks fused optimizers as ones that take the scale off float16's gradients themselves, and
    Lightning then cuts none. Without such a scale there is nothing to take off.
    """

    def __init__(self, parameters: list[Tensor], **numbers: Any) -> None:
        super().__init__(parameters, fused=True, **numbers)
        self._step_supports_amp_scaling = False


def check_states(config: AdamW, ranks: int = 1) -> None:
    """Raise ValueError where 8-bit states are asked for and cannot be had."""
    if config.states != "8bit":
        return
    if ranks > 1:
        raise ValueError(
            f"optimization.states=8bit is for one rank, and the run has {ranks}: what a rank has "
            f"of a state is no whole block of 256 numbers. Leave it out for states in float32."
        )
    if find_spec("torchao") is None:
        raise ValueError(
            "optimization.states=8bit needs torchao, which is not installed: pip install "
            '"longlive[eight-bit]", or leave it out for states in float32.'
        )


def matrices_of(config: AdamW, parameters: Mapping[str, Tensor]) -> list[str]:
    """The names of the parameters that Muon moves: those that are chosen and are no vectors.

    Raises:
        ValueError: none of the parameters has a name that ``muon`` chooses.
    """
    chosen = select(parameters, config.muon, "muon") if config.muon else []
    return [name for name in chosen if parameters[name].ndim > 1]


def make_optimizer(
    config: AdamW, parameters: Mapping[str, nn.Parameter], *, fused: bool
) -> torch.optim.Optimizer:
    """The optimizer of these parameters.

    Args:
        fused: take one kernel for all of AdamW, where it has one.

    Raises:
        ValueError: a parameter is no float32, or torchao is missing.
    """
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"{name} is trained and is {parameter.dtype}: a small update of a weight would be "
                f"rounded away. Keep weights in float32, and compute in run.precision=bf16-mixed."
            )
    trained: list[Tensor] = list(parameters.values())
    rate, betas, decay = config.learning_rate, config.betas, config.weight_decay
    matrices: list[Tensor] = [parameters[name] for name in matrices_of(config, parameters)]
    if matrices:
        return MuonAdamW(
            trained,
            matrices,
            rate=config.muon_rate,
            lr=rate,
            betas=betas,
            weight_decay=decay,
            foreach=True,
        )
    if config.states == "8bit":
        check_states(config)
        return eight_bit_adamw(trained, lr=rate, betas=betas, weight_decay=decay)
    if fused:
        return FusedAdamW(trained, lr=rate, betas=betas, weight_decay=decay)
    return PlainAdamW(trained, lr=rate, betas=betas, weight_decay=decay, foreach=True)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's state with numbers in place of codes."""
    if not any(name.endswith(CODES) for name in values):
        return dict(values)
    plain = {name: value for name, value in values.items() if not name.endswith((CODES, SCALE))}
    for name in AVERAGES:
        if name + CODES in values:
            signed = name == AVERAGES[0]
            plain[name] = decoded(values[name + CODES], values[name + SCALE], signed=signed)
    return plain
