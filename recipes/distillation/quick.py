"""A student as inference runs it: merged, frozen and in bfloat16, for videos without gradients.

Under autocast, as Lightning sets it, both sides of every product are cast at each pass, weights
too, and none of the fused kernels that inference has are taken. A critic sees several times as many
videos as the student learns from, so most of a step would be the launching of small operations.
"""

import torch

from longlive_models.checkpoints.folder import fill, unfilled
from longlive_models.wan import WanTransformer
from longlive_recipes.configs.distill_dmd import DistillDMD
from longlive_recipes.distillation.adapters import merged_weights


class QuickStudent:
    """A copy of a student in bfloat16, brought up to date when it is asked for.

    Args:
        student: float32, with adapters or without; on the device where it trains.
    """

    def __init__(self, student: WanTransformer) -> None:
        self._student, self._stale = student, True
        with unfilled():
            self._network = WanTransformer(student.config)

    @staticmethod
    def serves(config: DistillDMD) -> bool:
        """Whether a run has one: its weights are float32, and its products bfloat16."""
        wide = not config.in_few_bits and (not config.lora_rank or config.base == "fp32")
        return wide and config.run.precision == "bf16-mixed" and config.parallel.sequence == 1

    def changed(self) -> None:
        """The student has been updated."""
        self._stale = True

    @property
    def network(self) -> WanTransformer:
        """The copy, with the student's weights as they are now."""
        if self._stale:
            now = merged_weights(self._student).items()
            weights = {name: tensor.detach().to(torch.bfloat16) for name, tensor in now}
            fill(self._network, weights, "the student")
            self._network.requires_grad_(False).eval()
            self._stale = False
        return self._network
