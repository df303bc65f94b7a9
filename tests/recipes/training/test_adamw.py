"""AdamW as torch has it, as one kernel, with states in 8 bits; states that go to another kind."""

import copy
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from longlive_recipes.configs.run import Run
from longlive_recipes.training import adamw
from longlive_recipes.training.adamw import FusedAdamW, PlainAdamW, check_states, make_optimizer
from longlive_recipes.training.fit import fit
from longlive_recipes.training.module import TrainingModule
from longlive_recipes.training.optimizers import AdamW, Optimization
from longlive_recipes.training.schedule import TrainingSchedule
from tests.recipes.tiny_runs import Stopped, load_last, quiet_run, stop_at

SIZE = 64  # 4,096 weights: the least that torchao holds in 8 bits
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore::DeprecationWarning")


@dataclass(frozen=True, kw_only=True)
class Matrix:
    run: Run
    optimization: Optimization = field(default_factory=lambda: Optimization(learning_rate=0.01))
    budget: TrainingSchedule = field(
        default_factory=lambda: TrainingSchedule(steps=6, warmup_steps=2)
    )
    seed: int = 0


class MatrixModule(TrainingModule):
    """Learns a matrix; ``before`` is called with every step's number."""

    def __init__(self, config, before=lambda step: None):
        super().__init__(config.budget, config.optimization, config.seed)
        self.matrix = nn.Linear(SIZE, SIZE)
        self.before = before

    def training_step(self, step):
        self.before(step)
        x = torch.randn(32, SIZE, generator=self.choices(step))
        return {"loss": (self.matrix(x) - x.flip(1)).square().mean()}

    def validate(self):
        return {"norm": float(self.matrix.weight.norm())}

    def samples(self):
        return {}


def config_of(folder, states="float32", **run):
    return Matrix(
        run=quiet_run(folder, **run),
        optimization=Optimization(learning_rate=0.01, states=states),
    )


def train(config, *, before=lambda step: None, resume=None):
    module = MatrixModule(config, before)
    fit(module, config.run, config, resume=None if resume is None else str(resume))
    return module


def optimizers(seed=0):
    """The kinds, each on weights of its own, which begin alike."""
    made = {}
    for kind in (PlainAdamW, FusedAdamW):
        torch.manual_seed(seed)
        weights = [nn.Parameter(torch.randn(SIZE, SIZE)), nn.Parameter(torch.randn(7))]
        extra = {"foreach": True} if kind is PlainAdamW else {}
        made[kind] = kind(weights, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, **extra), weights
    return made


def move(optimizer, weights, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()


def test_one_kernel_moves_weights_as_many_do_and_reads_their_states():
    (plain, some), (fused, others) = optimizers().values()
    for step in range(5):
        move(plain, some, step)
        move(fused, others, step)
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    states = copy.deepcopy((fused.state_dict(), plain.state_dict()))
    for mine, state, weights in zip((plain, fused), states, (some, others), strict=True):
        before = {name: mine.param_groups[0][name] for name in ("foreach", "fused")}
        mine.load_state_dict(state)
        assert {name: mine.param_groups[0][name] for name in before} == before
        move(mine, weights, 9)
    for a, b in zip(some, others, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_gradients_of_one_kernel_are_cut_in_bf16(tmp_path, monkeypatch):
    make = adamw.make_optimizer
    monkeypatch.setattr(
        "longlive_recipes.training.module.make_optimizer",
        lambda config, parameters, fused: make(config, parameters, fused=True),
    )
    module = train(config_of(tmp_path, precision="bf16-mixed"))
    assert isinstance(module.optimizers(use_pl_optimizer=False), FusedAdamW)
    assert module.steps_taken == 6


def test_weights_move_by_a_rate_of_a_millionth_whatever_is_computed_in(tmp_path):
    config = config_of(tmp_path, precision="bf16-mixed")
    small = replace(config.optimization, learning_rate=1e-6, weight_decay=0.0, ema_decay=0.0)
    config = replace(config, optimization=small, budget=TrainingSchedule(steps=3, warmup_steps=0))
    before = MatrixModule(config).matrix.weight.detach().clone()
    moved = (train(config).matrix.weight.detach() - before).abs()
    assert moved.dtype == torch.float32
    assert (moved > 0).float().mean() > 0.99
    assert moved.max() < 1e-5


def test_weights_of_16_bits_are_not_trained():
    narrow = {"a.weight": nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))}
    with pytest.raises(ValueError, match=r"a.weight is trained and is torch.bfloat16: a small"):
        make_optimizer(AdamW(), narrow, fused=False)


def test_8_bits_learn_as_32_do(tmp_path):
    wide, narrow = (train(config_of(tmp_path / s, s)) for s in ("float32", "8bit"))
    difference = (wide.matrix.weight - narrow.matrix.weight).abs()
    moved = (wide.matrix.weight - MatrixModule(config_of(tmp_path)).matrix.weight).abs()
    assert 0 < difference.mean() < 0.05 * moved.mean()
    state = load_last(tmp_path / "8bit")["optimizer_states"][0]
    [codes, *_] = [v for v in state["state"].values() if "exp_avg.codes" in v]
    assert codes["exp_avg.codes"].dtype == codes["exp_avg_sq.codes"].dtype == torch.uint8
    assert codes["exp_avg.codes"].shape == (SIZE, SIZE)
    assert isinstance(state["param_groups"][0]["lr"], float)


def test_a_run_in_8_bits_that_was_stopped_goes_on_exactly(tmp_path):
    whole = train(config_of(tmp_path / "whole", "8bit"))
    config = config_of(tmp_path / "part", "8bit")
    with pytest.raises(Stopped):
        train(config, before=stop_at(3))
    part = train(config, resume=tmp_path / "part")
    assert torch.equal(whole.matrix.weight, part.matrix.weight)
    tables = [(tmp_path / name / "train.csv").read_text() for name in ("whole", "part")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(("first", "then"), [("float32", "8bit"), ("8bit", "float32")])
def test_states_are_converted_when_a_run_goes_on_with_others(first, then, tmp_path):
    with pytest.raises(Stopped):
        train(config_of(tmp_path / "first", first), before=stop_at(3))
    module = train(config_of(tmp_path / "then", then), resume=tmp_path / "first")
    same = train(config_of(tmp_path / "same", first), resume=tmp_path / "first")
    assert module.steps_taken == 6
    difference = (module.matrix.weight - same.matrix.weight).abs().mean()
    assert 0 < difference < 1e-3
    held = load_last(tmp_path / "then")["optimizer_states"][0]["state"][0]
    assert ("exp_avg.codes" in held) == (then == "8bit")


def test_8_bits_without_their_package_or_over_ranks_are_refused(monkeypatch, tmp_path):
    config = AdamW(states="8bit")
    with pytest.raises(ValueError, match="is for one rank, and the run has 2"):
        check_states(config, 2)
    monkeypatch.setattr(adamw, "find_spec", lambda name: None)
    check_states(AdamW())
    with pytest.raises(ValueError, match=r'pip install "longlive\[eight-bit\]", or leave it out'):
        train(config_of(tmp_path / "new", "8bit"))
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="AdamW.states is one of float32, 8bit, got 'int4'"):
        AdamW(states="int4")
    with pytest.raises(ValueError, match="AdamW.states=8bit is for AdamW alone"):
        AdamW(states="8bit", muon=("*",))
