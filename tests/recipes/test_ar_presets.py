"""Presets for clips of one's own: the published 5B in little on two ranks, and adapters."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from longlive_models.checkpoints.folder import unfilled
from longlive_models.lora import adapters, load_lora
from longlive_models.text import UMT5Config
from longlive_models.wan import WanTransformer, read_state_dict
from longlive_recipes import train_ar
from longlive_recipes.configs.train_ar import TrainAR, ar_5b, ar_lora, ar_tiny
from longlive_recipes.data import prepare as preparing
from longlive_recipes.data.cache_index import read_index
from longlive_recipes.data.layouts import find_sources
from longlive_recipes.data.splits import fields_for
from longlive_recipes.data.target import find_target
from longlive_recipes.data.text_features import PromptTable, prompts_of
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.training.ar_parts import unfilled_parts
from longlive_recipes.training.parallel import Parallel
from longlive_recipes.training.schedule import Phase, TrainingSchedule
from tests.processes import Ranks
from tests.recipes.data.made_clips import folder_of_clips, tiny
from tests.recipes.on_ranks import launched
from tests.recipes.tiny_runs import ar_config, column, quiet_run, write_tiny_vae

TEXT = UMT5Config(
    vocab_size=9, dim=16, dim_attn=16, dim_ffn=16, num_heads=2, num_layers=1, text_len=6
)


class FakeText:
    """Features that depend on the prompt alone; counts what it was asked."""

    def __init__(self, weights: Path) -> None:
        weights.write_bytes(b"weights")
        self.weights, self.asked = weights, []

    def load(self, device: torch.device) -> "FakeText":
        return self

    def encode(self, prompts: list[str]) -> torch.Tensor:
        self.asked += prompts
        features = torch.zeros(len(prompts), TEXT.text_len, TEXT.dim)
        for row, prompt in zip(features, prompts, strict=True):
            generator = torch.Generator().manual_seed(sum(prompt.encode()))
            length = min(1 + len(prompt.split()), TEXT.text_len)
            row[:length] = torch.randn(length, TEXT.dim, generator=generator)
        return features


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return write_tiny_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture
def prepared(tmp_path, vae, monkeypatch):
    """Clips of 2, 1, 2, 2, 3 and 1 blocks with features of their captions: the cache, how to make
    it again, and what the encoder was asked."""
    text = FakeText(tmp_path / "text.bin")
    monkeypatch.setattr(
        preparing, "find_target", lambda config: replace(find_target(config), text=text)
    )
    clips = folder_of_clips(tmp_path / "clips", (64, 35, 70, 61, 95, 30))
    config = tiny(vae, width=64, blocks=3)

    def make() -> Path:
        preparing.prepare(config, find_sources(clips), tmp_path / "cache")
        return tmp_path / "cache"

    return make(), make, text.asked


def test_features_of_captions_are_kept_once_and_made_again_where_they_are_lost(prepared):
    cache, make, asked = prepared
    index = read_index(cache)
    assert asked == prompts_of(index) and asked[0] == "" and len(asked) == 4
    [shard] = set(index.prompts.values())
    assert index.prompts.keys() == set(asked) and shard.startswith("text-")
    table = PromptTable.of_cache(cache, index, TEXT)
    encoder = FakeText(cache.parent / "other.bin")
    wanted = encoder.encode(asked).bfloat16()
    assert torch.equal(table(table.tokenize(asked)), wanted)
    assert torch.equal(table.encode(["", asked[2]]), wanted[[0, 2]].float())
    make()
    assert len(asked) == 4
    (cache / shard).write_bytes(b"changed")
    latents = {name: (cache / name).read_bytes() for name in index.shards if name != shard}
    make()
    assert len(asked) == 8
    assert all((cache / name).read_bytes() == data for name, data in latents.items())
    with pytest.raises(ValueError, match="no features of another prompt"):
        table.tokenize(["another prompt"])


def test_a_full_disk_costs_the_features_alone(prepared, monkeypatch):
    cache, make, asked = prepared
    [shard] = set(read_index(cache).prompts.values())
    (cache / shard).unlink()
    from longlive_recipes.data import cache as caching

    save = caching.save_tensors

    def full(tensors, path):
        if path.name.startswith("text-"):
            raise OSError(28, "No space left on device", str(path))
        save(tensors, path)

    monkeypatch.setattr(caching, "save_tensors", full)
    with pytest.raises(OSError, match="No space left") as stopped:
        make()
    assert "6 clips are in" in stopped.value.__notes__[0]
    monkeypatch.setattr(caching, "save_tensors", save)
    make()
    assert len(asked) == 12 and len(read_index(cache).prompts) == 4


def small_5b(folder: Path, cache: Path, vae: Path, **changes) -> TrainAR:
    """The preset with everything that is large made small, and nothing else changed."""
    model = replace(ar_tiny().model, text_len=TEXT.text_len, text_dim=TEXT.dim)
    small = replace(
        ar_5b(),
        model=model,
        text=TEXT,
        vae=str(vae),
        start_from=None,
        world=ClipFormat(size=32, fps=12.0),
        width=64,
        data=str(cache),
        phases=(Phase(length=2, batch=2, until=1.0),),
        parallel=Parallel(),
        least_blocks=1,
        budget=TrainingSchedule(steps=3, warmup_steps=0, final_rate=1.0),
        run=quiet_run(folder),
    )
    return replace(small, **changes)


def train_5b(group: dist.ProcessGroup, folder: str, cache: str, vae: str) -> str:
    """The small one on one of two ranks that share each clip."""
    os.chdir(folder)
    config = small_5b(Path("two"), Path(cache), Path(vae), parallel=Parallel(sequence=2))
    with launched(group):
        return str(train_ar.run(config))


@pytest.mark.slow
def test_the_5b_in_little_learns_on_two_ranks_what_it_learns_on_one(prepared, vae, tmp_path):
    cache, _, _ = prepared
    folder = train_ar.run(small_5b(tmp_path / "one", cache, vae))
    with Ranks(2, timeout=400.0) as two_ranks:
        two_ranks(2, train_5b, str(tmp_path), str(cache), str(vae))
    one, two = (column(tmp_path / name / "train.csv", "loss") for name in ("one", "two"))
    assert len(one) == 3 and two == pytest.approx(one, rel=1e-4)
    weights = [read_state_dict(tmp_path / n / "model" / "model_bf16.pt") for n in ("one", "two")]
    with unfilled():
        names = WanTransformer(small_5b(folder, cache, vae).model).state_dict().keys()
    assert weights[0].keys() == weights[1].keys() == names
    for name in names:
        assert torch.allclose(weights[0][name].float(), weights[1][name].float(), atol=1e-3), name


def test_the_5b_is_built_without_memory_and_has_the_published_weights():
    parts = unfilled_parts(ar_5b())
    assert sum(p.numel() for p in parts.parameters()) == 4_999_787_712
    assert all(p.is_meta for p in parts.parameters())
    config = ar_5b()
    assert (config.generation.height, config.generation.width) == (704, 1280)
    assert config.partition(12, 880).frames_of(3) == range(72, 96)
    config = replace(config, phases=(Phase(length=48, batch=2, until=1.0),))
    assert config.partition(48, 880).frames == 384


def test_the_5b_needs_clips_and_features_of_their_captions(tmp_path, vae, prepared):
    cache, _, _ = prepared
    with pytest.raises(ValueError, match=r"no cache of them is named.*--data CACHE"):
        train_ar.check(small_5b(tmp_path / "run", cache, vae, data=None, least_blocks=0))
    shown = small_5b(tmp_path / "run", cache, vae, sample_prompts=("something else",))
    with pytest.raises(ValueError, match=r"sample_prompts\.0 is no caption of the clips"):
        train_ar.check(shown)


def test_adapters_are_trained_on_clips_of_ones_own(tmp_path, vae):
    """Sizes and words are those of the model that they stand beside."""
    train_ar.run(ar_config(tmp_path / "base", vae))
    base = str(tmp_path / "base" / "model")
    clips = folder_of_clips(tmp_path / "clips", (64, 35, 70, 61))
    preparing.prepare(tiny(vae), find_sources(clips), tmp_path / "cache")
    fields = fields_for(tmp_path / "cache", start=base, learns=False)
    assert fields["text"]["vocab"] == list(ar_tiny().text.vocab)
    from longlive_cli.overrides import apply_mapping

    plain = replace(
        ar_lora(),
        start_from=base,
        vae=str(vae),
        phases=(Phase(length=2, batch=2, until=1.0),),
        validation_clips=1,
        budget=TrainingSchedule(steps=3, warmup_steps=1),
        run=quiet_run(tmp_path / "run"),
    )
    config = apply_mapping(plain, fields)
    assert config.model == ar_tiny().model
    folder = train_ar.run(config)
    with torch.device("cpu"):
        model = WanTransformer(config.model)
    assert load_lora(model, folder).rank == 32
    assert any(layer.lora_B.weight.any() for _, layer in adapters(model))
    (tmp_path / "clips" / "0.txt").write_text("a zebra on a unicycle")
    preparing.prepare(tiny(vae), find_sources(clips), tmp_path / "cache")
    with pytest.raises(ValueError, match=r"does not know 3 words .*\(on, unicycle, zebra\)|frozen"):
        train_ar.check(replace(config, run=quiet_run(tmp_path / "other")))
