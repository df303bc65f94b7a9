"""A stream that is steered, stopped, resumed and forked makes the frames of one that never was."""

import asyncio
import math
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.stream import Stream, VideoBlock
from longlive_models.video.files import write_png
from tests.models.tiny_pipeline import SPEC, tiny_pipeline

STORY = [{"prompt": "a red circle", "blocks": 3}, {"prompt": "a blue square", "blocks": 2}]
BLOCKS = 5
TEXTS = ("a red square", "the circle", "a blue scene")
LANES = ("inline", "thread", "device:cpu")


@cache
def on_lane(lane: str) -> LongLivePipeline:
    return tiny_pipeline(
        Runtime.choose(RuntimeOptions(device="cpu", lane=lane)), steps=1, guidance=1.0
    )


def start(lane: str, **how: object) -> Stream:
    return on_lane(lane).stream(STORY, seed=3, **how)


def assert_same_blocks(got: list[VideoBlock], wanted: list[VideoBlock]) -> None:
    assert [block.index for block in got] == [block.index for block in wanted]
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.prompt == theirs.prompt
        assert_bitwise_equal(ours.frames, theirs.frames, f"block {ours.index}")


def decoding_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("decode")]


Call = tuple[int, str, str]
CALLS = st.lists(
    st.tuples(
        st.integers(0, BLOCKS - 3),  # the block that just came out
        st.sampled_from(TEXTS),
        st.sampled_from(["keep", "recache", "cut", "forget"]),
    ),
    max_size=3,
)


def steer(stream: Stream, calls: list[Call]) -> Iterator[VideoBlock]:
    """The stream's blocks; each call is made when its block comes out."""
    for block in stream:
        for _, text, memory in (call for call in calls if call[0] == block.index):
            if memory in ("keep", "recache"):
                stream.prompt(text, memory=memory)
            else:
                stream.cut(text, forget=memory == "forget")
        yield block


@given(CALLS, st.sampled_from(LANES), st.integers(0, BLOCKS - 1))
@settings(max_examples=4)
def test_stopped_forked_and_replayed_are_what_was_never_stopped(calls, lane, stop):
    """Steered by "next", so that how far a lane is ahead must survive as well."""
    whole = list(steer(stream := start(lane), calls))
    events = stream.events
    with TemporaryDirectory() as folder, start(lane) as stream:
        blocks, ends = [], []
        for block in steer(stream, calls):
            blocks.append(block)
            if block.index == stop:
                path = stream.snapshot(Path(folder) / "a.safetensors")
                ends = [stream.fork(), on_lane(lane).resume(path)]
        assert_same_blocks(blocks, whole)
        assert stream.events == events
        for end in ends:
            assert_same_blocks(list(steer(end, calls)), whole[stop + 1 :])
            assert end.events == events
    assert_same_blocks(list(start(lane, events=events)), whole)


@given(CALLS, st.permutations(LANES), st.integers(0, BLOCKS - 1))
@settings(max_examples=4)
def test_lanes_make_the_same_video_of_the_same_events_and_of_each_others_snapshots(
    calls, lanes, stop
):
    live = start(lanes[0])
    whole = list(steer(live, calls))
    with TemporaryDirectory() as folder, start(lanes[1], events=live.events) as stream:
        blocks = [next(stream) for _ in range(stop + 1)]
        path = stream.snapshot(Path(folder) / "a.safetensors")
        blocks += on_lane(lanes[2]).resume(path)
    assert_same_blocks(blocks, whole)


def test_a_prompt_takes_effect_in_the_next_block():
    plain, steered = start("inline"), start("inline")
    seen = []
    for one, other in zip(plain, steered, strict=True):
        seen.append(torch.equal(one.frames, other.frames))
        if one.index == 1:
            event = steered.prompt("a red square")
            assert event == {"block": 2, "text": "a red square", "memory": "keep", "forget": False}
            assert steered.events == [event]
            assert steered.next_block == 2
    assert seen == [True, True, False, False, False]


def test_each_kind_of_memory_makes_a_video_of_its_own():
    kinds = [{"memory": "keep"}, {"memory": "recache"}, {"memory": "cut"}]
    kinds.append({"memory": "cut", "forget": True})
    videos = []
    for how in kinds:
        event = {"block": 2, "text": "a red square", **how}
        videos.append(torch.cat([block.frames for block in start("inline", events=[event])]))
    assert not any(torch.equal(a, b) for a, b in combinations(videos, 2))


def test_a_fork_is_steered_on_its_own():
    stream = start("thread")
    for _ in range(2):
        next(stream)
    fork = stream.fork()
    stream.prompt("a red square")
    fork.cut("the circle")
    ends = {}
    for name, made in (("stream", stream), ("fork", fork)):
        ends[name] = list(made)
        assert_same_blocks(ends[name], list(start("thread", events=made.events))[2:])
    assert not torch.equal(ends["stream"][-1].frames, ends["fork"][-1].frames)
    assert decoding_threads() == []


