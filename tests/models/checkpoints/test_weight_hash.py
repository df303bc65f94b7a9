"""A pipeline's fingerprint is of what its weights are now, whoever changed them and how."""

import os

import pytest
import torch
from torch import nn

from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.checkpoints.weight_hash import WeightHash
from longlive_models.lora import (
    LoRAConfig,
    adapters,
    add_lora,
    fuse_lora,
    merge_lora,
    unmerge_lora,
)
from tests.models.tiny_pipeline import tiny_pipeline, write_tiny_folder

CONFIG = LoRAConfig(rank=2, alpha=4.0, targets=("self_attn.q",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("hash") / "model")


@pytest.fixture
def pipe(folder) -> LongLivePipeline:
    return LongLivePipeline.from_pretrained(str(folder), device="cpu")


def adapted(pipe: LongLivePipeline, seed: int = 1, config: LoRAConfig = CONFIG) -> None:
    torch.manual_seed(seed)
    add_lora(pipe.transformer, config)
    for _, layer in adapters(pipe.transformer):
        nn.init.normal_(layer.lora_B.weight)


@torch.no_grad()
def _scaled(pipe):
    pipe.transformer.blocks[0].ffn[0].weight.mul_(1.5)


def _behind_autograd(pipe):
    pipe.transformer.blocks[0].ffn[0].weight.data.neg_()


def _one_number(pipe):
    pipe.vae.decoder.head[2].bias.data[0] += 1


def _replaced(pipe):
    pipe.text.embedding = nn.Embedding.from_pretrained(pipe.text.embedding.weight.flip(0))


def _two_rows_swapped(pipe):
    weight = pipe.transformer.blocks[1].self_attn.q.weight.data
    weight[:2] = weight[:2].flip(0).clone()


def _other_type(pipe):
    pipe.transformer.blocks[0].to(torch.bfloat16)


CHANGES = [_scaled, _behind_autograd, _one_number, _replaced, _two_rows_swapped, _other_type]


def test_it_is_of_the_files_while_nothing_is_changed(pipe, folder):
    assert pipe.fingerprint == fingerprint(folder)
    pipe("a red circle", seconds=0.5)
    assert pipe.fingerprint == fingerprint(folder)


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_in_memory_changes_it(change, pipe, folder):
    assert pipe.fingerprint == fingerprint(folder)  # asked for once, and not kept
    change(pipe)
    changed = pipe.fingerprint
    assert changed != fingerprint(folder)
    other = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    change(other)
    assert other.fingerprint == changed


def test_a_change_that_is_undone_is_none(pipe, folder):
    weight = pipe.transformer.blocks[0].ffn[0].weight
    kept = weight.detach().clone()
    weight.data += 1
    assert pipe.fingerprint != fingerprint(folder)
    weight.data = kept
    assert pipe.fingerprint == fingerprint(folder)


def test_adapters_are_part_of_it_with_their_scale_and_whether_they_are_merged(pipe, folder):
    seen = [pipe.fingerprint]
    adapted(pipe)
    seen.append(pipe.fingerprint)
    merge_lora(pipe.transformer)
    seen.append(pipe.fingerprint)
    unmerge_lora(pipe.transformer)
    assert pipe.fingerprint == seen[1]
    next(iter(adapters(pipe.transformer)))[1].lora_A.weight.data += 0.5
    seen.append(pipe.fingerprint)
    fuse_lora(pipe.transformer)
    seen.append(pipe.fingerprint)
    other = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    adapted(other, config=LoRAConfig(rank=2, alpha=6.0, targets=CONFIG.targets))
    seen.append(other.fingerprint)
    assert len(set(seen)) == len(seen)
    again = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    adapted(again)
    assert again.fingerprint == seen[1]


def test_weights_count_beside_an_adapter_too(pipe):
    adapted(pipe)
    seen = [pipe.fingerprint]
    for _ in range(2):
        _scaled(pipe)
        seen.append(pipe.fingerprint)
    assert len(set(seen)) == 3


def test_a_snapshot_under_an_adapter_is_not_resumed_without_it(pipe, folder, tmp_path):
    adapted(pipe)
    with pipe.stream("a red circle", seconds=2) as stream:
        next(stream)
        saved = stream.snapshot(tmp_path / "a.safetensors")
        want = next(stream).frames
    plain = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    with pytest.raises(ValueError, match="was made with model '"):
        plain.resume(saved)
    adapted(plain, seed=2)
    with pytest.raises(ValueError, match="was made with model '"):
        plain.resume(saved)
    same = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    adapted(same)
    with same.resume(saved) as stream:
        assert torch.equal(next(stream).frames, want)


def test_files_that_were_replaced_after_loading_are_not_what_is_in_memory(tmp_path):
    folder = write_tiny_folder(tmp_path / "model")
    pipe = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    file = folder / "transformer" / "model.safetensors"
    content = file.read_bytes()
    file.unlink()  # a new file: the old one is mapped
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(1, 1))
    assert pipe.fingerprint != fingerprint(folder)


def test_weights_without_files_have_one_too():
    one, same, other = tiny_pipeline(), tiny_pipeline(), tiny_pipeline(seed=1)
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_adapters_beside_a_model_at_rest_leave_nothing_out(pipe):
    dropping = LoRAConfig(rank=2, alpha=4.0, dropout=0.9, targets=CONFIG.targets)
    adapted(pipe, config=dropping)
    _, layer = next(iter(adapters(pipe.transformer)))
    x = torch.randn(4, layer.base_layer.in_features)
    assert torch.equal(layer(x), layer(x))


def test_lines_of_a_large_weight_that_change_places_are_seen():
    """Lines of 8,192 bytes, which lie one below the other where bits are added up."""
    large = nn.Linear(2048, 5, bias=False)
    hashed = WeightHash({"part": large})
    before = hashed.of({"part": large})
    with torch.no_grad():
        large.weight[[0, 3]] = large.weight[[3, 0]]
    after = hashed.of({"part": large})
    assert after != before
    with torch.no_grad():
        large.weight[[0, 3]] = large.weight[[3, 0]]
    assert hashed.of({"part": large}) == before
