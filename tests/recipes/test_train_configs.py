"""Every field of the training configs refuses what it cannot be, by name, where it is made."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from longlive_core.nvfp4 import TrainingConfig
from longlive_models.text import PocketTextConfig
from longlive_models.vae import POCKET_VAE
from longlive_recipes.configs.ar_options import Adapter
from longlive_recipes.configs.run import Run
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.train_ar import TrainAR, ar_tiny
from longlive_recipes.train_vae import TrainVAE, vae_tiny
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.parallel import Parallel

NAN, INF, HUGE = float("nan"), float("inf"), 10**5000
NO_NUMBERS = (NAN, INF, -INF, "1", None, True, [], HUGE)
SHARES = (*NO_NUMBERS, -0.1, 1.1)
NO_COUNTS = (*NO_NUMBERS, 0, -1, 1.5)

WRONG = {
    Run(output="x"): {
        "output": ("", "  ", None, 3, "a\0b"),
        "accelerator": ("foo", "tpu", "", None, 0, HUGE),
        "precision": ("foo", "16-true", "bf16-true", "64-true", "transformer-engine", 32, None),
        "float32_matmul": ("best", None, 1),
        "compile": (1, "yes", None),
        "benchmark": (0, "no"),
        "progress_bar": ("", None),
        "log_every": NO_COUNTS,
        "validate_every": NO_COUNTS,
        "samples_every": tuple(value for value in NO_COUNTS if value != 0 or value is False),
        "best_k": tuple(value for value in NO_COUNTS if value != 0 or value is False),
        "best_metric": ("", 3),
        "best_mode": ("least", None, 1),
        "loggers": (None, 3, (1,), ("nobody",)),
        "checkpoint_minutes": (*NO_NUMBERS, -1, 1e9),
    },
    Optimization(): {
        "learning_rate": (*NO_NUMBERS, 0, -1e-3, 2),
        "betas": ((0.9,), (2, 2), (0.9, 1.0), (-0.1, 0.9), (NAN, 0.9), 0.9, "ab", None, (1, "x")),
        "weight_decay": (*NO_NUMBERS, -0.01, 1001),
        "max_grad_norm": (*NO_NUMBERS, -1),
        "ema_decay": (*SHARES, 1.0),
        "muon": ("model.*", None, 3, (1,)),
        "muon_rate": (*NO_NUMBERS, 0, -1e-3, 2),
        "states": ("16bit", None, 8),
    },
    Parallel(): {
        "data": (*NO_COUNTS, 1 << 20),
        "sequence": NO_COUNTS,
        "nodes": NO_COUNTS,
        "timeout_minutes": (*NO_NUMBERS, 0, -1, 1e12),
    },
    Adapter(): {
        "rank": (*(value for value in NO_COUNTS if value != 0 or value is False), 1 << 20),
        "alpha": (*NO_NUMBERS, 0, -1),
        "dropout": (*SHARES, 1.0),
        "targets": ((), "q", None, (1,), ("",)),
    },
    ClipSet(blocks=2, clips=2): {
        "blocks": (*NO_COUNTS, 100),
        "clips": (*NO_COUNTS, 1 << 40),
        "motions": (None, 3, (), ("flies",)),
    },
    ClipFormat(): {
        "size": (*NO_COUNTS, 1 << 20),
        "fps": (*NO_NUMBERS, 0, -12, 1e6),
        "first_block_frames": (*NO_COUNTS, 1 << 20),
        "block_frames": (*NO_COUNTS, 1 << 20),
    },
    vae_tiny(): {
        "vae": (None, "pocket"),
        "world": (None, 32),
        "pool_clips": NO_COUNTS,
        "phases": ((), None, 3, ("x",)),
        "kl_weight": (*NO_NUMBERS, -1),
        "object_weight": (*NO_NUMBERS, -1),
        "squared_weight": (*NO_NUMBERS, -1),
        "frozen_encoder": (1, None, "yes", True),
        "validation_clips": NO_COUNTS,
        "sample_clips": (*NO_NUMBERS, -1, 0.5),
        "start_from": ("", 3),
        "budget": (None, 4),
        "optimization": (None,),
        "run": (None, "x"),
        "seed": (*NO_NUMBERS, -1, 0.5, 1 << 63),
    },
    ar_tiny(): {
        "model": (None, 3),
        "text": (None,),
        "vae": ("", None, 3),
        "world": (None,),
        "width": (*(value for value in NO_COUNTS if value is not None), 1 << 20),
        "sets": (None, (1,)),
        "phases": ((), None, 3),
        "window": (None, 4),
        "shot_offset": (*NO_NUMBERS, -1, 1e12),
        "shift": (*NO_NUMBERS, 0, -5, 1e6),
        "weighting": ("flat", "", None, 3, []),
        "prompt_dropout": SHARES,
        "word_dropout": SHARES,
        "context_jitter": SHARES,
        "recycling": (None, 0.5),
        "image_to_video": SHARES,
        "least_blocks": tuple(value for value in NO_COUNTS if value != 0 or value is False),
        "accumulate": NO_COUNTS,
        "adapter": (None, 4),
        "latent_cache": ("", 3),
        "data": ("", 3),
        "quantized": (None, "nvfp4"),
        "float8": (None, "fp8"),
        "plain": (None, 1),
        "checkpointing": (1, None, "yes", "full"),
        "parallel": (None, 2),
        "start_from": ("", 3),
        "validation_clips": NO_COUNTS,
        "sample_prompts": ("a red circle", (1,), None),
        "sample_seconds": (*NO_NUMBERS, 0, -1, 1e18),
        "sampling_steps": (*NO_COUNTS, 1001),
        "guidance": (*NO_NUMBERS, -1, 1e308),
        "budget": (None,),
        "optimization": (None,),
        "run": (None,),
        "seed": (*NO_NUMBERS, -1, 0.5, 1 << 63),
    },
}
CASES = [
    pytest.param(config, name, value, id=f"{type(config).__name__}.{name}-{number}")
    for config, names in WRONG.items()
    for name, values in names.items()
    for number, value in enumerate(values)
]


@pytest.mark.parametrize(("config", "name", "value"), CASES)
def test_what_a_field_cannot_be_is_refused_by_its_name(config, name, value):
    with pytest.raises(ValueError, match=name) as refusal:
        replace(config, **{name: value})
    message = str(refusal.value)
    assert len(message) < 400
    assert message.endswith(".")


@pytest.mark.parametrize("config", WRONG, ids=lambda config: type(config).__name__)
def test_no_field_is_left_out(config):
    assert WRONG[config].keys() == {field.name for field in fields(config)}


@pytest.mark.parametrize("config", [ar_tiny(), vae_tiny()], ids=["ar", "vae"])
def test_presets_hold_configs_whose_fields_are_asked_for(config):
    parts = {type(value) for value in vars(config).values() if is_dataclass(value)}
    tried = {type(one) for one in WRONG}
    elsewhere = {
        "WanConfig",
        "PocketTextConfig",
        "Window",
        "TrainingConfig",
        "Float8TrainingConfig",
        "ErrorRecycling",
        "PlainParts",
        "VAEConfig",
        "TrainingSchedule",
    }
    assert {part.__name__ for part in parts - tried} <= elsewhere


def test_numbers_of_other_libraries_become_plain_ones():
    made = Optimization(learning_rate=np.float32(0.5), betas=[np.float64(0.5), 0])
    assert (made.learning_rate, made.betas) == (0.5, (0.5, 0.0))
    assert type(made.learning_rate) is float
    assert type(ClipFormat(size=np.int64(32)).size) is int


def test_words_that_an_encoder_would_lose_are_refused():
    tiny = ar_tiny()
    with pytest.raises(ValueError, match=r"holds each word once, got a more than once"):
        replace(tiny, text=replace(tiny.text, vocab=("a", "a")))
    with pytest.raises(ValueError, match=r"room for 15 words, and captions have up to 28"):
        replace(tiny, text=replace(tiny.text, text_len=16))
    few = PocketTextConfig(**{**vars(tiny.text), "vocab": ("a", "red", "circle")})
    with pytest.raises(ValueError, match=r"text.vocab lacks \d+ words of the captions \(against"):
        replace(tiny, text=few)
    with pytest.raises(ValueError, match=r"sample_prompts.0 has words .* \(zebra\)"):
        replace(tiny, sample_prompts=("a red zebra",))
    with pytest.raises(ValueError, match=r"sample_prompts.1 has 32 words, .* room for 31"):
        replace(tiny, sample_prompts=("a circle", "circle " * 32))
    assert replace(tiny, sample_prompts=("circle " * 31,)).sample_prompts


def test_one_clip_set_a_length():
    twice = (ClipSet(blocks=2, clips=3), ClipSet(blocks=3, clips=2), ClipSet(blocks=2, clips=9))
    with pytest.raises(ValueError, match=r"sets of \[2, 2, 3\] blocks"):
        replace(ar_tiny(), sets=twice)


@pytest.mark.parametrize("length", [62, 4, 16])
def test_windows_are_as_long_as_clips_and_vae_allow(length):
    phases = (replace(vae_tiny().phases[0], length=length, until=1.0),)
    with pytest.raises(ValueError, match=rf"phases.0.length={length}: .*1 \+ 4 n"):
        replace(vae_tiny(), phases=phases)
    assert replace(vae_tiny(), phases=(replace(phases[0], length=61),))


def test_drawings_fit_the_vae():
    with pytest.raises(ValueError, match="sides that are multiples of"):
        replace(vae_tiny(), world=ClipFormat(size=33))
    with pytest.raises(ValueError, match="clips of 60 frames"):
        replace(vae_tiny(), world=ClipFormat(size=32, block_frames=31))
    assert POCKET_VAE.temporal_stride == 4


def test_no_clips_are_made_into_samples_where_none_are_wanted():
    assert isinstance(replace(vae_tiny(), sample_clips=0), TrainVAE)
    assert isinstance(replace(ar_tiny(), sample_prompts=()), TrainAR)
    assert isinstance(replace(ar_tiny(), quantized=TrainingConfig()), TrainAR)
