"""`longlive train`, `recipes` and `evaluate`, on a recipe of their own that writes nothing."""

import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from typer.testing import CliRunner

from longlive_cli import catalog
from longlive_cli.main import app
from longlive_cli.overrides import apply_mapping
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.video.files import VideoWriter
from longlive_recipes.moving_shapes.judge import judge_clip
from longlive_recipes.run_record import as_plain


@dataclass(frozen=True, kw_only=True)
class Settings(RuntimeOptions):
    steps: int = 3
    model: str = "pocket"
    device: str = "cpu"


SCORES = {
    "suites": {
        "seen": {"videos": 200, "colour": 0.935, "by_kind": {"spins": 1.0}},
        "long": {"videos": 20, "colour": 0.5, "drift_per_second": 0.01},
    },
    "steps": 4,
}


def tiny() -> Settings:
    """A few steps.

    More words that a list does not need.
    """
    return Settings()


class Recipe(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.PRESETS = {"tiny": tiny, "long": lambda: Settings(steps=100), "pocket": tiny}
        self.calls: list[tuple] = []
        self.complete = True
        self.signal = 2

    def check(self, config, *, resume=None):
        if resume is not None and not Path(resume).exists():
            raise ValueError(f"there is no checkpoint {resume!r} to go on from.")

    def run(self, config, *, resume=None, made=None, stored=None, runtime=None):
        self.calls.append((config, resume))
        if made is not None:
            made("seen", 0, 220)
            made("seen", 200, 220)
            stored({**SCORES, "complete": False})
            ended = {} if self.complete else {"signal": self.signal}
            return {**SCORES, "complete": self.complete, **ended}
        return SCORES


@pytest.fixture
def recipe(monkeypatch):
    module = Recipe("train_thing")
    for name in ("train_thing", "evaluate"):
        monkeypatch.setitem(sys.modules, f"longlive_recipes.{name}", module)
    found = [
        catalog.Preset(name, "train_thing", "train_thing", about)
        for name, about in (("tiny", "A few steps."), ("long", ""))
    ]
    found.append(catalog.Preset("pocket", "evaluate", "evaluate"))
    monkeypatch.setattr(catalog, "presets", lambda: found)
    return module


def shown(steps: int) -> str:
    return yaml.safe_dump(as_plain(Settings(steps=steps)), sort_keys=False)


def longlive(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_presets_are_found_in_the_tables_of_a_package(tmp_path, monkeypatch):
    package = tmp_path / "some_recipes"
    package.mkdir()
    (package / "__init__.py").touch()
    table = 'def cake():\n    """Sweet.\n\n    More."""\n    return 3\nPRESETS = {"cake": cake}\n'
    (package / "configs").mkdir()
    (package / "configs" / "bake.py").write_text(table)
    (package / "bake.py").write_text("")
    (package / "tools.py").write_text("spoon = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        import some_recipes

        [found] = catalog.presets(some_recipes)
        assert (found.full_name, found.about) == ("bake.cake", "Sweet.")
        assert not [name for name in sys.modules if name.startswith("some_recipes.")]
        assert found.build() == 3
        assert found.module.__name__ == "some_recipes.bake"
    finally:
        for name in [name for name in sys.modules if name.startswith("some_recipes")]:
            del sys.modules[name]


def test_a_name_that_two_recipes_share_needs_the_recipe(recipe):
    shared = [catalog.Preset("tiny", name, name) for name in ("train_a", "train_b")]
    with pytest.raises(ValueError, match=r"2 recipes 'tiny': write train_a.tiny or train_b.tiny"):
        catalog.find("tiny", shared)
    assert catalog.find("train_b.tiny", shared).recipe == "train_b"


def test_a_recipe_is_trained_with_its_changes(recipe, tmp_path):
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.touch()
    done = longlive("train", "tiny", "--set", "steps=5", "--resume", str(checkpoint))
    assert done.exit_code == 0, done.output
    assert recipe.calls == [(Settings(steps=5), str(checkpoint))]
    assert done.stdout == f"{SCORES}\n"  # what the recipe returns: where the result lies


def test_a_dry_run_prints_the_config_and_trains_nothing(recipe):
    memory = "# the memory of this recipe is not predicted\n"
    assert longlive("train", "tiny", "--dry-run").stdout == shown(steps=3) + memory
    done = longlive("train", "long", "--dry-run", "--json")
    assert json.loads(done.stdout) == json.loads(json.dumps(asdict(Settings(steps=100))))
    assert longlive("train", "tiny", "--dry-run", "--resume", "none.ckpt").exit_code == 0
    assert recipe.calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "tinny"], "there is no recipe 'tinny'; did you mean 'tiny'? The recipes: tiny"),
        (["train", "pocket"], "there is no recipe 'pocket'"),
        (["train", "tiny", "--set", "step=1"], "did you mean 'steps'"),
        (["train", "tiny", "--resume", "none.ckpt"], "there is no checkpoint 'none.ckpt'"),
        (["evaluate", "--recipe", "tiny"], "there is no recipe 'tiny'"),
        (["evaluate", "none.mp4"], "none.mp4"),
        (["evaluate", "--set", "model=pokcet"], "there is no model 'pokcet'"),
        (["evaluate", "--set", "device=abacus"], "device='abacus'"),
        (["recipes", "show", "tinny"], "did you mean 'tiny'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, recipe):
    done = longlive(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert recipe.calls == []


def test_recipes_are_listed_with_their_first_line(recipe):
    first, *_ = longlive("recipes", "list").stdout.splitlines()
    assert first.split(maxsplit=2) == ["tiny", "train_thing", "A few steps."]
    rows = json.loads(longlive("recipes", "list", "--json").stdout)
    assert [row["recipe"] for row in rows] == ["tiny", "long", "pocket"]


def test_a_recipe_is_shown_with_every_setting(recipe):
    assert longlive("recipes", "show", "long").stdout == shown(steps=100)


def test_an_evaluation_prints_a_table_and_stores_the_whole_result(recipe, tmp_path):
    path = tmp_path / "results" / "scores.json"
    done = longlive("evaluate", "--set", "steps=4", "-o", str(path))
    assert done.stdout.splitlines() == [
        "| suite | videos | colour | drift per second |",
        "| --- | --- | --- | --- |",
        "| seen | 200 | 0.935 |  |",
        "| long | 20 | 0.500 | 0.010 |",
    ]
    assert json.loads(path.read_text()) == {**SCORES, "complete": True}
    assert "seen: 200/220 videos" in done.stderr
    assert "longlive: long: videos 20, colour 0.500, drift per second 0.010" in done.stderr
    assert recipe.calls == [(Settings(steps=4), None)]
    again = longlive("evaluate", "-o", str(path))
    assert again.exit_code == 2
    assert "scores.json exists: pass --overwrite" in again.stderr
    done = longlive("evaluate", "-o", str(path), "--overwrite", "--json")
    assert json.loads(done.stdout) == {**SCORES, "complete": True}


def test_an_interrupted_evaluation_keeps_the_suites_that_had_ended(recipe, tmp_path):
    recipe.complete = False
    path = tmp_path / "scores.json"
    done = longlive("evaluate", "-o", str(path))
    assert done.exit_code == 130
    assert json.loads(path.read_text())["complete"] is False
    assert "interrupted; suites that had ended are above" in done.stderr
    assert "| long | 20 |" in done.stdout
    recipe.signal = 15
    done = longlive("evaluate", "-o", str(path), "--overwrite")
    assert done.exit_code == 143
    assert "stopped by SIGTERM; suites that had ended are above" in done.stderr


def test_verdicts_before_a_stop_are_kept(tmp_path, monkeypatch):
    def judge(frames, rate):
        if len(frames) == 30:
            signal.raise_signal(signal.SIGTERM)
        return judge_clip(frames, rate)

    paths, result = [tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "verdicts.json"
    for path, frames in zip(paths, (25, 30), strict=True):
        with VideoWriter(path, fps=12, size=(64, 64)) as writer:
            writer.write(torch.zeros(frames, 64, 64, 3, dtype=torch.uint8))
    monkeypatch.setattr("longlive_recipes.moving_shapes.clip_files.judge_clip", judge)
    done = longlive("evaluate", *map(str, paths), "-o", str(result))
    assert done.exit_code == 143
    assert done.stderr.splitlines() == [
        "longlive: stopped by SIGTERM; 1 of 2 videos were judged before that."
    ]
    assert list(json.loads(result.read_text())["videos"]) == [str(paths[0])]
    assert done.stdout.startswith(f"{paths[0]}: cuts at frames")


def test_verdicts_on_videos_are_stored_where_no_video_is_lost(tmp_path):
    path, result = tmp_path / "a.mp4", tmp_path / "verdicts.json"
    with VideoWriter(path, fps=12, size=(64, 64)) as writer:
        writer.write(torch.zeros(25, 64, 64, 3, dtype=torch.uint8))
    before = path.read_bytes()
    shown = json.loads(longlive("evaluate", str(path), "--json", "-o", str(result)).stdout)
    assert json.loads(result.read_text())["videos"][str(path)]["shots"] == shown["shots"]
    again = longlive("evaluate", str(path), "-o", str(result))
    assert again.exit_code == 2 and "verdicts.json exists" in again.stderr
    refused = longlive("evaluate", str(path), "-o", str(path), "--overwrite")
    assert refused.exit_code == 2 and path.read_bytes() == before


def test_videos_are_judged_one_by_one(tmp_path):
    path = tmp_path / "a.mp4"
    frames = torch.zeros(25, 64, 64, 3, dtype=torch.uint8)
    frames[..., 2] = 110  # nothing but a dark blue ground
    with VideoWriter(path, fps=12, size=(64, 64)) as writer:
        writer.write(frames)
    record = json.loads(longlive("evaluate", str(path), "--json").stdout)
    assert record["video"] == str(path)
    assert record["cuts"] == []
    [shot] = record["shots"]
    assert (shot["shape"], shot["background"]) == ("none", "navy")
    text = longlive("evaluate", str(path)).stdout.splitlines()
    assert text[0] == f"{path}: cuts at frames: none"
    assert text[1].startswith("  shot 1: none none, motion none, on navy; steady in ")


def test_a_folder_of_frames_is_judged_at_the_rate_of_its_record(tmp_path):
    frames = torch.zeros(25, 64, 64, 3, dtype=torch.uint8)
    for suffix in (".png", ".mp4"):
        with VideoWriter(tmp_path / f"a{suffix}", fps=12, size=(64, 64)) as writer:
            writer.write(frames)
    refused = longlive("evaluate", str(tmp_path / "a"))
    assert refused.exit_code == 2 and "no record a.json beside it" in refused.stderr
    (tmp_path / "a.json").write_text('{"result": {"fps": "many"}}')
    refused = longlive("evaluate", str(tmp_path / "a"))
    assert refused.exit_code == 2 and "result.fps in" in refused.stderr
    (tmp_path / "a.json").write_text('{"result": {"fps": 12}}')
    verdicts = [
        json.loads(longlive("evaluate", str(tmp_path / name), "--json", *more).stdout)
        for name, more in (("a", ()), ("a", ("--fps", "12")), ("a.mp4", ()))
    ]
    assert [verdict["shots"] for verdict in verdicts] == [verdicts[0]["shots"]] * 3


def test_what_is_whole_of_a_cut_video_is_judged_and_the_rest_is_told(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=12, size=(64, 64)) as writer:
        for _ in range(2):
            writer.write(torch.zeros(25, 64, 64, 3, dtype=torch.uint8))
    path.write_bytes(path.read_bytes()[:-9])
    done = longlive("evaluate", str(path), "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["cuts"] == []
    assert "a.mp4 is cut: its first 25 frames are whole" in " ".join(done.stderr.split())


def test_what_a_recipe_prints_is_a_file_that_gives_it_again():
    for preset in catalog.presets():
        config = preset.build()
        plain = yaml.safe_load(yaml.safe_dump(as_plain(config)))
        assert apply_mapping(config, plain) == config, preset.full_name
        assert preset.about.endswith("."), f"{preset.full_name} says nothing of itself"
