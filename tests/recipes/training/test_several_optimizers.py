"""Two optimizers and two averages: a loop by hand has their numbers, and so has a resumed run."""

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from longlive_recipes.training.checkpoint_layout import averages_in, optimizers_in
from longlive_recipes.training.fit import (
    check_run,
    completed_steps,
    find_checkpoint,
    fit,
    load_average,
)
from longlive_recipes.training.module import CHOICES, NOISE, step_seed
from longlive_recipes.training.optimizers import AdamW, TrainedBy
from longlive_recipes.training.schedule import TrainingSchedule
from longlive_recipes.training.sharded_checkpoints import read_checkpoint
from tests.recipes.student_and_critic import (
    CRITIC,
    DECAYS,
    PLAN,
    STEPS,
    STUDENT,
    STUDENT_RATE,
    Pair,
    PairModule,
    critic_loss,
    student_loss,
    train_pair,
    train_pair_on_ranks,
    trains_student,
)
from tests.recipes.tiny_runs import (
    Stopped,
    Toy,
    ToyModule,
    assert_equal,
    assert_same_run,
    column,
    load_last,
    quiet_run,
    run_until_killed,
    stop_at,
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train_pair(folder)
    return folder


class ByHand:
    """The training of the pair in a few lines of torch."""

    def __init__(self, config: Pair) -> None:
        module = PairModule(config)
        self.parts = SimpleNamespace(base=module.base, student=module.student, critic=module.critic)
        self.schedule, self.seed = config.budget, config.seed
        self.optimizers = {
            name: torch.optim.AdamW(
                part.parameters(), lr=0.0, betas=one.betas, weight_decay=one.weight_decay
            )
            for name, one, part in (
                ("student", STUDENT, module.student),
                ("critic", CRITIC, module.critic),
            )
        }
        self.updates = {"student": 0, "critic": 0}
        self.averages = {
            "student": {name: p.detach().clone() for name, p in module.student.named_parameters()},
            "critic_weight": {"weight": module.critic.weight.detach().clone()},
        }
        self.losses: dict[str, list[float]] = {"student_loss": [], "critic_loss": []}

    def step(self, step: int) -> None:
        torch.manual_seed(step_seed(self.seed, step, NOISE))
        choices = torch.Generator().manual_seed(step_seed(self.seed, step, CHOICES))
        x = torch.rand(8, 3, generator=choices) + 0.1 * torch.randn(8, 3)
        if trains_student(step):
            curve = STUDENT_RATE.rate(self.updates["student"], step / STEPS)
            loss = student_loss(self.parts, x)
            self.move("student", STUDENT, curve, [loss])
            self.losses["student_loss"].append(loss.item())
        curve = self.schedule.rate(self.updates["critic"], step / STEPS)
        halves = [critic_loss(self.parts, half) / 2 for half in x.chunk(2)]
        self.move("critic", CRITIC, curve, halves)
        self.losses["critic_loss"].append(sum(half.item() for half in halves))

    def move(self, name: str, adamw: AdamW, curve: float, losses: list) -> None:
        part, optimizer = vars(self.parts)[name], self.optimizers[name]
        for each in vars(self.parts).values():
            each.zero_grad()
        for loss in losses:
            loss.backward()
        nn.utils.clip_grad_norm_(part.parameters(), adamw.max_grad_norm)
        optimizer.param_groups[0]["lr"] = adamw.learning_rate * curve
        optimizer.step()
        self.updates[name] += 1
        average = "student" if name == "student" else "critic_weight"
        count = self.updates[name]
        decay = min(DECAYS[average], (1 + count) / (10 + count))
        for key, kept in self.averages[average].items():
            kept.lerp_(part.get_parameter(key).detach(), 1 - decay)


def test_the_numbers_are_those_of_a_loop_by_hand(whole_run):
    by_hand = ByHand(Pair(run=quiet_run(whole_run)))
    for step in range(STEPS):
        by_hand.step(step)
    assert by_hand.updates == {"student": 2, "critic": 13}
    kept = load_last(whole_run)
    for part in ("student", "critic"):
        for name, parameter in vars(by_hand.parts)[part].named_parameters():
            assert torch.equal(kept["state_dict"][f"{part}.{name}"], parameter), name
    averages = {name: state["average"] for name, state in averages_in(kept).items()}
    expected = {
        average: {f"{average.partition('_')[0]}.{name}": x for name, x in some.items()}
        for average, some in by_hand.averages.items()
    }
    assert averages.keys() == expected.keys()
    for name, some in expected.items():
        assert averages[name].keys() == some.keys()
        for key, tensor in some.items():
            assert torch.allclose(averages[name][key], tensor, rtol=1e-6, atol=1e-7), key
    assert {name: state.updates for name, state in optimizers_in(kept).items()} == by_hand.updates
    assert column(whole_run / "train.csv", "critic_loss") == pytest.approx(
        by_hand.losses["critic_loss"], rel=1e-6
    )


def test_what_a_step_has_not_is_left_out_of_its_row(whole_run):
    header, *rows = (whole_run / "train.csv").read_text().splitlines()
    assert header.split(",") == [
        "step",
        "critic_loss",
        "learning_rate_student",
        "learning_rate_critic",
        "student_loss",
    ]
    assert [bool(row.split(",")[4]) for row in rows] == [trains_student(n) for n in range(STEPS)]
    assert [row.partition(",")[0] for row in rows] == [str(n + 1) for n in range(STEPS)]


def test_a_row_has_the_newest_loss_since_the_row_before(whole_run, tmp_path):
    """The student learns in steps 6 and 11, and rows are of 1, 4, 8, 12 and the last."""
    for name, stops in (("whole", ()), ("stopped", (6, 7, 8, 11))):
        config = Pair(run=quiet_run(tmp_path / name, log_every=4))
        resume = None
        for stop in (*stops, STEPS):
            module = PairModule(config, stop_at(stop))
            with suppress(Stopped):
                fit(module, config.run, config, resume=resume)
            resume = str(tmp_path / name)
    header, *rows = (tmp_path / "whole" / "train.csv").read_text().splitlines()
    every = [row.split(",")[4] for row in (whole_run / "train.csv").read_text().splitlines()]
    place = header.split(",").index("student_loss")
    assert [row.split(",")[0] for row in rows] == ["1", "4", "8", "12", "13"]
    assert [row.split(",")[place] for row in rows] == ["", "", every[6], every[11], ""]
    assert (tmp_path / "stopped" / "train.csv").read_text() == "\n".join([header, *rows]) + "\n"


def test_validation_sees_the_average_of_the_student_and_the_critic_itself(whole_run):
    kept, table = load_last(whole_run), whole_run / "validation.csv"
    average = averages_in(kept)["student"]["average"]["student.weight"]
    assert column(table, "student")[-1] == pytest.approx(float(average.sum()))
    critic = kept["state_dict"]["critic.weight"]
    assert column(table, "critic")[-1] == pytest.approx(float(critic.sum()))


def test_the_module_has_the_evaluated_averages_afterwards(tmp_path):
    config = Pair(run=quiet_run(tmp_path))
    module = PairModule(config)
    fit(module, config.run, config)
    kept = load_last(tmp_path)
    average = averages_in(kept)["student"]["average"]["student.weight"]
    assert torch.equal(module.student.weight, average)
    assert not torch.equal(average, kept["state_dict"]["student.weight"])
    assert torch.equal(module.critic.weight, kept["state_dict"]["critic.weight"])


def test_a_run_that_is_stopped_before_every_step_goes_on_bit_for_bit(whole_run, tmp_path):
    train_pair(tmp_path, stop=1)
    for stop in range(2, STEPS):
        assert completed_steps(find_checkpoint(str(tmp_path))) == stop - 1
        train_pair(tmp_path, stop=stop, resume=tmp_path)
    train_pair(tmp_path, resume=tmp_path)
    assert_same_run(tmp_path, whole_run)


def test_so_does_a_run_whose_process_is_killed(whole_run, tmp_path):
    run_until_killed(
        "from tests.recipes import student_and_critic as pair\n"
        "pair.PairModule = kill_at(pair.PairModule, 6)\n"
        f"pair.train_pair(Path({str(tmp_path)!r}))\n"
    )
    assert completed_steps(find_checkpoint(str(tmp_path))) == 6
    train_pair(tmp_path, resume=tmp_path)
    assert_same_run(tmp_path, whole_run)


def test_a_finished_run_takes_no_more_steps_and_a_longer_one_goes_on(tmp_path):
    train_pair(tmp_path / "short")
    before = load_last(tmp_path / "short")["state_dict"]
    train_pair(tmp_path / "short", resume=tmp_path / "short")
    assert_equal(load_last(tmp_path / "short")["state_dict"], before, "weights")
    longer = Pair(
        run=quiet_run(tmp_path / "longer"), budget=TrainingSchedule(steps=15, warmup_steps=3)
    )
    fit(PairModule(longer), longer.run, longer, resume=str(tmp_path / "short"))
    assert column(tmp_path / "longer" / "train.csv", "step") == [14, 15]


def test_so_does_a_run_on_two_ranks_and_on_another_number_of_them(two_ranks, whole_run, tmp_path):
    def train(name: str, stop: int | None = None, resume: str | None = None) -> None:
        named = None if resume is None else str(tmp_path / resume)
        two_ranks(2, train_pair_on_ranks, str(tmp_path / name), stop, named)

    train("whole")
    train("stopped", stop=1)
    for stop in range(2, STEPS):
        train("stopped", stop=stop, resume="stopped")
    before_last = read_checkpoint(find_checkpoint(str(tmp_path / "stopped")))
    train("stopped", resume="stopped")
    for name in ("train.csv", "validation.csv"):
        one, other = ((tmp_path / run / name).read_text() for run in ("stopped", "whole"))
        assert one == other
    first, second = (
        read_checkpoint(find_checkpoint(str(tmp_path / run))) for run in ("stopped", "whole")
    )
    for part in ("state_dict", "optimizer_states", "optimizers"):
        assert_equal(first[part], second[part], part)
    assert_equal(averages_in(first), averages_in(second), "averages")

    assert completed_steps(find_checkpoint(str(tmp_path / "whole"))) == STEPS
    assert optimizers_in(before_last)["critic"].updates == STEPS - 1
    alone = load_last(whole_run)
    assert_close(second, alone)

    train("two", stop=6)
    train_pair(tmp_path / "on_one", resume=tmp_path / "two")  # begins a fresh folder
    assert_close(load_last(tmp_path / "on_one"), alone)
    train_pair(tmp_path / "one", stop=4)  # the student has not learnt yet
    train("on_two", resume="one")
    assert_close(read_checkpoint(find_checkpoint(str(tmp_path / "on_two"))), alone)


def assert_close(one: dict, other: dict) -> None:
    """Weights, optimizers and averages are the same up to the order of sums."""
    averages = [{n: s["average"] for n, s in averages_in(run).items()} for run in (one, other)]
    states = [[s["state"] for s in run["optimizer_states"]] for run in (one, other)]
    for a, b in ((one["state_dict"], other["state_dict"]), averages, states):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


BASE = ["base.weight", "base.bias"]


def test_checkpoints_may_leave_out_a_frozen_base(whole_run, tmp_path):
    lean = replace(PLAN, store_frozen=False)
    train_pair(tmp_path, stop=6, plan=lean)
    kept = load_last(tmp_path)
    assert kept["left_out"] == BASE
    assert not kept["state_dict"].keys() & set(BASE)
    train_pair(tmp_path, resume=tmp_path, plan=lean)
    assert (tmp_path / "train.csv").read_text() == (whole_run / "train.csv").read_text()

    parts = nn.ModuleDict(
        {"base": nn.Linear(3, 4), "student": nn.Linear(4, 2), "critic": nn.Linear(2, 2)}
    )
    run = quiet_run(tmp_path / "fresh")
    check_run(run, Pair(run=run), resume=str(tmp_path), parts=lambda: parts)
    module = PairModule(Pair(run=run), plan=lean)
    base = module.base.weight.clone()
    assert load_average(module, str(tmp_path)) == STEPS
    assert torch.equal(module.base.weight, base)
    average = averages_in(load_last(tmp_path))["student"]["average"]["student.weight"]
    assert torch.equal(module.student.weight, average)


def test_so_may_those_of_several_ranks(two_ranks, whole_run, tmp_path):
    def train(name: str, stop: int | None, resume: str | None) -> None:
        named = None if resume is None else str(tmp_path / resume)
        two_ranks(2, train_pair_on_ranks, str(tmp_path / name), stop, named, False)

    train("two", 6, None)
    kept = read_checkpoint(find_checkpoint(str(tmp_path / "two")))
    assert kept["left_out"] == BASE
    assert not kept["state_dict"].keys() & set(BASE)
    train("two", None, "two")
    losses = column(whole_run / "train.csv", "critic_loss")
    assert column(tmp_path / "two" / "train.csv", "critic_loss") == pytest.approx(losses, rel=1e-4)
    lean = replace(PLAN, store_frozen=False)
    train_pair(tmp_path / "one", stop=6, plan=lean)
    train("on_two", None, "one")
    assert column(tmp_path / "on_two" / "train.csv", "critic_loss") == pytest.approx(
        losses[6:], rel=1e-4
    )


class ManualToy(ToyModule):
    """The toy with one optimizer, whose updates it makes itself."""

    def __init__(self, config: Toy) -> None:
        super().__init__(config)
        self.automatic_optimization = False
        self.plan = replace(self.plan, manual=True)

    def training_step(self, step: int) -> dict[str, torch.Tensor]:
        with self.update("all") as backward:
            logged = super().training_step(step)
            backward(logged["loss"])
        return logged


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_updates_that_a_module_makes_itself_are_those_of_lightning(precision, tmp_path):
    for name, kind in (("lightning", ToyModule), ("itself", ManualToy)):
        config = Toy(run=quiet_run(tmp_path / name, precision=precision))
        fit(kind(config), config.run, config)
    one, other = tmp_path / "itself", tmp_path / "lightning"
    for name in ("train.csv", "validation.csv"):
        assert (one / name).read_text() == (other / name).read_text()
    for part in ("state_dict", "optimizers"):
        assert_equal(load_last(one)[part], load_last(other)[part], part)
    assert_equal(averages_in(load_last(one)), averages_in(load_last(other)), "averages")


def test_gradients_of_others_and_of_what_fails_are_dropped(tmp_path):
    class Watched(PairModule):
        def training_step(self, step):
            with pytest.raises(Stopped), self.update("student") as backward:
                backward(student_loss(self, torch.ones(2, 3)))
                raise Stopped
            logged = super().training_step(step)
            assert all(parameter.grad is None for parameter in self.parameters())
            return logged

    config = Pair(run=quiet_run(tmp_path))
    fit(Watched(config), config.run, config)
    assert optimizers_in(load_last(tmp_path))["student"].updates == 2


def test_an_optimizer_that_is_not_there_is_named(tmp_path):
    module = PairModule(Pair(run=quiet_run(tmp_path)))
    with (
        pytest.raises(ValueError, match="no key 'crtic'; did you mean 'critic'"),
        module.update("crtic"),
    ):
        pass


def test_float16_with_several_optimizers_is_refused(tmp_path, monkeypatch):
    config = Pair(run=quiet_run(tmp_path, precision="16-mixed"))
    monkeypatch.setattr(fit.__module__ + ".check_machine", lambda *_: None)
    with pytest.raises(ValueError, match="run.precision=16-mixed is for recipes with one opt"):
        fit(PairModule(config), config.run, config)


def test_a_checkpoint_of_other_optimizers_or_averages_is_refused(whole_run, tmp_path):
    config = Pair(run=quiet_run(tmp_path))
    renamed = {"generator": PLAN.optimizers["student"], "critic": PLAN.optimizers["critic"]}
    for plan, message in (
        (
            replace(PLAN, optimizers=renamed),
            "optimizers student, critic, and the run has generator",
        ),
        (replace(PLAN, averages={}), "averages critic_weight, student, and the run has none"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(PairModule(config, plan=plan), config.run, config, resume=str(whole_run))
    moved = PLAN.optimizers | {"critic": TrainedBy(adamw=CRITIC, parameters="critic.weight")}
    module = PairModule(config, plan=replace(PLAN, optimizers=moved))
    module.critic.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"'critic' of the checkpoint trains other .*critic.bias"):
        fit(module, config.run, config, resume=str(whole_run))
    toy = Toy(run=quiet_run(tmp_path / "toy"), budget=config.budget)
    with pytest.raises(ValueError, match="optimizers student, critic, and the run has all"):
        fit(ToyModule(toy), toy.run, toy, resume=str(whole_run))


def test_a_checkpoint_of_several_optimizers_fits_its_parts_and_no_others(whole_run, tmp_path):
    run = quiet_run(tmp_path)
    parts = nn.ModuleDict({"base": nn.Linear(3, 4), "student": nn.Linear(4, 2)})
    with pytest.raises(ValueError, match="critic"):
        check_run(run, Pair(run=run), resume=str(whole_run), parts=lambda: parts)
    parts["critic"] = nn.Linear(2, 2)
    check_run(run, Pair(run=run), resume=str(whole_run), parts=lambda: parts)
    kept = load_last(whole_run)
    kept["optimizer_states"].reverse()
    torch.save(kept, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="its optimizers' states are of other weights"):
        check_run(run, Pair(run=run), resume=str(tmp_path / "last.ckpt"), parts=lambda: parts)
