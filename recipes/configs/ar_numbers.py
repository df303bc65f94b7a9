"""The bounds of the numbers that AR training depends on."""

from typing import Any

from longlive_models.block_steps import check_block_steps
from longlive_models.choices import MOST_GUIDANCE, MOST_STEPS
from longlive_models.diffusion import WEIGHTINGS
from longlive_recipes.configs.ar_options import MOST_PARTS
from longlive_recipes.configs.checked import choice_field, real_field, whole_field
from longlive_recipes.moving_shapes.clips import MOST_SIZE
from longlive_recipes.moving_shapes.latent_cache import MOST_CLIPS

MOST_OFFSET = float(1 << 24)
MOST_SHIFT = 1000.0


def check_numbers(config: Any) -> None:
    """Raise ValueError for numbers of ``TrainAR`` that are out of bounds; hold the others."""
    share = "it is a share of what is drawn, from 0 to 1. Use 0 for none."
    for name in ("prompt_dropout", "word_dropout", "image_to_video"):
        real_field(config, name, at_least=0, at_most=1, why=share)
    real_field(
        config,
        "context_jitter",
        at_least=0,
        at_most=1,
        why="it is the most noise that is added to the clean context, as a share of what "
        "latents vary by. Use 0.05, say.",
    )
    real_field(
        config,
        "shot_offset",
        at_least=0,
        at_most=MOST_OFFSET,
        why="a cut adds it to positions, which are float32 and whole up to 2**24. Use 8.",
    )
    _check_noise(config)
    real_field(
        config,
        "guidance",
        at_least=0,
        at_most=MOST_GUIDANCE,
        why="it scales the distance from the empty prompt, 1 being the model as trained. Use 2.",
    )
    real_field(
        config,
        "sample_seconds",
        above=0,
        at_most=3600,
        why="samples are held in memory whole, an hour at most. Use 5, say.",
    )
    name = f"{type(config).__name__}.sampling_steps"
    steps = check_block_steps(name, config.sampling_steps)
    object.__setattr__(config, "sampling_steps", steps)
    if config.width is not None:
        whole_field(
            config,
            "width",
            at_least=1,
            at_most=MOST_SIZE,
            why="pictures of one's own clips have so many pixels in a row. Leave it out for "
            "square ones.",
        )
        if config.data is None and config.sets and config.width != config.world.size:
            raise ValueError(
                f"width={config.width} is of clips of one's own, and drawn ones are square, of "
                f"world.size={config.world.size} pixels. Leave it out, or name a cache (--data)."
            )
    whole_field(
        config,
        "least_blocks",
        at_least=0,
        at_most=MOST_STEPS,
        why="clips of so many blocks are filled up to a phase's length. Use 1 to take in all, "
        "or 0 for none.",
    )
    whole_field(
        config,
        "accumulate",
        at_least=1,
        at_most=MOST_PARTS,
        why="a batch is taken in so many parts, one after another. Use 1 to take it whole.",
    )
    whole_field(
        config,
        "validation_clips",
        at_least=1,
        at_most=MOST_CLIPS,
        why="the loss is measured on so many clips of each length. Use 32, say.",
    )


def _check_noise(config: Any) -> None:
    """Raise ValueError for a shift or a weighting of noise levels that there is not."""
    real_field(
        config,
        "shift",
        above=0,
        at_most=MOST_SHIFT,
        why="it moves noise levels up, and more would leave one of the thousand. Use 5.",
    )
    choice_field(
        config,
        "weighting",
        WEIGHTINGS,
        why="the bell of the original leaves little to the noisiest levels. Use bell.",
    )
