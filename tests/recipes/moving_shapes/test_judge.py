"""The judge: right on drawings, robust to blur and noise, and not to be fooled."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_recipes.moving_shapes.attributes import (
    BACKGROUNDS,
    MOTIONS,
    SHAPES,
    ShapeAttributes,
    possible_attributes,
)
from longlive_recipes.moving_shapes.clips import Clip, ClipFormat, clip, draw, single_shot
from longlive_recipes.moving_shapes.judge import Score, find_cuts, judge_clip, judge_shot, score
from longlive_recipes.moving_shapes.judge_measure import SYMMETRY, measure
from longlive_recipes.moving_shapes.judge_motion import classify_motion

FOUR_SECONDS = range(48)
RED_CIRCLE = ShapeAttributes("circle", "red", "navy", "moves right")


def pictures(made: Clip, frames: range | None = None) -> np.ndarray:
    """uint8 [frames, side, side, 3]."""
    video = ((draw([made], frames=frames)[0] + 1) * 127.5).round().to(torch.uint8)
    return video.permute(1, 2, 3, 0).contiguous().numpy()


def shot(look: ShapeAttributes, seed: int = 0, world: ClipFormat | None = None) -> np.ndarray:
    """Four seconds of `look`."""
    world = world or ClipFormat()
    made = single_shot(look, seed=seed, clip_format=world, blocks=6)
    return pictures(made, range(round(4 * world.fps)))


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur in the plane; edges are repeated."""
    side = frames.shape[1]
    taps = np.arange(-4, 5)
    near = np.clip(np.arange(side)[:, None] + taps, 0, side - 1)
    rows = np.zeros((side, side), np.float32)
    np.add.at(rows, (np.arange(side)[:, None], near), np.exp(-(taps**2) / (2 * sigma**2)))
    rows /= rows.sum(1, keepdims=True)
    planes = frames.transpose(0, 3, 1, 2).astype(np.float32)
    return (rows @ planes @ rows.T).transpose(0, 2, 3, 1)


