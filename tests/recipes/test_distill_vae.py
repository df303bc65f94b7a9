"""The light decoder's recipe: what it learns, what it writes, and that it survives a kill."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_models.checkpoints.folder import fingerprint, load_part
from longlive_models.vae import WAN22_VAE
from longlive_models.vae.light import find_light, lighter, with_light_decoder
from longlive_recipes import distill_vae
from longlive_recipes.data.cache_index import INDEX, CachedClip, CacheIndex, CacheSettings
from longlive_recipes.distill_vae import (
    DistillVAE,
    DistillVAEModule,
    light_parts,
    measure,
    memory_needed,
    vae_light_5b,
    vae_light_tiny,
)
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.latent_cache import trained_vae
from tests.recipes.tiny_runs import (
    assert_equal,
    assert_same_run,
    column,
    quiet_run,
    run_until_killed,
    write_tiny_vae,
)

OWN = {"clips": DistillVAE.clips, "world": ClipFormat()}
"""Fields of drawn clips, as they are beside one's own."""


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return write_tiny_vae(tmp_path_factory.mktemp("full"))


def config(output, vae, **changes) -> DistillVAE:
    return replace(vae_light_tiny(), vae=str(vae), run=quiet_run(output), **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, vae):
    folder = tmp_path_factory.mktemp("light")
    made = config(folder, vae)
    made = replace(made, run=replace(made.run, samples_every=1))
    assert distill_vae.run(made) == folder / "vae_light"
    return folder


def ready(made: DistillVAE) -> DistillVAEModule:
    module = DistillVAEModule(made)
    module.on_fit_start()
    return module


def test_the_tiny_preset_takes_its_steps(trained, vae):
    losses = column(trained / "train.csv", "loss")
    assert len(losses) == vae_light_tiny().budget.steps == 4
    assert all(map(math.isfinite, losses))
    assert column(trained / "validation.csv", "step") == [2, 4]
    named = ready(config(trained, vae)).measured  # what run.best_metric may be
    assert (trained / "validation.csv").read_text().startswith(f"step,{','.join(named)}\n")
    names = [path.name for path in (trained / "samples" / "step_0000004").iterdir()]
    assert sorted(names) == ["clip_0.mp4", "sheet.png"]


def test_what_is_measured_is_what_is_written(trained, vae):
    full = trained_vae(str(vae))
    light = with_light_decoder(full, find_light(trained))
    latents = ready(config(trained, vae)).fresh
    scores = json.loads((trained / "vae_light" / "scores.json").read_text())
    assert measure(light, full, latents) == pytest.approx(scores, rel=1e-6)
    pair = [one.decode(latents.float()).clamp(-1, 1) for one in (light, full)]
    error = (pair[0] - pair[1]).square().mean().item() / 4  # as of values in [0, 1]
    assert scores["psnr"] == pytest.approx(-10 * math.log10(error), rel=1e-4)


def test_it_begins_with_the_full_decoder_cut_down_and_trains_that_alone(vae, tmp_path):
    module, full = DistillVAEModule(config(tmp_path, vae)), trained_vae(str(vae))
    start = lighter(full, 2)
    names = {name.removeprefix("light.") for name, _ in module.named_parameters()}
    assert all(name.startswith(("conv2.", "decoder.")) for name in names)
    for name, parameter in module.light.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter, start.get_parameter(name))


def test_a_step_decodes_a_piece_behind_the_pieces_before_it(vae, tmp_path):
    """The loss is that of the whole clip's decoding, cut where the piece is."""
    made = config(tmp_path, vae, jitter=0.0, batch=3)
    module = ready(made)
    seen = set()
    for step in range(8):
        torch.manual_seed(step)
        loss = module.training_step(step)["loss"].item()
        generator = module.choices(step)
        some = torch.randint(len(module.latents), (3,), generator=generator)
        last = int(torch.randint(2, (), generator=generator))
        latents = module.latents[some].float()
        want, got = (one.decode(latents) for one in (module.full, module.vae))
        frames = slice(0, 13) if last == 0 else slice(13, None)
        error = (got - want)[:, :, frames].abs()
        assert loss == pytest.approx((error + error.square()).mean().item(), rel=1e-4)
        seen.add(last)
    assert seen == {0, 1}


