"""`longlive data` and `longlive train --data`, as they are typed."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_models.video import read_image
from tests.recipes.data.made_clips import CAPTIONS, caption, folder_of_clips, write_clip
from tests.recipes.tiny_runs import ROOT, write_tiny_vae


def longlive(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A VAE, six clips of which one is too short, and a cache of them."""
    place = tmp_path_factory.mktemp("cli")
    write_tiny_vae(place / "vae")
    folder_of_clips(place / "clips", (100, 61, 93, 64, 95, 10))
    done = longlive("data", "prepare", place / "clips", "-o", place / "cache", *tiny(place))
    assert done.exit_code == 0, done.output
    assert "left out 5.mp4: it lasts 0.833 s, and a clip's first block takes 2.42 s" in done.stderr
    start = f"{place / 'cache'}: 5 clips (2 of 2 blocks, 3 of 3 blocks), 5 new, 1 left out, "
    assert done.stdout.startswith(start)
    return place


def tiny(place):
    return "--model", place / "vae", "--size", "32x32", "--fps", 12, "--blocks", 3


def test_preparing_again_encodes_nothing_and_says_so_in_json(place):
    done = longlive(
        "data", "prepare", place / "clips", "-o", place / "cache", *tiny(place), "--json"
    )
    told = json.loads(done.stdout)
    assert (told["clips"], told["new"], told["dropped"]) == (5, 0, 0)
    assert told["by_blocks"] == {"2": 2, "3": 3}
    assert [one["name"] for one in told["skipped"]] == ["5.mp4"]
    assert done.stderr == ""


def test_a_check_says_what_is_wrong_and_what_it_takes(place, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = longlive("data", "check", place / "clips", *tiny(place), "--sheet", sheet)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].endswith("5 videos can be used, 1 cannot (layout: folder)")
    assert lines[1].startswith("  left out 5.mp4: it lasts 0.833 s")
    assert lines[2].startswith("clips: 5 (2 of 2 blocks, 3 of 3 blocks), 33.4 s of ")
    different = {word for text in CAPTIONS for word in text.split()}
    assert lines[3] == f"captions: {len(different)} different words, 9 in the longest"
    assert "about" in lines[4] and "on cpu" in lines[4]
    assert read_image(sheet).shape == (4 + 36, 4 + 5 * 36, 3)
    again = longlive("data", "check", place / "clips", *tiny(place), "--sheet", sheet)
    assert again.exit_code == 2 and "exists: name another file with --sheet" in again.stderr


def test_a_check_foresees_the_bytes_that_preparing_takes(place):
    told = json.loads(longlive("data", "check", place / "clips", *tiny(place), "--json").stdout)
    made = longlive(
        "data", "prepare", place / "clips", "-o", place / "cache", *tiny(place), "--json"
    )
    assert told["bytes"] <= json.loads(made.stdout)["bytes"] <= told["bytes"] + 4096
    assert told["hours"] > 0
    assert told["longest_caption"] == max(len(text.split()) for text in CAPTIONS)


def test_train_takes_a_cache_and_its_words(place):
    shown = longlive(
        "train", "ar_tiny", "--data", place / "cache", "--dry-run", "--json",
        "--set", f"vae={place / 'vae'}", "--set", "sample_seconds=2",
    )  # fmt: skip
    config = json.loads(shown.stdout)
    assert config["data"] == str(place / "cache")
    assert config["world"]["size"] == 32
    assert config["sample_seconds"] == 2
    assert config["sample_prompts"] == list(CAPTIONS)
    assert "pink" not in config["text"]["vocab"] and "circle" in config["text"]["vocab"]


