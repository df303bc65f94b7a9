"""The transformer's recipe: what a step draws, what it learns, what it writes, and a kill."""

import math
from dataclasses import replace

import pytest
import torch

from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import load_part, read_config, save_part
from longlive_models.checkpoints.hub import EMBEDDED
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX
from longlive_models.settings import read_settings
from longlive_models.video.files import read_video
from longlive_recipes import train_ar
from longlive_recipes.configs.distill_dmd import dmd_pocket
from longlive_recipes.configs.run import Run
from longlive_recipes.moving_shapes.clips import clip
from longlive_recipes.moving_shapes.dataset import LatentClips
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.train_ar import TrainARModule
from longlive_recipes.training.fit import fit
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.parallel import Parallel
from longlive_recipes.training.schedule import Phase, TrainingSchedule
from tests.recipes.tiny_runs import (
    ar_config,
    assert_equal,
    assert_same_run,
    column,
    run_until_killed,
    write_tiny_vae,
)


def ready(config) -> TrainARModule:
    """A module as it is before its first step."""
    module = TrainARModule(config)
    module.configure_model()
    module.on_fit_start()
    return module


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return write_tiny_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, vae):
    """The tiny preset, with samples."""
    folder = tmp_path_factory.mktemp("ar")
    config = ar_config(folder, vae)
    config = replace(config, run=replace(config.run, samples_every=2))
    assert train_ar.run(config) == folder / "model"
    return folder


@pytest.fixture(scope="module")
def module(tmp_path_factory, vae):
    """Ready to step, with many clips' worth of ids and few latents."""
    config = ar_config(tmp_path_factory.mktemp("unused"), vae)
    return ready(config)


def test_the_tiny_preset_takes_its_steps(trained):
    losses = column(trained / "train.csv", "loss")
    assert len(losses) == train_ar.ar_tiny().budget.steps == 4
    assert all(map(math.isfinite, losses))
    assert column(trained / "validation.csv", "step") == [2, 4]
    assert all(map(math.isfinite, column(trained / "validation.csv", "loss_3_blocks")))


def test_its_samples_are_videos_of_the_length_that_was_asked_for(trained):
    [folder] = (trained / "samples").iterdir()
    assert folder.name == "step_0000004"
    frames, fps = read_video(folder / "prompt_0.mp4")
    assert frames.shape == (12, 32, 32, 3)
    assert fps == 12


def test_samples_leave_the_training_alone(trained, tmp_path, vae):
    """With samples at the second and fourth step, and with none, the same is learnt."""
    config = ar_config(tmp_path, vae)
    config = replace(config, run=replace(config.run, samples_every=1))
    module = TrainARModule(config)
    fit(module, config.run, config)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert module.training
    assert (tmp_path / "train.csv").read_text() == (trained / "train.csv").read_text()
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_what_it_writes_is_a_model(trained):
    pipeline = LongLivePipeline.from_pretrained(str(trained / "model"), device="cpu")
    config = train_ar.ar_tiny()
    assert pipeline.settings == config.generation
    assert pipeline.transformer.config == config.model
    video = pipeline("a red circle moves right on a navy background", seconds=3)
    assert video.frames.shape == (36, 32, 32, 3)
    index = (trained / "model" / "model_index.json").read_text()
    assert '"recipe": "TrainAR"' in index
    assert pipeline.fingerprint in index


def test_what_it_writes_is_the_average_in_bfloat16(trained):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    average = checkpoint["callbacks"]["MovingAverage"]["average"]
    for part, prefix in (("transformer", "model."), ("text_encoder", "text.")):
        _, tensors = load_part(trained / "model" / part)
        assert tensors.keys() == {
            name.removeprefix(prefix) for name in average if name.startswith(prefix)
        }
        for name, tensor in tensors.items():
            assert torch.equal(tensor, average[prefix + name].bfloat16()), name
    assert all(name.startswith(("model.", "text.")) for name in checkpoint["state_dict"])


def test_a_killed_run_goes_on_bit_for_bit(trained, tmp_path, vae):
    killed = tmp_path / "killed"
    run_until_killed(
        "train_ar.TrainARModule = kill_at(train_ar.TrainARModule, 3)\n"
        f"train_ar.run(ar_config({str(killed)!r}, {str(vae)!r}))\n"
    )
    assert column(killed / "train.csv", "step") == [1, 2, 3]
    train_ar.run(ar_config(killed, vae), resume=str(killed))
    assert_same_run(killed, trained)
    for part in ("transformer", "text_encoder"):
        one, other = (load_part(folder / "model" / part) for folder in (killed, trained))
        assert_equal(one, other, part)


