"""`longlive generate`: what is asked for reaches the recipe, what is bad ends in one sentence."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_recipes.generate import BlockReport, Generate, Result, Snapshots


@dataclass(frozen=True, kw_only=True)
class PlannedNothing:
    """Stands for the plan, which needs a model's folder."""

    config: Generate
    output: Path
    snapshots: Snapshots | None
    notes: tuple[str, ...] = ()
    stored: str = "plain"
    weights: str = "plain"
    videos: tuple = ()

    @property
    def picked(self) -> tuple[str, ...]:
        most = self.config.max_memory
        return () if most is None else (f"within {most}: --offload",)


@dataclass
class Recorded:
    """Stands for the recipe's functions: keeps what they were called with, writes nothing."""

    result: Result = field(
        default_factory=lambda: Result(
            path=Path("circle.mp4"),
            sidecar=Path("circle.json"),
            frames=60,
            frames_made=60,
            blocks=2,
            fps=12.0,
            seconds_to_first_frame=1.5,
            wall_seconds=10.0,
            peak_memory_bytes=1000,
            backends=("attention: sdpa",),
            interrupted=False,
        )
    )
    stop: type[BaseException] | BaseException | None = None
    calls: list[tuple] = field(default_factory=list)

    def plan(self, config, jobs, output, overwrite, snapshots, ranks):
        if output.exists() and not overwrite:
            raise ValueError(f"{output} exists: pass --overwrite to replace it.")
        return PlannedNothing(config=config, output=output, snapshots=snapshots)

    def run(self, plan, jobs, *, began, progress, on_step, overwrite, snapshots, done, trace):
        self.calls.append((plan.config, jobs, plan.output, overwrite))
        if self.stop is not None:
            raise self.stop
        for job in jobs:
            progress(
                BlockReport(
                    job=job, index=0, blocks=2, frames_done=29, frames_total=60, seconds=4.0
                )
            )
            done(self.result)
        return [self.result for _ in jobs]


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    recorded = Recorded()
    monkeypatch.setattr("longlive_recipes.generate.plan", recorded.plan)
    monkeypatch.setattr("longlive_recipes.generate.run_plan", recorded.run)
    monkeypatch.chdir(tmp_path)
    return recorded


def longlive(*arguments: str):
    return CliRunner().invoke(app, ["generate", *arguments])


def test_a_prompt_and_options_reach_the_recipe(recipe):
    done = longlive("a red circle", "-o", "x.gif", "--seconds", "2", "--seed", "7", "--steps", "6")
    assert done.exit_code == 0, done.output
    [(config, [job], output, overwrite)] = recipe.calls
    assert config == Generate(seconds=2.0, steps=6)
    assert (job.name, job.seed) == ("video-seed7", 7)
    assert [shot.prompt for shot in job.story.shots] == ["a red circle"]
    assert (output, overwrite) == (Path("x.gif"), False)


