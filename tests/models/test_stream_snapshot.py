"""A snapshot's file, damaged: whatever its record says, it is read or refused in words."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.stream_snapshot import SnapshotSummary, StreamSnapshot
from tests.models.tiny_pipeline import tiny_pipeline

KEY = "longlive_stream"
PLACES: tuple[tuple[Any, ...], ...] = (
    ("format",),
    ("origin",),
    ("origin", "version"),
    ("origin", "model"),
    ("origin", "settings"),
    ("origin", "settings", "steps"),
    ("origin", "settings", "guidance"),
    ("origin", "settings", "negative_prompt"),
    ("seed",),
    ("plan",),
    ("plan", "prompts"),
    ("plan", "prompts", 0),
    ("plan", "lengths"),
    ("plan", "lengths", 0),
    ("plan", "timing"),
    ("plan", "timing", "fps"),
    ("plan", "timing", "frames_per_block"),
    ("plan", "frames"),
    ("plan", "shot_offset"),
    ("plan", "prefix"),
    ("plan", "endless"),
    ("events",),
    ("events", 0),
    ("events", 0, "block"),
    ("events", 0, "text"),
    ("events", 0, "memory"),
    ("events", 0, "forget"),
    ("notes",),
    ("cache",),
    ("cache", "layout"),
    ("cache", "layout", "heads"),
    ("cache", "policy"),
    ("cache", "codec"),
    ("cache", "pages"),
    ("cache", "pages", 0),
    ("cache", "blocks"),
    ("cache", "shot_start"),
    ("cache", "forgotten"),
    ("cache", "short"),
    ("offsets",),
    ("offsets", "0"),
    ("ready",),
    ("ready", 0),
    ("ready", 0, "index"),
    ("ready", 0, "prompt"),
    ("ready", 0, "prompt", "text"),
    ("ready", 0, "prompt", "cut"),
    ("ready", 0, "timing", "denoise"),
)
VALUES = (None, True, -3, 0.25, 10**30, "?", [], {}, [[1]], {"?": 1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A snapshot with a block ready and an event, of a pipeline on a thread."""
    pipe = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", lane="thread")))
    with pipe.stream("a red circle", seconds=3, seed=4) as stream:
        stream.cut("a blue square", at=2)
        next(stream)
        return stream.snapshot(tmp_path_factory.mktemp("whole") / "a.snapshot")


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()[KEY]), tensors


@pytest.fixture
def damaged(whole, tmp_path) -> Callable[..., Path]:
    """Write the snapshot with its record changed at a place, or with other tensors."""

    def write(place: tuple[Any, ...] = (), value: Any = None, **tensors: Any) -> Path:
        record, held = read(whole)
        if place:
            inner = record
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
        kept = {name: t for name, t in {**held, **tensors}.items() if t is not None}
        path = tmp_path / "a.snapshot"
        save_file(kept, path, metadata={KEY: json.dumps(record)})
        return path

    return write


def changed(record: Any, place: tuple[Any, ...]) -> Iterator[Any]:
    """Values of other types than what is at a place."""
    for key in place:
        record = record[key]
    return (value for value in VALUES if type(value) is not type(record))


