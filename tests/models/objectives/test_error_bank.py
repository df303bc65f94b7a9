"""The bank of errors against a plain list of all that was ever added, and its bounds."""

import errno
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longlive_models.objectives import ErrorBank, ErrorBankConfig
from longlive_recipes.training.checkpoint_files import write_whole
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


def on_disk(config: ErrorBankConfig, folder: Path) -> ErrorBank:
    return ErrorBank(replace(config, store="disk"), dtype=torch.float32, folder=folder)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ADDED, st.sampled_from(["random", "fifo", "nearest"]), st.integers(0, 2))
def test_a_bank_on_a_disk_holds_and_draws_what_one_in_memory_does(tmp_path, added, how, blocks):
    """Also once a checkpoint was made, and from a checkpoint of either kind."""
    config = ErrorBankConfig(buckets=3, bucket_size=2, replacement=how, blocks=blocks)
    banks = ErrorBank(config, dtype=torch.float32), on_disk(config, tmp_path)
    chances = random.Random(0), random.Random(0)
    for n, (index, block) in enumerate(added):
        drawn = []
        for bank, chance in zip(banks, chances, strict=True):
            bank.add(number(n), index, chance, block=block)
            drawn.append((bank.sample(500, chance), bank.sample_any(chance, block=block)))
        if n % 7 == 0:  # once all have taken it in
            for bank in banks:
                bank.load_state_dict(banks[n % 2].state_dict())
        for one, other in zip(*drawn, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
    memory, disk = (bank.state_dict() for bank in banks)
    assert memory["added"] == disk["added"]
    assert memory["errors"].keys() == disk["errors"].keys()
    assert all(torch.equal(e, disk["errors"][place]) for place, e in memory["errors"].items())
    assert not list(tmp_path.iterdir())  # the files have no names, and go with the process


def test_a_checkpoint_keeps_the_errors_of_its_time(tmp_path):
    config = ErrorBankConfig(buckets=1, bucket_size=3)
    bank, file = on_disk(config, tmp_path / "errors"), tmp_path / "last.ckpt"
    for value in range(3):
        bank.add(number(value), 0, random.Random(0))
    write_whole(bank.state_dict(), file)
    for value in range(10, 30):
        bank.add(number(value), 0, random.Random(value))
    assert min(int(error[0, 0]) for error in bank.held()) >= 10
    resumed = on_disk(config, tmp_path / "errors")
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [int(error[0, 0]) for error in resumed.held()] == [0, 1, 2]
    assert resumed.added == 3


def test_what_a_checkpoint_takes_grows_with_the_places_that_are_used(tmp_path):
    bank = on_disk(ErrorBankConfig(buckets=10, bucket_size=4), tmp_path)
    shape = (64, 64)
    for index, most in ((0, 5), (999, 9)):
        bank.add(torch.zeros(shape), index, random.Random(0))
        write_whole(bank.state_dict(), tmp_path / "last.ckpt")
        assert (tmp_path / "last.ckpt").stat().st_size < most * 4 * 64 * 64 * 4


def test_a_full_disk_is_told_before_numbers_are_written(tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    bank = on_disk(ErrorBankConfig(), tmp_path)
    with pytest.raises(OSError, match="No space left on device"):
        bank.add(number(1), 0, random.Random(0))
    assert not list(tmp_path.iterdir())


def test_a_bank_on_a_disk_needs_a_folder():
    with pytest.raises(ValueError, match="needs a folder"):
        ErrorBank(ErrorBankConfig(store="disk"))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"buckets": 2}, "block 1 and bucket 3 have no place"),
        ({"blocks": 1}, "block 1 and bucket 3 have no place"),
        ({"bucket_size": 1}, "2 errors of block 1 and bucket 3 are more than bucket_size 1"),
    ],
)
def test_a_checkpoint_of_another_bank_is_refused_and_nothing_is_loaded(other, words):
    usual = {"buckets": 4, "bucket_size": 2, "blocks": 2}
    state = filled(ErrorBankConfig(**usual), [(999, 1), (999, 1)]).state_dict()
    bank = ErrorBank(ErrorBankConfig(**{**usual, **other}))
    with pytest.raises(ValueError, match=words):
        bank.load_state_dict(state)
    assert not bank.entries


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"replacement": "lru"}, "random, fifo, nearest, got 'lru'"),
        ({"bucket_size": 0}, "bucket_size"),
        ({"modulation": 1.5}, "modulation"),
        ({"store": "tape"}, "one of memory, disk, got 'tape'"),
        ({"rank": 2, "ranks": 2}, "rank"),
        ({"buckets": 2, "rank": 2, "ranks": 4}, "each rank keeps a bucket"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        unchecked(ErrorBankConfig, **wrong)


def test_of_two_buckets_as_close_the_higher_one_is_taken():
    bank = ErrorBankConfig(buckets=6, ranks=2)
    assert bank.owned == (0, 2, 4)
    assert [bank.nearest_owned(bucket) for bucket in range(6)] == [0, 2, 2, 4, 4, 4]
