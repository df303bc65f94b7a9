"""Usual controls of generation: several seeds, a negative prompt, quality, another rate."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_core.testing import assert_bitwise_equal
from longlive_models.video.files import read_video
from tests.models.tiny_pipeline import FPS, write_tiny_folder

PROMPT = ("a red circle", "--device", "cpu", "--seconds", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def generate(*arguments: str, model: str | None = None):
    where = () if model is None else ("--model", model)
    return CliRunner().invoke(app, ["generate", *arguments, *where])


def made(*arguments: str, model: str | None = None) -> None:
    done = generate(*arguments, model=model)
    assert done.exit_code == 0, done.output


def planned(*arguments: str, model: str) -> list[tuple[str, str, int]]:
    done = generate(*arguments, "--dry-run", "--json", model=model)
    assert done.exit_code == 0, done.output
    videos = json.loads(done.stdout)["videos"]
    return [(video["name"], video["path"], video["seed"]) for video in videos]


def test_each_seed_makes_the_video_that_it_makes_alone(model):
    made(*PROMPT, "--count", "2", "--seed", "9", "-o", "c.mp4", model=model)
    assert sorted(path.name for path in Path().iterdir()) == [
        "c-seed09.json",
        "c-seed09.mp4",
        "c-seed10.json",
        "c-seed10.mp4",
    ]
    made(*PROMPT, "--seed", "10", "-o", "alone.mp4", model=model)
    assert Path("alone.mp4").read_bytes() == Path("c-seed10.mp4").read_bytes()
    record = json.loads(Path("c-seed10.json").read_text())
    assert (record["video"]["seed"], record["video"]["name"]) == (10, "c-seed10")
    made("--replay", "c-seed10.json", "-o", "again.mp4")
    assert Path("again.mp4").read_bytes() == Path("c-seed10.mp4").read_bytes()


def test_a_sampler_and_steps_by_block_are_planned_recorded_replayed_and_resumed(model):
    chosen = ("--sampler", "few_step", "--steps", "3,1")
    done = generate(*PROMPT, *chosen, "--dry-run", "--json", model=model)
    plan = json.loads(done.stdout)
    assert (plan["sampler"], plan["steps"]) == ("few_step", [3, 1])
    made(*PROMPT, *chosen, "-o", "a.gif", model=model)
    record = json.loads(Path("a.json").read_text())
    for part in ("settings", "plan"):
        assert (record[part]["sampler"], record[part]["steps"]) == ("few_step", [3, 1])
    assert record["replay"]["config"]["sampler"] == "few_step"
    [said] = record["plan"]["notes"]
    assert said in " ".join(done.stderr.split())
    assert "and this model is none (its own sampler is unipc)" in said
    plain = generate("a red circle", "--dry-run", "--json", model=model)
    assert json.loads(plain.stdout)["notes"] == []
    made("--replay", "a.json", "-o", "again.gif")
    assert Path("again.gif").read_bytes() == Path("a.gif").read_bytes()
    made(*PROMPT, "-o", "plain.gif", model=model)
    assert Path("plain.gif").read_bytes() != Path("a.gif").read_bytes()
    made(*PROMPT, *chosen, "--snapshot", "s", "--snapshot-every", "1", "-o", "b.png", model=model)
    refused = generate("--resume", "s", "--sampler", "euler")
    assert refused.exit_code == 2
    assert "--resume and --sampler do not go together" in refused.output


def test_a_record_of_before_samplers_could_be_chosen_is_replayed_with_unipc(model):
    made(*PROMPT, "-o", "a.gif", model=model)
    record = json.loads(Path("a.json").read_text())
    del record["settings"]["sampler"], record["replay"]["config"]["sampler"]
    Path("old.json").write_text(json.dumps(record))
    made("--replay", "old.json", "-o", "again.gif")
    assert Path("again.gif").read_bytes() == Path("a.gif").read_bytes()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--sampler", "ddim"), "sampler='ddim' is no sampler of this version"),
        (("--steps", "4,x"), "steps takes a whole number or a list like 1,2 of whole numbers"),
        (("--steps", "4,"), "steps takes a whole number or a list like 1,2 of whole numbers"),
        (("--steps", "4,0"), "steps of block 1 is at least 1, got 0"),
        (("--steps", ""), "--steps '' says nothing: write a value, or leave the option out"),
    ],
)
def test_what_is_no_sampler_or_no_steps_is_refused(option, message, model):
    done = generate(*PROMPT, *option, model=model)
    assert done.exit_code == 2
    assert message in done.output


def test_names_say_the_seed_and_sort(model):
    assert planned(*PROMPT, "--count", "2", model=model) == [
        ("video-seed0", "video-seed0.mp4", 0),
        ("video-seed1", "video-seed1.mp4", 1),
    ]
    names = [name for name, *_ in planned(*PROMPT, "--count", "12", model=model)]
    assert names == sorted(names) and names[-1] == "video-seed11"
    assert planned(*PROMPT, "-o", "out", model=model) == [("video-seed0", "out/video-seed0.mp4", 0)]
    assert planned(*PROMPT, "-o", "c.gif", "--count", "2", model=model)[1][1] == "c-seed1.gif"
    lines = '{"prompt": "a"}\n{"id": "b", "prompt": "a", "seed": 3}\n'
    Path("two.jsonl").write_text(lines)
    assert planned("--prompts", "two.jsonl", "--count", "2", model=model) == [
        ("000-seed0", "videos/000-seed0.mp4", 0),
        ("000-seed1", "videos/000-seed1.mp4", 1),
        ("b-seed3", "videos/b-seed3.mp4", 3),
        ("b-seed4", "videos/b-seed4.mp4", 4),
    ]
    Path("story.txt").write_text("a\na red circle\n")
    assert planned("--storyboard", "story.txt", "-o", "out", model=model)[0][0] == "story-seed0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--seconds", "abc"), "--seconds is a number, got 'abc': how long a video lasts."),
        (("a", "--seed", "1.5"), "--seed is a whole number, got '1.5': the same seed gives the "),
        (("a", "--count", "0"), "--count is at least 1, got 0: make each video this many times"),
        (("a", "--count", "100000000"), "--count is at most 10000, got 100000000: make each"),
        (("a", "--negative-prompt", "blue"), "does nothing at guidance=1"),
        (("a", "--guidance", "1", "--negative-prompt", "blue"), "does nothing at guidance=1"),
        (("a", "--crf", "52"), "crf is at most 51, got 52"),
        (("a", "--crf", "-1"), "crf is at least 0, got -1"),
        (("a", "--crf", "20", "-o", "a.gif"), "crf=20 is the quality of an mp4"),
        (("a", "--fps", "0"), "fps is above 0, got 0.0"),
        (("a", "--fps", "nan"), "fps is a finite number, got nan"),
        (("a", "--fps", "200", "-o", "a.gif"), "a gif has at most 100 frames a second"),
        (("--resume", "s", "--count", "2"), "--resume and --count do not go together"),
        (("--replay", "s", "--negative-prompt", "a"), "--replay and --negative-prompt do not go"),
    ],
)
def test_what_cannot_be_is_refused_and_writes_nothing(model, arguments, message):
    has_one = {"--resume", "--replay", "--guidance"} & set(arguments)
    where = () if has_one else ("--set", "guidance=1")
    done = generate(*arguments, *where, model=model)
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(Path().iterdir()) == []


def test_a_negative_prompt_changes_the_video_and_is_in_its_record(model):
    how = ("--guidance", "3")
    made(*PROMPT, *how, "-o", "own.gif", model=model)
    made(*PROMPT, *how, "--negative-prompt", "a blue square", "-o", "other.gif", model=model)
    assert Path("own.gif").read_bytes() != Path("other.gif").read_bytes()
    record = json.loads(Path("other.json").read_text())
    said = (record["plan"]["negative_prompt"], record["settings"]["negative_prompt"])
    assert said == ("a blue square", "a blue square")
    made("--replay", "other.json", "-o", "again.gif")
    assert Path("again.gif").read_bytes() == Path("other.gif").read_bytes()


def test_quality_and_rate_are_in_the_record_and_a_replay_keeps_them(model):
    made(*PROMPT, "--crf", "40", "--fps", "24", "-o", "a.mp4", model=model)
    made(*PROMPT, "-o", "own.mp4", model=model)
    frames, fps = read_video("a.mp4")
    assert (len(frames), fps) == (2 * FPS, 24)  # two seconds of the model's rate
    assert Path("a.mp4").stat().st_size < Path("own.mp4").stat().st_size
    record = json.loads(Path("a.json").read_text())
    assert (record["plan"]["crf"], record["plan"]["fps"], record["plan"]["model_fps"]) == (
        40,
        24,
        FPS,
    )
    assert record["video"]["seconds"] == 2 * FPS / 24
    made("--replay", "a.json", "-o", "again.mp4")
    assert Path("again.mp4").read_bytes() == Path("a.mp4").read_bytes()
    made("--replay", "a.json", "--crf", "16", "--fps", str(FPS), "-o", "plain.mp4")
    assert Path("plain.mp4").read_bytes() == Path("own.mp4").read_bytes()
    made("--replay", "a.json", "-o", "other.gif")  # which has no such quality
    assert json.loads(Path("other.json").read_text())["plan"]["crf"] is None


def test_the_rate_of_the_file_changes_no_frame(model):
    made(*PROMPT, "--fps", "25", "-o", "fast.gif", model=model)
    made(*PROMPT, "-o", "own.gif", model=model)
    (fast, rate), (own, _) = read_video("fast.gif"), read_video("own.gif")
    assert rate == 25
    assert_bitwise_equal(fast, own)


def test_a_resumed_video_keeps_quality_and_rate_and_takes_no_other(model):
    how = ("--crf", "30", "--fps", "24")
    whole = ("a red circle", "--device", "cpu", "--seconds", "3", *how)
    made(*whole, "-o", "v.mp4", "--snapshot", "s", "--snapshot-every", "3", model=model)
    before = Path("v.mp4").read_bytes()
    for option, value in (("--crf", "16"), ("--fps", "8")):
        done = generate("--resume", "s", option, value)
        assert done.exit_code == 2
        name = option.removeprefix("--")
        assert f"does not go on with {Path('v.mp4').resolve()}" in done.stderr
        assert f"stored with {name}=" in done.stderr
        assert Path("v.mp4").read_bytes() == before
    made("--resume", "s")
    assert Path("v.mp4").read_bytes() == before
    made("--resume", "s", *how)
    assert Path("v.mp4").read_bytes() == before
    made("--resume", "s", "--only-new", "--crf", "16", "--fps", "8", "-o", "rest.mp4")
    assert read_video("rest.mp4")[1] == 8
