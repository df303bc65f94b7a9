"""WanTransformer: its four uses, what they have in common, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from longlive_models.objectives import block_causal_mask, teacher_forcing_mask
from longlive_models.wan import WanTransformer
from longlive_models.wan.embeddings import PatchEmbedding, sinusoid, unpatchify
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

EXACT = {"rtol": 0.0, "atol": 1e-11}


def test_patches_are_a_strided_convolution():
    embedding = PatchEmbedding(3, 8, (1, 2, 2)).double()
    for parameter in embedding.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 4, 6, 8, dtype=torch.float64)
    whole = nn.functional.conv3d(x, embedding.weight, embedding.bias, stride=(1, 2, 2))
    torch.testing.assert_close(embedding(x), whole.flatten(3).permute(0, 2, 3, 1), **EXACT)


def test_unpatchify_puts_channels_fastest():
    values = torch.arange(2 * 6 * 12).reshape(1, 2, 6, 12).float()
    latents = unpatchify(values, (3, 2), (1, 2, 2))
    assert latents.shape == (1, 3, 2, 6, 4)
    frame, row, column, channel = 1, 5, 2, 2
    token, within = (row // 2) * 2 + column // 2, (row % 2) * 2 + column % 2
    assert latents[0, channel, frame, row, column] == values[0, frame, token, within * 3 + channel]


def test_a_timestep_is_cosines_then_sines():
    wide = sinusoid(torch.tensor([[0.0, 875.5]]), 8)
    angles = 875.5 * 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    torch.testing.assert_close(wide[0, 1], torch.cat((angles.cos(), angles.sin())), **EXACT)
    assert wide[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_an_untrained_model_answers_zero():
    latents, timesteps, text = inputs(frames=2)
    assert not WanTransformer(TINY).double()(latents, timesteps, text).any()


@given(st.integers(0, 2**16), st.sampled_from([1, 2, 4]))
def test_text_embedded_once_gives_the_same_bits(seed, segments):
    model = tiny_model()
    latents, timesteps, text = inputs(frames=4, segments=segments, seed=seed)
    context = model.embed_text(text)
    assert torch.equal(model(latents, timesteps, context), model(latents, timesteps, text))


def test_short_text_is_padded_with_zeros_that_attend():
    model = tiny_model()
    latents, timesteps, text = inputs(frames=2)
    short = text[:, :, :3]
    padded = torch.cat((short, torch.zeros_like(text[:, :, 3:])), dim=2)
    assert torch.equal(model(latents, timesteps, short), model(latents, timesteps, padded))


def test_one_segment_a_block_equals_one_text_repeated():
    model = tiny_model()
    latents, timesteps, text = inputs(frames=4)
    repeated = text.expand(-1, 2, -1, -1)
    got, want = model(latents, timesteps, repeated), model(latents, timesteps, text)
    torch.testing.assert_close(got, want, **EXACT)


def test_a_timestep_a_token_says_the_same_as_one_a_frame():
    model = tiny_model()
    latents, timesteps, text = inputs(frames=4)
    each = timesteps.repeat_interleave(TOKENS, dim=1)
    got, want = model(latents, each, text), model(latents, timesteps, text)
    torch.testing.assert_close(got, want, **EXACT)


def test_positions_default_to_counting_and_only_differences_matter():
    model = tiny_model()
    latents, timesteps, text = inputs(frames=4)
    plain = model(latents, timesteps, text)
    counted = torch.arange(4.0)
    assert torch.equal(plain, model(latents, timesteps, text, positions=counted))
    assert torch.equal(plain, model(latents, timesteps, text, positions=counted.expand(2, -1)))
    torch.testing.assert_close(
        plain, model(latents, timesteps, text, positions=counted + 5000), **EXACT
    )
    jumped = counted + torch.tensor([0.0, 0.0, 8.0, 8.0])
    assert (plain - model(latents, timesteps, text, positions=jumped)).abs().max() > 1e-4
    scaled = model(latents, timesteps, text, positions=2 * counted, t_scale=0.5)
    torch.testing.assert_close(plain, scaled, **EXACT)


@given(st.integers(2, 5), st.data())
def test_a_block_does_not_depend_on_later_ones(blocks, data):
    model = tiny_model()
    frames = blocks * TINY.frames_per_block
    latents, timesteps, text = inputs(frames=frames, batch=1)
    mask = block_causal_mask(frames, TOKENS, TINY.frames_per_block)
    cut = data.draw(st.integers(1, blocks - 1)) * TINY.frames_per_block
    changed = latents.clone()
    changed[:, :, cut:] += 1
    before, after = (model(x, timesteps, text, mask=mask) for x in (latents, changed))
    torch.testing.assert_close(before[:, :, :cut], after[:, :, :cut], **EXACT)
    assert ((before - after)[:, :, cut:].abs().amax((0, 1, 3, 4)) > 1e-6).all()


@given(st.integers(2, 4), st.data())
def test_a_noisy_block_depends_on_the_clean_past_and_on_itself_alone(blocks, data):
    model = tiny_model()
    frames = blocks * TINY.frames_per_block
    noisy, timesteps, text = inputs(frames=frames, batch=1)
    clean, *_ = inputs(frames=frames, batch=1, seed=1)
    mask = teacher_forcing_mask(frames, TOKENS, TINY.frames_per_block)
    plain = model(noisy, timesteps, text, clean=clean, mask=mask)
    changed_block = data.draw(st.integers(0, blocks - 1))
    bump = torch.zeros_like(noisy)
    bump.unflatten(2, (blocks, -1))[:, :, changed_block] = 1

    def blocks_that_change(noisy: torch.Tensor, clean: torch.Tensor) -> list[bool]:
        other = model(noisy, timesteps, text, clean=clean, mask=mask)
        by_frame = (plain - other).abs().amax((0, 1, 3, 4))
        return (by_frame.unflatten(0, (blocks, -1)).amax(1) > 1e-9).tolist()

    assert blocks_that_change(noisy + bump, clean) == [i == changed_block for i in range(blocks)]
    assert blocks_that_change(noisy, clean + bump) == [i > changed_block for i in range(blocks)]


@pytest.mark.parametrize("teacher_forcing", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_every_parameter_has_a_gradient(teacher_forcing, checkpointing):
    model = tiny_model(gradient_checkpointing=checkpointing)
    noisy, timesteps, text = inputs(frames=4, segments=2)
    clean, *_ = inputs(frames=4, seed=1)
    how = {"mask": teacher_forcing_mask(4, TOKENS, 2), "clean": clean} if teacher_forcing else {}
    model(noisy, timesteps, text, **how).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith(".k.bias"):
            assert parameter.grad.abs().max() > 0, name


def test_checkpointing_changes_no_gradient():
    latents, timesteps, text = inputs(frames=4)
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(gradient_checkpointing=checkpointing)
        model(latents, timesteps, text).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, **EXACT, msg=name)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_masked_backends_agree_in_value_and_gradient(backend):
    latents, timesteps, text = inputs(frames=4)
    mask = block_causal_mask(4, TOKENS, 2)
    results = []
    for name in (backend, "reference"):
        model = tiny_model(attention=name, masked_attention=name)
        out = model(latents, timesteps, text, mask=mask)
        out.square().mean().backward()
        results.append((out, model.blocks[0].self_attn.q.weight.grad))
    torch.testing.assert_close(results[0], results[1], **EXACT)


def test_half_precision_weights_take_and_return_float32_latents():
    latents, timesteps, text = inputs(frames=2)
    model = tiny_model()
    want = model(latents, timesteps, text)
    got = model.bfloat16()(latents.float(), timesteps.float(), text.float())
    assert got.dtype == torch.float32
    assert (got.double() - want).norm() < 0.1 * want.norm()


def test_autocast_keeps_the_ends_and_the_timesteps_in_float32():
    latents, timesteps, text = (x.float() for x in inputs(frames=2))
    model = tiny_model().float()
    seen = {}
    for name in ("patch_embedding", "time_projection", "blocks.0", "blocks.0.ffn.0", "head"):

        def keep(_module, _args, out, name=name):
            seen[name] = out.dtype

        model.get_submodule(name).register_forward_hook(keep)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(latents, timesteps, text)
    inside = seen.pop("blocks.0.ffn.0")
    assert inside == torch.bfloat16
    assert set(seen.values()) == {torch.float32}
    want = model(latents, timesteps, text)
    assert (got - want).norm() < 0.05 * want.norm()


def test_what_does_not_fit_together_is_refused():
    model = tiny_model()
    latents, timesteps, text = inputs(frames=4)
    mask = block_causal_mask(4, TOKENS, 2)
    with pytest.raises(ValueError, match=r"one entry a frame \(4\) or a token \(8\), got 1"):
        model(latents, timesteps[:, :1], text)
    with pytest.raises(ValueError, match="3 segments for 4 frames"):
        model(latents, timesteps, text.repeat(1, 3, 1, 1))
    with pytest.raises(ValueError, match="clean needs a mask.*sees its own clean copy"):
        model(latents, timesteps, text, clean=latents)
    with pytest.raises(ValueError, match="memory takes neither mask nor clean"):
        model(latents, timesteps, text, mask=mask, memory=_Nothing())
    with pytest.raises(ValueError, match="key_positions without a memory"):
        model(latents, timesteps, text, key_positions=torch.arange(4.0))
    with pytest.raises(ValueError, match="at most 5 tokens of 10, got shape"):
        model(latents, timesteps, text.repeat(1, 1, 2, 1))
    with pytest.raises(ValueError, match="do not divide into patches"):
        model(latents[..., :1], timesteps, text)


class _Nothing:
    def write(self, layer, k, v, *, clean):
        raise AssertionError

    def read(self, layer):
        raise AssertionError


def test_norms_can_be_left_out():
    config = replace(TINY, qk_norm=False, cross_attn_norm=False)
    names = tiny_model(config).state_dict().keys()
    assert not any("norm" in name for name in names)
    latents, timesteps, text = inputs(frames=2)
    assert tiny_model(config)(latents, timesteps, text).shape == latents.shape
