"""Moving shapes: purity, the pairs held out, captions, motions, and what the drawing looks like."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_recipes.moving_shapes import drawing
from longlive_recipes.moving_shapes.attributes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_COLOURS,
    HELD_OUT_MOTIONS,
    MIN_CONTRAST,
    MOTIONS,
    ROUND_SHAPES,
    SHAPES,
    ShapeAttributes,
    is_held_out,
    is_possible,
    possible_attributes,
)
from longlive_recipes.moving_shapes.captions import (
    MAX_WORDS,
    SCENE_TRANSITION,
    SHAPE_WORDS,
    split_words,
)
from longlive_recipes.moving_shapes.clips import (
    Clip,
    ClipFormat,
    ClipShot,
    base_caption,
    caption,
    clip,
    draw,
    single_shot,
    vocabulary,
)
from longlive_recipes.moving_shapes.drawing import OUTLINES, paint
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.moving_shapes.motion import (
    BOUNCE_SPEED,
    DIRECTIONS,
    EXTENT,
    GROWN_RADIUS,
    RADIUS,
)

SMALL = ClipFormat(size=32)
splits = st.sampled_from(("train", "heldout", "any"))
seeds = st.integers(0, 2**40)
indices = st.integers(0, 10**9)


def pixels(made: Clip, frames: range | None = None) -> np.ndarray:
    """One clip as [frames, side, side, 3] in [-1, 1]."""
    return draw([made], frames=frames)[0].permute(1, 2, 3, 0).numpy()


def test_the_default_format_holds_what_the_model_is_asked_for() -> None:
    assert len(SHAPES) == 8 and len(COLOURS) == 10 and len(BACKGROUNDS) == 6 and len(MOTIONS) == 8
    assert tuple(OUTLINES) == SHAPES
    assert set(SHAPES) >= {"circle", "square", "triangle", "star"}
    assert set(COLOURS) >= {"red", "green", "blue", "yellow"}
    assert set(BACKGROUNDS) >= {"black", "white", "navy"}


def test_palettes_are_well_separated() -> None:
    for palette, least in ((COLOURS, MIN_CONTRAST), (BACKGROUNDS, 70)):
        values = list(palette.values())
        distances = [math.dist(a, b) for i, a in enumerate(values) for b in values[:i]]
        assert min(distances) >= least


@given(seed=seeds, index=indices, blocks=st.integers(1, 7), split=splits)
def test_clip_is_a_pure_function(seed: int, index: int, blocks: int, split: str) -> None:
    first = clip(seed, index, clip_format=SMALL, blocks=blocks, split=split)
    assert clip(seed, index, clip_format=SMALL, blocks=blocks, split=split) == first


@given(seed=seeds, index=indices, blocks=st.integers(1, 7), split=splits)
def test_shots_tile_the_blocks(seed: int, index: int, blocks: int, split: str) -> None:
    made = clip(seed, index, blocks=blocks, split=split)
    assert made.blocks == len(made.captions) == len(made.cuts) == blocks
    assert made.frames == 29 + 32 * (blocks - 1)
    place = 0
    for shot in made.shots:
        assert shot.first_block == place and shot.blocks >= 1
        assert set(made.captions[place : place + shot.blocks]) == {shot.caption}
        assert made.cuts[place] == shot.cut
        assert not any(made.cuts[place + 1 : place + shot.blocks])
        place += shot.blocks
    assert not made.cuts[0]


@given(seed=seeds, index=indices, blocks=st.integers(1, 7))
def test_held_out_pairs_have_a_split_of_their_own(seed: int, index: int, blocks: int) -> None:
    for split, held_out in (("train", False), ("heldout", True)):
        for shot in clip(seed, index, blocks=blocks, split=split).shots:
            assert is_possible(shot.attributes)
            assert is_held_out(shot.attributes) == held_out


def test_every_attribute_is_trained_on_about_evenly() -> None:
    seen: list[Counter[str]] = [Counter(), Counter(), Counter(), Counter()]
    for index in range(600):
        for shot in clip(0, index).shots:
            for counter, value in zip(seen, shot.attributes, strict=True):
                counter[value] += 1
    for counter, names in zip(seen, (SHAPES, COLOURS, BACKGROUNDS, MOTIONS), strict=True):
        assert set(counter) == set(names)
        assert min(counter.values()) > 0.55 * counter.total() / len(names)
    assert len(HELD_OUT_COLOURS) == 8 and len(HELD_OUT_MOTIONS) == 4


def test_a_motion_that_is_named_twice_is_drawn_twice_as_often() -> None:
    firsts: Counter[str] = Counter()
    for index in range(900):
        made = clip(0, index, blocks=2, motions=("spins", "orbits", "spins"))
        firsts[made.shots[0].attributes.motion] += 1
    assert set(firsts) == {"spins", "orbits"}
    assert 1.7 < firsts["spins"] / firsts["orbits"] < 2.35
    assert clip(3, 5, motions=MOTIONS) == clip(3, 5)


def test_kinds_of_clips_are_mixed() -> None:
    made = [clip(1, index) for index in range(400)]
    one = sum(len(each.shots) == 1 for each in made) / 400
    cut = sum(any(each.cuts) for each in made) / 400
    assert 0.4 < one < 0.6
    assert 0.18 < cut < 0.32
    assert 0.18 < 1 - one - cut < 0.32


def between(before: ClipShot, after: ClipShot, made: Clip) -> tuple[float, set[str]]:
    """How far the object jumps at the edge, and which attributes change."""
    second = made.format.first_frame(after.first_block) / made.format.fps
    a, b = before.path.pose_at(second), after.path.pose_at(second)
    jump = math.hypot(*(d - round(d) for d in (a.x - b.x, a.y - b.y)))
    changed = {f for f in ShapeAttributes._fields if vars_of(before)[f] != vars_of(after)[f]}
    return jump, changed


def vars_of(shot: ClipShot) -> dict[str, str]:
    return shot.attributes._asdict()


def test_a_change_keeps_the_object_in_place_and_a_cut_does_not() -> None:
    changed: Counter[str] = Counter()
    for index in range(300):
        made = clip(2, index)
        for before, after in zip(made.shots, made.shots[1:], strict=False):
            jump, fields = between(before, after, made)
            if after.cut:
                assert jump >= 0.2499
                assert len(fields - {"motion"}) >= 2
            else:
                assert jump < 1e-9
                assert len(fields) == 1
                assert before.caption != after.caption
                changed.update(fields)
    assert set(changed) == set(ShapeAttributes._fields)


def test_size_and_angle_go_on_through_a_change() -> None:
    for index in range(200):
        made = clip(3, index)
        for before, after in zip(made.shots, made.shots[1:], strict=False):
            if not after.cut:
                second = made.format.first_frame(after.first_block) / made.format.fps
                a, b = before.path.pose_at(second), after.path.pose_at(second)
                assert a.radius == pytest.approx(b.radius) and a.angle == pytest.approx(b.angle)
                if before.attributes.motion != after.attributes.motion:
                    assert RADIUS[0] <= b.radius <= RADIUS[1]


def test_drawing_does_not_depend_on_batch_mates_or_frames() -> None:
    made = [clip(4, index, clip_format=ClipFormat(size=48), blocks=2) for index in range(7)]
    together, objects = draw(made, objects=True)
    for place in (0, 3, 6):
        alone, cover = draw([made[place]], objects=True)
        assert torch.equal(alone[0], together[place]) and torch.equal(cover[0], objects[place])
        some = draw([made[place]], frames=range(5, 60, 7))
        assert torch.equal(some[0], together[place][:, 5:60:7])
    backwards = draw(made[::-1])
    assert torch.equal(backwards.flip(0), together)


def test_drawing_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [clip(5, index, clip_format=SMALL, blocks=2) for index in range(4)]
    whole = draw(made)
    painted: list[int] = []
    paint = drawing.paint

    def counted(shape: str, poses: torch.Tensor, *rest: Any) -> Any:
        painted.append(len(poses))
        return paint(shape, poses, *rest)

    monkeypatch.setattr(drawing, "paint", counted)
    monkeypatch.setattr(drawing, "PIXELS_PER_CHUNK", {"cpu": 3 * 32 * 32})
    assert torch.equal(draw(made), whole)
    assert max(painted) == 3


@settings(max_examples=15)
@given(seed=seeds, size=st.integers(16, 80), fps=st.floats(4, 30), split=splits)
def test_drawing_fills_its_ranges(seed: int, size: int, fps: float, split: str) -> None:
    world = ClipFormat(size=size, fps=fps)
    video, objects = draw(
        [clip(seed, 0, clip_format=world, split=split)], frames=range(3), objects=True
    )
    assert video.shape == (1, 3, 3, size, size) and objects.shape == (1, 1, 3, size, size)
    assert video.dtype == torch.float32
    assert video.min() >= -1 and video.max() <= 1
    assert objects.min() >= 0 and objects.max() == 1


def test_colours_are_those_of_the_palettes() -> None:
    look = ShapeAttributes("square", "orange", "navy", "moves up")
    made = single_shot(look, blocks=1)
    video, objects = draw([made], objects=True, frames=range(4))
    picture = ((video + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
    inside, outside = objects[0, 0] == 1, objects[0, 0] == 0
    assert {tuple(p) for p in picture[0][outside].tolist()} == {BACKGROUNDS["navy"]}
    colours = Counter(tuple(p) for p in picture[0][inside].tolist())
    assert colours.most_common(1)[0][0] == COLOURS["orange"]


def area_and_reach(shape: str, turned: float, size: int = 200) -> tuple[torch.Tensor, float]:
    pose = torch.tensor([[0.5, 0.5, 0.3, math.cos(turned), math.sin(turned)]])
    ground = torch.zeros(1, 3)
    _, coverage = paint(shape, pose, ground, ground, size)
    y, x = torch.nonzero(coverage[0, 0] > 0.5, as_tuple=True)
    reach = torch.hypot(x + 0.5 - size / 2, y + 0.5 - size / 2).max().item() / (0.3 * size)
    return coverage[0, 0], reach


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_turn_about_their_centroid_and_stay_within_their_extent(shape: str) -> None:
    coverage, reach = area_and_reach(shape, 0.7)
    centers = torch.arange(200) + 0.5
    weight = coverage.sum()
    assert (coverage.sum(0) @ centers / weight).item() == pytest.approx(100, abs=0.6)
    assert (coverage.sum(1) @ centers / weight).item() == pytest.approx(100, abs=0.6)
    assert 0.8 < reach <= EXTENT + 0.01
    upright, _ = area_and_reach(shape, 0.0)
    assert weight.item() == pytest.approx(upright.sum().item(), rel=0.01)
    assert torch.allclose(upright, upright.flip(1), atol=1e-4)  # left and right alike
    assert ((upright - coverage).abs().sum() / weight < 0.02) == (shape in ROUND_SHAPES)


def test_outlines_are_smooth() -> None:
    video, objects = draw(
        [single_shot(ShapeAttributes("circle", "white", "black", "moves right"), blocks=1)],
        frames=range(1),
        objects=True,
    )
    partial = ((objects > 0.02) & (objects < 0.98)).sum()
    ring = 2 * math.pi * math.sqrt(objects.sum().item() / math.pi)
    assert 0.7 * ring < partial < 1.7 * ring


@pytest.mark.parametrize("motion", DIRECTIONS)
def test_moves_are_steady_and_wrap(motion: str) -> None:
    right, down = DIRECTIONS[motion]
    for seed in range(8):
        path = single_shot(possible_attributes("any", motion)[seed * 7], seed=seed).shots[0].path
        track = path.track(np.arange(120) / 12)
        steps = np.stack((np.diff(track.x), np.diff(track.y)), 1)
        steps -= np.round(steps)
        assert np.allclose(steps, steps[0])
        speed = np.hypot(*steps[0])
        assert np.allclose(steps[0], (speed * right, speed * down))
        assert 2 < 128 * speed < 6
        assert np.ptp(track.x if right else track.y) > 0.9  # it came in on the other side


def test_an_object_across_the_edge_is_drawn_on_both_sides() -> None:
    made = single_shot(ShapeAttributes("square", "red", "white", "moves right"), seed=1, blocks=4)
    _, objects = draw([made], objects=True)
    areas = objects[0, 0].sum((1, 2))
    assert torch.allclose(areas, areas[0].expand_as(areas), rtol=0.01)
    columns = objects[0, 0].sum(1)
    assert ((columns[:, 0] > 1) & (columns[:, -1] > 1) & (columns[:, 64] == 0)).any()


def test_bounces_stay_inside_and_turn_at_the_borders() -> None:
    for seed in range(20):
        choices = possible_attributes("any", "bounces")
        path = single_shot(choices[seed * 11 % len(choices)], seed=seed).shots[0].path
        track = path.track(np.arange(48) / 12)
        margin = EXTENT * path.pose.radius - 1e-9
        for place in (track.x, track.y):
            assert margin <= place.min() and place.max() <= 1 - margin
            assert len(set(np.sign(np.diff(place)))) == 2
            assert np.abs(np.diff(place)).max() <= BOUNCE_SPEED[1] / 12 + 1e-9


def test_spins_grows_and_orbits_show_within_four_seconds() -> None:
    seconds = np.arange(48) / 12
    for seed in range(20):
        spin = single_shot(ShapeAttributes("star", "red", "navy", "spins"), seed=seed).shots[0].path
        track = spin.track(seconds)
        assert np.ptp(track.x) == np.ptp(track.y) == np.ptp(track.radius) == 0
        assert np.ptp(track.angle) > 5 and abs(np.diff(track.angle)).max() < math.pi / 10
        grow = single_shot(ShapeAttributes("star", "red", "navy", "grows"), seed=seed).shots[0].path
        radius = grow.track(seconds).radius
        assert GROWN_RADIUS[0] <= radius.min() < 0.11 and 0.24 < radius.max() <= GROWN_RADIUS[1]
        assert (np.diff(radius) > 0).mean() > 0.9
        orbit = (
            single_shot(ShapeAttributes("ring", "red", "navy", "orbits"), seed=seed).shots[0].path
        )
        track = orbit.track(seconds)
        assert min(np.ptp(track.x), np.ptp(track.y)) > 0.3
        assert 128 * np.hypot(np.diff(track.x), np.diff(track.y)).max() < 6


def test_round_shapes_never_spin() -> None:
    assert {look.shape for look in possible_attributes("any", "spins")} == set(SHAPES) - set(
        ROUND_SHAPES
    )


@given(
    look=st.sampled_from(
        [look for motion in MOTIONS for look in possible_attributes("any", motion)]
    ),
    seed=seeds,
)
def test_captions_name_the_attributes(look: ShapeAttributes, seed: int) -> None:
    words = split_words(caption(look, np.random.default_rng(seed)))
    text = " ".join(words)
    assert set(words) & set(SHAPE_WORDS[look.shape])
    assert text.count(look.colour) + text.count("sand") + text.count("gr") >= 1
    assert look.colour in words
    others = set().union(*(names for s, names in SHAPE_WORDS.items() if s != look.shape))
    assert not set(words) & others
    assert not set(words) & (set(COLOURS) - {look.colour, look.background})
    ground = {"gray": {"gray", "grey"}, "sand": {"sand", "sandy"}}
    assert set(words) & ground.get(look.background, {look.background})
    if look.motion in DIRECTIONS:
        stem = {"up": ("up", "top"), "down": ("down", "bottom")}
        side = look.motion.split()[1]
        assert any(part in text for part in stem.get(side, (side,)))
    assert set(words) <= set(vocabulary())
    assert len(words) + len(split_words(SCENE_TRANSITION)) <= MAX_WORDS
    for article, word in zip(words, words[1:], strict=False):
        assert article not in ("a", "an") or (article == "an") == (word[0] in "aeiou")


def test_vocabulary_is_exactly_what_captions_use() -> None:
    said = set(split_words(SCENE_TRANSITION))
    rng = np.random.default_rng(0)
    choices = [look for motion in MOTIONS for look in possible_attributes("any", motion)]
    for place in rng.integers(len(choices), size=6000):
        said |= set(split_words(caption(choices[place], rng)))
    assert vocabulary() == tuple(sorted(said))


def test_base_caption() -> None:
    look = ShapeAttributes("circle", "red", "navy", "moves right")
    assert base_caption(look) == "a red circle moves right on a navy background"
    orange = ShapeAttributes("heart", "orange", "white", "spins")
    assert base_caption(orange) == "an orange heart spins on a white background"
    assert single_shot(look).captions == (base_caption(look),) * 2


def test_paraphrases_vary() -> None:
    look = ShapeAttributes("circle", "red", "navy", "moves right")
    rng = np.random.default_rng(0)
    said = [caption(look, rng) for _ in range(400)]
    assert len(set(said)) > 100
    assert 0.25 < said.count(base_caption(look)) / 400 < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ClipFormat(size=0), "ClipFormat.size is at least 1, got 0"),
        (lambda: ClipFormat(fps=-1), "ClipFormat.fps is above 0, got -1"),
        (lambda: clip(-1, 0), "seed=-1"),
        (lambda: clip(0, -1), "index=-1"),
        (lambda: clip(0, 0, blocks=0), "blocks=0"),
        (lambda: clip(0, 0, split="test"), "split='test' is none of"),
        (lambda: clip(0, 0, motions=("flies",)), "motions names 'flies', but .* moves left"),
        (lambda: ClipSet(blocks=2, clips=9, motions=()), "ClipSet.motions names no motion"),
        (lambda: single_shot(ShapeAttributes("ring", "red", "navy", "spins")), "does not spin"),
        (lambda: draw([]), "exactly one kind"),
        (lambda: draw([clip(0, 0, blocks=1), clip(0, 0, blocks=2)]), "clips of 2 kinds"),
        (lambda: draw([clip(0, 0, blocks=1)], frames=range(20, 40)), r"within range\(29\)"),
    ],
)
def test_bad_arguments_are_explained(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
