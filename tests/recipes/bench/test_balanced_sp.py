"""Two ranks are compared with one before anything is timed, and what they send is counted."""

from dataclasses import replace

import pytest
import torch

from longlive_recipes.bench import balanced_sp
from longlive_recipes.bench.balanced_sp import encoding_rows, training_rows
from longlive_recipes.bench.options import BalancedSPOptions
from longlive_recipes.bench.run import prepare
from longlive_recipes.bench.shared_sizes import Sizes, check_as_one_rank
from tests.models.tiny_pipeline import write_tiny_folder


@pytest.fixture
def small(tmp_path) -> BalancedSPOptions:
    return BalancedSPOptions(
        ranks=(2,),
        layers=1,
        heads=2,
        head_dim=64,
        ffn=32,
        latent_frames=16,
        height=16,
        width=16,
        pages=3,
        steps=1,
        repeats=1,
        video_seconds=1.0,
        video_model=str(write_tiny_folder(tmp_path / "model")),
    )


def test_one_and_two_ranks_are_checked_and_measured(small):
    prepared = prepare("balanced_sp", small)
    record = prepared.measure()
    assert prepared.stem == "balanced_sp_cpu"
    step, encoding, both, block, wires, video = record["parts"].values()
    for rows in (step, encoding, both, block, video):
        assert list(rows) == ["1 rank", "2 ranks"]
    assert list(wires) == [f"2 ranks, {name}" for name in ("plain", "fp8", "nvfp4")]
    assert step["1 rank"]["mib_sent"] == 0
    # a rank sends half of its q, k, v and output, there and back
    tokens, dim = 16 * 1, 2 * 64
    assert step["2 ranks"]["mib_sent"] * 2**20 == 8 * tokens * dim / 2 * 4
    assert step["2 ranks"]["unbalanced_mib_sent"] == step["2 ranks"]["mib_sent"]
    # a pass, and of the clean one keys and values, each of half a block
    assert wires["2 ranks, plain"]["mib_sent"] * 2**20 == (4 + 2) * 4 * dim / 2 * 4
    assert wires["2 ranks, nvfp4"]["times_fewer_than_bf16"] > 3.4
    assert 0 == wires["2 ranks, plain"]["error"] < wires["2 ranks, fp8"]["error"]
    assert wires["2 ranks, fp8"]["error"] < wires["2 ranks, nvfp4"]["error"] < 0.4
    assert video["2 ranks"]["mean_pixel_difference"] < 0.1
    assert "share the cores of this CPU" in record["about"]
    assert record["commit"]
    assert record["options"]["ranks"] == [1, 2]
    assert record["options"]["sizes"]["latent_frames"] == 16
    table = prepared.table(record)
    assert all(f"## {heading}" in table for heading in record["parts"])


def test_ranks_that_give_other_numbers_are_not_timed(small, monkeypatch):
    start = balanced_sp.on_ranks

    def wrong(count, device, function, sizes, expected):
        answers = start(count, device, function, sizes, expected)
        if "gradient" in answers[0]["values"]:
            answers[0]["values"]["gradient"] *= 1.001
        return answers

    monkeypatch.setattr(balanced_sp, "on_ranks", wrong)
    with pytest.raises(AssertionError, match=r"balanced gradient: 1.0e-03 from that of one rank"):
        prepare("balanced_sp", small).measure()


def test_what_is_not_a_number_is_not_one_ranks():
    with pytest.raises(AssertionError, match="loss: inf from that of one rank"):
        check_as_one_rank("loss", torch.tensor(float("nan")), torch.tensor(1.0), 1e-5)


def test_efficiency_is_of_the_slowest_rank_and_of_what_a_halo_leaves():
    row = {
        "balanced_seconds": 4.0,
        "unbalanced_seconds": 4.0,
        "balanced_mib_sent": 0.0,
        "unbalanced_mib_sent": 0.0,
        "encode_own_seconds": 4.0,
        "encode_all_seconds": 4.0,
        "frames_read": 381,
    }
    halves = {**row, "balanced_seconds": 2.5, "encode_own_seconds": 3.0, "frames_read": 254}
    answers = {1: [{"row": row}], 2: [{"row": halves}] * 2}
    assert training_rows(answers)["2 ranks"]["efficiency"] == 0.8
    encoding = encoding_rows(answers, Sizes())["2 ranks"]
    assert encoding["efficiency"] == pytest.approx(4 / 6)
    assert encoding["halo_bound"] == 0.75  # 381 frames of 2 x 254
    assert encoding["share_of_bound"] == pytest.approx(8 / 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": (5,), "latent_frames": 64}, "5 ranks share blocks of 8 frames and 2 heads"),
        ({"latent_frames": 12}, "latent_frames must be whole blocks of 8, got 12"),
        ({"pages": 2}, "pages must be 3 or more, got 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message, small):
    with pytest.raises(ValueError, match=message):
        prepare("balanced_sp", replace(small, **changes))
