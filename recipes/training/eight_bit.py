"""AdamW with states in 8 bits, by torchao: a quarter of the memory that its two averages take.

A tensor of 4,096 numbers or more, in whole blocks of 256, has a code of 8 bits a number and a scale
a block; smaller ones stay in float32. torchao's learning rate is a tensor, and its states are
tensors of a class of its own; here, as anywhere else, the rate is a number that a schedule sets,
and what is stored are plain tensors.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CODES, SCALE = ".codes", ".scale"
AVERAGES = ("exp_avg", "exp_avg_sq")
"""The averages of gradients, which have a sign, and of their squares, which have none."""


def eight_bit_adamw(
    parameters: list[Tensor], *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """An AdamW whose states are held in 8 bits. torchao has to be there."""
    from torchao.optim import AdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit

    class EightBitAdamW(AdamW8bit):
        """torchao's optimizer, with numbers as learning rates and plain tensors when stored."""

        def __init__(self) -> None:
            super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
            self._rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = float(group["lr"])

        @torch.no_grad()
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            """One update, with the learning rates filled into torchao's tensors."""
            numbers = [group["lr"] for group in self.param_groups]
            for group, rate in zip(self.param_groups, self._rates, strict=True):
                group["lr"] = rate.fill_(group["lr"])
            try:
                return super().step(closure)
            finally:
                for group, number in zip(self.param_groups, numbers, strict=True):
                    group["lr"] = number

        def state_dict(self) -> dict[str, Any]:
            """As AdamW's, with codes and scales in place of what is held in 8 bits."""
            state = super().state_dict()
            packed = {number: _taken_apart(one) for number, one in state["state"].items()}
            return {**state, "state": packed}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Take codes as they are; numbers of a plain AdamW are rounded to 8 bits."""
            trained = [p for group in self.param_groups for p in group["params"]]
            values = {}
            for number, stored in state_dict["state"].items():
                held = dict(stored)
                for place, name in enumerate(AVERAGES):
                    held[name] = self._held(trained[number], stored, name, signed=place == 0)
                values[number] = {
                    name: value for name, value in held.items() if not name.endswith((CODES, SCALE))
                }
            super().load_state_dict({**state_dict, "state": values})

        def _held(self, parameter: Tensor, stored: Any, name: str, *, signed: bool) -> Tensor:
            buffer: Tensor = self._new_buffer(parameter, signed)
            if not isinstance(buffer, OptimState8bit):
                return stored[name]
            if name + CODES in stored:
                buffer.codes.copy_(stored[name + CODES])
                buffer.scale.copy_(stored[name + SCALE])
            else:
                buffer.copy_(stored[name].to(parameter.device, torch.float32))
            return buffer

    def _taken_apart(values: dict[str, Any]) -> dict[str, Any]:
        apart: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, OptimState8bit):
                apart |= {name + CODES: value.codes, name + SCALE: value.scale}
            else:
                apart[name] = value
        return apart

    return EightBitAdamW()


def decoded(codes: Tensor, scale: Tensor, *, signed: bool) -> Tensor:
    """The numbers, float32, that codes of 8 bits and scales of their blocks stand for."""
    from torchao.optim.subclass_8bit import OptimState8bit

    like = OptimState8bit.zeros(codes.shape, signed, codes.numel() // scale.numel(), codes.device)
    held = OptimState8bit(codes, scale, like.qmap, signed, torch.float32)
    numbers: Tensor = held.dequantize(torch.float32)
    return numbers
