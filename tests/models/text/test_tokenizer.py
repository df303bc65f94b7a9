"""Cleaning and the word tokenizer: round trips, limits, messages."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.prompts.report import PromptReport
from longlive_models.text import WordTokenizer
from longlive_models.text.tokenizer import clean, words

VOCAB = ("a", "red", "circle", "moves", "right", "on", "navy", "background", "half-size", "it's")


@given(st.lists(st.sampled_from(VOCAB), max_size=9))
def test_known_words_come_back(chosen):
    tokenizer = WordTokenizer(VOCAB, text_len=10)
    ids = tokenizer.tokenize([" ".join(chosen)])
    assert tokenizer.detokenize(ids[0]) == " ".join(chosen)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.integers(1, 12))
def test_any_text_becomes_words_one_end_and_padding(prompts, text_len):
    tokenizer = WordTokenizer(VOCAB, text_len=text_len)
    ids = tokenizer.tokenize(prompts)
    assert ids.shape == (len(prompts), text_len)
    assert ids.dtype == torch.int64
    for row, prompt in zip(ids.tolist(), prompts, strict=True):
        end = row.index(tokenizer.END)
        assert end == min(len(words(prompt)), text_len - 1)
        assert tokenizer.PAD not in row[:end]
        assert set(row[end + 1 :]) <= {tokenizer.PAD}
        assert max(row) < len(tokenizer)


@given(st.text(max_size=60))
def test_cleaning_settles(prompt):
    once = clean(prompt)
    assert clean(once) == once or "&" in once  # an escape of an escape may be left
    assert "  " not in once
    assert once == once.strip()


def test_cleaning_undoes_html_twice_and_collapses_white_space():
    assert clean(" a &amp;amp; b\n\t c ") == "a & b c"


def test_case_and_punctuation_do_not_matter():
    tokenizer = WordTokenizer(VOCAB, text_len=8)
    plain, dressed = tokenizer.tokenize(["a red circle moves", "  A RED, circle... moves!"])
    assert torch.equal(plain, dressed)


def test_the_empty_prompt_is_one_end():
    assert WordTokenizer(VOCAB, text_len=4).tokenize([""]).tolist() == [[2, 0, 0, 0]]


def test_unknown_words_are_named_once_and_in_order():
    tokenizer = WordTokenizer(VOCAB, text_len=8)
    assert tokenizer.unknown("a zebra on a unicycle, a zebra") == ("zebra", "unicycle")
    assert tokenizer.tokenize(["a zebra"]).tolist()[0][:3] == [3, tokenizer.UNKNOWN, 2]


def test_a_word_that_could_never_match_is_refused():
    with pytest.raises(ValueError, match=r"got 'Red'.*Use \['red'\]"):
        WordTokenizer(("Red",), text_len=4)
    with pytest.raises(ValueError, match="got 'dark red'"):
        WordTokenizer(("dark red",), text_len=4)


def test_a_word_listed_twice_is_refused():
    with pytest.raises(ValueError, match="got red more than once.*Remove"):
        WordTokenizer(("red", "blue", "red"), text_len=4)


def test_what_is_not_taken_of_a_prompt_is_reported():
    tokenizer = WordTokenizer(("a", "red", "circle"), 5)
    report = tokenizer.read("A photo of a red, RED circle \u2764 in a red circle")
    assert report == PromptReport(
        unknown=("photo", "of", "in", "\u2764"),
        left_out="red red circle in a red circle",
        limit="4 words",
    )
    assert tokenizer.read("a red circle") == PromptReport(limit="4 words")
    assert tokenizer.known_words == ("a", "red", "circle")


@given(st.lists(st.sampled_from(["a", "red", "cat", "rain"]), max_size=9), st.integers(1, 9))
def test_what_is_read_and_what_is_left_out_is_all(chosen, text_len):
    tokenizer = WordTokenizer(("a", "red"), text_len)
    prompt = " ".join(chosen)
    left_out = tokenizer.read(prompt).left_out.split()
    read = (tokenizer.tokenize([prompt]) > WordTokenizer.END).sum()
    read += (tokenizer.tokenize([prompt]) == WordTokenizer.UNKNOWN).sum()
    assert chosen[int(read) :] == left_out
