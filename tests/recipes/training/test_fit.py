"""Runs that stop, resume, end by the clock, and refuse to overwrite each other."""

import functools
import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from longlive_recipes.configs.run import Run
from longlive_recipes.training import schedule
from longlive_recipes.training.fit import check_run, completed_steps, find_checkpoint, fit
from longlive_recipes.training.module import StepNumbers
from longlive_recipes.training.schedule import TrainingSchedule
from tests.recipes.tiny_runs import (
    Stopped,
    Toy,
    ToyModule,
    assert_equal,
    assert_same_run,
    column,
    load_last,
    quiet_run,
    stop_at,
    train_toy,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train_toy(Toy(run=quiet_run(folder)))
    return folder


def test_a_run_leaves_its_record_its_numbers_and_a_checkpoint(whole):
    assert json.loads((whole / "run.json").read_text())["config"]["budget"]["steps"] == 8
    assert column(whole / "train.csv", "step") == list(range(1, 9))
    assert column(whole / "validation.csv", "step") == [2, 4, 6, 8]
    assert (whole / "train.csv").read_text().startswith("step,loss,slope,learning_rate\n")
    assert load_last(whole)["global_step"] == 8
    assert any((whole / "tensorboard").iterdir())
    assert not (whole / "samples").exists()


@pytest.mark.parametrize("step", [1, 2, 3, 6, 7])
def test_a_run_that_stopped_goes_on_bit_for_bit(step, whole, tmp_path):
    config = Toy(run=quiet_run(tmp_path))
    with pytest.raises(Stopped):
        train_toy(config, before=stop_at(step))
    assert completed_steps(find_checkpoint(str(tmp_path))) == step
    train_toy(config, resume=tmp_path)
    assert_same_run(tmp_path, whole)
    [resumed] = json.loads((tmp_path / "run.json").read_text())["resumed"]
    assert resumed["step"] == step


def test_what_came_after_the_checkpoint_is_forgotten(whole, tmp_path):
    config = Toy(run=quiet_run(tmp_path))
    with pytest.raises(Stopped):
        train_toy(config, before=stop_at(3))
    kept = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    train_toy(config, resume=tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(kept)
    train_toy(config, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert_same_run(tmp_path, whole)
    assert len(json.loads((tmp_path / "run.json").read_text())["resumed"]) == 2


def test_a_run_that_dies_while_it_validates_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    config, validate = Toy(run=quiet_run(tmp_path)), ToyModule.validate

    def dies(module):
        if module.steps_taken == 4:
            raise Stopped
        return validate(module)

    monkeypatch.setattr(ToyModule, "validate", dies)
    with pytest.raises(Stopped):
        train_toy(config)
    assert completed_steps(find_checkpoint(str(tmp_path))) == 3
    monkeypatch.undo()
    train_toy(config, resume=tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_finished_run_takes_no_more_steps(whole):
    before, record = load_last(whole), (whole / "train.csv").read_text()
    stepped = []
    train_toy(Toy(run=quiet_run(whole)), before=stepped.append, resume=whole)
    assert stepped == []
    assert_equal(load_last(whole)["state_dict"], before["state_dict"], "weights")
    assert (whole / "train.csv").read_text() == record


def test_a_fresh_folder_may_change_the_config(whole, tmp_path):
    longer = Toy(run=quiet_run(tmp_path), budget=TrainingSchedule(steps=11, warmup_steps=2))
    stepped = []
    train_toy(longer, before=stepped.append, resume=whole)
    assert stepped == [8, 9, 10]
    assert column(tmp_path / "train.csv", "step") == [9, 10, 11]


def test_validation_and_samples_leave_no_trace_in_what_is_learnt(whole, tmp_path):
    train_toy(Toy(run=quiet_run(tmp_path, validate_every=1, samples_every=3)))
    assert_equal(load_last(tmp_path)["state_dict"], load_last(whole)["state_dict"], "weights")
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "step_0000003",
        "step_0000006",
        "step_0000008",
    ]


def test_a_recipe_may_have_nothing_to_show(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyModule, "samples", lambda module: {})
    train_toy(Toy(run=quiet_run(tmp_path, samples_every=1)))
    assert not (tmp_path / "samples").exists()


def test_training_and_validation_run_in_the_precision_that_was_asked_for(tmp_path, monkeypatch):
    seen = []

    def watch(name):
        original = getattr(ToyModule, name)

        @functools.wraps(original)  # Lightning reads the names of arguments
        def watched(module, *arguments):
            seen.append((name, torch.is_autocast_enabled("cpu")))
            return original(module, *arguments)

        monkeypatch.setattr(ToyModule, name, watched)

    for name in ("training_step", "validate", "samples"):
        watch(name)
    run = quiet_run(tmp_path, precision="bf16-mixed", samples_every=1, validate_every=8)
    train_toy(Toy(run=run))
    expected = {("training_step", True), ("validate", True), ("samples", False)}
    assert set(seen) == expected  # samples are in float32, as the pipeline's placement says


def test_the_averaged_weights_are_in_the_module_afterwards(tmp_path):
    module = train_toy(Toy(run=quiet_run(tmp_path)))
    average = load_last(tmp_path)["callbacks"]["MovingAverage"]["average"]
    assert_equal(dict(module.named_parameters()), average, "average")
    assert not torch.equal(module.line.weight, load_last(tmp_path)["state_dict"]["line.weight"])


def test_the_learning_rate_is_the_budgets(tmp_path):
    config = Toy(run=quiet_run(tmp_path))
    module = train_toy(config)
    expected = [0.1 * config.budget.rate(step, step / 8) for step in range(8)]
    assert module.rates == pytest.approx(expected)
    assert column(tmp_path / "train.csv", "learning_rate") == pytest.approx(expected)


def test_a_budget_of_minutes_ends_and_resumes_with_its_clock(tmp_path, monkeypatch):
    class FakeTime:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = FakeTime()
    monkeypatch.setattr(schedule, "time", clock)

    def ten_seconds(step):
        clock.now += 10

    config = Toy(
        run=quiet_run(tmp_path, log_every=100, validate_every=100),
        budget=TrainingSchedule(steps=10_000, minutes=1.0, warmup_steps=1),
    )
    module = train_toy(config, before=ten_seconds)
    assert len(module.rates) == 6
    assert module.rates == pytest.approx([0.1 * config.budget.rate(9, s / 6) for s in range(6)])
    assert column(tmp_path / "train.csv", "step") == [1, 6]  # the first and the last
    assert column(tmp_path / "validation.csv", "step") == [6]
    assert load_last(tmp_path)["global_step"] == 6
    clock.now += 1000  # the time between two runs does not count
    assert train_toy(config, before=ten_seconds, resume=tmp_path).rates == []

    stopped = replace(config, run=quiet_run(tmp_path / "stopped"))
    with pytest.raises(Stopped):
        train_toy(stopped, before=lambda step: (ten_seconds(step), stop_at(2)(step)))
    clock.now += 1000
    module = train_toy(stopped, before=ten_seconds, resume=tmp_path / "stopped")
    assert len(module.rates) == 4


def test_a_sigterm_ends_a_run_with_a_checkpoint(whole, tmp_path):
    def terminate(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    config = Toy(run=quiet_run(tmp_path, checkpoint_minutes=60.0))
    with pytest.raises(SystemExit) as stopped:
        train_toy(config, before=terminate)
    assert stopped.value.code == 143  # not 0: whoever waits must not think that it is done
    assert load_last(tmp_path)["global_step"] == 3
    train_toy(config, resume=tmp_path)
    assert_same_run(tmp_path, whole)


@pytest.fixture
def interrupts():
    """Python's own handler, which a process in the background does not begin with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_is_one_and_leaves_the_last_checkpoint(interrupts, whole, tmp_path):
    def interrupt(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    config = Toy(run=quiet_run(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        train_toy(config, before=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train_toy(config, resume=tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_lost_loss_ends_the_run_before_a_checkpoint_has_it(tmp_path):
    def poison(step):
        if step == 3:
            module.line.weight.data.fill_(torch.nan)

    config = Toy(run=quiet_run(tmp_path))
    module = ToyModule(config, poison)
    with pytest.raises(FloatingPointError, match="the loss of step 4 is nan"):
        fit(module, config.run, config)
    assert load_last(tmp_path)["global_step"] == 3


def test_a_folder_that_holds_a_run_is_not_overwritten(whole):
    before = (whole / "train.csv").read_text()
    with pytest.raises(ValueError, match=r"holds a run already: go on with it \(--resume"):
        train_toy(Toy(run=quiet_run(whole)))
    assert (whole / "train.csv").read_text() == before


def test_a_run_without_a_checkpoint_may_begin_again(tmp_path):
    config = Toy(run=quiet_run(tmp_path, checkpoint_minutes=60.0))
    with pytest.raises(Stopped):
        train_toy(config, before=stop_at(2))
    train_toy(config)
    assert column(tmp_path / "train.csv", "step") == list(range(1, 9))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget": TrainingSchedule(steps=9, warmup_steps=2)}, r"\(budget.steps: 8 -> 9\)"),
        (
            {"seed": 4, "budget": TrainingSchedule(steps=8, warmup_steps=3)},
            "budget.warmup_steps: 2 -> 3; seed: 3 -> 4",
        ),
    ],
)
def test_another_config_is_refused_and_named(changes, named, whole):
    config = replace(Toy(run=quiet_run(whole)), **changes)
    with pytest.raises(ValueError, match=named):
        check_run(config.run, config, resume=str(whole))


def test_how_a_run_is_watched_may_change_but_not_what_it_logs(whole):
    config = Toy(run=quiet_run(whole, samples_every=2, checkpoint_minutes=3.0, progress_bar=True))
    check_run(config.run, config, resume=str(whole))
    config = Toy(run=quiet_run(whole, log_every=2))
    with pytest.raises(ValueError, match="run.log_every: 1 -> 2"):
        check_run(config.run, config, resume=str(whole))


def test_another_recipe_is_refused(whole):
    class Other(Toy):
        pass

    config = Other(run=quiet_run(whole))
    with pytest.raises(ValueError, match='recipe: "Toy" -> "Other"'):
        check_run(config.run, config, resume=str(whole))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        find_checkpoint(str(tmp_path / "none.ckpt"))
    with pytest.raises(ValueError, match=r"there is no checkpoint .*checkpoints/last.ckpt"):
        find_checkpoint(str(tmp_path))
    for content in (b"", b"words"):
        (tmp_path / "bad.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad.ckpt is no checkpoint of a training run"):
            completed_steps(tmp_path / "bad.ckpt")
    torch.save({"weights": torch.ones(2)}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad.ckpt is no checkpoint of a training run"):
        completed_steps(tmp_path / "bad.ckpt")


@pytest.mark.parametrize("field", ["log_every", "validate_every", "samples_every"])
def test_intervals_are_checked(field):
    with pytest.raises(ValueError, match=f"Run.{field} is at least [01], got -1"):
        Run(output="x", **{field: -1})


def test_float32_products_are_as_before_afterwards(tmp_path):
    before = torch.get_float32_matmul_precision()
    seen = []
    train_toy(
        Toy(run=quiet_run(tmp_path, float32_matmul="medium")),
        before=lambda step: seen.append(torch.get_float32_matmul_precision()),
    )
    assert set(seen) == {"medium"}
    assert torch.get_float32_matmul_precision() == before


def test_steps_go_on_where_they_were():
    steps = StepNumbers(6)
    assert [step for step, _ in zip(steps, range(2), strict=False)] == [0, 1]
    rest = StepNumbers(6)
    rest.load_state_dict({"next": 2})
    assert list(rest) == [2, 3, 4, 5]
    assert len(rest) == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named_by_its_field(tmp_path):
    config = Toy(run=quiet_run(tmp_path / "new", accelerator="cuda"))
    message = r"run.accelerator=cuda, and torch \S+ finds no GPU on this machine. Use --set run.acc"
    with pytest.raises(ValueError, match=message):
        train_toy(config)
    assert not (tmp_path / "new").exists()
