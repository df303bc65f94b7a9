"""`longlive generate --video`: a clip goes on, on the command line; and how much is said of it."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_models import Video
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.stream_snapshot import SnapshotSummary
from longlive_models.video.files import read_video
from tests.models.tiny_pipeline import FPS, tiny_pipeline, write_tiny_folder

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def clip(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (30, 32, 32, 3), dtype=torch.uint8, generator=made)
    return Video(frames, FPS).save("clip.png")


def longlive(*arguments: str):
    return CliRunner().invoke(app, ["generate", *arguments])


def saved_clip() -> str:
    frames, _ = read_video("clip", fps=FPS)
    Video(frames, FPS).save("clip.mp4", overwrite=True)
    return "clip.mp4"


def pixels(path: str) -> torch.Tensor:
    return read_video(path)[0]


def test_what_comes_next_is_made_again_from_its_record(model):
    saved_clip()
    how = ("--video", "clip.mp4", "--seed", "3", "--seconds", "2", "--model", model)
    assert longlive(PROMPT, *how, "-o", "a.mp4").exit_code == 0
    assert longlive(PROMPT, *how, "-o", "a-frames.png").exit_code == 0
    made = tiny_pipeline()(PROMPT, video="clip.mp4", seed=3, seconds=2)
    assert torch.equal(read_video("a-frames", fps=FPS)[0], made.frames) and len(made) == 16
    record = json.loads(Path("a.json").read_text())
    given = record["replay"]["clip"]
    assert given == {
        "path": str(Path("clip.mp4").resolve()),
        "cut": False,
        "prompt": None,
        "sha256": fingerprint(Path("clip.mp4")),
    }
    assert record["replay"]["shots"] == [{"prompt": PROMPT, "blocks": 2}]
    assert record["video"]["frames"] == 16
    done = longlive("--replay", "a.json", "-o", "b.mp4")
    assert done.exit_code == 0, done.output
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()

    Video(torch.flip(pixels("clip.mp4"), (0,)), FPS).save("clip.mp4", overwrite=True)
    done = longlive("--replay", "a.json", "-o", "c.mp4")
    assert done.exit_code == 2
    assert "began with another clip than" in done.stderr and not Path("c.mp4").exists()


def test_a_cut_and_the_clips_prompt_are_in_the_record(model):
    saved_clip()
    story = {"shots": [{"prompt": PROMPT, "seconds": 1}, {"prompt": "a blue square", "seconds": 1}]}
    Path("story.json").write_text(json.dumps(story))
    how = ("--video", "clip.mp4", "--cut", "--video-prompt", "a square", "--model", model)
    done = longlive("--storyboard", "story.json", *how, "-o", "a.mp4")
    assert done.exit_code == 0, done.output
    record = json.loads(Path("a.json").read_text())
    assert (record["replay"]["clip"]["cut"], record["replay"]["clip"]["prompt"]) == (
        True,
        "a square",
    )
    assert [shot["blocks"] for shot in record["replay"]["shots"]] == [1, 1]
    assert [block["block"] for block in record["blocks"]] == [3, 4]
    assert longlive("--replay", "a.json", "-o", "b.mp4").exit_code == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()


@pytest.mark.parametrize("only_new", [False, True])
def test_a_snapshot_goes_on_in_the_same_file(model, monkeypatch, only_new):
    saved_clip()
    how = (PROMPT, "--video", "clip.mp4", "--seconds", "3", "--model", model)
    assert longlive(*how, "-o", "whole.mp4").exit_code == 0

    from longlive_recipes.generation.session import VideoSession

    whole = VideoSession.advance

    def advance(session: VideoSession):
        if session.blocks == 4:
            raise KeyboardInterrupt
        return whole(session)

    monkeypatch.setattr(VideoSession, "advance", advance)
    saving = ("--snapshot", "a.snapshot", "--snapshot-every", "1")
    assert longlive(*how, "-o", "a.mp4", *saving).exit_code == 130
    monkeypatch.setattr(VideoSession, "advance", whole)
    summary = SnapshotSummary.read("a.snapshot")
    assert (summary.block, summary.plan.past) == (4, 3)
    assert summary.notes["clip"]["sha256"] == fingerprint(Path("clip.mp4"))
    Path("clip.mp4").unlink()  # the snapshot holds what is needed of it

    more = ("--only-new", "-o", "rest.mp4") if only_new else ()
    done = longlive("--resume", "a.snapshot", *more)
    assert done.exit_code == 0, done.output
    if only_new:
        assert torch.equal(pixels("rest.mp4"), pixels("whole.mp4")[8:])
    else:
        assert Path("a.mp4").read_bytes() == Path("whole.mp4").read_bytes()
        record = json.loads(Path("a.json").read_text())
        assert record["replay"]["shots"] == [{"prompt": PROMPT, "blocks": 3}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cut"], "--cut is about the clip of --video FILE"),
        (["--video-prompt", "a"], "--video-prompt is about the clip"),
        (["--video", "clip.mp4", "--video-prompt", "a"], "Add --cut"),
        (["--video", "no.mp4"], "there is no '.*no.mp4', which is to be read as the clip"),
        (["--video", "short.mp4"], "lasts 0.5 s, which is 4 frames"),
        (["--video", "story.txt"], "cannot be read as a video"),
        (["--video", "red.png"], r"red.png is a picture, .* is named with image \(--image\)"),
        (["--image", "clip.mp4"], r"clip.mp4 is a video, .* is named with video \(--video\)"),
        (["--video", "clip.mp4", "-o", "clip.mp4", "--overwrite"], "would replace"),
        (["--quiet", "--verbose"], "leave one of them out"),
    ],
)
def test_what_does_not_go_together_is_refused(words, message, model):
    saved_clip()
    Video(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), FPS).save("short.mp4")
    Path("story.txt").write_text("a")
    Image.new("RGB", (32, 32), "red").save("red.png")
    done = longlive(PROMPT, "--model", model, *words)
    assert done.exit_code == 2
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1


def test_quiet_says_the_result_alone_and_verbose_what_ran(model):
    how = (PROMPT, "--seconds", "2", "--model", model)
    quiet = longlive(*how, "--quiet", "-o", "a.mp4", "--weights", "bf16")
    assert quiet.exit_code == 0
    assert quiet.stderr == "" and quiet.stdout.startswith("a.mp4: 16 frames")
    verbose = longlive(*how, "--verbose", "-o", "b.mp4")
    lines = verbose.stderr.splitlines()
    assert f"{model} on cpu: weights fp32" in lines[0] and "cache in fp32" in lines[0]
    assert "sampler unipc, steps 2, guidance 1.5" in lines[1]
    assert "attention: sdpa on cpu" in lines[2] and "not fa3" in lines[2]
    blocks = [line for line in lines if line.startswith("b: block")]
    assert len(blocks) == 3
    assert all("s denoising" in line and "s decoding" in line for line in blocks)


def test_shots_that_are_rounded_to_blocks_are_told(model):
    story = {"shots": [{"prompt": PROMPT, "seconds": 1.4}, {"prompt": PROMPT, "seconds": 2}]}
    Path("story.json").write_text(json.dumps(story))
    done = longlive("--storyboard", "story.json", "--model", model, "--dry-run")
    assert "shot 1 lasts 1.625 s in place of 1.4" in done.stderr
    assert "shot 2" not in done.stderr
    assert done.stderr.count("whole blocks") == 1
    assert "whole blocks" not in longlive(PROMPT, "--model", model, "--dry-run").stderr
