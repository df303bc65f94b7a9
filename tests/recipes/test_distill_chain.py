"""The whole chain from one command: what the stages share, a kill in the middle, and the result."""

from dataclasses import replace
from pathlib import Path

import pytest

from longlive_core.kv_cache import Window
from longlive_models import LongLivePipeline
from longlive_recipes import distill_chain
from longlive_recipes.distill_chain import DistillChain, is_complete, pocket_chain, tiny_chain
from longlive_recipes.training.parallel import Parallel
from tests.recipes.tiny_runs import column, quiet_run, run_until_killed, write_tiny_vae


def chain(output: Path, vae: Path) -> DistillChain:
    made = tiny_chain()
    quiet = {}
    for name in made.names:
        stage = vars(made)[name]
        run = quiet_run(Path(stage.run.output), validate_every=10)
        quiet[name] = replace(stage, run=run)
    return replace(
        made,
        output=str(output),
        ar=replace(quiet["ar"], vae=str(vae)),
        longer=quiet["longer"],
        cm=quiet["cm"],
        dmd=quiet["dmd"],
    )


CODE = (
    "from pathlib import Path\n"
    "from longlive_recipes import distill_chain, {recipe} as recipe\n"
    "from tests.recipes.test_distill_chain import chain\n"
    "recipe.{module} = kill_at(recipe.{module}, 2)\n"
    "distill_chain.run(chain(Path({output!r}), Path({vae!r})))\n"
)


@pytest.mark.slow
def test_a_chain_that_is_killed_in_each_stage_goes_on_with_the_same_command(tmp_path):
    vae, output = write_tiny_vae(tmp_path / "vae"), tmp_path / "chain"
    config = chain(output, vae)
    for recipe, module, done in (
        ("distill_cm", "DistillCMModule", 2),
        ("distill_dmd", "DistillDMDModule", 3),
    ):
        where = {"output": str(output), "vae": str(vae)}
        run_until_killed(CODE.format(recipe=recipe, module=module, **where))
        assert [is_complete(stage) for stage in config.stages] == [True] * done + [False] * (
            4 - done
        )
    first = (output / "ar" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    packed = distill_chain.run(config)
    assert packed == output / "packed"
    assert (output / "ar" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == first
    assert len(column(output / "dmd" / "train.csv", "critic_loss")) == config.dmd.budget.steps
    pipeline = LongLivePipeline.from_pretrained(str(packed), device="cpu", weights="nvfp4")
    assert (pipeline.settings.sampler, pipeline.settings.guidance) == ("few_step", 1.0)
    assert distill_chain.run(config) == packed  # all is there
    assert "complete: ar, longer, cm, dmd" in distill_chain.what_is_left(config, None)
    other = replace(config, ar=replace(config.ar, seed=7))
    with pytest.raises(ValueError, match=r"begun with another config \(seed: 0 -> 7"):
        distill_chain.check(other)


def test_stages_are_of_one_model_and_its_clips():
    made = pocket_chain()
    stages = replace(made, ar=replace(made.ar, window=Window(pages=5))).stages
    first, longer, last, cm, dmd = stages
    assert {stage.window for stage in stages} == {Window(pages=5)}
    assert longer.start_from == "runs/pocket_chain/ar/model"
    assert last.start_from == "runs/pocket_chain/longer/model"
    assert last.seed == cm.seed == dmd.seed != first.seed
    assert last.shift == cm.shift == dmd.shift != first.shift
    assert last.latent_cache == cm.latent_cache == dmd.latent_cache != first.latent_cache
    assert set(cm.sets) | set(dmd.sets) <= set(last.sets)
    assert cm.start_from == cm.teacher == dmd.teacher == "runs/pocket_chain/spins/model"
    assert dmd.start_from == "runs/pocket_chain/cm/model"
    adapters = replace(made, dmd=replace(made.dmd, lora_rank=8)).students[1]
    assert (adapters.start_from, adapters.teacher) == (cm.run.output + "/model", cm.teacher)


def test_a_chain_without_longer_stages_has_its_teacher_from_the_first():
    _, spins, cm, _ = replace(pocket_chain(), longer=None).stages
    assert spins.start_from == "runs/pocket_chain/ar/model"
    assert cm.teacher == "runs/pocket_chain/spins/model"
    ar, cm, dmd = replace(pocket_chain(), longer=None, spins=None).stages
    assert cm.teacher == dmd.teacher == "runs/pocket_chain/ar/model"
    assert (cm.shift, cm.sets) == (ar.shift, ar.sets[1:])


def test_what_a_chain_does_not_do_is_refused(tmp_path):
    made = replace(tiny_chain(), output=str(tmp_path))
    with pytest.raises(ValueError, match="needs no --resume"):
        distill_chain.check(made, resume="x")
    with pytest.raises(ValueError, match="exports nothing"):
        distill_chain.export(made, resume="x")
    with pytest.raises(ValueError, match="rule"):
        replace(made, rule="some")
    batch = tuple(replace(phase, batch=2) for phase in made.ar.phases)
    two = replace(made.ar, phases=batch, validation_clips=2, parallel=Parallel(data=2))
    with pytest.raises(ValueError, match="runs on one rank, got ar.parallel of 2"):
        replace(made, ar=two)


def test_the_memory_of_a_chain_is_that_of_its_largest_stage():
    found = distill_chain.predict(distill_chain.tiny_chain())
    assert list(found.stages) == ["ar", "longer", "cm", "dmd"]
    assert found.largest == "dmd"
    assert found.peak == max(plan.peak for plan in found.stages.values())
    lines = found.lines()
    assert [line.split()[0] for line in lines[1:5]] == ["ar", "longer", "cm", "dmd"]
    assert lines[5] == "the largest is dmd:"
    assert lines[6:] == found.stages["dmd"].lines()
    alone = distill_chain.predict(replace(distill_chain.tiny_chain(), longer=None))
    assert list(alone.stages) == ["ar", "cm", "dmd"]
