"""A file that is read is never written, whatever the two are called."""

import os
from pathlib import Path

import pytest

from longlive_models import Storyboard
from longlive_recipes.configs.generate import Generate, Snapshots, VideoJob
from longlive_recipes.configs.quantize_weights import QuantizeWeights, check_output
from longlive_recipes.generation.inputs import refuse_inputs
from longlive_recipes.generation.outputs import check_files, check_fork, check_snapshot


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("s.json", "i.png", "model/config.json", "frames/00000.png", "deep/a.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    Path("link.json").symlink_to("s.json")
    Path("folder").symlink_to("deep")
    os.link("s.json", "hard.json")
    os.link("model/config.json", "second.json")


SAME = [
    ("s.json", "s.json"),
    ("./deep/../s.json", "s.json"),
    ("s.json", "link.json"),
    ("link.json", "s.json"),
    ("hard.json", "s.json"),
    ("s.json", "hard.json"),
    ("folder/a.txt", "deep/a.txt"),
    ("model/config.json", "model"),
    ("second.json", "model"),
    ("model", "model"),
    ("model", "model/config.json"),
    ("frames", "frames/00000.png"),
]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(("written", "read"), SAME)
def test_two_names_of_one_file_are_seen_to_be_one(written, read, absolute):
    output = Path(written).absolute() if absolute else Path(written)
    with pytest.raises(ValueError, match=r"that is read here as --prompts.* Name another --output"):
        refuse_inputs([("the video", output)], [("--prompts", Path(read))], option="--output")


@pytest.mark.parametrize(
    ("written", "read"),
    [("new.json", "s.json"), ("model/new.mp4", "model"), ("i.png", "s.json"), ("deep", "s.json")],
)
def test_other_files_may_be_written(written, read):
    refuse_inputs([("the video", Path(written))], [("--prompts", Path(read))], option="--output")


def test_letter_case_counts_only_where_the_file_system_tells_it_apart():
    upper = Path("S.JSON")
    if not upper.exists():
        upper.symlink_to("s.json")  # what a file system that ignores case makes of it
    with pytest.raises(ValueError, match="S.JSON"):
        refuse_inputs([("the record", upper)], [("--config", Path("s.json"))], option="--output")


def job(**how) -> VideoJob:
    return VideoJob(name="a", story=Storyboard.of("a"), seed=0, **how)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("output", "snapshot", "how", "reads", "message"),
    [
        ("s.mp4", None, {}, [("--prompts", "s.json")], "the record of s.mp4 would replace s.json"),
        ("link.mp4", None, {}, [("--config", "s.json")], "link.json"),
        ("hard.gif", None, {}, [("--storyboard", "s.json")], "hard.json"),
        ("frames.png", None, {"image": "frames/00000.png"}, [], "holds frames/00000.png"),
        ("i.mp4", "i.txt", {}, [("--prompts", "i.txt")], "the snapshot would replace i.txt"),
        ("model/config.mp4", None, {}, [], "read here as the model"),
    ],
)
def test_no_output_of_a_video_is_an_input_and_nothing_advises_to_overwrite_it(
    output, snapshot, how, reads, message, overwrite
):
    Path("i.txt").write_text("a")
    before = {path: path.read_text() for path in Path().rglob("*") if path.is_file()}
    named = [(what, Path(path)) for what, path in reads]
    with pytest.raises(ValueError, match=message) as refused:
        check_files(
            Generate(model="model"),
            [job(**{name: Path(path) for name, path in how.items()})],
            Path(output),
            overwrite,
            Snapshots(path=Path(snapshot)) if snapshot else None,
            named,
        )
    assert "overwrite" not in str(refused.value)
    assert {path: path.read_text() for path in Path().rglob("*") if path.is_file()} == before


def test_what_is_typed_while_a_video_is_made_replaces_no_input_either():
    reads = [("standard input", Path("s.json")), ("--config", Path("deep/a.txt"))]
    with pytest.raises(ValueError, match="read here as standard input"):
        check_fork(Path("s.mp4"), reads, overwrite=True)
    with pytest.raises(ValueError, match="read here as --config"):
        check_snapshot(Path("folder/a.txt"), reads, overwrite=True)


def test_a_packed_model_is_not_written_into_the_plain_one():
    config = QuantizeWeights(model="model")
    for output in ("model/packed", "folder/../model/x/y"):
        with pytest.raises(ValueError, match="lies in the model's own folder"):
            check_output(config, Path(output))
    for output in ("model", "s.json"):
        with pytest.raises(ValueError, match="exists: name another folder"):
            check_output(config, Path(output))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("nothing.mp4", "is a link to nothing"),
        ("nowhere/a.mp4", "a link to a folder that is not there"),
        ("is.png", "is exists, and is a file"),
        ("record.mp4", "record.json exists, and is a folder"),
    ],
)
def test_what_cannot_be_replaced_is_refused_whatever_is_asked(output, message):
    Path("nothing.mp4").symlink_to("gone.mp4")
    Path("nowhere").symlink_to("gone")
    Path("record.json").mkdir()
    Path("is").touch()
    with pytest.raises(ValueError, match=message):
        check_files(Generate(), [job()], Path(output), overwrite=True)