def test_a_stream_may_be_written_down_before_it_begins_and_twice(tmp_path):
    image = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
    whole = list(start("inline", image=image))
    stream = start("inline", image=image)
    path = tmp_path / "a.safetensors"
    assert stream.snapshot(path) == path
    first = on_lane("thread").resume(path)
    blocks = [next(first)]
    first.snapshot(path)
    assert_same_blocks([*blocks, *on_lane("inline").resume(path)], whole)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_snapshot_after_the_last_block_has_nothing_left(tmp_path):
    stream = start("inline")
    for _ in range(BLOCKS):
        next(stream)
    path = stream.snapshot(tmp_path / "a.safetensors")
    assert list(on_lane("inline").resume(path)) == []
    assert list(stream) == []
    for what, call in (
        ("fork", stream.fork),
        ("snapshot", lambda: stream.snapshot(path)),
        ("prompt", lambda: stream.prompt("the circle")),
        ("cut", lambda: stream.cut("the circle")),
    ):
        with pytest.raises(ValueError, match=f"{what} of a stream that has ended"):
            call()


@pytest.mark.parametrize("kv_cache", ["bf16", "fp8", "int8", "nvfp4"])
def test_a_stream_goes_on_whatever_its_pages_are_stored_in(tmp_path, kv_cache):
    runtime = Runtime.choose(RuntimeOptions(device="cpu", kv_cache=kv_cache))
    pipe = tiny_pipeline(runtime, steps=1, guidance=2.0)
    events = [
        {"block": 2, "text": "a red square", "memory": "recache"},
        {"block": 3, "text": "the circle", "memory": "cut", "forget": True},
    ]
    stream = pipe.stream("a red circle", seconds=pipe.timing.seconds(5), events=events)
    for _ in range(2):
        next(stream)
    path, fork = stream.snapshot(tmp_path / "a.safetensors"), stream.fork()
    rest = list(stream)
    assert [block.index for block in rest] == [2, 3, 4]
    assert_same_blocks(list(pipe.resume(path)), rest)
    assert_same_blocks(list(fork), rest)


