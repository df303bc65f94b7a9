"""Predicted memory of the VAE's training, beside what torch's profiler says of real steps."""

from dataclasses import replace

import pytest

from longlive_models.vae import POCKET_VAE
from longlive_recipes import distill_vae, train_vae
from longlive_recipes.configs.train_vae import VAEPhase, vae_pocket
from longlive_recipes.distill_vae import DistillVAEModule
from longlive_recipes.train_vae import TrainVAEModule
from tests.recipes.memory_peaks import ENOUGH, measured_peak
from tests.recipes.tiny_runs import quiet_run, vae_config, write_tiny_vae

WIDE = replace(POCKET_VAE, encoder_dim=16, decoder_dim=16)


def sized(folder, *, length=5, batch=4, crop=None, precision="32-true", **changes):
    phase = VAEPhase(length=length, batch=batch, until=1.0, crop=crop)
    made = vae_config(folder, vae=WIDE, phases=(phase,), budget=ENOUGH, **changes)
    return replace(made, run=replace(made.run, precision=precision))


@pytest.mark.filterwarnings("ignore")  # the profiler has its own
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"length": 1, "batch": 12},
        {"batch": 12, "crop": 16},
        {"precision": "bf16-mixed"},
        {"batch": 1, "length": 1},  # an update takes more than the passes do
    ],
    ids=str,
)
def test_the_prediction_is_within_a_tenth_of_what_a_step_takes(changes, tmp_path):
    made = sized(tmp_path / "run", **changes)
    plan = train_vae.predict(made)
    within = plan.peak - sum(plan.lasting.values())
    peak = measured_peak(TrainVAEModule, made)
    assert within == pytest.approx(peak, rel=0.1)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return write_tiny_vae(tmp_path_factory.mktemp("vae"))


def light(folder, vae, **changes):
    made = replace(distill_vae.vae_light_tiny(), vae=str(vae), run=quiet_run(folder))
    return replace(made, budget=ENOUGH, batch=4, **changes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("piece", [4, 8])
def test_that_of_a_light_decoder_is_too(piece, tmp_path, vae):
    made = light(tmp_path / "run", vae, piece=piece, seed=3)  # whose measured step is of piece 2
    plan = distill_vae.predict(made)
    within = plan.peak - sum(plan.lasting.values())
    peak = measured_peak(DistillVAEModule, made)
    assert within == pytest.approx(peak, rel=0.1)


def test_what_lasts_is_what_a_run_holds(tmp_path, vae):
    made = sized(tmp_path / "run")
    module = TrainVAEModule(made)
    module.on_fit_start()
    lasting = train_vae.predict(made).lasting
    pools = (module.pool, module.fresh)
    assert lasting["clips"] == sum(one.frames.nbytes + one.coverage.nbytes for one in pools)
    assert lasting["weights, in float32"] == sum(p.nbytes for p in module.parameters())
    shown = light(tmp_path / "light", vae)
    decoder = DistillVAEModule(shown)
    decoder.on_fit_start()
    lasting = distill_vae.predict(shown).lasting
    assert lasting["latents"] == decoder.latents.nbytes + decoder.fresh.nbytes
    held = {p for one in (decoder.full, decoder.vae) for p in one.parameters()}
    others = sum(p.nbytes for p in held - set(decoder.parameters()))
    assert lasting["the full VAE, and the light one's encoder"] == others
    assert lasting["weights, in float32"] == sum(p.nbytes for p in decoder.parameters())


def test_a_frozen_encoder_has_no_states_and_keeps_nothing(tmp_path):
    made = sized(tmp_path)
    whole = train_vae.predict(made)
    frozen = train_vae.predict(replace(made, start_from="a folder", frozen_encoder=True))
    assert frozen.lasting["weights, in float32"] == whole.lasting["weights, in float32"]
    assert frozen.lasting["states of the optimizer"] < whole.lasting["states of the optimizer"]
    assert frozen.step.kept < 0.8 * whole.step.kept


def test_the_phase_with_the_most_pixels_is_predicted():
    [line, *_, last] = train_vae.predict(
        replace(vae_pocket(), run=replace(vae_pocket().run, compile=False))
    ).lines()
    assert "48 windows of 17 frames of 128x128, not compiled" in line
    assert last == "frames of a step on a device: 816"


@pytest.mark.slow
def test_a_compiled_pass_keeps_less(tmp_path):
    made = sized(tmp_path, precision="bf16-mixed")
    eager = train_vae.predict(made)
    compiled = train_vae.predict(replace(made, run=replace(made.run, compile=True)))
    assert 0.3 * eager.step.kept < compiled.step.kept < eager.step.kept
    assert ", compiled)" in compiled.lines()[0]
