"""What all text encoders share: distinct prompts run once, padding is zero."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.text import PocketTextConfig, PocketTextEncoder, TextEncoder
from longlive_models.text.encoder import encode_distinct, zero_padding


@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=8))
def test_distinct_prompts_are_encoded_once_and_handed_to_all(prompts):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return torch.tensor([float(len(text) and ord(text)) for text in texts])[:, None, None]

    features = encode_distinct(prompts, encode)
    assert sorted(asked) == sorted(set(prompts))
    assert features.flatten().tolist() == [float(len(text) and ord(text)) for text in prompts]


def test_padding_rows_are_zero_even_where_the_encoder_gave_none():
    features = torch.full((2, 3, 2), float("nan"))
    features[0, :2] = 1
    features[1, :1] = 2
    mask = torch.tensor([[True, True, False], [True, False, False]])
    padded = zero_padding(features, mask, 5)
    assert padded[0].tolist() == [[1, 1], [1, 1], [0, 0], [0, 0], [0, 0]]
    assert padded[1].tolist() == [[2, 2], [0, 0], [0, 0], [0, 0], [0, 0]]


def test_a_single_text_and_an_empty_list_are_refused():
    encoder = PocketTextEncoder(PocketTextConfig(vocab=("a",), dim=8, ffn_dim=8))
    with pytest.raises(ValueError, match=r"list of prompts, got the text 'a red'.*\['a red'\]"):
        encoder.encode("a red")
    with pytest.raises(ValueError, match=r"at least one prompt, got none"):
        encoder.encode([])


def test_the_small_encoder_satisfies_the_protocol():
    assert isinstance(
        PocketTextEncoder(PocketTextConfig(vocab=("a",), dim=8, ffn_dim=8)), TextEncoder
    )


def test_importing_the_package_leaves_transformers_alone():
    code = "import sys, longlive_models.text; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
