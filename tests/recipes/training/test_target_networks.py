"""An average that steps learn from, and that is no part of the model that is written."""

from dataclasses import replace

import torch

from longlive_recipes.training.checkpoint_layout import averages_in
from longlive_recipes.training.fit import fit
from longlive_recipes.training.optimizers import AdamW, AverageOf, OptimizationPlan, TrainedBy
from tests.recipes.student_and_critic import Pair, PairModule
from tests.recipes.tiny_runs import Stopped, assert_same_run, load_last, quiet_run

PLAN = OptimizationPlan(
    optimizers={"all": TrainedBy(adamw=AdamW(learning_rate=0.1))},
    averages={"target": AverageOf(decay=0.5, parameters="student.*", evaluated=False)},
    manual=True,
)


class FollowsItsAverage(PairModule):
    """The student's new outputs are drawn towards those of its average."""

    def training_step(self, step: int) -> dict[str, torch.Tensor]:
        self.before(step)
        x = torch.rand(8, 3, generator=self.choices(step))
        with self.averages["target"].applied(self), torch.no_grad():
            target = self.student(self.base(x))
        with self.update("all") as backward:
            guess = self.student(self.base(x))
            loss = (guess - target - 0.1).square().mean() + self.critic(guess).square().mean()
            backward(loss)
        return {"loss": loss}


def stop(at: int):
    def before(step: int) -> None:
        if step == at:
            raise Stopped

    return before


def test_a_step_learns_from_the_average_and_a_stopped_run_goes_on(tmp_path):
    config = Pair(run=quiet_run(tmp_path / "whole"))
    fit(FollowsItsAverage(config, plan=PLAN), config.run, config)
    kept = load_last(tmp_path / "whole")
    average = averages_in(kept)["target"]["average"]
    assert average.keys() == {"student.weight", "student.bias"}
    assert not torch.equal(average["student.weight"], kept["state_dict"]["student.weight"])

    config = replace(config, run=quiet_run(tmp_path / "stopped"))
    resume = None
    for at in (2, 3, 9, 13):
        try:
            module = FollowsItsAverage(config, stop(at), PLAN)
            fit(module, config.run, config, resume=resume)
        except Stopped:
            resume = str(tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    assert torch.equal(module.student.weight, kept["state_dict"]["student.weight"])
