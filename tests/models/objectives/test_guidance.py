"""Guidance in two conventions: the same velocity, and the same words for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longlive_models.objectives import Guidance, block_causal_mask
from longlive_models.objectives.guidance import NO_GUIDANCE
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
