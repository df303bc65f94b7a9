"""Predicted memory, beside what torch's profiler says of real steps."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from longlive_models.wan import POCKET
from longlive_recipes.configs.train_ar import ar_5b
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.train_ar import TrainARModule, predict
from longlive_recipes.training.fit import fit
from longlive_recipes.training.memory import (
    MemoryPlan,
    Rehearsed,
    StepMemory,
    of_parameters,
    of_update,
    rehearse,
)
from longlive_recipes.training.parallel import Parallel
from longlive_recipes.training.schedule import Phase, TrainingSchedule
from tests.recipes.memory_peaks import ENOUGH, measured_peak
from tests.recipes.tiny_runs import ar_config, write_tiny_vae


def sized(folder, vae, *, layers=3, blocks=2, batch=4, precision="32-true", **changes):
    config = ar_config(
        folder,
        vae,
        model=replace(POCKET, dim=96, ffn_dim=256, num_heads=2, num_layers=layers, text_dim=16),
        sets=(ClipSet(blocks=blocks, clips=3),),
        phases=(Phase(length=blocks, batch=batch, until=1.0),),
        budget=ENOUGH,
        **changes,
    )
    return replace(config, run=replace(config.run, precision=precision))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return write_tiny_vae(tmp_path_factory.mktemp("vae"))


@pytest.mark.filterwarnings("ignore")  # the profiler has its own
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch": 8, "layers": 6},
        {"batch": 8, "precision": "bf16-mixed"},
        {"batch": 8, "checkpointing": True},
        {"batch": 8, "checkpointing": "attention"},
        {"batch": 1, "blocks": 1},  # an update takes more than the passes do
    ],
    ids=str,
)
def test_the_prediction_is_within_a_tenth_of_what_a_step_takes(changes, tmp_path, vae):
    config = sized(tmp_path / "run", vae, **changes)
    plan = predict(config)
    within = plan.peak - sum(plan.lasting.values())
    assert within == pytest.approx(measured_peak(TrainARModule, config), rel=0.1)


def test_what_lasts_is_what_a_run_holds(tmp_path, vae):
    config = sized(tmp_path, vae, blocks=3)
    module = TrainARModule(config)
    module.configure_model()
    weights = sum(p.numel() for p in module.parameters())
    lasting = predict(config).lasting
    assert lasting["weights, in float32"] == 4 * weights
    named = dict(module.named_parameters()).items()
    moved = sum(
        p.numel() for n, p in named if re.fullmatch(r"model.blocks.*weight", n) and p.ndim > 1
    )
    assert 0 < moved < weights
    assert lasting["states of the optimizer"] == 8 * (weights - moved) + 4 * moved
    assert lasting["moving average"] == 4 * weights
    module.on_fit_start()
    clips = [*module.sets.values(), *module.fresh.values()]
    held = sum(one.latents.nbytes + one.ids.nbytes for one in clips)
    assert lasting["encoded clips"] == held


@pytest.mark.parametrize("changes", [{}, {"muon": ()}, {"ema_decay": 0.0}], ids=str)
def test_states_and_averages_are_those_of_a_run(changes, tmp_path, vae):
    config = sized(tmp_path, vae, blocks=1, batch=1, layers=1)
    config = replace(config, optimization=replace(config.optimization, **changes))
    config = replace(config, budget=TrainingSchedule(steps=1, warmup_steps=0))
    module = TrainARModule(config)
    trainer = fit(module, config.run, config)
    [optimizer] = trainer.optimizers
    states = [one for kept in optimizer.state.values() for one in kept.values() if one.ndim]
    lasting = predict(config).lasting
    assert lasting["states of the optimizer"] == sum(one.nbytes for one in states)
    [average] = module.averages.values()
    held = average.state_dict()["average"].values()
    assert lasting["moving average"] == sum(one.nbytes for one in held)


def test_ranks_share_what_lasts_and_the_tokens(tmp_path, vae):
    config = sized(tmp_path, vae, blocks=2, batch=4)
    config = replace(config, validation_clips=2)
    alone = predict(config)
    assert alone.tokens == 4 * 2 * 2 * POCKET.frames_per_block * 4
    shared = predict(replace(config, parallel=Parallel(data=2, sequence=2)))
    assert shared.tokens == alone.tokens // 4
    name = "weights, in float32"
    assert shared.lasting[name] == alone.lasting[name] // 4
    assert shared.peak < alone.peak


def test_the_5b_is_predicted_before_its_files_and_clips_are_here():
    """96 latent frames over four ranks: 42,240 tokens, both copies, as the original has them."""
    plan = predict(ar_5b())
    assert plan.tokens == 42_240
    assert plan.lasting["weights, in float32"] == 4_999_787_712 * 4 // 8
    assert "encoded clips" not in plan.lasting
    assert "name a cache (--data)" in plan.lines()[0]
    assert 30 < plan.peak / 2**30 < 60


def test_compiled_steps_are_predicted_smaller(tmp_path, vae):
    config = sized(tmp_path, vae, precision="bf16-mixed")
    eager = predict(config)
    compiled = predict(replace(config, run=replace(config.run, compile=True)))
    assert 0.4 * eager.step.kept < compiled.step.kept < 0.8 * eager.step.kept
    assert "not compiled" in eager.lines()[0]
    assert ", compiled)" in compiled.lines()[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_gpu_keeps_less_of_norms_than_a_cpu(checkpointing, tmp_path, vae):
    """Of each norm two float32 copies of its input less, and one of bfloat16 more."""
    config = sized(tmp_path, vae, precision="bf16-mixed", layers=3, checkpointing=checkpointing)
    cpu = predict(config)
    gpu = predict(replace(config, run=replace(config.run, accelerator="cuda")))
    [phase] = config.phases
    read = 2 * phase.length * phase.batch * config.text.text_len  # the text of every block
    a_layer = (2 * 4 - 2) * config.model.dim * (3 * cpu.tokens + read)
    layers = 1 if checkpointing else config.model.num_layers
    assert cpu.step.total - gpu.step.total == pytest.approx(layers * a_layer, rel=0.25)


def test_further_layers_add_what_the_last_one_did():
    def make(layers):
        module = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(layers)))
        return Rehearsed(
            module=module,
            call=lambda x: module(x),
            inputs=lambda: (torch.zeros(1000, 64, dtype=torch.float32),),
        )

    few, many = (rehearse(make, layers, autocast=False) for layers in (4, 10))
    more = rehearse(make, 11, autocast=False)
    assert many.kept - few.kept == 6 * (more.kept - many.kept)
    assert more.kept - many.kept == 1000 * 64 * 4  # the output, which the next layer is given
    assert more.total - many.total in (1000 * 64 * 4, 64 * 64 * 4)


def test_a_plan_is_a_table_that_adds_up():
    plan = MemoryPlan(
        lasting=of_parameters(1 << 20, 1 << 10, averaged=True, ranks=2),
        step=StepMemory(kept=1 << 30, gradients=1 << 20, passing=1 << 20),
        update=of_update(1 << 20, fused=False, ranks=2),
        tokens=12345,
        about="one clip",
    )
    assert plan.lasting["weights, in float32"] == 2 * ((1 << 20) + (1 << 10))
    assert plan.peak == sum(plan.lasting.values()) + (1 << 30) + (2 << 20)
    lines = plan.lines()
    assert lines[0].startswith("predicted memory of a device: 1.01 GiB (one clip)")
    assert lines[-1] == "tokens of a step on a device: 12,345"
    assert any("activations kept for the backward pass" in line for line in lines)
    small = replace(plan, step=StepMemory(kept=1, gradients=1, passing=1))
    assert small.peak == sum(plan.lasting.values()) + (4 << 20)
    assert any("what the optimizer works in" in line for line in small.lines())
    assert of_update(1 << 20, fused=True, ranks=1) == {"gradients, in float32": 4 << 20}


def test_a_run_on_a_gpu_has_room_for_libraries(tmp_path, vae):
    config = sized(tmp_path, vae)
    assert "libraries" not in predict(config).lasting
    gpu = replace(config, run=replace(config.run, accelerator="cuda"))
    assert predict(gpu).lasting["libraries"] == 32 << 20
