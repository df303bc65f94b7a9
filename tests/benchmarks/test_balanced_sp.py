"""Two ranks are compared with one before anything is timed, and what they send is counted."""

import json

import pytest
import torch

from benchmarks import balanced_sp
from benchmarks.balanced_sp import encoding_rows, main, training_rows
from benchmarks.shared_sizes import Sizes, check_as_one_rank
from tests.models.tiny_pipeline import write_tiny_folder

SIZES = {
    "--ranks": "2",
    "--layers": "1",
    "--heads": "2",
    "--head-dim": "64",
    "--ffn": "32",
    "--latent-frames": "16",
    "--height": "16",
    "--width": "16",
    "--pages": "3",
    "--steps": "1",
    "--repeats": "1",
    "--video-seconds": "1",
}


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    model = str(write_tiny_folder(tmp_path / "model"))
    sizes = [word for pair in SIZES.items() for word in pair]
    return [*sizes, "--video-model", model, "--results", str(tmp_path / "results")]


def test_one_and_two_ranks_are_checked_and_measured(arguments, tmp_path, capsys):
    main(arguments)
    record = json.loads((tmp_path / "results" / "balanced_sp_cpu.json").read_text())
    step, encoding, both, block, wires, video = record["parts"].values()
    for rows in (step, encoding, both, block, video):
        assert list(rows) == ["1 rank", "2 ranks"]
    assert list(wires) == [f"2 ranks, {name}" for name in ("plain", "fp8", "nvfp4")]
    assert step["1 rank"]["mib_sent"] == 0
    # a rank sends half of its q, k, v and output, there and back
    tokens, dim = 16 * 1, 2 * 64
    assert step["2 ranks"]["mib_sent"] * 2**20 == 8 * tokens * dim / 2 * 4
    assert step["2 ranks"]["unbalanced_mib_sent"] == step["2 ranks"]["mib_sent"]
    # a pass and a clean one, each of half a block
    assert wires["2 ranks, plain"]["mib_sent"] * 2**20 == 2 * 4 * 4 * dim / 2 * 4
    assert wires["2 ranks, nvfp4"]["times_fewer_than_bf16"] > 3.4
    assert 0 == wires["2 ranks, plain"]["error"] < wires["2 ranks, fp8"]["error"]
    assert wires["2 ranks, fp8"]["error"] < wires["2 ranks, nvfp4"]["error"] < 0.4
    assert video["2 ranks"]["mean_pixel_difference"] < 0.1
    assert "share the cores of this CPU" in record["about"]
    assert record["commit"]
    table = (tmp_path / "results" / "balanced_sp_cpu.md").read_text()
    assert table in capsys.readouterr().out
    assert all(f"## {heading}" in table for heading in record["parts"])


def test_ranks_that_give_other_numbers_are_not_timed(arguments, tmp_path, monkeypatch):
    start = balanced_sp.on_ranks

    def wrong(count, device, function, sizes, expected):
        answers = start(count, device, function, sizes, expected)
        if "gradient" in answers[0]["values"]:
            answers[0]["values"]["gradient"] *= 1.001
        return answers

    monkeypatch.setattr(balanced_sp, "on_ranks", wrong)
    with pytest.raises(AssertionError, match=r"balanced gradient: 1.0e-03 from that of one rank"):
        main(arguments)
    assert not (tmp_path / "results").exists()


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
    ("arguments", "message"),
    [
        (["--ranks", "5"], "5 ranks share blocks of 8 frames and 4 heads"),
        (["--device", "tpu"], "device must be cpu or cuda"),
        (["--latent-frames", "12"], "latent_frames must be whole blocks of 8, got 12"),
        (["--repeats", "0"], "repeats must be above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
