"""Videos made by several ranks are those of one; every prompt is made, and made once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longlive_core.memory import device_memory
from longlive_models import Storyboard
from longlive_models.video.files import read_video
from longlive_recipes.generate import Generate, VideoJob
from longlive_recipes.generate_parallel import check, spread
from longlive_recipes.training.parallel import Parallel
from tests.models.tiny_pipeline import write_tiny_folder


@pytest.mark.parametrize(
    ("ranks", "videos", "data"), [(1, 5, 1), (4, 1, 1), (4, 2, 2), (4, 3, 2), (4, 9, 4), (6, 4, 3)]
)
def test_ranks_work_apart_as_far_as_there_are_videos(ranks, videos, data):
    assert spread(ranks, videos) == Parallel(data=data, sequence=ranks // data)


def test_nodes_have_equally_many_of_the_ranks():
    assert spread(4, 1, nodes=2) == Parallel(sequence=4, nodes=2)
    with pytest.raises(ValueError, match="3 ranks, which nodes=2 cannot share evenly"):
        spread(3, 1, nodes=2)


def test_what_one_device_cannot_do_is_refused():
    job = VideoJob(name="a", story=Storyboard.of("a red circle"), seed=0)
    with pytest.raises(ValueError, match="device='cuda:1' is one device, and 2 ranks take one"):
        check(Generate(device="cuda:1"), [job], Parallel(sequence=2))


def test_more_processes_than_memory_holds_are_refused():
    job = VideoJob(name="a", story=Storyboard.of("a red circle"), seed=0)
    too_many = device_memory(torch.device("cpu")) // (512 << 20) + 1
    with pytest.raises(ValueError, match=f"{too_many} processes take .* Use fewer ranks"):
        check(Generate(device="cpu"), [job], Parallel(sequence=too_many))
    check(Generate(device="cpu"), [job], Parallel(sequence=2 * too_many, nodes=too_many))


def longlive(*arguments: str) -> list[dict]:
    """What the command prints as JSON, run in a process of its own."""
    program = str(Path(sys.executable).with_name("longlive"))  # a file, which a launcher runs again
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_every_video_is_made_once_and_is_that_of_one_rank(tmp_path):
    model = str(write_tiny_folder(tmp_path / "model"))
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"id": name, "prompt": f"a {name} circle", "seed": 3} for name in ("red", "blue", "x")]
    how = ["--model", model, "--device", "cpu", "--seconds", "2", "--json"]
    for count in (3, 1):  # three videos by two groups of one rank, then one by a group of two
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
        made = {}
        for ranks in ("1", "2"):
            place = tmp_path / f"{count}_by_{ranks}"
            output = ["-o", str(place if count > 1 else place.with_suffix(".mp4"))]
            made[ranks] = longlive(
                "generate", "--prompts", str(prompts), *how, *output, "--nproc", ranks
            )
        assert len(made["1"]) == len(made["2"]) == count
        for one, many in zip(made["1"], made["2"], strict=True):
            assert Path(one["output"]).name.replace("_1", "_2") == Path(many["output"]).name
            frames, rate = read_video(Path(one["output"]))
            others, other_rate = read_video(Path(many["output"]))
            assert rate == other_rate
            assert frames.shape == others.shape
            # a last bit in one pixel can change how the lossy file is written around it
            assert (frames.float() - others.float()).abs().mean() < 0.05
