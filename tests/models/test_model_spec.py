"""What is known before weights are read: sizes that fit, blocks in seconds, pages in bytes."""

from dataclasses import replace

import pytest

from longlive_core.kv_cache import PlainCodec
from longlive_models.published import LONGLIVE_5B
from tests.models.tiny_pipeline import SPEC


def test_the_5b_model_has_the_sizes_of_the_paper():
    assert LONGLIVE_5B.latent_size == (44, 80)
    layout = LONGLIVE_5B.cache_layout(1)
    assert layout.tokens_per_page == 7040
    assert layout.bytes(PlainCodec(), LONGLIVE_5B.settings.policy.capacity).total == 10_380_902_400
    timing = LONGLIVE_5B.timing
    assert (timing.frames(1), timing.frames(2), timing.fps) == (29, 61, 24)
    settings = LONGLIVE_5B.settings
    assert (settings.steps, settings.guidance, settings.shift, settings.window) == (4, 1, 5, 4)


def test_the_tiny_model_has_the_sizes_that_its_parts_imply():
    assert SPEC.latent_size == (4, 4)
    assert SPEC.cache_layout(3).page_shape == (3, 2 * 4, 2, 16)
    assert [SPEC.timing.frames(blocks) for blocks in (1, 2, 3)] == [5, 13, 21]


def test_parts_of_different_models_are_refused():
    for name in ("in_channels", "out_channels"):
        wan = replace(SPEC.transformer, **{name: 5})
        with pytest.raises(ValueError, match="the VAE has 4: they are parts of different models"):
            replace(SPEC, transformer=wan)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 36}, "height=36 .* Use 32"),
        ({"width": 8}, "width=8 .* Use 16"),
    ],
)
def test_a_picture_that_does_not_divide_is_refused(size, message):
    with pytest.raises(ValueError, match=message):
        replace(SPEC, settings=replace(SPEC.settings, **size))
