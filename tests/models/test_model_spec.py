"""What is known before weights are read: sizes that fit, blocks in seconds, pages in bytes."""

from dataclasses import replace

import pytest
import torch

from longlive_core.kv_cache import PagedKVCache, PlainCodec
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


CPU = torch.device("cpu")
GIB = 1 << 30


def roomy(monkeypatch, size: int) -> None:
    monkeypatch.setattr("longlive_core.memory.device_memory", lambda device: size)


@pytest.mark.parametrize(
    "change", [{"window": 10**9}, {"window": 10**9, "sink": 10**9 - 2}, {"window": 10**18}]
)
def test_a_window_that_no_memory_holds_is_refused_by_its_bytes(change):
    spec = replace(SPEC, settings=replace(SPEC.settings, **change))
    with pytest.raises(ValueError, match=r"in 10+ pages take .*iB, and cpu has .* smaller"):
        spec.require_room(PlainCodec(), CPU)


def test_the_bound_is_the_cache_to_the_byte_with_branches_and_ranks(monkeypatch):
    spec = replace(SPEC, settings=replace(SPEC.settings, window=100))  # more than the picture takes
    capacity = spec.settings.policy.capacity
    for samples, ranks, windows in ((1, 1, False), (2, 1, False), (2, 2, False), (2, 2, True)):
        layout, how = spec.cache_layout(samples), {"samples": samples, "ranks": ranks}
        need = layout.bytes(PlainCodec(), capacity, windows=windows).total // ranks
        roomy(monkeypatch, need)
        spec.require_room(PlainCodec(), CPU, windows=windows, **how)
        roomy(monkeypatch, need - 1)
        with pytest.raises(ValueError, match="keys and values in"):
            spec.require_room(PlainCodec(), CPU, windows=windows, **how)


def test_a_cache_with_windows_that_a_device_does_not_hold_is_refused(monkeypatch):
    layout, policy = SPEC.cache_layout(1), SPEC.settings.policy
    roomy(monkeypatch, layout.bytes(PlainCodec(), policy.capacity).total)
    PagedKVCache(layout, policy, PlainCodec())
    with pytest.raises(ValueError, match="keys and values in"):
        PagedKVCache(layout, policy, PlainCodec(), windows=True)


def test_a_picture_whose_block_no_memory_holds_is_refused(monkeypatch):
    settings = replace(SPEC.settings, height=16 * 1024, width=16 * 1024)
    spec = replace(SPEC, settings=settings, transformer=replace(SPEC.transformer, num_heads=1))
    roomy(monkeypatch, 14 * GIB)
    with pytest.raises(ValueError, match="the 5 frames of a block, 16384x16384 pixels in float32"):
        spec.require_room(PlainCodec(), CPU)
    need = 4 * 3 * 5 * (16 * 1024) ** 2
    roomy(monkeypatch, need)
    spec.require_room(PlainCodec(), CPU)
    roomy(monkeypatch, need - 1)
    with pytest.raises(ValueError, match="the 5 frames of a block"):
        spec.require_room(PlainCodec(), CPU)
