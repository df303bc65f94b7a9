"""The VAE's recipe: its presets, what it learns, what it writes, and that it survives a kill."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from longlive_models.checkpoints.folder import load_part, read_config
from longlive_models.checkpoints.hub import EMBEDDED
from longlive_models.vae import VAEConfig, WanVAE
from longlive_recipes import train_vae
from longlive_recipes.configs.train_vae import VAEPhase
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.dataset import FramePool, to_bytes
from longlive_recipes.run_record import as_plain
from longlive_recipes.train_vae import (
    TrainVAEModule,
    latent_statistics,
    measure,
    write_vae,
)
from longlive_recipes.training.fit import fit
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.schedule import TrainingSchedule
from longlive_recipes.training.vae_losses import near_objects
from tests.recipes.tiny_runs import (
    assert_equal,
    assert_same_run,
    column,
    run_until_killed,
    vae_config,
)

CPU = torch.device("cpu")


def load_vae(folder) -> WanVAE:
    config, tensors = load_part(folder)
    vae = WanVAE(VAEConfig.from_dict(config))
    vae.load_state_dict(tensors)
    return vae.eval()


def module_on_the_cpu(config) -> TrainVAEModule:
    module = TrainVAEModule(config)
    module.on_fit_start()
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny preset, with samples."""
    folder = tmp_path_factory.mktemp("vae")
    config = vae_config(folder)
    config = replace(config, run=replace(config.run, samples_every=1))
    assert train_vae.run(config) == folder / "vae"
    return folder


def test_the_tiny_preset_takes_its_steps(trained):
    losses = column(trained / "train.csv", "loss")
    assert len(losses) == train_vae.vae_tiny().budget.steps == 4
    assert all(math.isfinite(loss) for loss in losses)
    assert column(trained / "validation.csv", "step") == [2, 4]
    assert all(map(math.isfinite, column(trained / "validation.csv", "psnr")))
    assert sorted(path.name for path in (trained / "samples" / "step_0000004").iterdir()) == [
        "clip_0.mp4",
        "sheet.png",
    ]


def test_what_is_measured_is_what_is_written(trained):
    config = vae_config(trained)
    fresh = FramePool.draw(config.world, config.validation_clips, config.seed + 2, CPU)
    scores = json.loads((trained / "vae" / "scores.json").read_text())
    with torch.no_grad():
        assert measure(load_vae(trained / "vae"), fresh) == pytest.approx(scores, rel=1e-6)


def test_latents_of_a_written_vae_are_normalized(trained):
    config = vae_config(trained)
    fresh = FramePool.draw(config.world, config.validation_clips, config.seed + 2, CPU)
    vae = load_vae(trained / "vae")
    with torch.no_grad():
        latents = torch.cat([vae.encode(video) for video, _ in fresh.batches(8)])
    values = latents.transpose(0, 1).flatten(1)
    assert values.mean(1).abs().max() < 1e-2
    assert (values.std(1) - 1).abs().max() < 1e-2


def test_a_killed_run_goes_on_bit_for_bit(trained, tmp_path):
    killed = tmp_path / "killed"
    run_until_killed(
        "train_vae.TrainVAEModule = kill_at(train_vae.TrainVAEModule, 3)\n"
        f"train_vae.run(vae_config({str(killed)!r}))\n"
    )
    assert column(killed / "train.csv", "step") == [1, 2, 3]
    train_vae.run(vae_config(killed), resume=str(killed))
    assert_same_run(killed, trained)
    assert_equal(load_part(killed / "vae"), load_part(trained / "vae"), "vae")


def test_it_learns_a_few_clips(tmp_path):
    config = vae_config(
        tmp_path,
        phases=(VAEPhase(length=1, batch=2, until=0.3), VAEPhase(length=5, batch=2, until=1.0)),
        world=ClipFormat(size=16),
        pool_clips=1,
        budget=TrainingSchedule(steps=30, warmup_steps=3),
        optimization=Optimization(learning_rate=3e-3, ema_decay=0.0),
    )
    config = replace(config, run=replace(config.run, validate_every=30, checkpoint_minutes=1.0))
    module = module_on_the_cpu(config)
    with torch.no_grad():
        before = measure(module.vae, module.pool)["psnr"]
    fit(module, config.run, config)
    losses = column(tmp_path / "train.csv", "loss")
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    with torch.no_grad():
        assert measure(module.vae, module.pool)["psnr"] > before + 5