def test_from_a_folder_to_a_video(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = (f"vae={place / 'vae'}", "run.samples_every=0", "run.progress_bar=false")
    sets = [word for setting in settings for word in ("--set", setting)]
    done = longlive("train", "ar_tiny", "--data", place / "cache", *sets)
    assert done.exit_code == 0, done.output
    done = longlive(
        "generate", CAPTIONS[0], "--model", "runs/ar_tiny/model", "--seconds", 1, "-o", "a.mp4"
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.mp4").is_file()


def test_a_chain_takes_a_cache_for_all_of_its_stages(place):
    words = ("train", "tiny_chain", "--data", place / "cache", "--dry-run", "--json")
    sets = ("--set", f"ar.vae={place / 'vae'}", "--set", "ar.sample_seconds=2")
    shown = longlive(*words, *sets)
    assert shown.exit_code == 0, shown.output
    config = json.loads(shown.stdout)
    assert config["ar"]["data"] == str(place / "cache")
    assert config["ar"]["sample_prompts"] == list(CAPTIONS)
    assert config["ar"]["sample_seconds"] == 2
    refused = longlive(*words, *sets, "--set", "dmd.phases.0.length=4")
    assert refused.exit_code == 2
    assert "a phase trains on clips of 4 blocks, and the longest of the" in refused.stderr


@pytest.mark.slow
def test_from_a_folder_to_a_packed_student_by_one_command(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [f"ar.vae={place / 'vae'}"]
    for stage in ("ar", "longer", "cm", "dmd"):
        settings += [f"{stage}.run.samples_every=0", f"{stage}.run.progress_bar=false"]
    sets = [word for setting in settings for word in ("--set", setting)]
    done = longlive("train", "tiny_chain", "--data", place / "cache", *sets)
    assert done.exit_code == 0, done.output
    for stage in ("ar", "longer", "cm", "dmd"):
        record = json.loads((tmp_path / "runs" / "tiny_chain" / stage / "run.json").read_text())
        assert record["config"]["data"] == str(place / "cache")
    words = ("generate", CAPTIONS[0], "--model", "runs/tiny_chain/packed", "--seconds", 1)
    done = longlive(*words, "-o", "a.mp4")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_from_a_folder_to_a_video_of_a_packed_student_of_few_steps(place, tmp_path, monkeypatch):
    """The defaults lead from stage to stage: nothing but the cache and its VAE is named."""
    monkeypatch.chdir(tmp_path)
    settings = (f"vae={place / 'vae'}", "run.samples_every=0", "run.progress_bar=false")
    sets = [word for setting in settings for word in ("--set", setting)]
    for recipe in ("ar_tiny", "cm_tiny", "dmd_tiny"):
        done = longlive("train", recipe, "--data", place / "cache", *sets)
        assert done.exit_code == 0, done.output
    done = longlive("quantize", "runs/dmd_tiny/model", "-o", "packed")
    assert done.exit_code == 0, done.output
    for model, video in (("runs/dmd_tiny/model", "a.mp4"), ("packed", "b.mp4")):
        done = longlive("generate", CAPTIONS[0], "--model", model, "--seconds", 1, "-o", video)
        assert done.exit_code == 0, done.output
        record = json.loads((tmp_path / video).with_suffix(".json").read_text())
        assert record["plan"]["sampler"] == "few_step"
        assert (record["plan"]["steps"], record["plan"]["guidance"]) == (2, 1.0)
        assert record["plan"]["notes"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "check", "none"], "there is no folder 'none'"),
        (["data", "check", "clips", "--size", "12"], "--size is WIDTHxHEIGHT in pixels, got '12'"),
        (["data", "check", "clips", "--blocks", "0"], "PrepareData.blocks"),
        (["data", "check", "clips", "--sheet", "a.jpg"], "a file that ends in .png"),
        (["data", "prepare", "empty", "-o", "x"], "holds no clips: a clip is a video"),
        (["data", "prepare", "clips", "-o", "clips/0.mp4"], "exists and is no cache of clips"),
        (["train", "ar_tiny", "--data", "clips"], "is no cache of clips: it holds no index.json"),
        (["train", "vae_tiny", "--data", "cache"], "no field 'data'"),
    ],
)
def test_what_is_refused_is_refused_in_a_sentence_without_torch(words, message, place):
    (place / "empty").mkdir(exist_ok=True)
    code = (
        "import sys\n"
        "from longlive_cli.main import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    assert 'torch' not in sys.modules\n    raise\n"
    )
    command = [sys.executable, "-c", code, *words]
    env = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_keeps_what_is_encoded(place, tmp_path, monkeypatch):
    folder_of_clips(tmp_path / "clips", (30, 31, 32))
    from longlive_recipes.data import prepare

    encode, calls = prepare.ClipEncoder.clips, []

    def interrupted(self, source, known):
        calls.append(source.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, source, known)

    monkeypatch.setattr(prepare.ClipEncoder, "clips", interrupted)
    words = ("data", "prepare", tmp_path / "clips", "-o", tmp_path / "cache", *tiny(place))
    done = longlive(*words)
    assert done.exit_code == 130
    assert "interrupted; 2 clips are in" in done.stderr
    monkeypatch.undo()
    assert json.loads(longlive(*words, "--json").stdout)["new"] == 1


def test_a_name_with_an_escape_cannot_move_the_cursor(place, tmp_path):
    caption(write_clip(tmp_path / "clips" / "a\x1b[2J.mp4", 10), "x")
    caption(write_clip(tmp_path / "clips" / "b.mp4", 30), "y")
    done = longlive("data", "check", tmp_path / "clips", *tiny(place))
    assert done.exit_code == 0 and "\x1b" not in done.output