@torch.no_grad()
def same_loss(module) -> float:
    """The loss on the training clips, always with the same noise."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    return sum(float(module.loss(module.model, module.sets[2], 2, generator)) for _ in range(8))


def test_it_learns_a_few_clips(tmp_path, vae):
    config = ar_config(
        tmp_path,
        vae,
        sets=(ClipSet(blocks=2, clips=2),),
        phases=(Phase(length=2, batch=2, until=1.0),),
        budget=TrainingSchedule(steps=30, warmup_steps=3),
        optimization=Optimization(learning_rate=2e-2, ema_decay=0.0),
    )
    config = replace(config, run=replace(config.run, validate_every=10, checkpoint_minutes=1.0))
    module = ready(config)
    before = same_loss(module)
    fit(module, config.run, config)
    assert all(map(math.isfinite, column(tmp_path / "train.csv", "loss")))
    assert same_loss(module) < 0.7 * before
    first, second, third = column(tmp_path / "validation.csv", "loss_2_blocks")
    assert first > second > third


def test_every_part_is_trained_and_the_text_encoder_with_it(module):
    torch.nn.init.normal_(module.model.head.head.weight)  # it begins at zero, and stops gradients
    module.zero_grad()
    module.training_step(0)["loss"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_phases_switch_at_their_progress(tmp_path, monkeypatch, vae):
    config = ar_config(
        tmp_path,
        vae,
        phases=(Phase(length=2, batch=2, until=0.25), Phase(length=3, batch=1, until=1.0)),
    )
    config = replace(config, run=replace(config.run, validate_every=100))
    seen = []
    loss = TrainARModule.loss

    def watched(module, model, clips, count, generator):
        if torch.is_grad_enabled():
            seen.append((clips.ids.shape[1], count))
        return loss(module, model, clips, count, generator)

    monkeypatch.setattr(TrainARModule, "loss", watched)
    fit(TrainARModule(config), config.run, config)
    assert seen == [(2, 2), (3, 1), (3, 1), (3, 1)]


def test_prompts_and_words_are_dropped_as_often_as_they_should(module):
    tokenizer = module.text.tokenizer
    prompt = module.text.tokenize(["a red circle moves right on a navy background", ""])
    ids = prompt[:1].expand(4, 32).expand(5000, 4, 32)
    dropped = module._drop(ids, torch.Generator().manual_seed(0))
    empty = (dropped == prompt[1]).all(-1)
    assert torch.equal(empty.all(1), empty.any(1))  # a clip loses all of its prompts, or none
    assert empty.any(1).float().mean() == pytest.approx(0.1, abs=0.015)
    kept = dropped[~empty]
    is_word = (prompt[0] > tokenizer.END).expand_as(kept)
    unknown = kept == tokenizer.UNKNOWN
    assert unknown[is_word].float().mean() == pytest.approx(0.02, abs=0.003)
    assert torch.equal(torch.where(unknown, prompt[0], kept), prompt[0].expand_as(kept))
    assert not unknown[~is_word].any()


def test_the_clean_half_has_a_little_noise_of_another_strength_in_each_clip(module):
    spread = module._jitter(module.sets[2], 400).flatten(1).std(1)
    assert spread.max() < 0.055
    assert spread.min() < 0.005
    assert spread.mean() == pytest.approx(0.025, abs=0.003)


def test_fresh_clips_are_not_those_of_training(module):
    for blocks, clips in module.sets.items():
        fresh = module.fresh[blocks]
        assert len(fresh) == module.config.validation_clips
        for latents in fresh.latents:
            assert not any(torch.equal(latents, other) for other in clips.latents)


def test_clips_have_the_motions_of_their_set(tmp_path, vae):
    sets = (ClipSet(blocks=2, clips=3, motions=("spins",)), ClipSet(blocks=3, clips=2))
    config = ar_config(tmp_path / "out", vae, sets=sets, latent_cache=str(tmp_path / "cache"))
    made = ready(config)
    for one in sets:
        for index, prompts in enumerate(made.sets[one.blocks].prompts):
            seed, form = config.seed + one.blocks, config.world
            drawn = clip(seed, index, clip_format=form, blocks=one.blocks, motions=one.motions)
            assert tuple(text.removeprefix(SCENE_CUT_PREFIX) for text in prompts) == drawn.captions
    with pytest.raises(ValueError, match=r"other clips \(motions"):
        ready(replace(config, sets=(replace(sets[0], motions=("orbits",)), sets[1])))


def test_latents_are_encoded_once_and_kept(tmp_path, monkeypatch, vae):
    config = ar_config(tmp_path / "out", vae, latent_cache=str(tmp_path / "cache"))
    first = ready(config)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"blocks_2", "blocks_3"}
    loaded, load = [], LatentClips.load

    def watched(folder, source, device):
        loaded.append(folder.name)
        return load(folder, source, device)

    monkeypatch.setattr(LatentClips, "load", watched)
    again = ready(config)
    assert loaded == ["blocks_2", "blocks_3"]
    for blocks, clips in first.sets.items():
        assert_equal(vars(again.sets[blocks]), vars(clips), "clips")
    with pytest.raises(ValueError, match=r"other clips \(seed: 2 -> 3\)"):
        ready(replace(config, seed=1))
    values, tensors = load_part(vae)
    tensors["conv2.bias"] += 1
    save_part(tmp_path / "vae", values, tensors)
    with pytest.raises(ValueError, match=r"other clips \(vae: "):
        ready(replace(config, vae=str(tmp_path / "vae")))


def test_a_run_can_start_from_a_model(trained, tmp_path, vae):
    module = TrainARModule(ar_config(tmp_path, vae, start_from=str(trained / "model")))
    module.configure_model()
    _, tensors = load_part(trained / "model" / "transformer")
    weight = module.model.patch_embedding.weight
    assert torch.equal(weight, tensors["patch_embedding.weight"].float())
    assert weight.dtype == torch.float32
    assert weight.requires_grad
    wide = replace(train_ar.ar_tiny().model, num_layers=3)
    with pytest.raises(ValueError, match="does not hold the weights of this WanTransformer"):
        config = ar_config(tmp_path, vae, model=wide, start_from=str(trained / "model"))
        TrainARModule(config).configure_model()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": "nowhere"}, "there is no model 'nowhere'"),
        ({"start_from": "nowhere"}, "transformer is no part of a model"),
        ({"model": replace(train_ar.ar_tiny().model, in_channels=8)}, "takes 8 latent channels"),
        ({"text": replace(train_ar.ar_tiny().text, dim=8)}, "the text encoder gives 32 rows of 8"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(changes, message, tmp_path, vae):
    with pytest.raises(ValueError, match=message):
        config = replace(ar_config(tmp_path / "out", vae), **changes)
        train_ar.run(config)
    assert not (tmp_path / "out").exists()


def test_phases_need_clips_of_their_length():
    phases = (Phase(length=7, batch=1, until=1.0),)
    with pytest.raises(ValueError, match=r"clips of 7 blocks, but the clip sets have \[2, 3\]"):
        replace(train_ar.ar_tiny(), phases=phases)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_clips": 3}, "validation_clips is 3 clips, which parallel.data=2 ranks"),
        ({"phases": (Phase(length=2, batch=5, until=1.0),)}, "a phase's batch is 5 clips"),
        ({"run": Run(output="runs", compile=True)}, "run.compile=true is for one rank, got 2"),
    ],
)
def test_what_ranks_cannot_share_is_refused_before_the_run(changes, message):
    fitting = {"phases": (Phase(length=2, batch=4, until=1.0),), "validation_clips": 2}
    with pytest.raises(ValueError, match=message):
        replace(train_ar.ar_tiny(), parallel=Parallel(data=2), **fitting | changes)


def test_the_pocket_preset_makes_what_is_shipped():
    config, shipped = dmd_pocket(), EMBEDDED["pocket"]
    assert config.generation == read_settings(shipped)
    packed = read_config(shipped / "transformer")
    assert packed.pop("quantization_config")["quant_method"] == "longlive_nvfp4"
    assert config.model.to_dict() == packed
    assert config.text.to_dict() == read_config(shipped / "text_encoder")
