"""Training takes a cache: clips are cut to length, held out by video, and have to fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longlive_cli.overrides import apply_mapping
from longlive_models.checkpoints.tensor_files import read_safetensors
from longlive_models.pipeline import LongLivePipeline
from longlive_recipes import train_ar
from longlive_recipes.data.cache_index import CachedClip, CacheIndex, CacheSettings, read_index
from longlive_recipes.data.layouts import find_sources
from longlive_recipes.data.prepare import prepare
from longlive_recipes.data.splits import fields_for, split_clips
from longlive_recipes.data.training_clips import load_clips
from longlive_recipes.training.schedule import Phase
from tests.recipes.data.made_clips import CAPTIONS, folder_of_clips, tiny
from tests.recipes.tiny_runs import ar_config, column


@pytest.fixture(scope="session")
def cache(tmp_path_factory, vae):
    """Clips of 3, 2, 3, 1 and 3 blocks."""
    place = tmp_path_factory.mktemp("cache")
    clips = folder_of_clips(place / "clips", (100, 61, 93, 30, 95))
    prepare(tiny(vae, blocks=3), find_sources(clips), place / "cache")
    return place / "cache"


def on_cache(output: Path, vae: Path, cache: Path, **changes):
    return replace(apply_mapping(ar_config(output, vae), fields_for(cache)), **changes)


def test_prepare_train_and_generate(tmp_path, vae, cache):
    config = on_cache(tmp_path / "run", vae, cache)
    folder = train_ar.run(config)
    losses = column(tmp_path / "run" / "train.csv", "loss")
    assert len(losses) == config.budget.steps
    assert all(0 < loss < 10 for loss in losses)
    video = LongLivePipeline.from_pretrained(str(folder))(CAPTIONS[0], seconds=1.0, seed=0)
    assert video.frames.shape == (12, 32, 32, 3)
    assert video.unknown_words == ()


def test_a_run_on_a_cache_is_the_same_again(tmp_path, vae, cache):
    for name in ("one", "other"):
        train_ar.run(on_cache(tmp_path / name, vae, cache))
    one, other = (column(tmp_path / name / "train.csv", "loss") for name in ("one", "other"))
    assert one == other


def test_clips_are_cut_to_the_length_of_a_phase(cache):
    index = read_index(cache)
    long = [clip for clip in index.clips if clip.blocks == 3]
    clips = load_clips(cache, long, blocks=2, frames_per_block=8)
    assert clips.latents.shape[2] == 16
    for latents, clip in zip(clips.latents, long, strict=True):
        whole = read_safetensors(cache / clip.shard)[clip.tensor]
        assert torch.equal(latents, whole[:, :16])
    assert [len(captions) for captions in clips.captions] == [2, 2, 2]
    assert clips.cuts.shape == (3, 2)


def index_of(*clips):
    """An index of clips: (video, blocks)."""
    settings = CacheSettings(
        height=32, width=32, fps=12, frames_per_block=8, temporal_factor=4, blocks=9, vae=""
    )
    held = [
        CachedClip(source=key, key=key, number=n, shard="s", captions=("a",) * b, cuts=(False,) * b)
        for n, (key, b) in enumerate(clips)
    ]
    return CacheIndex(settings=settings, clips=tuple(held), shards={"s": ""})


def test_videos_are_held_out_as_a_whole():
    index = index_of(*((f"video {n // 3}", 1 + n % 4) for n in range(60)))
    split = split_clips(index, {1, 2, 3}, 4)
    apart = {clip.key for clips in split.fresh.values() for clip in clips}
    for length in (1, 2, 3):
        assert len(split.fresh[length]) == 4
        assert all(clip.blocks >= length for clip in split.train[length])
        assert not {clip.key for clip in split.train[length]} & apart
    assert split == split_clips(replace(index, clips=index.clips[::-1]), {3, 2, 1}, 4)
    assert len(split.train[1]) >= 60 - 3 * 3 * 4


def test_a_run_without_phases_is_told_of_its_blocks():
    with pytest.raises(ValueError, match="trains on clips of 3 blocks.* --set blocks=2, or prep"):
        split_clips(index_of(("a", 2), ("b", 1)), {3}, 1, phases=False)


@pytest.mark.parametrize(
    ("clips", "lengths", "message"),
    [
        (
            [("a", 2), ("b", 2)],
            {3},
            r"clips of 3 blocks, and the longest of the cache's 2 clips has 2",
        ),
        (
            [("a", 2), ("a", 2)],
            {2},
            r"2 clips of 2 blocks or more, of 1 videos, and validation_clips=1",
        ),
        ([], {1}, "the longest of the cache's 0 clips"),
    ],
)
def test_too_few_clips_are_refused(clips, lengths, message):
    with pytest.raises(ValueError, match=message):
        split_clips(index_of(*clips), lengths, 1)


def test_what_does_not_fit_the_cache_is_refused_before_anything_is_written(tmp_path, vae, cache):
    config = on_cache(tmp_path / "run", vae, cache)
    long = replace(config.text, text_len=8)
    wrong = {
        r"world\.size is 64, and the clips .* prepared for 32": {
            "world": replace(config.world, size=64)
        },
        r"world\.fps is 24, and the clips": {"world": replace(config.world, fps=24.0)},
        r"is not the VAE that encoded": {"vae": "pocket"},
        r"text\.vocab lacks 2 words of the captions \(green, square\)": {
            "text": replace(
                config.text,
                vocab=tuple(w for w in config.text.vocab if w not in ("green", "square")),
            ),
            "sample_prompts": CAPTIONS[:1],
        },
        r"room for 7 words, and the longest caption has 12": {
            "text": long,
            "model": replace(config.model, text_len=8),
            "sample_prompts": ("a red circle",),
        },
        r"clips of 4 blocks, and the longest": {"phases": (Phase(length=4, batch=1, until=1.0),)},
        r"validation_clips=5 are held out": {"validation_clips": 5},
        r"is no cache of clips": {"data": str(tmp_path)},
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            train_ar.run(replace(config, **changes))
    with pytest.raises(ValueError, match="Leave latent_cache out"):
        replace(config, latent_cache=str(tmp_path / "latents"))
    assert not (tmp_path / "run").exists()


def test_a_file_of_the_cache_that_was_changed_is_refused(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips", (61, 62, 63))
    prepare(tiny(vae), find_sources(clips), tmp_path / "cache")
    [shard] = read_index(tmp_path / "cache").shards
    (tmp_path / "cache" / shard).unlink()
    phases = (Phase(length=2, batch=1, until=1.0),)
    with pytest.raises(ValueError, match="is gone or was changed since it was written"):
        train_ar.check(on_cache(tmp_path / "run", vae, tmp_path / "cache", phases=phases))


def test_a_config_gets_the_words_and_the_size_of_the_cache(cache):
    fields = fields_for(cache)
    assert fields["world"] == {"size": 32, "fps": 12.0}
    assert fields["sample_prompts"] == list(CAPTIONS)
    assert {"scene", "transitions", "circle", "bounces"} <= set(fields["text"]["vocab"])
