"""Videos that go on: blocks and frames are those of the whole video, speed is that of this run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from longlive_models import Storyboard
from longlive_models.stream_snapshot import SnapshotSummary
from longlive_recipes.configs.generate import Generate, Snapshots, VideoJob
from longlive_recipes.generate import BlockReport, run
from longlive_recipes.generation.jobs import resume
from longlive_recipes.generation.plan import plan
from longlive_recipes.generation.session import VideoSession, load_pipeline, open_video_session
from tests.models.tiny_pipeline import write_tiny_folder

FRAMES = [5, 13, 21, 29]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Generate:
    folder = write_tiny_folder(tmp_path_factory.mktemp("tiny"))
    return Generate(model=str(folder), device="cpu", seconds=FRAMES[-1] / 8)


def stopped_after(blocks: int, config: Generate, folder: Path) -> Path:
    """The snapshot of a video that was stopped after some of its blocks."""
    snapshot = folder / "a.snapshot"

    def stop(report: BlockReport) -> None:
        if report.index + 1 == blocks:
            raise KeyboardInterrupt

    job = VideoJob(name="a", story=Storyboard.of("a red circle"), seed=3)
    how = {"progress": stop, "snapshots": Snapshots(path=snapshot, every=1)}
    [result] = run(config, [job], folder / "a.mp4", **how)
    assert (result.blocks, result.frames) == (blocks, FRAMES[blocks - 1])
    return snapshot


@pytest.mark.parametrize("only_new", [False, True])
def test_a_resumed_video_counts_on(config, tmp_path, only_new):
    snapshot = stopped_after(3, config, tmp_path)
    assert SnapshotSummary.read(snapshot).block == 2  # that of the block before
    made, seen = resume(snapshot, only_new=only_new), []
    output = tmp_path / ("rest.mp4" if only_new else "a.mp4")
    again = Snapshots(path=tmp_path / "again.snapshot", every=1)
    how = {"progress": seen.append, "snapshots": again, "overwrite": True}
    [result] = run(*made, output, **how)
    before = 0 if only_new else FRAMES[1]
    new = FRAMES[3] - FRAMES[1]
    assert (result.blocks, result.frames_made, result.frames) == (4, new, before + new)
    assert [(report.index, report.blocks) for report in seen] == [(2, 4), (3, 4)]
    assert [report.frames_done for report in seen] == [before + 8, before + 16]
    assert {report.frames_before for report in seen} == {before}
    record = json.loads(output.with_suffix(".json").read_text())
    assert [block["block"] for block in record["blocks"]] == [2, 3]
    assert record["result"]["blocks"] == 4
    assert SnapshotSummary.read(again.path).block == 4


def test_a_resumed_video_stands_where_it_stopped_before_its_first_block(config, tmp_path):
    snapshot = stopped_after(2, config, tmp_path)
    wanted, jobs = resume(snapshot)
    planned = plan(wanted, jobs, tmp_path / "a.mp4", True)
    how = {"overwrite": True, "began": 0.0}
    with open_video_session(
        load_pipeline(planned), planned, *jobs, *planned.videos, **how
    ) as session:
        assert (session.blocks, session.frames, session.frames_made) == (1, FRAMES[0], 0)
        assert session.advance().index == 1
        assert (session.blocks, session.frames, session.frames_made) == (2, FRAMES[1], 8)


def test_a_fork_counts_on_and_leaves_the_first_alone(config, tmp_path, monkeypatch):
    forks: list[VideoSession] = []
    whole = VideoSession.advance

    def advance(session: VideoSession):
        block = whole(session)
        if not forks and session.blocks == 2:
            forks.append(session.fork(tmp_path / "b.mp4"))
        return block

    monkeypatch.setattr(VideoSession, "advance", advance)
    job = VideoJob(name="a", story=Storyboard.of("a red circle"), seed=3)
    [first] = run(config, [job], tmp_path / "a.mp4")
    [fork] = forks
    assert fork.blocks == 2
    while whole(fork) is not None:
        pass
    second = fork.finish()
    assert (second.blocks, second.frames, second.frames_made) == (4, 29, 16)
    assert replace(second, path=first.path).frames == first.frames
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()
