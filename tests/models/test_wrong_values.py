"""Wrong values for streams and videos are refused in words, where no annotation is checked."""

import subprocess
import sys

import pytest

from longlive_models.settings import GenerationSettings
from longlive_models.video.file_name import destination
from tests.architecture.source import ROOT

PLAIN = {"height": 32, "width": 32, "fps": 8, "steps": 2}


def test_every_wrong_value_is_refused_and_leaves_nothing(tmp_path):
    code = ["-m", "tests.models.wrong_values", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert int(done.stderr.split(" tried")[0].split()[-1]) > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1001}, "steps is at most 1000, got 1001"),
        ({"guidance": 1e308}, "guidance is at most 1000, .* 1 for a student of few steps"),
        ({"fps": 1e300}, "fps is at most 1000000, got 1e"),
        ({"fps": 1e-300}, "fps is at least 0.001, got 1e-300"),
        ({"shift": 0.0}, "shift is above 0, got 0.0"),
        ({"t_scale": -1.0}, "t_scale is above 0, got -1.0"),
    ],
)
def test_settings_out_of_bounds_name_the_bound(change, message):
    with pytest.raises(ValueError, match=message):
        GenerationSettings(**{**PLAIN, **change})


def test_bounds_are_included():
    settings = GenerationSettings(**{**PLAIN, "steps": 1000, "guidance": 1000.0, "width": 16384})
    assert (settings.steps, settings.guidance, settings.width) == (1000, 1000.0, 16384)
    assert GenerationSettings(**{**PLAIN, "steps": 1, "guidance": 0.0}).branches == 2


def test_the_name_of_an_empty_path_has_a_way_out():
    with pytest.raises(ValueError, match=r"Name the output, say, video\.mp4"):
        destination("")