def test_the_whole_one_is_read(damaged):
    path = damaged()
    assert StreamSnapshot.load(path).seed == SnapshotSummary.read(path).seed == 4
    assert SnapshotSummary.read(path).block == 1
    assert [block.index for block in StreamSnapshot.load(path).ready] == [1]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_another_type_anywhere_is_read_or_refused_in_words(place, damaged, whole):
    for value in changed(read(whole)[0], place):
        path = damaged(place, value)
        for reader in (SnapshotSummary.read, StreamSnapshot.load):
            try:
                reader(path)
            except ValueError as error:
                assert str(error).startswith(str(path)), error
                assert len(str(error)) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), 2, "no snapshot that this version reads: its format is 2, expected 1"),
        (("format",), True, "its format is True, expected 1"),
        (("format",), 1.0, "its format is 1.0, expected 1"),
        (("seed",), "4", "seed is a whole number, got '4'"),
        (("seed",), -1, "a seed of noise is at least 0, got -1"),
        (("origin", "model"), 3, "origin.model is text, got 3"),
        (("origin", "settings", "steps"), 2.0, "settings.steps is a whole number, got 2.0"),
        (("origin", "settings", "height"), "32", "height is a whole number, got '32'"),
        (("origin", "settings", "window"), None, "window is a whole number, got None"),
        (("origin", "settings", "t_scale"), [1], "t_scale is a finite number, got"),
        (("origin", "settings", "sink"), -1, "sink is at least 0, got -1"),
        (("cache", "pages", 0), None, r"holds the pages \[1\], and there are latents of \[0, 1\]"),
        (("cache", "codec", "name"), 3, "cache.codec has the name of a codec, got"),
        (("cache", "shot_start"), 3, "its shot starts at page 3, .* of 2 blocks"),
        (("plan", "timing", "fps"), 0, "plan.timing: fps is above 0, got 0"),
        (("plan", "lengths"), [1], "plan: a plan's frames is at most 5, got 24"),
        (("events", 0, "block"), 99, "event at block 99 is past the end: the video has 4 blocks"),
        (("cache", "pages", 0), 1, r"counts 2 blocks and holds the pages \[1, 1\]"),
        (("cache", "blocks"), 1, "counts 1 blocks and holds the pages"),
        (("ready", 0, "index"), 0, r"has the blocks \[0\] ready, after 2 were made"),
        (("notes", "x"), 10**401, "a whole number of 402 digits"),
    ],
)
def test_what_cannot_be_is_named(place, value, message, damaged):
    for reader in (SnapshotSummary.read, StreamSnapshot.load):
        with pytest.raises(ValueError, match=message):
            reader(damaged(place, value))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"frames.1": None}, "the tensor 'frames.1' has 4 dimensions, got nothing"),
        ({"frames.1": torch.zeros(8, 32, 32, 3)}, "got torch.float32 .8, 32, 32, 3."),
        ({"latents.0": None}, "the tensor 'latents.0' has 5 dimensions, got nothing"),
        ({"latents.0": torch.zeros(2)}, r"the tensor 'latents.0' .*got torch.float32 \[2\]"),
        ({"image": torch.zeros(2)}, "the tensor 'image' has 5 dimensions"),
        ({"decoder.history.0": None}, "history.0"),
    ],
)
def test_tensors_that_do_not_fit_the_record_are_named(tensors, message, damaged):
    with pytest.raises(ValueError, match=message):
        StreamSnapshot.load(damaged(**tensors))


def test_notes_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "a.snapshot"
    with tiny_pipeline().stream("a red circle", seconds=1) as stream:
        for notes in ({"a": float("nan")}, {"a": object()}, {"a": {(1, 2): 3}}):
            with pytest.raises(ValueError, match="cannot be written as JSON"):
                stream.snapshot(path, notes=notes)
        assert list(tmp_path.iterdir()) == []
        stream.snapshot(path, notes={"a": [1, None]})
    assert SnapshotSummary.read(path).notes == {"a": [1, None]}


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_a_state_is_what_it_was_however_far_the_stream_has_gone_on(lane, tmp_path):
    pipe = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", lane=lane)))
    with pipe.stream("a red circle", seconds=9, seed=4) as stream:
        for _ in range(2):
            next(stream)
        state = stream.state(notes={"a": 1})
        at_once = stream.snapshot(tmp_path / "a.snapshot", notes={"a": 1})
        stream.cut("a blue square")
        rest = [block.frames for block in stream]
    later = state.save(tmp_path / "b.snapshot")
    assert later.read_bytes() == at_once.read_bytes()
    with pipe.resume(later) as resumed:
        resumed.cut("a blue square")
        again = [block.frames for block in resumed]
    assert len(rest) == len(again) > 4
    assert all(torch.equal(one, other) for one, other in zip(rest, again, strict=True))
    with pytest.raises(ValueError, match="has ended"):
        stream.state()