def test_a_write_that_fails_leaves_the_snapshot_before(tmp_path, monkeypatch):
    stream = start("inline")
    next(stream)
    path = stream.snapshot(tmp_path / "a.safetensors")
    before = path.read_bytes()
    next(stream)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        stream.snapshot(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert next(stream).index == 2  # and the stream goes on


def test_what_would_not_go_on_bit_for_bit_is_refused(tmp_path):
    stream = start("inline")
    next(stream)
    path = stream.snapshot(tmp_path / "a.safetensors")

    def pipe(
        seed: int = 0, *, kv_cache: str = "fp32", quality: str = "lossless", **how: object
    ) -> LongLivePipeline:
        options = RuntimeOptions(device="cpu", kv_cache=kv_cache, quality=quality)
        runtime = Runtime.choose(options)
        return tiny_pipeline(runtime, seed=seed, **{"steps": 1, "guidance": 1.0, **how})

    for other, message in (
        (pipe(1), "a.safetensors was made with model '[0-9a-f]{64}', but here it is '[0-9a-f]"),
        (pipe(kv_cache="bf16"), "made with kv_cache 'fp32', but here it is 'bf16'.*as it was"),
        (pipe(quality="high"), "made with quality 'lossless', but here it is 'high'"),
        (pipe(window=5), "made with window 4, but here it is 5"),
        (pipe(shift=4.0), "made with shift 5.0, but here it is 4.0"),
    ):
        with pytest.raises(ValueError, match=message):
            other.resume(path)
    resumed = pipe(steps=3, guidance=2.0).resume(path)  # of these a stream has its own
    assert_same_blocks(list(resumed), list(stream))


def test_a_snapshot_of_another_version_is_refused(tmp_path, monkeypatch):
    path = start("inline").snapshot(tmp_path / "a.safetensors")
    monkeypatch.setattr("longlive_models.video_maker.__version__", "0.0.1")
    with pytest.raises(ValueError, match="made with version '.*', but here it is '0.0.1'"):
        on_lane("inline").resume(path)


def test_what_is_no_snapshot_is_refused(tmp_path):
    pipe, path = on_lane("inline"), tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="there is no snapshot .*Check the path"):
        pipe.resume(path)
    path.write_bytes(b"not a snapshot")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        pipe.resume(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no snapshot that this version reads: its format is None"):
        pipe.resume(path)


SCRIPT = """
import sys
from tests.models.test_live_stream import TEXTS, start

stream = start(sys.argv[1])
for block in stream:
    if block.index == 0:
        stream.prompt(TEXTS[0], memory="recache")
    if block.index == 1:
        stream.cut(TEXTS[1])
    if block.index in (1, 2):
        stream.snapshot(sys.argv[2])
    sys.stdout.write(f"{block.index}\\n")
    sys.stdout.flush()
    if block.index == 3:
        sys.stdin.read()  # until it is killed
"""


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_killed_in_the_middle_and_resumed_it_is_the_same_video(tmp_path, lane):
    path = tmp_path / "a.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, lane, str(path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert [process.stdout.readline() for _ in range(4)] == ["0\n", "1\n", "2\n", "3\n"]
        process.send_signal(signal.SIGKILL)
    resumed = on_lane("inline").resume(path)
    blocks = list(resumed)
    assert [block.index for block in blocks] == [3, 4]
    assert [event["text"] for event in resumed.events] == list(TEXTS[:2])
    assert_same_blocks(blocks, list(start("inline", events=resumed.events))[3:])


def test_an_endless_stream_goes_on_and_stays_small(tmp_path):
    pipe = on_lane("inline")
    sizes = []
    with pipe.stream("a red circle", seconds=math.inf, seed=3) as stream:
        for block in stream:
            assert len(block.frames) == (8 if block.index else 5)
            if block.index in (4, 12):
                tensors = load_file(stream.snapshot(tmp_path / "a.safetensors"))
                sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
                assert len(stream.pages) == SPEC.settings.window
            if block.index == 12:
                break
    assert sizes[0] == sizes[1]
    resumed = pipe.resume(tmp_path / "a.safetensors")
    assert next(resumed).index == 13
    with pytest.raises(ValueError, match="seconds=inf makes a video without an end"):
        pipe("a red circle", seconds=math.inf)


def test_async_for_gives_the_same_blocks_and_leaves_the_loop_free():
    async def collect() -> tuple[list[VideoBlock], int]:
        ticks, blocks = 0, []

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(tick())
        async for block in start("thread"):
            blocks.append(block)
        beside.cancel()
        return blocks, ticks

    blocks, ticks = asyncio.run(collect())
    assert_same_blocks(blocks, list(start("thread")))
    assert ticks > BLOCKS
    assert decoding_threads() == []


def test_async_cancelling_closes_the_stream():
    async def leave() -> Stream:
        stream = start("thread")
        seen = asyncio.Event()

        async def show() -> None:
            async for _ in stream:
                seen.set()

        task = asyncio.create_task(show())
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return stream

    stream = asyncio.run(leave())
    assert list(stream) == []
    assert decoding_threads() == []


def test_leaving_async_for_early_leaves_the_stream_open():
    async def some() -> list[VideoBlock]:
        stream, blocks = start("inline"), []
        for _ in range(2):
            async for block in stream:
                blocks.append(block)
                break
        stream.close()
        return blocks

    assert [block.index for block in asyncio.run(some())] == [0, 1]


def test_an_error_while_denoising_comes_after_the_frames_before_it():
    pipe = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", lane="thread")))
    encode = pipe.text.encode

    def breaks(self, prompts):
        if "scene" in prompts[0]:
            raise RuntimeError("the encoder broke")
        return encode(prompts)

    pipe.text.encode = types.MethodType(breaks, pipe.text)
    seen = []
    with pytest.raises(RuntimeError, match="the encoder broke"):
        for block in (stream := pipe.stream(STORY)):  # its cut is block 3
            seen.append(block.index)
            if block.index == 2:
                with pytest.raises(RuntimeError, match="the encoder broke"):
                    stream.fork()
    assert seen == [0, 1, 2]
    assert decoding_threads() == []


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_video_starts_from_its_image(tmp_path, guidance):
    """The first frame is what the VAE makes of the image; a file and an array are the same."""
    pipe = on_lane("inline")
    image = torch.randint(0, 256, (48, 32, 3), dtype=torch.uint8)
    write_png(tmp_path / "a.png", image)
    how = {"seconds": 2, "seed": 3, "guidance": guidance}
    video = pipe("a red circle", image=image, **how)
    first = pipe.vae.encode(image[8:40].permute(2, 0, 1)[None, :, None] / 127.5 - 1)
    shown = ((pipe.vae.decode(first)[0, :, 0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0)
    assert (video.frames[0].float() - shown).abs().max() <= 1
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), image.numpy()):
        assert_bitwise_equal(pipe("a red circle", image=same, **how).frames, video.frames)
    assert not torch.equal(pipe("a red circle", **how).frames[1:], video.frames[1:])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("missing.png", "missing.png cannot be read as an image.*Name a png or jpg"),
        (torch.zeros(4, 4, 3), r"uint8 \[height, width, 3\], got torch.float32"),
        (torch.zeros(4, 4, dtype=torch.uint8), r"got torch.uint8 \[4, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"colors come last"),
        (object(), "a file or an array of bytes, got object"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        on_lane("inline").stream("a red circle", image=image)