def test_it_learns(vae, tmp_path):
    made = config(tmp_path, vae, clips=2)
    made = replace(
        made,
        budget=replace(made.budget, steps=30, warmup_steps=2),
        optimization=replace(made.optimization, learning_rate=5e-3, ema_decay=0.5),
        run=replace(made.run, validate_every=30),
    )
    module = ready(made)
    before = measure(module.vae, module.full, module.fresh)["psnr"]
    distill_vae.run(made)
    assert column(tmp_path / "validation.csv", "psnr")[-1] > before + 1


def test_a_killed_run_goes_on_bit_for_bit(trained, vae, tmp_path):
    run_until_killed(
        "from longlive_recipes import distill_vae\n"
        "distill_vae.DistillVAEModule = kill_at(distill_vae.DistillVAEModule, 2)\n"
        f"distill_vae.run(replace(distill_vae.vae_light_tiny(), vae={str(vae)!r}, "
        f"run=quiet_run({str(tmp_path)!r})))\n"
    )
    assert column(tmp_path / "train.csv", "step") == [1, 2]
    distill_vae.run(config(tmp_path, vae), resume=str(tmp_path))
    assert_same_run(tmp_path, trained)
    one, other = (load_part(folder / "vae_light") for folder in (tmp_path, trained))
    assert_equal(one, other, "light decoder")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decoder_dim": 4}, "whose decoder_dim is 4, got 4"),
        ({"decoder_dim": 0}, "DistillVAE.decoder_dim"),
        ({"piece": 3}, "DistillVAE.piece divides a clip of 8 latent frames, got 3"),
        ({"piece": 9}, "DistillVAE.piece"),
        ({"jitter": 2.0}, "DistillVAE.jitter"),
        ({"frames_per_block": 4}, "clips of 29 frames of 32 pixels do not fit the VAE: 4 latent"),
        ({"vae": "nowhere"}, "nowhere"),
        ({**OWN, "data": "nowhere"}, "nowhere is no cache of clips"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_drawn(wrong, message, vae, tmp_path):
    with pytest.raises(ValueError, match=message):
        distill_vae.check(replace(config(tmp_path, vae), **wrong))


def test_the_vae_that_it_learns_from_is_not_replaced(vae, tmp_path):
    inside = replace(config(tmp_path, vae), run=quiet_run(vae.parent), vae=str(vae))
    distill_vae.check(inside)
    (tmp_path / "vae_light").mkdir()
    vae.rename(tmp_path / "vae_light" / "vae")
    try:
        with pytest.raises(ValueError, match="would be replaced"):
            distill_vae.check(config(tmp_path, tmp_path / "vae_light" / "vae"))
    finally:
        (tmp_path / "vae_light" / "vae").rename(vae)


def test_the_full_size_fits_a_gpu_of_80_gb_and_is_a_quarter(tmp_path):
    made = vae_light_5b()
    light = light_parts(made, WAN22_VAE)
    assert all(parameter.is_meta for parameter in light.parameters())
    needed = memory_needed(made, WAN22_VAE, size=(704, 1280), clips=500)
    assert 8e9 < sum(needed.values()) < 80e9
    assert needed["features of the last stage (batch, piece)"] > 1e9
    more = memory_needed(replace(made, batch=32), WAN22_VAE, size=(704, 1280), clips=500)
    assert sum(more.values()) > 80e9


def test_a_dry_run_refuses_clips_that_a_run_refuses(vae, tmp_path):
    settings = CacheSettings(
        height=32,
        width=32,
        fps=12,
        frames_per_block=8,
        temporal_factor=4,
        blocks=1,
        vae=fingerprint(vae),
    )
    clips = [
        CachedClip(source=key, key=key, number=0, shard="s", captions=("a",), cuts=(False,))
        for key in ("a", "b")
    ]
    held = asdict(CacheIndex(settings=settings, clips=tuple(clips), shards={"s": ""}))
    (tmp_path / INDEX).write_text(json.dumps(held))
    words = ["train", "vae_light_tiny", "--data", str(tmp_path), "--set", f"vae={vae}"]
    words += ["--set", "blocks=2", "--dry-run"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert (
        "trains on clips of 2 blocks, and the longest of the cache's 2 clips has 1" in done.stderr
    )


def test_frames_a_second_are_told(trained, vae, tmp_path):
    made = config(tmp_path, vae)
    assert DistillVAEModule(made).frames_of_step() == 2 * made.piece * 4
    assert all(rate > 0 for rate in column(trained / "speed.csv", "frames_a_second"))
