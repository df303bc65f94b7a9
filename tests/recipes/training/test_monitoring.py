"""Tables that can be rewound, sample videos, TensorBoard, the bar."""

import io
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from longlive_models.stream import Video
from longlive_models.video.files import read_video
from longlive_recipes.training.fit import lightning_is_brief
from longlive_recipes.training.log_tables import Table
from longlive_recipes.training.monitoring import (
    LossLog,
    ProgressBar,
    Validation,
    clock_time,
    write_samples,
)
from longlive_recipes.training.speed import Speed
from tests.recipes.tiny_runs import (
    Stopped,
    Toy,
    ToyModule,
    column,
    quiet_run,
    stop_at,
    train_toy,
)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=10), st.integers(0, 60))
def test_a_rewound_table_holds_what_was_there_then(tmp_path_factory, gaps, step):
    folder = tmp_path_factory.mktemp("table")
    whole, cut = Table(folder / "whole.csv"), Table(folder / "cut.csv")
    steps = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    for now in steps:
        row = {"loss": now / 3, "rate": 1e-9 / now}
        whole.add(now, row)
        if now <= step:
            cut.add(now, row)
    whole.rewind(step)
    assert whole.path.exists() == cut.path.exists() == (steps[0] <= step)
    if whole.path.exists():
        assert whole.path.read_text() == cut.path.read_text()
        assert column(whole.path, "loss") == [now / 3 for now in steps if now <= step]


def test_rows_before_a_new_column_have_an_empty_place_in_it_and_stay(tmp_path):
    table = Table(tmp_path / "train.csv")
    table.add(1, {"loss": 0.5})
    table.add(2, {"critic": 1.0})
    table.add(3, {"loss": 0.25, "critic": 2.0, "rate": 1.0})
    table.rewind(3)
    assert table.path.read_text().splitlines() == [
        "step,loss,critic,rate",
        "1,0.5,,",
        "2,,1.0,",
        "3,0.25,2.0,1.0",
    ]


def test_a_table_that_is_not_there_is_rewound_to_nothing(tmp_path):
    Table(tmp_path / "none.csv").rewind(3)
    assert not (tmp_path / "none.csv").exists()


def test_lines_of_a_table_end_alike_and_a_torn_one_is_forgotten(tmp_path):
    table = Table(tmp_path / "train.csv")
    for step in (1, 2, 12):
        table.add(step, {"loss": 0.25, "rate": 0.5})
    table.path.write_bytes(table.path.read_bytes()[: -len("2,0.25,0.5\n")])  # of 12, the 1 is left
    table.rewind(5)
    table.add(3, {"loss": 0.5, "rate": 0.5})
    assert table.path.read_bytes() == (b"step,loss,rate\n1,0.25,0.5\n2,0.25,0.5\n3,0.5,0.5\n")


def test_tensorboard_has_the_numbers_and_the_samples(tmp_path):
    train_toy(Toy(run=quiet_run(tmp_path, samples_every=2)))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))
    logged = [event.value for event in events.Scalars("offset")]
    assert logged == pytest.approx(column(tmp_path / "validation.csv", "offset"))
    assert [image.step for image in events.Images("samples")] == [4, 8]


def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    config = Toy(run=quiet_run(tmp_path))
    with pytest.raises(Stopped):
        train_toy(config, before=stop_at(3))
    early = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    train_toy(config, resume=tmp_path)  # all the way, then once more from the early checkpoint
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(early)
    train_toy(config, resume=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))


def test_samples_are_videos_beside_a_sheet(tmp_path):
    frames = torch.zeros(9, 16, 32, 3, dtype=torch.uint8)
    frames[..., 1] = torch.arange(9, dtype=torch.uint8).view(9, 1, 1) * 25
    videos = {"dark": Video(torch.zeros_like(frames), 12.0), "green": Video(frames, 6.0)}
    sheet = write_samples(tmp_path / "here", videos, columns=3)
    assert sheet.shape == (4 + 2 * (16 + 4), 4 + 3 * (32 + 4), 3)
    assert sheet[30, [10, 46, 82], 1].tolist() == [0, 100, 200]  # the first, middle, last frame
    got, fps = read_video(tmp_path / "here" / "green.mp4")
    assert fps == 6.0
    assert got.shape == frames.shape
    assert (got.float() - frames.float()).abs().mean() < 4
    assert (tmp_path / "here" / "sheet.png").read_bytes().startswith(b"\x89PNG")
    write_samples(tmp_path / "here", videos, columns=3)  # a resumed run writes them again


def test_samples_are_off_with_a_switch_and_need_no_video_package_then(tmp_path, monkeypatch):
    def no_samples(module):
        raise AssertionError("samples are off")

    monkeypatch.setattr(ToyModule, "samples", no_samples)
    train_toy(Toy(run=quiet_run(tmp_path, samples_every=0)))
    assert not (tmp_path / "samples").exists()


def test_the_bar_tells_a_terminal_how_far_it_is_and_a_file_what_was_measured(tmp_path):
    for terminal in (True, False):
        config = Toy(run=quiet_run(tmp_path / str(terminal)))
        module, text = ToyModule(config), io.StringIO()
        losses = LossLog(Table(tmp_path / str(terminal) / "train.csv"), every=1)
        validation = Validation(Table(tmp_path / str(terminal) / "validation.csv"), every=4)
        console = Console(file=text, force_terminal=terminal, width=120)
        speed = Speed(Table(tmp_path / str(terminal) / "speed.csv"), every=1)
        bar = ProgressBar(losses, speed, validation, console)
        trainer = Trainer(
            accelerator="cpu",
            max_steps=8,
            logger=False,
            callbacks=[
                module.run_progress,
                *module.averages.values(),
                losses,
                speed,
                validation,
                bar,
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            limit_val_batches=0,
        )
        with lightning_is_brief():
            trainer.fit(module)
        lines = [line for line in text.getvalue().splitlines() if "slope" in line]
        assert len(lines) == 2
        assert " 50% step 4, loss " in lines[0]
        assert "100% step 8, loss " in lines[1]
        assert re.search(r" ms a step, [\d.]+ GiB, \d+:\d\d left: ", lines[0])
        assert lines[1].endswith(f"offset {validation.latest['offset']:.4g}")
        assert ("100 %" in text.getvalue()) == terminal


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (599.6, "10:00"), (3725, "1:02:05")]
)
def test_times_read_like_a_clock(seconds, text):
    assert clock_time(seconds) == text
