"""A pipeline over ranks makes the video of one rank; the first rank alone decodes it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from longlive_core.sequence_parallel import SequenceGroup
from longlive_models import LongLivePipeline
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.wan import WanTransformer, partition_blocks, share
from tests.models.tiny_pipeline import SPEC, tiny_parts
from tests.processes import Ranks

STORY = {"shots": [{"prompt": "a red circle", "blocks": 2}, {"prompt": "a blue square"}]}
FRAMES = 8 + 5 + 8  # a block of 2 latents gives 5 frames at the start, 8 later


def pipeline(group: SequenceGroup, **how: str) -> LongLivePipeline:
    runtime = replace(
        Runtime.choose(RuntimeOptions(device="cpu", weights="fp32", kv_cache="fp32")), **how
    )
    return LongLivePipeline(*tiny_parts(), settings=SPEC.settings, runtime=runtime, group=group)


def film(process_group: ProcessGroup, how: dict[str, str], image: bool) -> Tensor:
    """The frames of a film with a cut, which is steered while it is made."""
    pipe = pipeline(SequenceGroup.of(process_group), **how)
    picture = torch.full((32, 32, 3), 200, dtype=torch.uint8) if image else None
    frames = []
    with pipe.stream(STORY, seconds=FRAMES / SPEC.settings.fps, seed=7, image=picture) as stream:
        for block in stream:
            frames.append(block.frames)
            if block.index == 0:
                stream.prompt("the red square", memory="recache")
    return torch.cat(frames)


@pytest.mark.parametrize(
    ("how", "image"),
    [
        ({}, False),
        ({"kv_cache": "nvfp4", "lane": "thread"}, True),
        ({"weights": "nvfp4-w4a4", "kv_cache": "fp8"}, False),
        ({"weights": "fp8", "kv_cache": "int8"}, True),
    ],
    ids=["plain", "nvfp4 pages", "nvfp4 products", "fp8"],
)
def test_the_video_is_that_of_one_rank(ranks: Ranks, how, image):
    (want,) = ranks(1, film, how, image)
    first, second = ranks(2, film, how, image)
    assert want.shape == first.shape == (FRAMES, 32, 32, 3)
    assert (first.int() - want.int()).abs().max() <= 1  # a last bit may round to another byte
    assert (first != want).float().mean() < 1e-3
    assert second.shape[0] == 0


def snapshot_refusal(process_group: ProcessGroup, path: str) -> str:
    pipe = pipeline(SequenceGroup.of(process_group))
    with pipe.stream("a red circle", seconds=1.0) as stream:
        next(stream)
        with pytest.raises(ValueError) as refusal:
            stream.snapshot(path)
    return str(refusal.value)


def test_a_snapshot_of_a_part_of_the_heads_is_refused(ranks: Ranks, tmp_path):
    for message in ranks(2, snapshot_refusal, str(tmp_path / "s.safetensors")):
        assert "spreads them over 2 ranks. Take and resume snapshots on one rank" in message
    assert not list(tmp_path.iterdir())


def test_more_ranks_than_frames_of_a_block_are_refused():
    group = SequenceGroup()
    object.__setattr__(group, "size", 3)
    with pytest.raises(ValueError, match="2 frames make 2 blocks of 1, fewer than 3 ranks"):
        partition_blocks(SPEC.transformer, group, (4, 4))


def test_one_rank_keeps_the_model_itself():
    model = WanTransformer(SPEC.transformer)
    sp = partition_blocks(SPEC.transformer, SequenceGroup(), (4, 4))
    assert share(model, sp) is model and sp.heads == range(SPEC.transformer.num_heads)
