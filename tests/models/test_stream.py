"""A stream: frames of a whole decode, in order, whatever the lane; and its end, early or not."""

import subprocess
import sys
import threading
import time
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline, Video
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.stream import to_frames
from longlive_models.video.files import read_video
from tests.models.tiny_pipeline import FPS, tiny_pipeline, write_tiny_folder

PROMPT = "a red circle"


def on_lane(lane: str) -> LongLivePipeline:
    return tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", lane=lane)))


def decoding_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("decode")]


def test_blocks_come_in_order_and_the_last_is_cut():
    blocks = list(tiny_pipeline().stream(PROMPT, seconds=2))
    assert [block.index for block in blocks] == [0, 1, 2]
    assert [tuple(block.frames.shape) for block in blocks] == [
        (5, 32, 32, 3),  # two latent frames, of which the first holds one frame
        (8, 32, 32, 3),
        (3, 32, 32, 3),  # 16 frames in all
    ]
    assert all(block.frames.dtype == torch.uint8 for block in blocks)
    assert all(block.prompt.text == PROMPT for block in blocks)


def test_streamed_frames_are_those_of_a_whole_decode():
    """Within one step of brightness: convolutions over more frames may sum in another order."""
    pipe = tiny_pipeline()
    plan = pipe.plan(PROMPT, seconds=3)
    made = pipe.generator([7], pipe.settings).blocks([plan], plan.blocks)
    with torch.no_grad():
        video = pipe.vae.decode(torch.cat([block.latents for block in made], dim=2))
    whole = to_frames(video[0])[: plan.frames]
    streamed = pipe(PROMPT, seconds=3, seed=7).frames
    assert streamed.shape == whole.shape
    assert (streamed.int() - whole.int()).abs().max() <= 1
    assert (streamed == whole).float().mean() > 0.99


@pytest.mark.parametrize("lane", ["thread", "device:cpu"])
def test_frames_do_not_depend_on_the_lane(lane):
    inline = on_lane("inline")(PROMPT, seconds=3, seed=1)
    assert_bitwise_equal(on_lane(lane)(PROMPT, seconds=3, seed=1).frames, inline.frames)


def test_a_video_is_its_streams_blocks():
    pipe = tiny_pipeline()
    video = pipe(PROMPT, seconds=2, seed=1)
    blocks = [block.frames for block in pipe.stream(PROMPT, seconds=2, seed=1)]
    assert_bitwise_equal(video.frames, torch.cat(blocks))
    assert video.fps == FPS


def test_time_is_told():
    blocks = list(on_lane("thread").stream(PROMPT, seconds=3))
    assert all(block.timing.denoise > 0 and block.timing.decode > 0 for block in blocks)
    elapsed = [block.timing.elapsed for block in blocks]
    assert elapsed == sorted(elapsed)
    assert blocks[0].timing.denoise < elapsed[0] <= elapsed[-1]


def test_leaving_early_frees_the_lane():
    with on_lane("thread").stream(PROMPT, seconds=60) as stream:
        for block in stream:
            assert decoding_threads() != []
            if block.index == 1:
                break
    assert decoding_threads() == []
    assert list(stream) == []


def test_a_stream_that_nobody_holds_frees_its_lane():
    stream = on_lane("thread").stream(PROMPT, seconds=60)
    next(stream)
    assert decoding_threads() != []
    del stream
    assert decoding_threads() == []


def test_a_stream_may_be_closed_before_it_begins_and_twice():
    stream = on_lane("thread").stream(PROMPT, seconds=1)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert decoding_threads() == []


def test_the_last_block_frees_the_lane():
    stream = on_lane("thread").stream(PROMPT, seconds=2)
    assert len(list(stream)) == 3
    assert decoding_threads() == []


@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize("slow", [0, 1, 2])
def test_an_error_while_decoding_comes_after_the_frames_before_it_and_frees_the_lane(lane, slow):
    pipe = on_lane(lane)
    decode, calls = pipe.vae.decode_block, []

    def breaks(self, latents, state=None, **how):
        calls.append(latents)
        if len(calls) == slow + 1:
            time.sleep(0.1)  # the next block is denoised meanwhile
        if len(calls) == 3:
            raise RuntimeError("the decoder broke")
        return decode(latents, state, **how)

    pipe.vae.decode_block = types.MethodType(breaks, pipe.vae)
    frames = []
    with pytest.raises(RuntimeError, match="the decoder broke"):
        for block in pipe.stream(PROMPT, seconds=4):
            frames.append(block.index)
    assert frames == [0, 1]
    assert decoding_threads() == []


@pytest.mark.parametrize(("lane", "ahead"), [("inline", 0), ("thread", 1), ("device:cpu", 1)])
def test_how_far_denoising_is_ahead_depends_on_nothing_but_the_lane(lane, ahead):
    pipe = on_lane(lane)
    denoise, made = pipe.generator, []

    def watched(seeds, settings, **image):
        generator = denoise(seeds, settings, **image)
        generate = generator.generate

        def noted(index, prompts, **how):
            made.append(index)
            return generate(index, prompts, **how)

        generator.generate = noted
        return generator

    pipe.generator = watched
    seen = [(block.index, len(made)) for block in pipe.stream(PROMPT, seconds=4)]
    assert seen == [(n, min(n + 1 + ahead, 5)) for n in range(5)]


def test_a_video_is_saved_once(tmp_path):
    video = tiny_pipeline()(PROMPT, seconds=1)
    path = video.save(tmp_path / "a.mp4")
    assert path == tmp_path / "a.mp4"
    frames, fps = read_video(path)
    assert (tuple(frames.shape), fps) == ((FPS, 32, 32, 3), FPS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="a.mp4 exists: pass overwrite=True"):
        video.save(path)
    assert path.read_bytes() == before
    Video(video.frames[:4], FPS).save(path, overwrite=True)
    assert len(read_video(path)[0]) == 4
    assert video.save(str(tmp_path / "f.png")) == tmp_path / "f"


def test_a_video_that_no_file_can_hold_is_refused(tmp_path):
    odd = Video(torch.zeros(2, 31, 32, 3, dtype=torch.uint8), FPS)
    with pytest.raises(ValueError, match="mp4 needs an even height and width"):
        odd.save(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="one of .mp4, .gif, .png"):
        odd.save(tmp_path / "a.avi")
    assert list(tmp_path.iterdir()) == []


def test_only_a_file_needs_pyav(tmp_path):
    code = (
        "import sys\n"
        "from longlive_models import LongLivePipeline\n"
        f"pipe = LongLivePipeline.from_pretrained({str(write_tiny_folder(tmp_path))!r})\n"
        "video = pipe('a', seconds=0.5)\n"
        "assert 'av' not in sys.modules and 'transformers' not in sys.modules\n"
        f"video.save({str(tmp_path / 'a.gif')!r})\n"
        "assert 'av' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@given(st.floats(-3, 3))
def test_a_pixel_is_rounded_to_the_nearest_byte(value):
    video = torch.full((3, 1, 2, 2), value)
    byte = to_frames(video)[0, 0, 0, 0].item()
    exact = (min(max(torch.tensor(value).item(), -1.0), 1.0) + 1) * 127.5
    assert abs(byte - exact) <= 0.5 + 1e-4


def test_frames_have_their_colors_last():
    video = torch.arange(3 * 2 * 4 * 5).reshape(3, 2, 4, 5) / 127.5 - 1
    assert_bitwise_equal(
        to_frames(video), torch.arange(120).reshape(3, 2, 4, 5).permute(1, 2, 3, 0).to(torch.uint8)
    )