def test_phases_switch_at_their_progress(tmp_path, monkeypatch):
    config = vae_config(
        tmp_path,
        phases=(
            VAEPhase(length=1, batch=2, until=0.25),
            VAEPhase(length=5, batch=1, until=0.75, crop=8),
            VAEPhase(length=9, batch=3, until=1.0),
        ),
        budget=TrainingSchedule(steps=8, warmup_steps=1),
        world=ClipFormat(size=16),
    )
    config = replace(config, run=replace(config.run, validate_every=100))
    seen = []
    windows = FramePool.windows

    def watched(pool, count, length, generator, crop=None):
        seen.append((length, count, crop))
        return windows(pool, count, length, generator, crop)

    monkeypatch.setattr(FramePool, "windows", watched)
    fit(TrainVAEModule(config), config.run, config)
    assert seen == [(1, 2, None)] * 2 + [(5, 1, 8)] * 4 + [(9, 3, None)] * 2


def test_objects_count_more_than_the_background(tmp_path):
    """The loss against its formula, for a reconstruction that is grey everywhere."""
    config = vae_config(tmp_path, phases=(VAEPhase(length=5, batch=2, until=1.0),))
    module = module_on_the_cpu(config)
    mean, logvar = torch.full((2, 24, 2, 4, 4), 0.5), torch.full((2, 24, 2, 4, 4), -1.0)
    module.compiled = lambda video: (torch.zeros_like(video), mean, logvar)
    got = module.training_step(0)
    video, coverage = module.pool.windows(2, 5, module.choices(0))
    near = F.conv3d((coverage > 0).float(), torch.ones(1, 1, 1, 5, 5), padding=(0, 2, 2)) > 0
    weight = torch.where(near, 5.0, 1.0)
    picture = (weight * (video.abs() + config.squared_weight * video**2)).sum() / 3 / weight.sum()
    kl = 0.5 * (0.25 + math.exp(-1) - 1 + 1)
    assert near.any() and not near.all()
    assert got["picture"] == pytest.approx(picture.item(), rel=1e-5)
    assert got["kl"] == pytest.approx(kl, rel=1e-5)
    assert got["loss"] == pytest.approx((picture + config.kl_weight * kl).item(), rel=1e-5)


def test_near_objects_reaches_two_pixels():
    coverage = torch.zeros(1, 1, 2, 9, 9)
    coverage[0, 0, 0, 4, 4] = 0.1
    near = near_objects(coverage)
    assert near[0, 0, 0].nonzero().tolist() == [[y, x] for y in range(2, 7) for x in range(2, 7)]
    assert not near[0, 0, 1].any()


def test_the_peak_signal_to_noise_ratio_is_its_definition(tmp_path):
    pool = FramePool.draw(ClipFormat(size=16), 2, 0, CPU)

    vae = SimpleNamespace(
        moments=lambda video: (video, None), normalize=lambda x: x, decode=lambda x: x + 0.1
    )
    inside = torch.cat([coverage for _, coverage in pool.batches(8)]) > 0
    video = torch.cat([video for video, _ in pool.batches(8)])
    squared = (((video + 0.1).clamp(-1, 1) - video) / 2).square().mean(1, keepdim=True)
    scores = measure(vae, pool, batch=1)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(squared.mean()), abs=1e-3)
    objects = -10 * math.log10(squared[inside].mean())
    assert scores["psnr_objects"] == pytest.approx(objects, abs=1e-3)


def test_writing_a_vae_leaves_the_one_in_training_alone(tmp_path):
    module = module_on_the_cpu(vae_config(tmp_path))
    with torch.no_grad():
        for parameter in module.vae.parameters():
            parameter.add_(1e-4)  # what bfloat16 cannot hold
    before = {name: tensor.clone() for name, tensor in module.vae.state_dict().items()}
    write_vae(module.vae, module.fresh, tmp_path / "vae")
    assert_equal(dict(module.vae.state_dict()), before, "vae")
    assert module.vae.config.latent_std == (1.0,) * 24
    with torch.no_grad():
        mean, std = latent_statistics(load_vae(tmp_path / "vae"), module.fresh)
    written = read_config(tmp_path / "vae")
    assert written["latent_mean"] == pytest.approx(mean, abs=1e-4)
    assert written["latent_std"] == pytest.approx(std, abs=1e-4)