def test_options_are_stronger_than_the_file_and_settings_than_both(recipe):
    Path("run.yaml").write_text("steps: 4\nguidance: 2\nweights: nvfp4\n")
    done = longlive(
        "a", "--config", "run.yaml", "--steps", "5", "--set", "guidance=3", "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    assert recipe.calls[0][0] == Generate(steps=5, guidance=3.0, weights="nvfp4", device="cpu")


def test_one_video_goes_to_a_file_and_several_to_a_folder(recipe):
    longlive("a red circle")
    Path("two.jsonl").write_text('{"prompt": "a"}\n{"id": "b", "prompt": "b", "seed": 3}\n')
    longlive("--prompts", "two.jsonl", "--seed", "1")
    assert [call[2] for call in recipe.calls] == [Path("video.mp4"), Path("videos")]
    assert [(job.name, job.seed) for job in recipe.calls[1][1]] == [("000-seed1", 1), ("b", 3)]


def test_lines_of_a_text_file_are_shots_of_one_video(recipe):
    Path("story.txt").write_text("a red circle\na blue square\n")
    longlive("--prompts", "story.txt")
    [(_, [job], _, _)] = recipe.calls
    assert [shot.prompt for shot in job.story.shots] == ["a red circle", "a blue square"]


def test_a_storyboard_is_one_video(recipe):
    Path("story.json").write_text('{"shots": ["a red circle", "a blue square"]}')
    longlive("--storyboard", "story.json")
    [(_, [job], _, _)] = recipe.calls
    assert [shot.prompt for shot in job.story.shots] == ["a red circle", "a blue square"]


def test_an_image_is_for_videos_that_name_none(recipe):
    Path("two.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "image": "own.png"}\n')
    Path("start.png").touch()
    Path("own.png").touch()
    longlive("--prompts", "two.jsonl", "--image", "start.png")
    [(_, jobs, _, _)] = recipe.calls
    assert [job.image for job in jobs] == [Path("start.png").resolve(), Path("own.png").resolve()]


@pytest.mark.parametrize("option", ["--sampler", "--steps", "--model", "--weights", "--device"])
def test_an_option_that_is_empty_is_refused(recipe, option):
    done = longlive("a", option, "")
    assert (done.exit_code, recipe.calls) == (2, [])
    assert f"longlive: {option} '' says nothing: write a value" in done.stderr


def test_precisions_are_options(recipe):
    longlive("a", "--weights", "nvfp4", "--kv-cache", "fp8")
    assert recipe.calls[0][0] == Generate(weights="nvfp4", kv_cache="fp8")


def test_where_a_snapshot_is_is_said_with_the_way_on(recipe):
    recipe.result = replace(recipe.result, interrupted=True, signal=2, snapshot=Path("a.snapshot"))
    assert longlive("a").stdout.endswith("; go on with: longlive generate --resume a.snapshot\n")
    assert json.loads(longlive("a", "--json").stdout)["snapshot"] == "a.snapshot"


def test_json_is_one_line_a_video_on_standard_output(recipe):
    done = longlive("a", "--json")
    [line] = done.stdout.splitlines()
    assert json.loads(line) == {
        "output": "circle.mp4",
        "sidecar": "circle.json",
        "frames": 60,
        "fps": 12.0,
        "seconds_to_first_frame": 1.5,
        "wall_seconds": 10.0,
        "generated_fps": 6.0,
        "peak_memory_bytes": 1000,
        "backends": ["attention: sdpa"],
        "interrupted": False,
        "snapshot": None,
    }


def test_text_says_what_was_made(recipe):
    assert longlive("a").stdout == (
        "circle.mp4: 60 frames, 5.0 s at 12 frames/s; first frame after 1.5 s, 10.0 s in all\n"
    )


def test_a_dry_run_prints_the_plan_and_runs_nothing(recipe):
    done = longlive("a", "--dry-run", "--seconds", "3", "--json")
    assert json.loads(done.stdout)["config"]["seconds"] == 3.0
    assert "seconds: 3.0" in longlive("a", "--dry-run", "--seconds", "3").stdout
    assert recipe.calls == []


def test_what_is_picked_for_a_bound_of_memory_is_said(recipe):
    done = longlive("a", "--max-memory", "24GB")
    assert done.exit_code == 0, done.output
    assert "longlive: pocket within 24GB: --offload\n" in done.stderr
    assert recipe.calls[0][0] == Generate(max_memory="24GB")
    assert "within" not in longlive("a", "--max-memory", "24GB", "--quiet").stderr
    wrong = longlive("a", "--max-memory", "much")
    assert wrong.exit_code == 2 and "max_memory='much' is no size" in wrong.stderr


def test_an_interrupted_video_is_reported_with_its_own_status(recipe):
    recipe.result = replace(recipe.result, interrupted=True, signal=2)
    done = longlive("a")
    assert done.exit_code == 130
    assert "interrupted; 60 frames" in done.stdout


def test_an_interrupt_before_the_first_block_leaves_nothing(recipe):
    recipe.stop = KeyboardInterrupt
    done = longlive("a")
    assert done.exit_code == 130
    assert "nothing was written" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of PROMPT, --prompts FILE and --storyboard FILE, got none of them"),
        (["a", "--prompts", "x.txt"], "got PROMPT and --prompts"),
        (["--prompts", "x.txt", "--storyboard", "y.json"], "got --prompts and --storyboard"),
        (["--storyboard", "twice.jsonl"], "a storyboard is a .json file of shots, or a .txt"),
        (["a", "--snapshot-every", "2"], "--snapshot-every 2 says how often, and nothing says"),
        (["a", "--snapshot", "s", "--snapshot-every", "0"], "a snapshot every 0 blocks cannot be"),
        (["--resume", "none.snapshot"], "there is no snapshot 'none.snapshot'"),
        (["a", "--seed", "1", "--resume", "s"], "--resume and PROMPT, --seed do not go together"),
        (["--replay", "r.json", "--steps", "3"], "--replay and --steps do not go together"),
        (["--replay", "r.json", "--resume", "s"], "--resume and --replay do not go together"),
        (["a", "--fork", "b"], "--fork 'b' has no snapshot to begin with"),
        (["a", "--only-new"], "--only-new leaves out what a video had before --resume"),
        (["--resume", "there.mp4", "--fork", "/quit"], "an ending begins with a prompt"),
        (["--replay", "none.json"], "there is no record 'none.json'"),
        (["--replay", "record.json"], "record.json is no record of a video that can be made again"),
        ([""], "a prompt needs at least one word"),
        (["--prompts", "none.txt"], "there is no prompt file 'none.txt'"),
        (["a", "--set", "stesp=3"], "no field 'stesp'; did you mean 'steps'"),
        (["a", "--config", "none.yaml"], "none.yaml cannot be read (No such file or directory)"),
        (["--prompts", "twice.jsonl"], "two prompts of twice.jsonl have the same name 'a'"),
        (["--prompts", "slash.jsonl"], "an id '../a' cannot name a file"),
        (["a", "-o", "there.mp4"], "there.mp4 exists: pass --overwrite"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, recipe):
    Path("twice.jsonl").write_text('{"id": "a", "prompt": "x"}\n' * 2)
    Path("slash.jsonl").write_text('{"id": "../a", "prompt": "x"}\n')
    Path("record.json").write_text('{"video": {}}')
    Path("there.mp4").touch()
    before = set(Path().iterdir())
    done = longlive(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert recipe.calls == []
    assert set(Path().iterdir()) == before


def test_a_mistake_of_ours_is_one_line_and_a_traceback_with_debug(recipe):
    recipe.stop = KeyError("frames")
    done = longlive("a")
    assert done.exit_code == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("longlive: internal error: KeyError: 'frames'. This is a mistake of")
    for arguments in (["a", "--debug"], ["--debug", "a"]):
        done = longlive(*arguments)
        assert done.exit_code == 1
        assert "Traceback" in done.stderr
        assert "raise self.stop" in done.stderr


@pytest.mark.parametrize(
    "more", [["--nproc", "2"], ["--nproc", "2", "--dry-run"], ["--nproc", "2", "--json"]]
)
def test_ranks_write_no_snapshot_and_say_so(recipe, more):
    done = longlive("a red circle", "-o", "x.mp4", "--snapshot", "x.snapshot", *more)
    assert done.exit_code == 2
    assert "is written to a snapshot on one rank, got 2" in done.stderr
    assert "Leave out --nproc" in done.stderr
    assert recipe.calls == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--resume", "a.mp4 is a video, and no snapshot of one: a video goes on from a file that"),
        ("--replay", "a.mp4 is a video, and no record of one: .* Name a.json."),
    ],
)
def test_a_video_in_place_of_what_is_beside_it_is_named(recipe, option, message):
    Path("a.mp4").write_bytes(b"\0\0\0\x1cftypisom")
    done = longlive(option, "a.mp4")
    assert done.exit_code == 2
    assert re.search(message, done.output)
