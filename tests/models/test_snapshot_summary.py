"""What a snapshot is of can be read without its tensors."""

import pytest

from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.stream_snapshot import SnapshotSummary
from tests.models.tiny_pipeline import tiny_pipeline


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_a_summary_says_where_the_stream_stands(lane, tmp_path):
    pipe = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", lane=lane)))
    path = tmp_path / "a.snapshot"
    with pipe.stream("a red circle", seconds=5, seed=4) as stream:
        next(stream), next(stream)
        stream.cut("a blue square", at=4)
        stream.snapshot(path, notes={"video": "a.mp4", "tags": [1, None]})
        summary = SnapshotSummary.read(path)
        assert summary.block == next(stream).index == 2
        assert (summary.seed, summary.plan, list(summary.events)) == (4, stream.plan, stream.events)
    assert summary.notes == {"video": "a.mp4", "tags": [1, None]}
    assert summary.origin.settings == pipe.settings.to_dict()
    pipe.resume(path).snapshot(path)  # who takes one says what its notes are
    assert SnapshotSummary.read(path).notes == {}


def test_a_file_that_is_no_snapshot_has_no_summary(tmp_path):
    with pytest.raises(ValueError, match="there is no snapshot"):
        SnapshotSummary.read(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        SnapshotSummary.read(tmp_path / "text")