def quantized(image: np.ndarray, step: float) -> np.ndarray:
    """Cosine transform of 8x8 blocks rounded to multiples that grow with frequency, as in JPEG."""
    k = np.arange(8)
    basis = np.cos(math.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
    basis[0] /= math.sqrt(2)
    both = np.kron(basis, basis).astype(np.float32)
    scale = (step * (1 + k[:, None] + k[None])).reshape(64).astype(np.float32)
    t, h, w, c = image.shape
    blocks = image.reshape(t, h // 8, 8, w // 8, 8, c).transpose(0, 1, 3, 5, 2, 4)
    codes = np.round(blocks.reshape(-1, 64).astype(np.float32) @ both.T / scale) * scale
    back = (codes @ both).reshape(t, h // 8, w // 8, c, 8, 8)
    return back.transpose(0, 1, 4, 2, 5, 3).reshape(t, h, w, c)


def degraded(frames: np.ndarray, seed: int) -> np.ndarray:
    """Mildly: blur, noise, quantization."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(frames.shape, dtype=np.float32) * 5
    image = blurred(frames, 1.2) + noise
    return np.clip(quantized(image, 4.0).round(), 0, 255).astype(np.uint8)


def spread_looks(count: int, seed: int) -> list[ShapeAttributes]:
    """Looks with the motions in turn, everything else at random."""
    rng = np.random.default_rng(seed)
    drawn = []
    for place in range(count):
        choices = possible_attributes("any", MOTIONS[place % len(MOTIONS)])
        drawn.append(choices[rng.integers(len(choices))])
    return drawn


def accuracy(count: int, seed: int, *, rough: bool) -> np.ndarray:
    """Share of right answers on fresh drawings: shape, colour, background, motion."""
    scores = []
    for place, look in enumerate(spread_looks(count, seed)):
        frames = shot(look, seed=1000 * seed + place)
        if rough:
            frames = degraded(frames, place)
        scores.append(score(judge_shot(frames), look))
    return np.mean(scores, axis=0)


def test_judge_is_right_on_drawings() -> None:
    assert (accuracy(56, seed=1, rough=False) >= 0.98).all()


def test_judge_is_right_on_mildly_degraded_drawings() -> None:
    assert (accuracy(24, seed=2, rough=True) >= 0.95).all()


@pytest.mark.slow
@pytest.mark.parametrize(("rough", "least"), [(False, 0.98), (True, 0.95)])
def test_judge_is_right_on_many_drawings(rough: bool, least: float) -> None:
    assert (accuracy(400, seed=3, rough=rough) >= least).all()


def test_tables_follow_the_shapes() -> None:
    assert tuple(SYMMETRY) == SHAPES


@settings(max_examples=10)
@given(
    size=st.integers(48, 160),
    fps=st.sampled_from((8.0, 12.0, 16.0, 24.0)),
    look=st.sampled_from(
        [look for motion in MOTIONS for look in possible_attributes("any", motion)]
    ),
    seed=st.integers(0, 2**30),
)
def test_judge_does_not_depend_on_sizes_and_rates(
    size: int, fps: float, look: ShapeAttributes, seed: int
) -> None:
    frames = shot(look, seed, ClipFormat(size=size, fps=fps))
    assert score(judge_shot(frames, fps), look) == Score(True, True, True, True)


@given(shift=st.tuples(st.integers(0, 127), st.integers(0, 127)))
@settings(max_examples=5)
def test_verdict_does_not_depend_on_the_place(shift: tuple[int, int]) -> None:
    frames = shot(ShapeAttributes("heart", "cyan", "black", "spins"), seed=3)
    verdict = judge_shot(np.roll(frames, shift, (1, 2)))
    assert score(verdict, ShapeAttributes("heart", "cyan", "black", "spins")) == Score(
        True, True, True, True
    )


def test_a_perfect_shot_is_steady() -> None:
    verdict = judge_shot(shot(RED_CIRCLE))
    assert verdict.present == 1 and verdict.steadiness == 1
    assert verdict.likeness > 0.98
    assert verdict.drift_per_second < 0.005


def test_a_wrong_attribute_is_noticed() -> None:
    frames = shot(RED_CIRCLE)
    verdict = judge_shot(frames)
    for field, value in (("colour", "orange"), ("shape", "ring"), ("motion", "moves left")):
        right = score(verdict, RED_CIRCLE._replace(**{field: value}))
        assert [f for f, ok in right._asdict().items() if not ok] == [field]
    assert judge_shot(frames[::-1]).motion == "moves left"
    assert judge_shot(frames.transpose(0, 2, 1, 3)).motion == "moves down"


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_frozen_video_is_still(motion: str) -> None:
    frames = shot(ShapeAttributes("cross", "yellow", "navy", motion), seed=5)
    assert judge_shot(frames[:1].repeat(48, 0)).motion == "still"
    stopped = np.concatenate((frames[:30], frames[30:31].repeat(18, 0)))
    assert judge_shot(stopped).motion == "still"


def test_a_missing_object_is_none() -> None:
    frames = np.full((48, 128, 128, 3), BACKGROUNDS["teal"], np.uint8)
    noisy = np.clip(frames + np.random.default_rng(0).normal(0, 6, frames.shape), 0, 255)
    for empty in (frames, noisy.astype(np.uint8)):
        verdict = judge_shot(empty)
        assert (verdict.shape, verdict.colour, verdict.motion) == ("none", "none", "none")
        assert verdict.background == "teal"
        assert verdict.present == 0 and verdict.steadiness == 0


def test_a_shapeless_object_is_unclear() -> None:
    frames = np.full((24, 128, 128, 3), BACKGROUNDS["black"], np.uint8)
    frames[:, 20:100:12, 20:26] = 255
    frames[:, 60:64, 20:90] = 255
    assert judge_shot(frames).shape == "unclear"


def test_a_colour_that_changes_is_not_steady_and_drifts() -> None:
    made = single_shot(ShapeAttributes("star", "green", "black", "orbits"), blocks=2)
    frames = pictures(made, FOUR_SECONDS)
    green = judge_shot(frames)
    fading = frames.astype(np.float32)
    turn = np.linspace(0, 1, 48)[:, None, None, None]
    fading = ((1 - turn) * fading + turn * fading[..., [1, 0, 2]]).astype(np.uint8)
    verdict = judge_shot(fading)
    assert verdict.steadiness <= 0.75 < green.steadiness
    assert verdict.colour_drift > 0.08 > 10 * green.colour_drift


def test_size_drift_is_the_share_of_the_radius_a_second() -> None:
    made = single_shot(ShapeAttributes("star", "green", "black", "grows"), seed=2, blocks=2)
    path = replace(made.shots[0].path, start=0.0, period=16.0)
    path = replace(path, pose=path.pose._replace(radius=0.15))
    made = replace(made, shots=(replace(made.shots[0], path=path),))
    verdict = judge_shot(pictures(made, FOUR_SECONDS))
    assert verdict.motion in ("still", "unclear")
    assert verdict.size_drift == pytest.approx(0.15 / 16 / 0.17, rel=0.15)


def test_clips_are_judged_shot_by_shot() -> None:
    kinds = set()
    for index in range(40):
        made = clip(11, index, blocks=4)
        kind = "cuts" if any(made.cuts) else "changes"
        if len(made.shots) == 1 or (kind, len(made.shots)) in kinds:
            continue
        kinds.add((kind, len(made.shots)))
        starts = [made.format.first_frame(each.first_block) for each in made.shots[1:]]
        verdict = judge_clip(pictures(made), made.format.fps, starts=starts)
        assert verdict.cuts == (tuple(starts) if kind == "cuts" else ())
        for each, judged in zip(made.shots, verdict.shots, strict=True):
            assert score(judged, each.attributes) == Score(True, True, True, True)
    assert {kind for kind, _ in kinds} == {"cuts", "changes"}


def test_cuts_split_a_clip() -> None:
    first = shot(RED_CIRCLE)[:29]
    second = shot(ShapeAttributes("star", "yellow", "black", "spins"), seed=1)[:32]
    verdict = judge_clip(np.concatenate((first, second)))
    assert verdict.cuts == (29,)
    assert [each.shape for each in verdict.shots] == ["circle", "star"]
    assert [each.motion for each in verdict.shots] == ["moves right", "spins"]


@pytest.mark.parametrize("seed", (1, 4, 5))
@pytest.mark.parametrize("colour", ["blue", "red"])
def test_a_smeared_cut_is_found_near_its_frame(colour: str, seed: int) -> None:
    """Of another background; of another colour too, or else of the same one elsewhere."""
    first = shot(RED_CIRCLE, seed=20)[:29].astype(np.float32)
    second = shot(ShapeAttributes("square", colour, "sand", "spins"), seed)[:32].astype(np.float32)
    for place, share in enumerate((0.2, 0.4, 0.6, 0.8)):
        second[place] = (1 - share) * first[-1] + share * second[place]
    frames = np.concatenate((first, second)).round().astype(np.uint8)
    (cut,) = find_cuts(degraded(frames, 0))
    assert abs(cut - 29) <= 2


@pytest.mark.parametrize("motion", MOTIONS)
def test_no_motion_is_taken_for_a_cut(motion: str) -> None:
    for seed in range(2):
        assert find_cuts(shot(ShapeAttributes("diamond", "white", "navy", motion), seed=seed)) == ()


def test_measurements_are_those_of_the_drawing() -> None:
    made = single_shot(ShapeAttributes("triangle", "purple", "sand", "moves left"), seed=6)
    track = made.shots[0].path.track(np.arange(48) / 12)
    measured = measure(pictures(made, FOUR_SECONDS))
    offset = measured.center - np.stack((track.x, track.y), 1)
    assert np.abs(offset - np.round(offset)).max() < 0.6 / 128
    area = 1.15**2 * 3 * math.sqrt(3) / 4
    assert measured.radius == pytest.approx(track.radius * math.sqrt(area / math.pi), rel=0.05)
    assert measured.background == pytest.approx(np.tile(BACKGROUNDS["sand"], (48, 1)))


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_survives_a_trembling_track(motion: str) -> None:
    rng = np.random.default_rng(7)
    for seed in range(12):
        choices = [
            look for look in possible_attributes("any", motion) if look.shape in ("star", "cross")
        ]
        look = choices[rng.integers(len(choices))]
        track = single_shot(look, seed=seed).shots[0].path.track(np.arange(48) / 12)
        center = np.stack((track.x, track.y), 1) + rng.uniform(-1, 1, (48, 2)) / 128
        radius = track.radius * rng.uniform(0.98, 1.02, 48)
        angle = track.angle + rng.uniform(-0.05, 0.05, 48)
        assert classify_motion(center % 1.0, radius, angle, look.shape, 12.0) == motion


def test_a_random_walk_is_no_motion() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        center = np.cumsum(rng.normal(0, 0.05, (48, 2)), 0) % 1.0
        still = np.zeros(48)
        assert classify_motion(center, still + 0.1, still, "star", 12.0) in ("unclear", "still")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: judge_shot(np.zeros((4, 8, 8, 3), np.float32)), "uint8 pictures"),
        (lambda: judge_shot(np.zeros((4, 8, 9, 3), np.uint8)), r"\(4, 8, 9, 3\)"),
        (lambda: judge_shot(np.zeros((0, 8, 8, 3), np.uint8)), "uint8 pictures"),
        (lambda: judge_shot(np.zeros((4, 8, 8, 3), np.uint8), 0), "fps=0"),
        (lambda: judge_clip(np.zeros((4, 8, 8, 3), np.uint8), starts=[0]), r"starts=\(0,\)"),
        (lambda: judge_clip(np.zeros((4, 8, 8, 3), np.uint8), starts=[4]), "rise strictly"),
    ],
)
def test_bad_arguments_are_explained(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
