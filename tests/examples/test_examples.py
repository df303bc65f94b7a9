"""Every example runs, at a tiny size, and does what it says."""

import runpy
from pathlib import Path

import pytest
import torch
from torch.distributed import ProcessGroup

from longlive_core.kv_cache import (
    CacheLayout,
    ContentPolicy,
    PagedKVCache,
    PlainCodec,
    Window,
    WindowPolicy,
)
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.video.files import read_video
from tests.models.tiny_pipeline import FPS, write_tiny_folder
from tests.processes import Ranks
from tests.recipes.serve.servers import server

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_folder(tmp_path_factory.mktemp("tiny")))


def example(name: str) -> dict:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_every_example_is_tested_and_short():
    named = {
        "cache_in_your_attention",
        "decode_beside_denoising",
        "diffusers_wan_over_ranks",
        "diffusers_wan_with_cache",
        "generate_video",
        "joint_attention_over_ranks",
        "most_similar_pages",
        "own_window_policy",
        "sequence_over_ranks",
        "serve_client",
        "showcase",
        "steer_stream",
        "stream_blocks",
    }
    assert {path.stem for path in EXAMPLES.glob("*.py")} == named
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 60, path


def test_generate_video(model, tmp_path):
    path = example("generate_video")["main"](tmp_path / "a.mp4", "a red circle", 1.0, model)
    assert len(read_video(path)[0]) == FPS


def test_serve_client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with server(tmp_path / "served") as client:
        files = example("serve_client")["main"](str(client.base_url))
        parent, fork = (client.session(path.stem) for path in files)
    assert parent["state"] == fork["state"] == "ended" and fork["parent"] == parent["id"]
    assert [len(read_video(path)[0]) for path in files] == [parent["frames"], fork["frames"]]


def test_stream_blocks(model, capsys):
    assert example("stream_blocks")["main"](3.0, model) == 3 * FPS
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("a cut") for line in lines] == [False, False, True, False]


def test_steer_stream(model, tmp_path):
    files = example("steer_stream")["main"](tmp_path, 4.0, model)
    videos = [read_video(file)[0] for file in files]
    assert [file.name for file in files] == ["cut.mp4", "red.mp4"]
    assert [len(video) for video in videos] == [4 * FPS] * 2
    assert torch.equal(videos[0][:13], videos[1][:13])  # two blocks of one past
    assert not torch.equal(videos[0][13:], videos[1][13:])


def test_cache_in_your_attention():
    seen = example("cache_in_your_attention")["main"](blocks=9, steps=1)
    window = Window()
    assert seen == [window.visible(block, 5 if block > 5 else 0) for block in range(9)]


def test_decode_beside_denoising():
    run = example("decode_beside_denoising")["main"]
    (inline, _), (threaded, _) = run("inline", 4), run("thread", 4)
    assert inline.shape == (64, 4, 4)
    assert torch.equal(inline, threaded)


def test_own_window_policy():
    names = example("own_window_policy")
    losses = names["main"](blocks=6, steps=6)
    assert losses[-1] < losses[0]
    policy = names["Strided"]()
    assert isinstance(policy, WindowPolicy)
    assert [policy.visible(block) for block in (0, 4, 9)] == [(0,), (0, 3, 4), (3, 6, 8, 9)]
    layout = CacheLayout(layers=1, heads=1, head_dim=2, tokens_per_page=3)
    cache = PagedKVCache(layout, policy, PlainCodec(torch.float32))
    for block in range(30):  # the cache takes it too, and never lacks a page
        cache.begin_block(block)
        page = torch.full(layout.page_shape, float(block))
        cache.write(0, page, page, clean=True)
        k, _ = cache.read(0)
        assert sorted(k[0, ::3, 0, 0].int().tolist()) == list(policy.visible(block))
        cache.commit()


def test_most_similar_pages():
    names, scenes = example("most_similar_pages"), "AAABBBBAABB"
    torch.manual_seed(0)
    seen = names["main"](scenes)
    assert seen[:3] == [(0,), (0, 1), (0, 1, 2)]
    for block in (6, 9, 10):  # the block before is of the same scene, and so are others held
        scene = scenes[block - 1]
        assert {scenes[page] for page in seen[block][:-2]} == {scene}
        assert seen[block][-2:] == (block - 1, block)
    assert isinstance(names["MostSimilar"](), ContentPolicy)


def test_sequence_over_ranks(ranks: Ranks):
    alone = example("sequence_over_ranks")["main"](SequenceGroup())
    for size in (2, 4):
        for result in ranks(size, sequence_example):
            assert result == pytest.approx(alone, rel=1e-5)


def sequence_example(process_group: ProcessGroup) -> tuple[float, float]:
    return example("sequence_over_ranks")["main"](SequenceGroup.of(process_group))


def test_showcase(tmp_path, model, monkeypatch):
    names = example("showcase")
    pipeline, load = names["LongLivePipeline"], names["LongLivePipeline"].from_pretrained
    monkeypatch.setattr(pipeline, "from_pretrained", lambda name: load(model, device="cpu"))
    names["main"](tmp_path, seconds=1.0)
    assert {path.name for path in tmp_path.iterdir()} == {"pocket.gif", "pocket.png"}
    frames, fps = read_video(tmp_path / "pocket.gif")
    assert (tuple(frames.shape), fps) == ((FPS // 2, 2 * 32, 3 * 32, 3), FPS / 2)
