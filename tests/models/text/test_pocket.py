"""The small encoder: masking, training, configuration."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.text import PocketTextConfig, PocketTextEncoder, WordTokenizer

VOCAB = ("a", "red", "blue", "circle", "square", "moves", "left", "right")
PROMPTS = st.lists(st.sampled_from(VOCAB), max_size=6).map(" ".join)
SMALL = PocketTextConfig(vocab=VOCAB, dim=16, ffn_dim=24, text_len=8, num_heads=2)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return PocketTextEncoder(SMALL).eval()


@given(st.lists(PROMPTS, min_size=1, max_size=4))
def test_rows_past_the_end_are_zero_and_others_are_not(encoder, prompts):
    features = encoder.encode(prompts)
    assert features.shape == (len(prompts), encoder.text_len, encoder.text_dim)
    assert features.isfinite().all()
    for row, prompt in zip(features, prompts, strict=True):
        used = len(prompt.split()) + 1
        assert (row[used:] == 0).all()
        assert (row[:used].abs().sum(-1) > 0).all()


@given(PROMPTS, PROMPTS)
def test_a_prompt_does_not_depend_on_its_company(encoder, prompt, other):
    alone = encoder.encode([prompt])
    together = encoder.encode([other, prompt, other])
    torch.testing.assert_close(together[1:2], alone)


def test_padding_is_not_attended_to(encoder):
    changed = copy.deepcopy(encoder)
    with torch.no_grad():
        changed.embedding.weight[WordTokenizer.PAD] = 10 * torch.randn(encoder.text_dim)
    prompts = ["a red circle", ""]
    torch.testing.assert_close(changed.encode(prompts), encoder.encode(prompts))


def test_the_order_of_words_matters(encoder):
    first, second = encoder.encode(["red circle blue square", "blue circle red square"])
    assert (first - second).abs().max() > 0.1


def test_the_empty_prompt_is_defined_and_different(encoder):
    empty, red = encoder.encode(["", "red"])
    assert empty.isfinite().all()
    assert (empty[0] - red[0]).abs().max() > 0.1


def test_every_parameter_learns():
    encoder = PocketTextEncoder(SMALL)
    features = encoder.encode(["a red circle moves left", "blue square moves right", "zebra"])
    (features * torch.randn_like(features)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_it_can_learn_to_tell_prompts_apart():
    torch.manual_seed(0)
    encoder = PocketTextEncoder(SMALL)
    prompts = ["red circle left", "red circle right", "blue circle left", "blue circle right"]
    target = torch.tensor([0.0, 1.0, 1.0, 0.0])  # no single word says which
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    for _ in range(60):
        loss = (encoder.encode(prompts)[:, 0, 0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


def test_the_default_size_is_about_half_a_million_parameters():
    count = sum(p.numel() for p in PocketTextEncoder(PocketTextConfig(vocab=VOCAB)).parameters())
    assert 400_000 < count < 600_000


def test_the_config_survives_its_file_form():
    assert PocketTextConfig.from_dict(SMALL.to_dict()) == SMALL


def test_unknown_and_missing_keys_are_refused():
    with pytest.raises(ValueError, match="has no key 'text_length'; did you mean 'text_len'"):
        PocketTextConfig.from_dict({"vocab": ["a"], "text_length": 4})
    with pytest.raises(ValueError, match="lacks vocab"):
        PocketTextConfig.from_dict({"dim": 8})


def test_heads_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="dim=10 and num_heads=4.*Use dim=8"):
        PocketTextConfig(vocab=("a",), dim=10)
