"""A training run of two ranks in which one fails at its second step, as a user's script starts it.

Run with: folder of a run and its VAE, "raise" or "kill", the rank that fails, and what the other
does meanwhile: "train" (it waits in a collective), or "sleep" (it hears of nothing).
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from torch import Tensor

from longlive_recipes.train_ar import TrainARModule
from longlive_recipes.training.fit import fit
from tests.recipes.on_ranks import shared_config


class FailingModule(TrainARModule):
    def training_step(self, step: int) -> dict[str, Tensor]:
        _, _, how, who, meanwhile = sys.argv
        if step == 1 and self.ranks.world.rank == int(who):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("this rank went wrong")
        if step == 1 and meanwhile == "sleep":
            time.sleep(600)
        return super().training_step(step)


if __name__ == "__main__":
    config = shared_config(sys.argv[1], data=2)
    fit(FailingModule(config), config.run, config, parallel=config.parallel)
