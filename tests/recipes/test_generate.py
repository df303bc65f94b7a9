"""The generation recipe: what is planned, what a record holds, and what is left after a failure."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from longlive_cli.main import app
from longlive_core import __version__
from longlive_core.backends import BackendUnavailable
from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline, Storyboard
from longlive_models.checkpoints import weight_hash
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.runtime import Runtime
from longlive_models.vae.light import lighter, save_light
from longlive_models.video.files import read_image, read_video
from longlive_recipes.generate import Generate, Snapshots, VideoJob, plan, run
from longlive_recipes.generation.outputs import check_output, output_paths
from longlive_recipes.generation.starting_points import read_resume_point
from tests.models.adapters.layouts import adapter, in_layout
from tests.models.tiny_pipeline import FPS, tiny_parts, tiny_pipeline, write_tiny_folder


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Generate:
    folder = write_tiny_folder(tmp_path_factory.mktemp("tiny"))
    return Generate(model=str(folder), device="cpu", seconds=1.0)


def job(name: str = "a", prompt: object = "a red circle", seed: int = 3) -> VideoJob:
    return VideoJob(name=name, story=Storyboard.of(prompt), seed=seed)


def test_a_plan_says_what_will_be_done(config, tmp_path):
    story = [{"prompt": "a red circle", "seconds": 1.1}, {"prompt": "a blue square", "blocks": 3}]
    wanted = replace(config, seconds=None, weights="bf16", lane="thread", guidance=2.0)
    planned = plan(wanted, [job(prompt=story)], tmp_path / "new" / "a.mp4")
    assert planned.config == wanted
    named = ("size", "fps", "steps", "guidance", "device")
    assert {name: getattr(planned, name) for name in named} == {
        "size": "32x32",
        "fps": FPS,
        "steps": 2,
        "guidance": 2.0,
        "device": "cpu",
    }
    assert (planned.weights, planned.compute, planned.kv_cache) == ("bf16", "fp32", "fp32")
    assert (planned.lane, planned.attention) == ("thread", "sdpa")
    [video] = planned.videos
    assert (video.frames, video.seconds, video.seed) == (29, 29 / FPS, 3)
    assert [shot["blocks"] for shot in video.shots] == [1, 3]
    assert [shot["start"] for shot in video.shots] == [0, 5 / FPS]
    assert list(tmp_path.iterdir()) == []


def test_a_record_holds_what_it_takes_to_make_the_video_again(config, tmp_path):
    wanted = replace(config, steps=3, weights="bf16")
    [result] = run(wanted, [job()], tmp_path / "deep" / "a.mp4")
    record = json.loads((tmp_path / "deep" / "a.json").read_text())
    assert set(record) == {
        "video",
        "plan",
        "settings",
        "result",
        "not_shown",
        "replay",
        "model_sha256",
        "files_sha256",
        "versions",
        "hardware",
        "blocks",
    }
    assert record["video"]["seed"] == 3
    assert record["video"]["shots"][0]["prompt"] == "a red circle"
    assert record["plan"]["config"]["model"] == config.model
    assert (record["plan"]["weights"], record["plan"]["compute"]) == ("bf16", "fp32")
    assert record["settings"] == {**tiny_pipeline().settings.to_dict(), "steps": 3}
    assert record["model_sha256"] == fingerprint(Path(config.model))
    assert record["versions"]["longlive"] == __version__
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["device"] == "cpu"
    assert record["result"]["backends"] == list(result.backends)
    attention = result.backends[0]
    assert attention.startswith("attention: sdpa on cpu (asked for auto); not ")
    assert "; not fa4: it needs a CUDA device, not cpu; " in attention
    assert result.backends[-1] == "decode lane: inline"
    assert [block["block"] for block in record["blocks"]] == [0, 1]
    for block in record["blocks"]:
        assert 0 < block["denoise"] < block["elapsed"]
        assert 0 < block["decode"] < block["elapsed"]


def test_a_result_is_what_is_in_the_file(config, tmp_path):
    began = []
    [result] = run(config, [job()], tmp_path / "a.png", progress=began.append)
    assert (result.path, result.frames, result.interrupted) == (tmp_path / "a", FPS, False)
    assert len(list(result.path.iterdir())) == FPS
    assert 0 < result.seconds_to_first_frame <= result.wall_seconds
    assert result.peak_memory_bytes > 50e6
    assert [(report.index, report.frames_done, report.frames_total) for report in began] == [
        (0, 5, 8),
        (1, 8, 8),
    ]
    assert {report.blocks for report in began} == {2}
    stored, _ = read_video(tmp_path / "a", fps=FPS)
    frames = tiny_pipeline()("a red circle", seconds=1, seed=3).frames
    assert_bitwise_equal(stored, frames)


def test_several_videos_and_their_records_fill_a_folder(config, tmp_path):
    first, second = run(config, [job("a"), job("b", seed=4)], tmp_path / "all")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "a.json",
        "a.mp4",
        "b.json",
        "b.mp4",
    ]
    assert not torch.equal(read_video(first.path)[0], read_video(second.path)[0])


def test_an_interrupt_keeps_the_blocks_so_far_and_ends_the_run(config, tmp_path):
    def interrupt(report):
        if report.job.name == "b" and report.index == 1:
            raise KeyboardInterrupt

    jobs = [job(name) for name in "abc"]
    results = run(replace(config, seconds=3.0), jobs, tmp_path, progress=interrupt)
    assert [(result.path.stem, result.interrupted) for result in results] == [
        ("a", False),
        ("b", True),
    ]
    assert len(read_video(tmp_path / "b.mp4")[0]) == results[1].frames == 13
    assert json.loads((tmp_path / "b.json").read_text())["result"]["interrupted"] is True
    assert not (tmp_path / "c.mp4").exists()


def test_an_interrupt_before_the_first_block_leaves_nothing(config, tmp_path, monkeypatch):
    def interrupt(*arguments: object, **how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("longlive_models.generator.sample", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config, [job()], tmp_path / "new" / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_before_the_first_block_keeps_what_was_there(config, tmp_path, monkeypatch):
    def fail(*arguments: object, **how: object) -> None:
        raise RuntimeError("out of memory")

    (tmp_path / "a.mp4").write_text("an older video")
    (tmp_path / "a.json").write_text("its record")
    monkeypatch.setattr("longlive_models.generator.sample", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(config, [job()], tmp_path / "a.mp4", overwrite=True)
    assert (tmp_path / "a.mp4").read_text() == "an older video"
    assert (tmp_path / "a.json").read_text() == "its record"


@pytest.mark.parametrize(
    ("change", "jobs", "output", "message"),
    [
        ({}, [], "a.mp4", "no prompt was given"),
        ({}, [job(), job("b")], "a.mp4", "2 videos cannot all go to a.mp4"),
        ({}, [job(), job()], "out", "two videos have the same name 'a'"),
        ({}, [job(seed=-1)], "a.mp4", "a seed of noise"),
        ({"seconds": 0.0}, [job()], "a.mp4", "seconds is above 0, got 0.0"),
        ({"model": "none"}, [job()], "a.mp4", "there is no model 'none'"),
        ({"weights": "fp5"}, [job()], "a.mp4", "no precision of this version"),
        ({"lane": "stream"}, [job()], "a.mp4", "needs a CUDA device"),
        ({}, [job()], "a.mov", "suffix is one of .mp4, .gif, .png"),
        ({}, [job()], "there.gif", "there.gif exists: pass --overwrite"),
        ({}, [job()], "recorded.gif", "recorded.json exists: pass --overwrite"),
        ({}, [job()], "there.gif/a.mp4", "there.gif is no folder that takes new files"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    change, jobs, output, message, config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("there.gif").write_text("a video")
    Path("recorded.json").write_text("{}")
    before = {path: path.read_text() for path in Path().iterdir()}
    for refuses in (plan, run):
        with pytest.raises(ValueError, match=message):
            refuses(replace(config, **change), jobs, Path(output))
    assert {path: path.read_text() for path in Path().iterdir()} == before


def test_a_folder_that_takes_no_files_is_refused(config):
    if not Path("/proc").is_dir():
        pytest.skip("there is no virtual file system here that refuses files")
    with pytest.raises(ValueError, match="/proc is no folder that takes new files"):
        plan(config, [job()], Path("/proc/a.mp4"))


def test_an_attention_that_cannot_run_is_refused_by_the_plan(config, tmp_path):
    with pytest.raises(BackendUnavailable, match="cannot use backend 'fa3' on cpu"):
        plan(replace(config, attention="fa3"), [job()], tmp_path / "a.mp4")


def test_a_model_that_is_not_whole_is_refused_by_the_plan(tmp_path):
    folder = write_tiny_folder(tmp_path / "model")
    (folder / "vae" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="vae is no whole part of a model"):
        plan(Generate(model=str(folder), device="cpu"), [job()], tmp_path / "a.mp4")


def test_outputs_are_files_or_are_in_a_folder(tmp_path):
    assert output_paths([job()], Path("x.gif")) == [Path("x.gif")]
    assert output_paths([job("n")], Path("x")) == [Path("x/n.mp4")]
    (tmp_path / "v1.5").mkdir()
    assert output_paths([job("n")], tmp_path / "v1.5") == [tmp_path / "v1.5" / "n.mp4"]
    check_output(tmp_path / "new" / "deep" / "a.mp4", overwrite=False)


@pytest.mark.parametrize(
    ("changed", "name", "told"),
    [
        ({"height": 33}, "a.mp4", "33"),
        ({"fps": 120}, "a.gif", "at most 100 frames a second, got 120"),
        ({"width": 16_400}, "a.mp4", "width is at most 16384, got 16400"),
    ],
)
def test_frames_that_the_file_cannot_hold_are_refused_before_weights_are_read(
    changed, name, told, config, tmp_path
):
    folder = tmp_path / "other"
    shutil.copytree(config.model, folder)
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"")  # read by nobody
    index = json.loads((folder / "model_index.json").read_text())
    index["generation"].update(changed)
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=told):
        plan(replace(config, model=str(folder)), [job()], tmp_path / name)


def test_the_guidance_that_a_record_names_is_the_one_that_made_the_frames(config, tmp_path):
    wanted = replace(config, guidance=3.0, steps=3)
    run(wanted, [job()], tmp_path / "a.png")
    pngs = sorted((tmp_path / "a").iterdir())
    stored = torch.stack([read_image(png) for png in pngs])
    pipeline = tiny_pipeline()
    guided = pipeline("a red circle", seconds=1, seed=3, guidance=3.0, steps=3).frames
    plain = pipeline("a red circle", seconds=1, seed=3, guidance=1.0, steps=3).frames
    assert not torch.equal(guided, plain)
    assert_bitwise_equal(stored, guided)
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["settings"]["guidance"], record["settings"]["steps"]) == (3.0, 3)
    assert (record["replay"]["config"]["guidance"], record["plan"]["guidance"]) == (3.0, 3.0)


def test_a_video_is_planned_once_and_a_models_hash_is_computed_once(config, tmp_path, monkeypatch):
    """By the command: what is replayed asks for the hash before, and its record does after."""
    run(config, [job()], tmp_path / "a.gif")
    counted: list[str] = []
    hashed, chosen = weight_hash.fingerprint, Runtime.choose
    monkeypatch.setattr(
        weight_hash, "fingerprint", lambda path: counted.append("hash") or hashed(path)
    )
    monkeypatch.setattr(
        Runtime, "choose", lambda options: counted.append("plan") or chosen(options)
    )
    record, again = str(tmp_path / "a.json"), str(tmp_path / "b.gif")
    done = CliRunner().invoke(app, ["generate", "--replay", record, "-o", again])
    assert done.exit_code == 0, done.output
    assert sorted(counted) == ["hash", "plan"]


def test_the_light_decoder_is_in_the_record_and_a_replay_takes_no_other(config, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(config.model, model)
    save_light(lighter(tiny_parts()[1], 2), model / "vae_light", dtype=torch.float32)
    wanted = replace(config, model=str(model), vae="light")
    run(wanted, [job()], tmp_path / "a.png")
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["plan"]["vae"] == record["replay"]["config"]["vae"] == "light"
    pipe = LongLivePipeline.from_pretrained(str(model), device="cpu", vae="light")
    assert record["model_sha256"] == pipe.fingerprint != fingerprint(model)
    replayed = ["generate", "--replay", str(tmp_path / "a.json"), "-o", str(tmp_path / "b.png")]
    done = CliRunner().invoke(app, [*replayed, "--vae", "full"])
    assert done.exit_code == 2
    assert "vae" in done.stderr and "a replay makes the same one" in done.stderr
    assert CliRunner().invoke(app, replayed).exit_code == 0
    first, second = (read_video(tmp_path / name, fps=FPS)[0] for name in ("a", "b"))
    assert_bitwise_equal(first, second)


def test_adapters_are_in_the_record_and_a_replay_takes_no_others(config, tmp_path):
    for seed, name in ((1, "a"), (2, "b")):
        save_file(in_layout(adapter(seed=seed), "kohya"), tmp_path / f"{name}.safetensors")
    one, other = (str(tmp_path / f"{name}.safetensors") for name in "ab")

    def generate(*options: str) -> Result:
        return CliRunner().invoke(app, ["generate", *options])

    made = generate(
        *("a red circle", "--model", config.model, "--device", "cpu", "--seconds", "1"),
        *("--lora", f"{one}:0.5", "--lora", other, "-o", str(tmp_path / "v.png")),
    )
    assert made.exit_code == 0, made.output
    record = json.loads((tmp_path / "v.json").read_text())
    names = [f"{one}:0.5", f"{other}:1.0"]
    assert record["plan"]["lora"] == record["replay"]["config"]["lora"] == names
    replay = ("--replay", str(tmp_path / "v.json"), "-o", str(tmp_path / "w.png"))
    refused = generate(*replay, "--lora", one)
    assert refused.exit_code == 2
    assert "lora" in refused.stderr and "a replay makes the same one" in refused.stderr
    moved = tmp_path / "moved.safetensors"
    shutil.copy(one, moved)
    again = generate(*replay, "--lora", f"{moved}:0.5", "--lora", other)
    assert again.exit_code == 0, again.output
    first, second = (read_video(tmp_path / name, fps=FPS)[0] for name in ("v", "w"))
    assert_bitwise_equal(first, second)
    for wrong, message in ((f"{one}:x", "is no number"), ("none.pt", "none.pt")):
        bad = generate("a red circle", "--model", config.model, "--lora", wrong)
        assert bad.exit_code == 2
        assert message in bad.stderr


def test_a_snapshot_is_not_gone_on_with_under_another_adapter(config, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(in_layout(adapter(), "kohya"), file)
    snapshots = Snapshots(path=tmp_path / "s.snapshot", every=1)
    wanted = replace(config, lora=(str(file),), seconds=2.0)
    run(wanted, [job()], tmp_path / "v.png", snapshots=snapshots)
    point = read_resume_point(snapshots.path, only_new=True)
    again = replace(job(), resume_point=point)
    with pytest.raises(ValueError, match=r"was made with lora \['.*a.safetensors:1.0'\], but here"):
        plan(replace(wanted, lora=()), [again], tmp_path / "w.png")
