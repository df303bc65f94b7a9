"""Muon for the matrices of a network, and AdamW for the rest, as one optimizer.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") moves a matrix
by its averaged gradient with all singular values made about equal, which five Newton-Schulz steps
do. Updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982). torch has a Muon
for single matrices; here those of one shape are taken together, which a small network needs: its
steps are otherwise bound by launching kernels.
"""

from collections.abc import Callable, Collection
from typing import Any, cast

import torch
from torch import Tensor

from longlive_recipes.training.parallel import shard_like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5 in a Newton-Schulz step: few steps lead singular values to about 1."""
STEPS = 5
MOMENTUM = 0.95
LIKE_ADAMW = 0.2
"""The root mean square of AdamW's usual update, as a share of its learning rate."""
BUFFER = "momentum_buffer"


class MuonAdamW(torch.optim.AdamW):
    """AdamW that leaves some parameters to Muon.

    Muon's learning rate is ``rate`` where that of the group is the one given here, and follows it
    in proportion. Both decay weights by ``learning rate * weight_decay``. Parameters of more than
    two dimensions (convolutions) are taken as matrices of their first one by all others.

    Args:
        parameters: all that is trained, in one group.
        matrices: those that Muon moves, of two dimensions or more.
        rate: Muon's learning rate; the root mean square of an update is about 0.2 of it.
        lr: AdamW's learning rate.
        rest: as of ``torch.optim.AdamW``.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        matrices: Collection[Tensor],
        *,
        rate: float,
        lr: float,
        **rest: Any,
    ) -> None:
        super().__init__(parameters, lr=lr, **rest)
        self._matrices = {id(matrix) for matrix in matrices}
        self._ratio = rate / lr

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [
                {**group, "params": [p for p in group["params"] if id(p) not in self._matrices]}
                for group in groups
            ]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            matrices = [p for p in group["params"] if id(p) in self._matrices]
            self._move([p for p in matrices if p.grad is not None], group)
        return loss

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Muon's update of some matrices: Nesterov momentum, made orthogonal, scaled."""
        rate = group["lr"] * self._ratio
        alike: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix in matrices:
            alike.setdefault(tuple(matrix.shape), []).append(matrix)
        for shape, some in alike.items():
            towards = torch.stack([whole(self._nesterov(p)).flatten(1) for p in some])
            scale = rate * LIKE_ADAMW * max(towards.shape[1:]) ** 0.5
            for matrix, update in zip(some, orthogonal(towards), strict=True):
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.sub_(shard_like(update.to(matrix.dtype).view(shape), matrix), alpha=scale)

    def _nesterov(self, matrix: Tensor) -> Tensor:
        """The gradient, mixed with the average of those before it."""
        grad, state = cast(Tensor, matrix.grad), self.state[matrix]
        if BUFFER not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state[BUFFER] = torch.zeros_like(matrix)
        state["step"] += 1
        average = state[BUFFER].lerp_(grad.to(matrix.dtype), 1 - MOMENTUM)
        return grad.to(matrix.dtype).lerp(average, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [count, rows, columns] with singular values from about 0.7 to 1.2, in bfloat16.

    Singular vectors stay as they are; a matrix of zeros stays one.
    """
    x = matrices.to(torch.bfloat16)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(STEPS):
        square = x @ x.mT
        square = torch.baddbmm(square, square, square, beta=third, alpha=fifth)
        x = torch.baddbmm(x, square, x, beta=first)
    return x if wide else x.mT
