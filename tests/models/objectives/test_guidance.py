"""Guidance in two conventions: the same velocity, and the same words for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longlive_models.objectives import Guidance, block_causal_mask
from longlive_models.objectives.guidance import NO_GUIDANCE
from longlive_models.wan import TextContext
from tests.models.objectives.unchecked import unchecked

MASK = block_causal_mask(4, 1, 2)
TEXTS = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)


class Recorder:
    """Answers one velocity to a prompt and another to the negative one; remembers the calls."""

    def __init__(self) -> None:
        self.answers = torch.randn(2, 2, 3, 4, 2, 2)
        self.calls: list[tuple] = []

    def __call__(self, latents: Tensor, timesteps: Tensor, text: Tensor, **how: object) -> Tensor:
        self.calls.append((latents, timesteps, text, how))
        return self.answers[int(text[0, 0, 0, 0])]


def velocity(guidance: Guidance, model: Recorder, negative: Tensor | None, **how) -> Tensor:
    latents = torch.randn(2, 3, 4, 2, 2)
    timesteps = torch.full((2, 4), 500.0)
    return guidance.velocity(model, latents, timesteps, TEXTS[0], negative, mask=MASK, **how)


@given(st.floats(-20, 20))
def test_a_number_from_the_conditional_is_one_more_from_the_unconditional(scale):
    one = Guidance(scale=scale, convention="from_conditional")
    other = Guidance(scale=scale + 1, convention="from_unconditional")
    assert one.weight == other.weight
    model = Recorder()
    uncond, cond = model.answers.double()
    got = velocity(one, model, TEXTS[1])
    expected = cond + scale * (cond - uncond)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)


def test_both_formulas_are_printed_whatever_the_convention():
    words = "uncond + 4 (cond - uncond), which is cond + 3 (cond - uncond)"
    assert str(Guidance(scale=3.0, convention="from_conditional")) == words
    assert str(Guidance(scale=4.0)) == words


def test_both_passes_are_asked_the_same_but_for_the_text():
    model, clean = Recorder(), torch.randn(2, 3, 4, 2, 2)
    velocity(Guidance(scale=3.0), model, TEXTS[1], clean=clean)
    (first, t1, text, how1), (second, t2, negative, how2) = model.calls
    assert torch.equal(first, second)
    assert torch.equal(t1, t2)
    assert torch.equal(how1.pop("clean_timesteps"), how2.pop("clean_timesteps"))
    assert how1.keys() == how2.keys() and all(how1[name] is how2[name] for name in how1)
    assert text is TEXTS[0]
    assert negative is TEXTS[1]


def test_passes_together_are_one_batch_and_give_the_same_velocity():
    """Compared with the passes one after the other, of a model that mixes no samples."""
    weight = torch.randn(3, 3)

    def model(latents, timesteps, text, *, mask, positions, clean, clean_timesteps):
        assert len(latents) == len(timesteps) == len(text) == len(positions) == len(clean)
        assert not clean_timesteps.any()
        sizes.append(len(latents))
        mixed = torch.einsum("bcfyx,cd->bdfyx", latents + clean, weight)
        prompt = text.mean((1, 2, 3))[:, None, None, None, None]
        return mixed * timesteps[:, None, :, None, None] + prompt

    latents, clean = torch.randn(2, 2, 3, 4, 2, 2)
    timesteps, positions = torch.rand(2, 4), torch.rand(2, 4)
    texts = torch.randn(2, 1, 5, 7), torch.randn(2, 1, 5, 7)
    sizes: list[int] = []
    one, other = (
        Guidance(scale=3.0, together=together).velocity(
            model, latents, timesteps, *texts, mask=MASK, positions=positions, clean=clean
        )
        for together in (False, True)
    )
    assert sizes == [2, 2, 4]
    torch.testing.assert_close(one, other)


def test_passes_together_take_texts_of_one_kind():
    keys = torch.randn(2, 1, 5, 2, 4)
    embedded = TextContext(((keys, keys + 1),))
    seen = []

    def model(latents, timesteps, text, **how):
        seen.append(text)
        return latents

    how = Guidance(scale=3.0, together=True)
    latents, timesteps = torch.randn(2, 3, 4, 2, 2), torch.rand(2, 4)
    how.velocity(model, latents, timesteps, embedded, embedded, mask=MASK)
    [(k, v)] = seen[0].layers
    assert torch.equal(k, torch.cat((keys, keys)))
    assert torch.equal(v, torch.cat((keys, keys)) + 1)
    with pytest.raises(ValueError, match="two texts of one kind"):
        how.velocity(model, latents, timesteps, embedded, torch.zeros(2, 1, 5, 8), mask=MASK)


def test_without_guidance_there_is_one_pass():
    model = Recorder()
    assert torch.equal(velocity(NO_GUIDANCE, model, None), model.answers[1])
    velocity(Guidance(scale=0.0, convention="from_conditional"), model, TEXTS[1])
    assert len(model.calls) == 2


def test_guidance_without_a_negative_prompt_is_refused():
    with pytest.raises(ValueError, match=r"cond \+ 2 .*negative prompt, got None.*weight of 1"):
        velocity(Guidance(scale=3.0), Recorder(), None)


def test_unknown_conventions_and_wild_scales_are_refused():
    with pytest.raises(ValueError, match="from_unconditional, from_conditional, got 'cfg'"):
        unchecked(Guidance, scale=3.0, convention="cfg")
    with pytest.raises(ValueError, match="scale is a finite number, got nan"):
        Guidance(scale=float("nan"))
