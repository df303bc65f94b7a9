"""The pipeline: the same video for the same seed, at any length; parts that fit; errors first."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from longlive_core.backends import BackendUnavailable
from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.text import PocketTextEncoder
from tests.models.tiny_pipeline import FPS, SPEC, TEXT, tiny_parts, tiny_pipeline, write_tiny_folder

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied(folder, tmp_path):
    """A folder to spoil."""
    return shutil.copytree(folder, tmp_path / "model")


def test_the_same_seed_gives_the_same_video_and_another_does_not():
    pipe = tiny_pipeline()
    video = pipe(PROMPT, seconds=2, seed=7)
    assert_bitwise_equal(pipe(PROMPT, seconds=2, seed=7).frames, video.frames)
    assert_bitwise_equal(tiny_pipeline()(PROMPT, seconds=2, seed=7).frames, video.frames)
    assert not torch.equal(pipe(PROMPT, seconds=2, seed=8).frames, video.frames)


def test_high_quality_where_no_hardware_has_eight_bits_is_lossless_and_its_receipts_say_so():
    high = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", quality="high")))
    plain = tiny_pipeline()
    frames = [pipe(PROMPT, seconds=1, seed=7).frames for pipe in (high, plain)]
    assert_bitwise_equal(*frames)
    linear = high.receipts()["blocks.0.self_attn.q"][0]
    assert linear.backend == "torch"
    assert linear.reasons["fp8"] == "it needs a CUDA device, not cpu"
    assert "fp8" not in plain.receipts()["blocks.0.self_attn.q"][0].reasons


def test_a_longer_video_starts_with_the_frames_of_a_shorter_one():
    pipe = tiny_pipeline()
    five = pipe(PROMPT, seconds=5, seed=7).frames
    ten = pipe(PROMPT, seconds=10, seed=7).frames
    assert (len(five), len(ten)) == (5 * FPS, 10 * FPS)
    assert_bitwise_equal(ten[: len(five)], five)


def test_prompt_steps_and_guidance_make_a_difference():
    pipe = tiny_pipeline()
    frames = pipe(PROMPT, seconds=1).frames
    for other in (
        pipe("a blue square", seconds=1),
        pipe(PROMPT, seconds=1, steps=3),
        pipe(PROMPT, seconds=1, guidance=1.0),
    ):
        assert not torch.equal(other.frames, frames)
    assert_bitwise_equal(
        tiny_pipeline(steps=3, guidance=1.0)(PROMPT, seconds=1).frames,
        pipe(PROMPT, seconds=1, steps=3, guidance=1.0).frames,
    )


def test_a_storyboard_is_cut_at_the_block_where_its_second_shot_starts():
    pipe = tiny_pipeline()
    story = [{"prompt": PROMPT, "blocks": 2}, {"prompt": "a blue square", "blocks": 2}]
    blocks = list(pipe.stream(story, seed=3))
    assert [block.prompt.cut for block in blocks] == [False, False, True, False]
    assert [block.prompt.offset for block in blocks] == [0, 0, 8, 8]
    assert blocks[2].prompt.text == f"{SCENE_CUT_PREFIX}a blue square"
    single = list(pipe.stream(PROMPT, seconds=pipe.timing.seconds(4), seed=3))
    same = [torch.equal(a.frames, b.frames) for a, b in zip(blocks, single, strict=True)]
    assert same == [True, True, False, False]


def test_a_video_lasts_as_long_as_it_was_asked_to():
    pipe = tiny_pipeline()
    assert len(pipe(PROMPT, seconds=0.01).frames) == 1
    assert len(pipe(PROMPT).frames) == 5 * FPS
    assert len(pipe([{"prompt": PROMPT, "seconds": 1}]).frames) == 5  # whole blocks: 5 frames or 13


def test_a_folder_gives_the_model_that_was_written(folder):
    pipe = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    assert pipe.spec == SPEC
    assert_bitwise_equal(
        pipe(PROMPT, seconds=1, seed=2).frames, tiny_pipeline()(PROMPT, seconds=1, seed=2).frames
    )
    for part in (pipe.transformer, pipe.vae, pipe.text):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())
        assert not any(p.is_meta for p in (*part.parameters(), *part.buffers()))


def test_the_fingerprint_names_the_weights(folder, copied):
    def mark(place):
        return LongLivePipeline.from_pretrained(str(place), device="cpu").fingerprint

    assert len(mark(folder)) == 64
    assert mark(folder) == mark(copied)
    file = copied / "vae" / "model.safetensors"
    tensors = load_file(file)
    tensors["conv2.bias"] += 1
    save_file(tensors, file)
    assert mark(folder) != mark(copied)
    assert len(tiny_pipeline().fingerprint) == 64  # of memory: it has no files


def test_bf16_weights_on_a_cpu_are_rounded_once_and_compute_in_fp32(folder):
    exact = tiny_parts()[0]
    pipe = LongLivePipeline.from_pretrained(str(folder), device="cpu", weights="bf16")
    assert (pipe.runtime.weights, pipe.runtime.compute) == ("bf16", "fp32")
    for name, parameter in pipe.transformer.named_parameters():
        wanted = exact.get_parameter(name).detach().bfloat16().float()
        assert_bitwise_equal(parameter.detach(), wanted)
    for part in (pipe.transformer, pipe.vae, pipe.text):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    mean = torch.tensor(SPEC.vae.latent_mean).view(1, -1, 1, 1, 1)
    assert_bitwise_equal(pipe.vae.latent_mean, mean)
    assert len(pipe(PROMPT, seconds=1).frames) == FPS


@pytest.mark.parametrize("kv_cache", ["bf16", "fp8", "int8", "nvfp4"])
def test_a_cache_in_fewer_bits_changes_the_video_little(kv_cache):
    exact = tiny_pipeline()(PROMPT, seconds=3).frames.int()
    pipe = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", kv_cache=kv_cache)))
    difference = (pipe(PROMPT, seconds=3).frames.int() - exact).abs().float()
    assert 0 < difference.mean() < 2
    assert len(pipe.receipts()["kv_cache"]) == (kv_cache != "bf16")


def test_pieces_and_tiles_of_the_vae_change_no_frame():
    options = RuntimeOptions(device="cpu", vae_latents=1, vae_tiles=2)
    pipe = tiny_pipeline(Runtime.choose(options))
    assert (pipe.vae.decoding.latents, pipe.vae.decoding.tiles) == (1, 2)
    (receipt,) = pipe.receipts()["vae"]
    assert receipt.backend == "modules" and "needs a CUDA device" in receipt.reasons["triton"]
    off = pipe(PROMPT, seconds=2).frames.int() - tiny_pipeline()(PROMPT, seconds=2).frames.int()
    assert off.abs().max() <= 1 and off.ne(0).float().mean() < 1e-3  # a byte at a tie


def test_more_tiles_than_the_frame_has_positions_are_refused():
    with pytest.raises(ValueError, match="vae_tiles=64 are more than the .* positions"):
        tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", vae_tiles=64)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"prompt": ""}, "a prompt needs at least one word"),
        ({"prompt": "  "}, "a prompt needs at least one word"),
        ({"prompt": []}, "a storyboard needs at least one shot"),
        ({"prompt": {"shots": [{"promt": "a"}]}}, "did you mean 'prompt'"),
        ({"seconds": 0}, "seconds is above 0, got 0"),
        ({"seconds": -3.0}, "seconds is above 0, got -3.0"),
        ({"seconds": float("nan")}, "seconds is a finite number, got nan"),
        ({"seconds": float("inf"), "prompt": ["a", "b"]}, "every shot needs a length"),
        ({"events": [{"block": 9, "text": "a"}]}, "an event at block 9 is past the end"),
        ({"steps": 0}, "steps is at least 1, got 0"),
        ({"guidance": -1.0}, "guidance is at least 0, got -1.0"),
        ({"guidance": float("nan")}, "guidance is a finite number, got nan"),
        ({"seed": -1}, "a seed of noise is at least 0"),
    ],
)
def test_what_makes_no_video_is_refused_before_anything_is_computed(how, message):
    pipe = tiny_pipeline()
    pipe.transformer.forward = None  # whoever computes now, fails otherwise
    arguments = {"prompt": PROMPT, "seconds": 1, **how}
    with pytest.raises(ValueError, match=message):
        pipe.stream(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 40}, "height=40 pixels does not divide into tokens of 16"),
        ({"window": 2}, "leaves no page for the block itself"),
    ],
)
def test_settings_that_do_not_fit_the_parts_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(**change)


def test_a_text_encoder_of_another_model_is_refused():
    transformer, vae, _ = tiny_parts()
    for wrong in (replace(TEXT, dim=32), replace(TEXT, text_len=9)):
        with pytest.raises(ValueError, match="parts of different models"):
            LongLivePipeline(
                transformer,
                vae,
                PocketTextEncoder(wrong),
                settings=SPEC.settings,
                runtime=Runtime.choose(RuntimeOptions(device="cpu")),
            )


def test_an_attention_that_cannot_run_is_refused_before_weights_are_read(copied):
    (copied / "transformer" / "model.safetensors").write_bytes(b"never read")
    for name, message in (("fa3", "it needs a CUDA device"), ("magic", "no backend 'magic'")):
        with pytest.raises(BackendUnavailable, match=message):
            LongLivePipeline.from_pretrained(str(copied), device="cpu", attention=name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "vae" / "config.json").unlink(), "vae.* holds no config.json"),
        (lambda f: (f / "vae" / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "vae" / "model.safetensors").unlink(), r"vae.* lacks any \*.safetensors"),
        (lambda f: shutil.rmtree(f / "text_encoder"), "text_encoder.* lacks any"),
        (
            lambda f: (f / "model_index.json").write_text('{"pipeline": "WanPipeline"}'),
            "holds no 'generation' settings",
        ),
        (lambda f: (f / "model_index.json").write_text("[]"), "must hold an object"),
        (
            lambda f: (f / "model_index.json").write_text(
                '{"generation": {"height": 32, "width": 32, "fps": 8, "steps": 2, "fsp": 8}}'
            ),
            "no key 'fsp'; did you mean 'fps'",
        ),
        (
            lambda f: (f / "model_index.json").write_text(
                '{"generation": {"height": 32, "width": 32, "fps": 8}}'
            ),
            "lacks steps",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_without_reading_weights(copied, spoil, message):
    (copied / "transformer" / "model.safetensors").write_bytes(b"never read")
    spoil(copied)
    with pytest.raises(ValueError, match=message):
        read_spec(copied)


def test_weights_of_another_model_are_refused(copied):
    file = copied / "transformer" / "model.safetensors"
    tensors = load_file(file)
    del tensors["head.modulation"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="missing: head.modulation"):
        LongLivePipeline.from_pretrained(str(copied), device="cpu")
