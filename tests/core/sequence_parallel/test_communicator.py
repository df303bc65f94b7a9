"""The communicator on real ranks: what one rank would have computed, gradients included."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup
from longlive_models.wan import HeadExchange
from tests.core.sequence_parallel import on_ranks
from tests.processes import RankError, Ranks

ROOT = Path(__file__).parents[3]
EVEN = {"frames": 8, "tokens_per_frame": 2, "frames_per_block": 2}
ONE_COPY = {"frames": 4, "tokens_per_frame": 3, "copies": 1}
UNEVEN = {"frames": 9, "tokens_per_frame": 2, "frames_per_block": 2}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("sizes", [EVEN, ONE_COPY, UNEVEN], ids=["even", "one copy", "uneven"])
@pytest.mark.parametrize("heads", [4, 5])
def test_exchanged_attention_is_that_of_the_whole(ranks: Ranks, size, sizes, heads):
    for errors in ranks(size, on_ranks.exchange_and_back, sizes, heads):
        assert errors["to_heads"] == 0
        assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("sizes", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_gather_gives_every_frame_and_sums_gradients(ranks: Ranks, size, sizes):
    for errors in ranks(size, on_ranks.gathered, sizes):
        assert errors["gather"] == errors["negative dim"] == 0
        assert errors["gradient"] < 1e-12


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("heads", [4, 5])
@pytest.mark.parametrize("sizes", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_text_that_every_rank_holds_attends_with_the_video(ranks: Ranks, size, heads, sizes):
    for errors in ranks(size, on_ranks.joint, sizes, heads):
        assert max(errors.values()) < 1e-12, errors


def test_other_heads_of_text_are_refused(ranks: Ranks):
    _, (shape, taken, given) = ranks(2, on_ranks.wrong_heads_of_text)
    assert shape == (1, 7, 1, 4)
    assert taken.startswith("rank 1 of 2 has 3 heads of such tokens here, got 2")
    assert given.startswith("rank 1 of 2 has 1 heads of such tokens here, got 3")


@pytest.mark.parametrize("masked", [(), (0,), (5, 6, 7), tuple(range(8))])
def test_masked_mean_and_its_gradient_do_not_depend_on_ranks(ranks: Ranks, masked):
    whole = torch.arange(1.0, 9, dtype=torch.float64)
    counted = torch.tensor([frame not in masked for frame in range(8)])
    parameter = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    losses = (whole * parameter[0] + parameter[1]).square()
    want = (losses * counted).sum() / counted.sum().clamp_min(1)
    (want / 4).backward()
    for size in (1, 2, 4):
        for value, gradient, nothing in ranks(size, on_ranks.masked_means, EVEN, masked):
            assert value == pytest.approx(float(want.detach()), rel=1e-12)
            assert gradient == pytest.approx(parameter.grad.tolist(), rel=1e-12)
            assert nothing == 0


def test_the_largest_of_all_ranks_is_on_every_rank(ranks: Ranks):
    assert ranks(3, on_ranks.largest) == [[2.0, 0.0]] * 3


@pytest.mark.parametrize("size", [2, 4])
def test_bytes_to_others_are_counted(ranks: Ranks, size):
    """Eight exchanges of a rank's tokens, all but its own share of them."""
    held = 24 // size * 4 * 8
    for dtype in (torch.bfloat16, torch.float32):
        want = 8 * held * dtype.itemsize * (size - 1) // size
        assert ranks(size, on_ranks.bytes_sent, dtype) == [want] * size


def test_exchanges_start_before_others_arrive_in_both_directions(ranks: Ranks):
    order = ["send", "computed", "arrive", "backward", "send", "arrive"]
    assert ranks(2, on_ranks.in_flight_order) == [order] * 2


def test_an_exchange_keeps_no_graph_alive(ranks: Ranks):
    assert ranks(2, on_ranks.graph_is_freed) == [True, True]


def test_a_wire_that_rounds_carries_no_gradient(ranks: Ranks):
    for message in ranks(2, on_ranks.rounded_with_gradient):
        assert "Rounding() rounds what it sends, so it carries no gradient" in message
        assert "torch.no_grad()" in message


def test_one_rank_communicates_nothing():
    """torch.distributed is not initialized in this process."""
    assert not torch.distributed.is_initialized()
    sp = BalancedSP(SequenceGroup(), BalancedPartition(ranks=1, **UNEVEN), heads=5)
    assert isinstance(sp, HeadExchange)
    q, k, v = (torch.randn(1, 36, 5, 4, requires_grad=True) for _ in range(3))
    assert all(a is b for a, b in zip(sp.to_heads(q, k, v), (q, k, v), strict=True))
    assert sp.to_sequence(q) is q and sp.heads == range(5) and sp.blocks == range(5)
    frames = torch.randn(2, 9)
    assert sp.gather(frames, dim=1) is frames
    torch.testing.assert_close(sp.shard(frames, dim=1), frames)
    torch.testing.assert_close(sp.masked_mean(frames), frames.mean())
    assert sp.max_over_group(frames) is frames
    assert sp.bytes_sent == 0


def test_what_does_not_fit_is_refused_with_its_numbers():
    partition = BalancedPartition(ranks=1, **EVEN)
    sp = BalancedSP(SequenceGroup(), partition, heads=4)
    with pytest.raises(ValueError, match="exchanges 32 tokens of 4 heads here, got 30 tokens of 4"):
        sp.start(torch.zeros(1, 30, 4, 2))
    with pytest.raises(ValueError, match="should count 8 frames, and has 7 entries"):
        sp.shard(torch.zeros(2, 7), dim=1)
    with pytest.raises(ValueError, match="should count 4 blocks, and has 8 entries"):
        sp.shard_blocks(torch.zeros(2, 8), dim=1)
    with pytest.raises(ValueError, match="the partition is for 2 ranks, the group has 1"):
        sp.over(BalancedPartition(ranks=2, **EVEN))
    longer = sp.over(BalancedPartition(ranks=1, **{**EVEN, "frames": 12}))
    assert (len(longer.frames), len(sp.frames), longer.heads) == (12, 8, sp.heads)
    assert (longer.wire, longer.round_alone) == (sp.wire, sp.round_alone)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        SequenceGroup(2, 2)
    with pytest.raises(ValueError, match="2 ranks has no process group"):
        SequenceGroup(0, 2)


@pytest.fixture(scope="module")
def doomed():
    """Ranks for tests that break them."""
    with Ranks(2, timeout=15) as two:
        yield two


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raises", RankError, "(?s)rank 1: .*ValueError: rank one has had enough"),
        ("dies", RankError, "rank 1 died with exit code 7"),
    ],
)
def test_a_rank_that_goes_wrong_ends_the_call_with_its_own_error(doomed, how, error, message):
    start = time.monotonic()
    with pytest.raises(error, match=message):
        doomed(2, on_ranks.one_fails, how)
    assert time.monotonic() - start < 30


def test_grouped_heads_take_a_second_exchange(ranks: Ranks):
    assert max(ranks(2, on_ranks.grouped, EVEN)) < 1e-12
    with pytest.raises(RankError, match="got 16 tokens of 4 heads.*BalancedSP of their own"):
        ranks(2, on_ranks.fewer_heads, EVEN)


def test_a_compiled_block_exchanges_in_one_graph(tmp_path):
    run = [sys.executable, "-m", "tests.core.sequence_parallel.compiled_exchange"]
    how = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*run, str(rank), str(tmp_path)], **how) for rank in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
