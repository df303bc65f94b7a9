"""A run's recycled errors: what is kept late is what keeping it at once would have kept."""

import random
from dataclasses import replace

import pytest
import torch

from longlive_models.objectives.error_bank import ErrorBankConfig
from longlive_models.objectives.error_recycling import ErrorRecycling, prediction_errors
from longlive_recipes import train_ar
from longlive_recipes.train_ar import TrainARModule
from longlive_recipes.training.ar_batch import over_frames
from longlive_recipes.training.fit import fit
from longlive_recipes.training.module import ERRORS, step_seed
from longlive_recipes.training.recycled import Recycled, RunErrors, bank_bytes
from tests.recipes.test_train_ar_options import EVERYTHING, OFTEN
from tests.recipes.tiny_runs import (
    ar_config,
    assert_equal,
    assert_same_run,
    load_last,
    write_tiny_vae,
)


class AtOnce(RunErrors):
    """Adds block by block on the CPU, and keeps a step's errors before the step goes on."""

    def add(self, batch, drawn, own, step):
        chance = random.Random(step_seed(self.seed, step, ERRORS))
        clips, frames = drawn.timesteps.shape
        none = torch.zeros(clips, batch.latents.shape[1], frames, *batch.latents.shape[3:])
        index = self.schedule.index(drawn.timesteps)
        made = self.recycler.corrupt(none, none, index, step=step, chance=chance)
        kept = torch.ones(()) if batch.free is None else over_frames(batch.free)
        noise, context, start = (
            to + own.frames(errors, 2) * kept
            for to, errors in (
                (batch.noise, made.noise),
                (batch.context, made.context),
                (batch.latents, made.start),
            )
        )
        changed = replace(batch, noise=noise, context=context, start=start)
        return changed, Recycled(clean=made.clean, chance=chance)

    @torch.no_grad()
    def learn(self, parts, drawn, own, recycled):
        latent, noise = [], []
        for batch, made in parts:
            sigma = self.schedule.sigma(batch.timesteps)
            free = 1.0 if batch.free is None else over_frames(batch.free)
            errors = prediction_errors(made, batch.latents, sigma)
            latent.append((errors[0] * free).bfloat16())
            noise.append((errors[1] * free).bfloat16())
        self.recycler.learn(
            torch.cat(latent),
            torch.cat(noise),
            self.schedule.index(drawn.timesteps),
            clean=recycled.clean,
            chance=recycled.chance,
            counted=drawn.real,
        )


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return write_tiny_vae(tmp_path_factory.mktemp("vae"))


def test_a_run_has_the_numbers_of_one_that_keeps_its_errors_at_once(tmp_path, vae, monkeypatch):
    """Losses, weights and banks to the last bit: given frames and parts of batches included."""
    for name, kind in (("late", RunErrors), ("at_once", AtOnce)):
        monkeypatch.setattr(train_ar, "RunErrors", kind)
        config = ar_config(tmp_path / name, vae, **EVERYTHING)
        fit(TrainARModule(config), config.run, config)
    late, at_once = tmp_path / "late", tmp_path / "at_once"
    assert_same_run(late, at_once)
    one, other = (load_last(folder)["recycled_errors"] for folder in (late, at_once))
    assert one["latent_errors"]["added"] > 4
    assert_equal(one, other, "errors")


def ready(config) -> TrainARModule:
    module = TrainARModule(config)
    module.configure_model()
    module.on_fit_start()
    return module


def step(module: TrainARModule) -> None:
    clips = module.sets[2]
    module.losses(module.model, clips, 4, torch.Generator().manual_seed(0))


def test_a_step_is_in_the_banks_of_a_checkpoint_that_follows_it(tmp_path, vae):
    module = ready(ar_config(tmp_path, vae, **EVERYTHING | {"recycling": replace(OFTEN, clean=0)}))
    for steps in (1, 2):
        step(module)
        state = module.errors.state_dict()
        assert state["latent_errors"]["added"] == 8 * steps  # four clips of two blocks
    step(module)
    module.on_train_batch_end({}, 2, 2)
    assert module.errors._recycler.latent_errors.added == 24  # kept when the step's hooks end
    step(module)
    module.errors.load_state_dict(state)  # what was on its way is of a run that is no more
    assert_equal(module.errors.state_dict(), state, "errors")


@pytest.mark.parametrize(("noise", "banks"), [(0.0, 1), (1.0, 2)])
def test_errors_of_noise_that_are_never_added_take_no_room(tmp_path, vae, noise, banks):
    bank = ErrorBankConfig(buckets=9)
    recycling = ErrorRecycling(context=1.0, start=0.0, noise=noise, clean=0.0, bank=bank)
    module = ready(ar_config(tmp_path, vae, **EVERYTHING | {"recycling": recycling}))
    step(module)
    made = module.errors.recycler
    assert [one.added for one in (made.latent_errors, made.noise_errors)] == [8, 8 * (banks - 1)]
    assert bank_bytes(recycling, 10) == banks * 9 * 8 * 10 * 2
