"""Options of AR training: recycled errors, given first frames, parts of a batch, adapters."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import Phase as Stage
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from longlive_core.float8 import Float8Linear
from longlive_core.kv_cache import Window
from longlive_core.nvfp4 import NVFP4Linear
from longlive_models.checkpoints.folder import load_part
from longlive_models.diffusion import FlowSchedule
from longlive_models.lora import adapters, load_lora
from longlive_models.objectives import frame_losses
from longlive_models.objectives.error_bank import ErrorBankConfig
from longlive_models.objectives.error_recycling import ErrorRecycling
from longlive_models.text import PocketTextConfig, PocketTextEncoder
from longlive_models.wan import WanConfig, WanTransformer
from longlive_recipes import train_ar
from longlive_recipes.configs.ar_options import Adapter
from longlive_recipes.moving_shapes.dataset import LatentClips, TokenClips
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.train_ar import TrainARModule
from longlive_recipes.training.ar_batch import Drawn
from longlive_recipes.training.fit import fit
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.schedule import Phase, TrainingSchedule
from tests.recipes.tiny_runs import (
    ar_config,
    assert_equal,
    assert_same_run,
    column,
    load_last,
    run_until_killed,
    write_tiny_vae,
)

OFTEN = ErrorRecycling(
    context=0.8, start=0.8, noise=0.8, clean=0.2, bank=ErrorBankConfig(buckets=3, bucket_size=2)
)
EVERYTHING = {
    "recycling": OFTEN,
    "image_to_video": 0.5,
    "accumulate": 2,
    "sets": (ClipSet(blocks=2, clips=4),),
    "phases": (Phase(length=2, batch=4, until=1.0),),
    "optimization": Optimization(),  # Muon's products are in bfloat16
}
ON_DISK = {"recycling": replace(OFTEN, bank=replace(OFTEN.bank, store="disk"))}


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return write_tiny_vae(tmp_path_factory.mktemp("vae"))


def ready(config) -> TrainARModule:
    module = TrainARModule(config)
    module.configure_model()
    module.on_fit_start()
    return module


class Asked:
    """A model that remembers what it was asked, and answers with nothing but zeros."""

    def __call__(self, noisy, timesteps, text, *, clean, clean_timesteps, **how):
        self.noisy, self.timesteps, self.clean = noisy, timesteps, clean
        self.clean_timesteps = clean_timesteps
        return torch.zeros_like(noisy)


def test_a_given_first_frame_is_clean_everywhere_and_out_of_the_loss(tmp_path, vae):
    config = ar_config(tmp_path, vae, image_to_video=1.0, recycling=OFTEN, context_jitter=0.5)
    module, asked = ready(config), Asked()
    block = module.sets[2].latents[0, :, :8].float()
    for bank in (module.errors.recycler.latent_errors, module.errors.recycler.noise_errors):
        for index in range(0, 1000, 50):  # errors that cannot be overlooked
            bank.add(torch.full_like(block, 9.0), index, random.Random(0))
    clips, changed = module.sets[2], 0
    for seed in range(6):
        module.run_progress.steps = seed
        generator = torch.Generator().manual_seed(seed)
        losses = module.losses(asked, clips, 2, generator)
        first = clips.latents[clips.draw(2, torch.Generator().manual_seed(seed)), :, 0].float()
        for seen in (asked.noisy, asked.clean):
            assert torch.equal(seen[:, :, 0], first)
        assert (asked.timesteps[:, 0] == 0).all() and not asked.clean_timesteps.any()
        assert (asked.timesteps[:, 1:8] == asked.timesteps[:, 1:2]).all()
        assert (losses[:, 0] == 0).all() and (losses[:, 1:] > 0).all()
        changed += float(asked.clean[:, :, 1:].abs().max()) > 4
    assert changed >= 3  # the rest of the context had errors
    everything = module.losses(asked, clips, 2, torch.Generator().manual_seed(0))
    counted = everything[:, 1:] / (16 / 15)  # what weights scale up, so that the mean is over 15
    assert everything.mean() == pytest.approx(float(counted.mean()), rel=1e-6)


def test_a_share_of_clips_has_its_first_frame_given(tmp_path, vae):
    module = ready(ar_config(tmp_path, vae, image_to_video=0.25))
    _, drawn = module._draw(module.sets[2], 400, torch.Generator().manual_seed(0))
    assert drawn.given.float().mean() == pytest.approx(0.25, abs=0.07)
    assert torch.equal(drawn.free[:, 0] == 0, drawn.given)
    assert drawn.weights.mean() == pytest.approx(1.0, abs=1e-6)


def test_validation_adds_no_errors_and_keeps_none(tmp_path, vae):
    module = ready(ar_config(tmp_path, vae, **EVERYTHING))
    with module.averaged():
        module.losses(Asked(), module.fresh[2], 1, torch.Generator().manual_seed(0))
    assert len(module.errors.recycler.latent_errors) == 0
    module.losses(Asked(), module.sets[2], 4, torch.Generator().manual_seed(0))
    assert len(module.errors.recycler.latent_errors) > 0


def test_a_batch_in_parts_is_learnt_from_as_a_whole_one(tmp_path, vae):
    runs = {}
    for parts in (1, 2, 4):
        config = ar_config(tmp_path / str(parts), vae, **EVERYTHING | {"accumulate": parts})
        module = TrainARModule(config)
        fit(module, config.run, config)
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        runs[parts] = column(tmp_path / str(parts) / "train.csv", "loss"), weights, module.errors
    for parts in (2, 4):
        assert runs[parts][0] == pytest.approx(runs[1][0], rel=1e-5)
        assert torch.allclose(runs[parts][1], runs[1][1], atol=2e-5)
        held = [runs[n][2].recycler.latent_errors.held() for n in (1, parts)]
        assert len(held[0]) == len(held[1]) > 0
        for one, other in zip(*held, strict=True):
            assert torch.allclose(one.float(), other.float(), atol=0.02)


def test_a_killed_run_goes_on_with_its_errors_on_a_disk_and_in_parts(tmp_path, vae):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    budget = TrainingSchedule(steps=5, warmup_steps=1)
    train_ar.run(ar_config(whole, vae, **EVERYTHING, budget=budget))
    run_until_killed(
        "from tests.recipes.test_train_ar_options import EVERYTHING\n"
        "from tests.recipes.test_train_ar_options import ON_DISK\n"
        "train_ar.TrainARModule = kill_at(train_ar.TrainARModule, 3)\n"
        f"config = ar_config({str(killed)!r}, {str(vae)!r}, **EVERYTHING | ON_DISK,\n"
        "    budget=TrainingSchedule(steps=5, warmup_steps=1))\n"
        "train_ar.run(config)\n"
    )
    assert column(killed / "train.csv", "step") == [1, 2, 3]
    assert not list((killed / "errors").iterdir())
    how = EVERYTHING | ON_DISK
    train_ar.run(ar_config(killed, vae, **how, budget=budget), resume=str(killed))
    assert_same_run(killed, whole)
    one, other = (load_last(folder)["recycled_errors"] for folder in (killed, whole))
    assert_equal(one, other, "errors")
    assert one["latent_errors"]["added"] > 4


TINY = WanConfig(
    dim=24,
    ffn_dim=16,
    num_heads=2,
    num_layers=1,
    in_channels=2,
    out_channels=2,
    text_dim=8,
    text_len=4,
    freq_dim=8,
    frames_per_block=2,
)


@settings(max_examples=6, deadline=None, phases=[Stage.generate])
@given(st.integers(1, 3), st.integers(0, 2**20), st.booleans())
def test_what_fills_up_a_short_clip_changes_nothing(length, seed, cut):
    """Loss and gradients are those of other fillings, and frames that count have those of the
    clip by itself."""

    torch.manual_seed(seed)
    model = WanTransformer(TINY)
    torch.nn.init.normal_(model.head.head.weight)
    text = PocketTextEncoder(
        PocketTextConfig(vocab=("a", "b"), dim=8, text_len=4, num_layers=1, num_heads=2, ffn_dim=8)
    )
    latents, noise = torch.randn(2, 1, 2, 6, 2, 2)
    timesteps = FlowSchedule().draw(torch.Generator(), batch=1, frames=6, frames_per_block=2)

    def learn(blocks: int, filling: float):
        own = latents[:, :, : 2 * blocks].clone()
        own[:, :, 2 * length :] = filling
        cuts = torch.zeros(1, blocks, dtype=torch.bool)
        cuts[0, 1:2] = cut and length > 1
        made = LatentClips(own, (("a",) * length,), cuts)
        clips = TokenClips.of(
            made,
            text,
            window=Window(pages=3),
            frames_per_block=2,
            tokens_per_frame=1,
            shot_offset=8.0,
        )
        drawn = Drawn(
            timesteps=timesteps[:, : 2 * blocks], frames_per_block=2, lengths=clips.lengths
        )
        losses = frame_losses(
            model,
            own,
            text(clips.ids.flatten(0, 1)).unflatten(0, (1, blocks)),
            noise=noise[:, :, : 2 * blocks],
            timesteps=drawn.timesteps,
            mask=clips.mask(torch.tensor([0])),
            schedule=FlowSchedule(),
            positions=clips.positions,
        )
        weighted = losses if drawn.weights is None else losses * drawn.weights
        model.zero_grad()
        weighted.mean().backward()
        return weighted.mean().detach(), [p.grad.clone() for p in model.parameters()]

    alone, filled, otherwise = learn(length, 0.0), learn(3, 0.0), learn(3, 5.0)
    for one, other in pairwise((alone, filled, otherwise)):
        assert torch.allclose(one[0], other[0], rtol=1e-5, atol=1e-7)
        for a, b in zip(one[1], other[1], strict=True):
            assert (a - b).norm() <= 1e-4 * b.norm() + 1e-5


def test_weights_are_float32_and_move_where_bfloat16_would_not(tmp_path, vae):
    config = ar_config(
        tmp_path,
        vae,
        budget=TrainingSchedule(steps=2, warmup_steps=0, final_rate=1.0),
        optimization=Optimization(learning_rate=1e-6, weight_decay=0.0, ema_decay=0.0),
    )
    config = replace(config, run=replace(config.run, precision="bf16-mixed", validate_every=100))
    module = TrainARModule(config)
    module.configure_model()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    fit(module, config.run, config)
    name = "model.head.head.weight"  # begins at zero: what is before it has no gradient at once
    moved = {n: (p.detach() - before[n]).abs().max() for n, p in module.named_parameters()}
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert 0.9e-6 < moved[name] < 2.1e-6
    weight = "model.blocks.0.ffn.0.weight"
    assert 0 < moved[weight] < 2.1e-6
    after = dict(module.named_parameters())[weight].detach()
    same = (after.bfloat16() == before[weight].bfloat16()).float().mean()
    assert same > 0.99 and (after != before[weight]).float().mean() > 0.5


@pytest.fixture(scope="module")
def base(tmp_path_factory, vae):
    """A model of the tiny preset, as a run would begin with it."""
    folder = tmp_path_factory.mktemp("base")
    train_ar.run(ar_config(folder, vae))
    return folder / "model"


@pytest.mark.parametrize("packed", ["", "quantized", "float8"])
def test_adapters_are_trained_beside_a_base_that_stays(tmp_path, vae, base, packed):
    plain = ar_config(tmp_path, vae, start_from=str(base), adapter=Adapter(rank=4, alpha=8.0))
    config = plain
    if packed:
        config = replace(config, **{packed: replace(vars(plain)[packed], forward=True)})
    config = replace(config, run=replace(config.run, samples_every=2))
    folder = train_ar.run(config)
    assert folder == tmp_path / "adapter"
    assert not (tmp_path / "model").exists()
    kept = load_last(tmp_path)
    trained = [name for name in kept["state_dict"] if ".lora_" in name]
    assert trained and set(kept["callbacks"]["MovingAverage"]["average"]) == set(trained)
    assert not any(name.startswith("text.") for name in kept["state_dict"])
    with torch.device("cpu"):
        model = WanTransformer(config.model)
    found = load_lora(model, folder)
    assert (found.rank, found.alpha) == (4, 8.0)
    for name, layer in adapters(model):
        average = kept["callbacks"]["MovingAverage"]["average"][f"model.{name}.lora_B.weight"]
        assert torch.equal(layer.lora_B.weight, average) and average.any()
    module = TrainARModule(config)
    module.configure_model()
    linear = module.model.blocks[1].ffn[0].base_layer
    kind = {"": nn.Linear, "quantized": NVFP4Linear, "float8": Float8Linear}[packed]
    assert type(linear) is kind
    train_ar.export(config, resume=str(tmp_path))


def test_a_text_encoder_is_taken_over_word_by_word(tmp_path, vae, base):
    config = ar_config(tmp_path, vae, start_from=str(base))
    known = config.text.vocab
    more = replace(config.text, vocab=("bicycle", *reversed(known)))
    module = TrainARModule(replace(config, text=more))
    module.configure_model()
    _, tensors = load_part(base / "text_encoder")
    rows, own = tensors["embedding.weight"].float(), module.text.embedding.weight
    assert torch.equal(own[:3], rows[:3])
    assert torch.equal(own[3], rows[1])  # a new word begins as an unknown one
    assert torch.equal(own[4:], rows[3:].flip(0))
    assert torch.equal(module.text.norm.weight, tensors["norm.weight"].float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 3}, "accumulate=3 does not divide the 2 clips"),
        ({"least_blocks": 1}, "least_blocks=1 fills up clips of one's own"),
        ({"adapter": Adapter(rank=4)}, "start_from names none"),
        (
            {"recycling": replace(OFTEN, bank=ErrorBankConfig(ranks=2))},
            "recycling.bank has levels=1000, rank=0, ranks=2",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(train_ar.ar_tiny(), **changes)


def test_errors_that_no_machine_holds_are_refused(tmp_path, vae):
    huge = replace(OFTEN, bank=ErrorBankConfig(bucket_size=10**9))
    with pytest.raises(ValueError, match=r"errors that are kept \(recycling.bank.bucket_size\)"):
        train_ar.check(ar_config(tmp_path, vae, recycling=huge))
