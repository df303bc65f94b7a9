"""A clip goes on: its blocks are remembered as if they had been made, and frames fit its end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_core.kv_cache import Window
from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline, Video
from longlive_models.clip import Clip, encode_blocks
from longlive_models.first_frame import image_to_pixels
from longlive_models.prompts.storyboard import BlockTiming
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.video.blocks import decoder
from tests.models.tiny_pipeline import FPS, tiny_pipeline

PROMPT, OTHER = "a red circle", "a blue square"
BLOCKS = [5, 8, 8]  # frames of the tiny model's blocks
WINDOW = Window()


def moving(frames: int, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """Frames of which no two are alike."""
    made = torch.Generator().manual_seed(seed)
    shape = (frames, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=made)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_that_are_remembered_are_those_that_were_made(blocks):
    """With the very latents that the model made, it goes on bit for bit as if it never stopped."""
    pipe = tiny_pipeline()
    plan = pipe.plan([PROMPT, {"prompt": OTHER, "blocks": 3}], seconds=5)
    whole = pipe.generator([3], pipe.settings)
    made = list(whole.blocks([plan], 5))
    again = pipe.generator([3], pipe.settings)
    for block in made[:blocks]:
        again.remember(block.index, [plan.block(block.index)], block.latents)
    for block in made[blocks:]:
        rest = again.generate(block.index, [plan.block(block.index)])
        assert_bitwise_equal(rest.latents, block.latents)


def test_latents_of_another_size_are_refused():
    pipe = tiny_pipeline()
    plan = pipe.plan(PROMPT)
    generator = pipe.generator([3], pipe.settings)
    with pytest.raises(ValueError, match=r"latents of a block must be \(1, 4, 2, 4, 4\)"):
        generator.remember(0, [plan.block(0)], torch.zeros(1, 4, 1, 8, 8))


def test_the_stream_goes_on_from_the_clips_end():
    """By hand: encode the last blocks, remember them, decode them, then make and decode the rest"""
    pipe = tiny_pipeline()
    clip = moving(40)
    stream = pipe.stream(PROMPT, seconds=2, seed=5, video=clip)
    assert stream.next_block == 3
    video = torch.cat([block.frames for block in stream])
    assert len(video) == 2 * FPS

    plan = pipe.plan(PROMPT, seconds=(16 + 21) / FPS)
    generator, decode = pipe.generator([5], pipe.settings), decoder(pipe.vae)
    pixels = torch.cat([image_to_pixels(frame, 32, 32) for frame in clip[-21:]], 2)
    state, encoder_state, pieces = None, None, []
    for index, part in enumerate(pixels.split(BLOCKS, 2)):
        with torch.no_grad():
            latents, encoder_state = pipe.vae.encode_block(part, encoder_state)
        generator.remember(index, [plan.block(index)], latents)
        _, state = decode(latents, state)
    for index in (3, 4):
        decoded, state = decode(generator.generate(index, [plan.block(index)]).latents, state)
        pieces.append(decoded.frames[0])
    apart = (video.int() - torch.cat(pieces)[:16].int()).abs()
    assert apart.max() <= 1 and apart.count_nonzero() < 10  # four frames at once round otherwise


def test_the_clip_the_cut_and_its_prompt_each_change_what_comes_next():
    pipe, clip = tiny_pipeline(), moving(21)

    def made(**how) -> torch.Tensor:
        return pipe(PROMPT, seconds=1, seed=5, **how).frames

    plain = made(video=clip)
    assert_bitwise_equal(made(video=clip), plain)
    others = [
        made(),
        made(video=moving(21, seed=1)),
        made(video=clip, cut=True),
        made(video=clip, cut=True, video_prompt=OTHER),
        made(video=clip[-13:]),
    ]
    for other in others:
        assert not torch.equal(other, plain)
    assert not torch.equal(others[2], others[3])


def test_a_cut_begins_a_shot_behind_the_clip():
    pipe = tiny_pipeline()
    story = [OTHER, {"prompt": PROMPT, "blocks": 1}]
    with pipe.stream(story, seconds=3, video=moving(13), cut=True, video_prompt=PROMPT) as stream:
        plan, [first, *rest] = stream.plan, list(stream)
        assert (plan.past, plan.lengths, plan.new_frames) == (2, (2, 2, 1), 24)
        assert (first.index, first.prompt.cut, first.prompt.offset) == (2, True, 8.0)
        assert first.prompt.text == "The scene transitions. " + OTHER
        assert [block.prompt.cut for block in rest] == [False, True]
    described = plan.describe()
    assert [(shot["prompt"], shot["blocks"], shot["start"]) for shot in described] == [
        (OTHER, 2, 0.0),
        (PROMPT, 1, 2.0),
    ]


def test_without_a_cut_the_shot_goes_on():
    with tiny_pipeline().stream(PROMPT, seconds=2, video=moving(13)) as stream:
        assert stream.shot_start == 0 and stream.pages == (0, 1)
        assert [block.prompt.cut for block in stream] == [False, False]
        [shot] = stream.plan.describe()
        assert (shot["blocks"], shot["start"], shot["seconds"]) == (2, 0.0, 2.0)


@given(
    past=st.integers(1, 3),
    frames=st.integers(1, 60),
    cut=st.booleans(),
    shots=st.integers(1, 3),
)
@settings(max_examples=40)
def test_a_plan_makes_as_many_frames_as_are_asked_for(past, frames, cut, shots):
    from longlive_models.prompts.storyboard import Past, Storyboard

    timing = BlockTiming(fps=8, frames_per_block=2)
    story = Storyboard.of([f"shot {n}" for n in range(shots)])
    if -(-frames // 8) < shots:
        with pytest.raises(ValueError, match="do not fit"):
            story.plan(timing, seconds=frames / 8, past=Past(blocks=past, cut=cut))
        return
    plan = story.plan(timing, seconds=frames / 8, past=Past(blocks=past, cut=cut))
    assert plan.new_frames == frames
    assert plan.blocks == past + -(-frames // 8)
    assert sum(shot["blocks"] for shot in plan.describe()) == -(-frames // 8)
    assert sum(shot["seconds"] for shot in plan.describe()) == pytest.approx(frames / 8)
    assert plan.block(past).cut is cut


def test_a_clip_of_another_size_and_rate_is_cropped_and_resampled(tmp_path):
    pipe = tiny_pipeline()
    small = moving(26, 32, 32)
    Video(small, FPS).save(tmp_path / "same.png", overwrite=True)
    twice = small.repeat_interleave(2, 0)
    wide = torch.cat([moving(52, 32, 16), twice, moving(52, 32, 16)], 2)  # margins that are lost

    def made(video) -> torch.Tensor:
        return pipe(PROMPT, seconds=1, video=video).frames

    own = made(small)
    assert_bitwise_equal(made(Video(twice, 2 * FPS)), own)
    assert_bitwise_equal(made(Video(wide, 2 * FPS)), own)
    assert_bitwise_equal(made(tmp_path / "same"), own)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_file_is_read_from_its_end(suffix, tmp_path):
    path = Video(moving(43, 32, 48), 11.0).save(tmp_path / f"clip.{suffix}")
    clip = Clip.open(path, FPS)
    timing = BlockTiming(fps=11 if suffix == "mp4" else 100 / 9, frames_per_block=2)
    count = clip.blocks(timing, WINDOW)
    shown = [frame.show() for block in clip.last(count, timing) for frame in block]
    from longlive_models.video.files import read_video

    assert count == 3
    assert_bitwise_equal(torch.stack(shown), read_video(path)[0][-21:])


@given(frames=st.integers(1, 50), pages=st.integers(3, 6))
@settings(max_examples=30)
def test_as_many_blocks_are_taken_as_a_block_sees(frames, pages):
    timing = BlockTiming(fps=8, frames_per_block=2)
    clip = Clip.of_frames("it", torch.zeros(frames, 4, 4, 3, dtype=torch.uint8), 8.0)
    if frames < 5:
        with pytest.raises(ValueError, match=r"it lasts .* a longer clip"):
            clip.blocks(timing, Window(pages=pages))
        return
    blocks = clip.blocks(timing, Window(pages=pages))
    assert blocks == min(pages - 1, (frames - 5) // 8 + 1)
    assert [len(block) for block in clip.last(blocks, timing)] == [5, *[8] * (blocks - 1)]


def test_encoding_block_by_block_is_encoding_the_whole():
    pipe, frames = tiny_pipeline(), moving(21)
    clip = Clip.of_frames("it", frames, FPS)
    blocks = encode_blocks(clip.last(3, pipe.timing), pipe.vae, 32, 32)
    whole = pipe.vae.encode(torch.cat([image_to_pixels(f, 32, 32) for f in frames], 2))
    torch.testing.assert_close(torch.cat(list(blocks), 2), whole)


@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize("blocks", [0, 1])
def test_a_snapshot_continues_bit_for_bit(lane, blocks, tmp_path):
    pipe = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", lane=lane)))
    whole = list(pipe.stream(PROMPT, seconds=3, seed=1, video=moving(21), cut=True))
    stream = pipe.stream(PROMPT, seconds=3, seed=1, video=moving(21), cut=True)
    for _ in range(blocks):
        next(stream)
    stream.snapshot(tmp_path / "s")
    again = pipe.resume(tmp_path / "s")
    assert again.plan == stream.plan and again.plan.past == 3
    for old, new in zip(whole[blocks:], again, strict=True):
        assert old.index == new.index
        assert_bitwise_equal(old.frames, new.frames)


def test_events_make_the_same_video_again():
    pipe = tiny_pipeline()
    stream = pipe.stream(PROMPT, seconds=3, video=moving(13))
    first = next(stream)
    stream.prompt(OTHER, memory="recache")
    steered = torch.cat([first.frames, *(block.frames for block in stream)])
    events = stream.events
    assert events[0]["block"] == 3
    again = pipe(PROMPT, seconds=3, video=moving(13), events=events)
    assert_bitwise_equal(again.frames, steered)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cut": True}, "cut=True is about a clip"),
        ({"video_prompt": "a"}, "video_prompt='a' is about a clip"),
        ({"video": moving(9), "video_prompt": "a"}, "without one, the clip .* one shot"),
        ({"video": moving(9), "image": moving(1)[0]}, "image and video both"),
        ({"video": moving(4)}, r"lasts 0\.5 s, which is 4 frames .* the first has 5 frames"),
        ({"video": 3}, "a clip is a file, a Video, or uint8"),
        ({"video": moving(9).float()}, r"got torch\.float32 \[9, 32, 32, 3\]"),
        ({"video": "nothing.mp4"}, r"nothing\.mp4 cannot be read as a video: No such file"),
        ({"video": moving(9), "cut": True, "video_prompt": " "}, "needs at least one word"),
    ],
)
def test_what_is_no_clip_is_refused_before_anything_is_made(how, message, monkeypatch):
    pipe: LongLivePipeline = tiny_pipeline()
    monkeypatch.setattr("longlive_models.generator.BlockGenerator.remember", None)
    with pytest.raises(ValueError, match=message):
        pipe(PROMPT, seconds=1, **how)


def test_a_clip_is_remembered_by_the_function_that_refusals_come_before(monkeypatch):
    monkeypatch.setattr("longlive_models.generator.BlockGenerator.remember", None)
    with pytest.raises(TypeError, match="not callable"):
        tiny_pipeline()(PROMPT, seconds=1, video=moving(9))
