"""The bank of errors against a plain list of all that was ever added, and its bounds."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.objectives import ErrorBank, ErrorBankConfig
from tests.models.objectives.unchecked import unchecked

ADDED = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 3)), max_size=60)


def number(value: float) -> torch.Tensor:
    return torch.full((2, 1), float(value))


def filled(config: ErrorBankConfig, added: list[tuple[int, int]]) -> ErrorBank:
    bank, chance = ErrorBank(config, dtype=torch.float32), random.Random(0)
    for n, (index, block) in enumerate(added):
        bank.add(number(n), index, chance, block=block)
    return bank


@given(ADDED, st.integers(1, 7), st.integers(1, 4), st.integers(0, 3))
def test_the_oldest_goes_first(added, buckets, size, blocks):
    bank = filled(
        ErrorBankConfig(buckets=buckets, bucket_size=size, replacement="fifo", blocks=blocks), added
    )
    wanted: dict[tuple[int, int], list[int]] = {}
    for n, (index, block) in enumerate(added):
        place = (min(block, max(blocks, 1) - 1), index * buckets // 1000)
        wanted[place] = [*wanted.get(place, []), n][-size:]
    assert {p: [int(e[0, 0]) for e in held] for p, held in bank.entries.items()} == wanted
    assert bank.added == len(added)
    assert len(bank) <= bank.config.most_entries


@given(ADDED, st.sampled_from(["random", "nearest"]))
def test_a_bank_is_bounded_and_holds_what_was_added(added, replacement):
    config = ErrorBankConfig(buckets=3, bucket_size=2, replacement=replacement)
    bank = filled(config, added)
    assert len(bank) <= config.most_entries == 6
    for (_, bucket), held in bank.entries.items():
        for error in held:
            assert config.bucket(added[int(error[0, 0])][0]) == bucket


def test_the_nearest_is_the_one_that_is_replaced():
    bank = ErrorBank(ErrorBankConfig(buckets=1, bucket_size=2, replacement="nearest"))
    for value in (0, 10, 8):
        bank.add(number(value), 0, random.Random(0))
    assert [int(error[0, 0]) for error in bank.held()] == [0, 8]


@given(ADDED, st.integers(1, 4))
def test_ranks_share_what_one_bank_would_hold(added, ranks):
    whole = filled(ErrorBankConfig(buckets=8, bucket_size=3, replacement="fifo"), added)
    parts = {}
    for rank in range(ranks):
        config = ErrorBankConfig(
            buckets=8, bucket_size=3, replacement="fifo", rank=rank, ranks=ranks
        )
        assert all(config.nearest_owned(own) == own for own in config.owned)
        parts |= filled(config, added).entries
    assert {p: torch.cat(held).tolist() for p, held in parts.items()} == {
        p: torch.cat(held).tolist() for p, held in whole.entries.items()
    }


def test_a_sample_is_of_its_level_and_scaled_within_bounds():
    bank = filled(ErrorBankConfig(buckets=2, bucket_size=4), [(0, 0), (999, 0)])
    bank.entries[0, 0], bank.entries[0, 1] = [number(1)], [number(5)]
    chance = random.Random(0)
    low = torch.stack([bank.sample(499, chance) for _ in range(200)])
    assert 0.7 <= low.min() < 0.75
    assert 1.25 < low.max() <= 1.3
    assert bank.sample(500, chance).min() >= 3.5
    kinds = {bool(bank.sample_any(chance).max() > 2) for _ in range(50)}
    assert kinds == {True, False}


def test_an_empty_bucket_gives_nothing():
    bank = filled(ErrorBankConfig(buckets=2), [(0, 0)])
    assert bank.sample(999, random.Random(0)) is None
    assert ErrorBank(ErrorBankConfig()).sample_any(random.Random(0)) is None


def test_errors_are_copies_on_the_cpu_without_a_graph():
    error = torch.ones(2, 1, requires_grad=True)
    bank = ErrorBank(ErrorBankConfig(modulation=0.0))
    bank.add(error, 0, random.Random(0))
    with torch.no_grad():
        error.mul_(7)
    [kept] = bank.held()
    assert kept.dtype == torch.bfloat16
    assert not kept.requires_grad
    assert torch.equal(bank.sample(0, random.Random(0)), torch.ones(2, 1))


@given(ADDED)
def test_a_bank_goes_on_from_a_checkpoint_as_if_nothing_had_happened(added):
    config = ErrorBankConfig(buckets=4, bucket_size=2, blocks=2)
    bank, resumed = filled(config, added), ErrorBank(config, dtype=torch.float32)
    resumed.load_state_dict(bank.state_dict())
    chances = random.Random(5), random.Random(5)
    for one, chance in zip((bank, resumed), chances, strict=True):
        for n in range(20):
            one.add(number(100 + n), 37 * n, chance, block=n % 2)
    assert resumed.added == bank.added
    assert {p: torch.stack(h).tolist() for p, h in resumed.entries.items()} == {
        p: torch.stack(h).tolist() for p, h in bank.entries.items()
    }


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"buckets": 2}, "block 1 and bucket 3 have no place"),
        ({"blocks": 1}, "block 1 and bucket 3 have no place"),
        ({"bucket_size": 1}, "2 errors of block 1 and bucket 3 are more than bucket_size 1"),
    ],
)
def test_a_checkpoint_of_another_bank_is_refused_and_nothing_is_loaded(other, words):
    settings = {"buckets": 4, "bucket_size": 2, "blocks": 2}
    state = filled(ErrorBankConfig(**settings), [(999, 1), (999, 1)]).state_dict()
    bank = ErrorBank(ErrorBankConfig(**{**settings, **other}))
    with pytest.raises(ValueError, match=words):
        bank.load_state_dict(state)
    assert not bank.entries


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"replacement": "lru"}, "random, fifo, nearest, got 'lru'"),
        ({"bucket_size": 0}, "bucket_size"),
        ({"modulation": 1.5}, "modulation"),
        ({"rank": 2, "ranks": 2}, "rank"),
        ({"buckets": 2, "rank": 2, "ranks": 4}, "each rank keeps a bucket"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        unchecked(ErrorBankConfig, **wrong)