def test_statistics_in_the_config_do_not_change_a_reconstruction(tmp_path):
    plain = vae_config(tmp_path)
    skewed = replace(plain, vae=replace(plain.vae, latent_mean=(0.3,) * 24, latent_std=(2.0,) * 24))
    one, other = TrainVAEModule(plain), TrainVAEModule(skewed)
    other.load_state_dict(one.state_dict())
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    torch.manual_seed(1)
    want, *_ = one.reconstruct(video)
    torch.manual_seed(1)
    got, *_ = other.reconstruct(video)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_samples_show_originals_beside_reconstructions(tmp_path):
    config = vae_config(tmp_path, validation_clips=3, sample_clips=2)
    module = module_on_the_cpu(config)
    with torch.no_grad():
        samples = module.samples()
    assert list(samples) == ["clip_0", "clip_1"]
    frames = samples["clip_1"].frames
    assert frames.shape == (61, 32, 64, 3)
    assert torch.equal(frames[:, :, :32], module.fresh.frames[1].permute(1, 2, 3, 0))
    with torch.no_grad():
        video, _ = next(module.fresh.first(2).batches(2))
        restored = module.vae.decode(module.vae.encode(video))[1]
    difference = to_bytes(restored).permute(1, 2, 3, 0).int() - frames[:, :, 32:].int()
    assert difference.abs().max() <= 1


def test_the_seed_gives_the_first_weights(tmp_path):
    torch.manual_seed(1)
    one = TrainVAEModule(vae_config(tmp_path))
    torch.manual_seed(2)
    again = TrainVAEModule(vae_config(tmp_path))
    other = TrainVAEModule(vae_config(tmp_path, seed=1))
    assert_equal(dict(again.vae.state_dict()), dict(one.vae.state_dict()), "vae")
    assert not torch.equal(other.vae.conv2.weight, one.vae.conv2.weight)


def test_a_run_can_start_from_weights_of_another(trained, tmp_path):
    config = vae_config(tmp_path, start_from=str(trained / "vae"))
    module = TrainVAEModule(config)
    tensors = {name: tensor.float() for name, tensor in load_part(trained / "vae")[1].items()}
    assert_equal(dict(module.vae.state_dict()), tensors, "vae")
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in module.parameters())


def test_a_decoder_is_trained_alone_for_the_latents_that_there_are(trained, tmp_path):
    config = vae_config(tmp_path, start_from=str(trained / "vae"), frozen_encoder=True, seed=7)
    train_vae.run(config)
    (before, weights), (after, new) = load_part(trained / "vae"), load_part(tmp_path / "vae")
    assert after == before  # with the statistics of latents
    assert {name.split(".")[0] for name in new if not torch.equal(new[name], weights[name])} == {
        "conv2",
        "decoder",
    }
    with pytest.raises(ValueError, match="frozen_encoder=True leaves an encoder as it is"):
        replace(config, start_from=None)


def test_missing_weights_are_refused_before_anything_is_written(tmp_path):
    config = vae_config(tmp_path / "out", start_from=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="none is no part of a model"):
        train_vae.run(config)
    assert not (tmp_path / "out").exists()


def test_phases_are_checked():
    with pytest.raises(ValueError, match="the last at 1"):
        replace(train_vae.vae_tiny(), phases=(VAEPhase(length=1, batch=1, until=0.5),))
    for crop, fitting in ((12, 8), (40, 32), (4, 8)):
        phases = (VAEPhase(length=1, batch=1, until=1.0, crop=crop),)
        with pytest.raises(ValueError, match=rf"phases.0.crop={crop}: .* Use {fitting}\."):
            replace(train_vae.vae_tiny(), phases=phases)


def test_the_pocket_presets_make_what_is_shipped():
    shipped = read_config(EMBEDDED["pocket"] / "vae")
    first, second = train_vae.vae_pocket(), train_vae.vae_pocket_finetune()
    for config in (first, second):
        same = {k: v for k, v in config.vae.to_dict().items() if not k.startswith("latent_")}
        assert same.items() <= shipped.items()
    assert second.start_from == f"{first.run.output}/vae"
    changed = {"phases", "start_from", "frozen_encoder", "budget", "optimization", "run", "seed"}
    a, b = as_plain(first), as_plain(second)
    assert {name for name in a if a[name] != b[name]} == changed
