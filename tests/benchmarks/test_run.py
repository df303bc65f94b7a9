"""The benchmarks run at a tiny size, refuse wrong results, and say how their numbers were made."""

import json

import pytest
import torch

from benchmarks.nvfp4 import check_nvfp4, measure_nvfp4
from benchmarks.options import Options
from benchmarks.registry import BENCHMARKS, DeviceBenchmark
from benchmarks.run import main
from longlive_core.kv_cache import Int8PageCodec
from longlive_models.vae import WanVAE
from tests.models.tiny_pipeline import write_tiny_folder

NUMBERS = {
    "generation": {
        "frames",
        "seconds_to_first_frame",
        "frames_per_second_steady",
        "frames_per_second_overall",
        "steady_from_block",
        "denoise_seconds_per_block",
        "decode_seconds_per_block",
        "peak_memory_mib",
    },
    "vae_decode": {
        "frames",
        "seconds_per_block",
        "fastest_seconds",
        "frames_per_second",
        "peak_memory_mib",
    },
    "kv_decode": {
        "mib_read",
        "mib_written",
        "milliseconds",
        "milliseconds_called",
        "gigabytes_per_second",
        "share_of_copy",
        "milliseconds_to_encode_a_page",
    },
    "nvfp4": {
        "mib_moved",
        "milliseconds",
        "milliseconds_called",
        "gigabytes_per_second",
        "share_of_copy",
    },
    "linear": {"milliseconds", "milliseconds_called", "times_the_plain_one"},
}
LAYER = ("--page-tokens", "8", "--heads", "2", "--head-dim", "16", "--pages", "3")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_folder(tmp_path_factory.mktemp("tiny")))


def options(model: str, results, *more: str) -> list[str]:
    return ["--model", model, "--device", "cpu", "--results", str(results), *more]


def test_every_benchmark_writes_a_record_and_a_table(model, tmp_path, capsys):
    sizes = ("--seconds", "4.5", "--repeats", "2", *LAYER)
    arguments = [*BENCHMARKS, *options(model, tmp_path, *sizes)]
    main(arguments)
    printed = capsys.readouterr().out
    assert set(NUMBERS) == set(BENCHMARKS)
    for name, numbers in NUMBERS.items():
        record = json.loads((tmp_path / f"{name}_cpu.json").read_text())
        assert {number for row in record["rows"].values() for number in row} == numbers
        assert all(value > 0 for row in record["rows"].values() for value in row.values())
        assert record["command"] == f"python -m benchmarks.run {' '.join(arguments)}"
        assert record["commit"]
        assert record["checked"]
        assert record["hardware"]["cpu"]
        assert record["hardware"]["threads"] == torch.get_num_threads()
        assert record["versions"]["torch"] == torch.__version__
        assert record["backends"]
        assert isinstance(BENCHMARKS[name], DeviceBenchmark) or len(record["model_sha256"]) == 64
        table = (tmp_path / f"{name}_cpu.md").read_text()
        assert table in printed
        assert record["command"] in table
        if not isinstance(BENCHMARKS[name], DeviceBenchmark):
            assert "weights fp32, computed in fp32; cache fp32; lane inline" in table


def test_steady_speed_is_measured_over_whole_blocks_with_a_full_window(model, tmp_path):
    main(["generation", *options(model, tmp_path, "--seconds", "4.5", "--steps", "1")])
    record = json.loads((tmp_path / "generation_cpu.json").read_text())
    [(case, row)] = record["rows"].items()
    assert case == "4.6 s of video"  # 36 frames are asked for, 5 blocks have 37
    assert (row["frames"], row["steady_from_block"]) == (37, 3)
    assert row["seconds_to_first_frame"] < row["frames"] / row["frames_per_second_overall"]
    assert record["settings"]["steps"] == 1


@pytest.mark.parametrize("name", ["generation", "vae_decode"])
def test_wrong_results_are_not_timed(name, model, tmp_path, monkeypatch):
    decode, calls = WanVAE.decode_block, []

    def wrong(self, latents, state=None):
        calls.append(latents)
        video, state = decode(self, latents, state)
        return video + 0.1 * len(calls), state

    monkeypatch.setattr(WanVAE, "decode_block", wrong)
    with pytest.raises(AssertionError, match="gave other frames|differs from decoding whole"):
        main([name, *options(model, tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_codec_that_is_far_off_is_not_timed(model, tmp_path, monkeypatch):
    encode = Int8PageCodec.encode
    monkeypatch.setattr(Int8PageCodec, "encode", lambda self, rows: encode(self, rows * 1.1))
    with pytest.raises(AssertionError, match="int8: 0.1.* of the largest number off"):
        main(["kv_decode", *options(model, tmp_path, *LAYER)])
    assert list(tmp_path.iterdir()) == []


def test_decoding_is_measured_in_bytes_read_and_written(model, tmp_path):
    main(["kv_decode", *options(model, tmp_path, *LAYER)])
    rows = json.loads((tmp_path / "kv_decode_cpu.json").read_text())["rows"]
    numbers = 2 * 3 * 8 * 2 * 16
    assert rows["copy"]["mib_read"] * 2**20 == numbers * 2
    for name, bits, more in (("nvfp4 amax_6", 4.5, 2 * 3 * 4), ("fp8", 8, 2 * 3 * 8 * 2 * 4)):
        assert rows[name]["mib_read"] * 2**20 == numbers * bits / 8 + more
        assert rows[name]["mib_written"] * 2**20 == numbers * 2
        moved = (rows[name]["mib_read"] + rows[name]["mib_written"]) * 2**20
        speed = moved / rows[name]["milliseconds"] / 1e6
        assert rows[name]["gigabytes_per_second"] == pytest.approx(speed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["genration"],
            "there is no benchmark 'genration': there are generation, vae_decode, kv_decode",
        ),
        (["generation", "--seconds", "0"], "seconds must be above 0"),
        (["vae_decode", "--repeats", "-1"], "repeats must be above 0"),
    ],
)
def test_bad_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="speed is that of kernels on a GPU")
def test_quantizing_keeps_up_with_memory():
    """On the window of LongLive-2.0-5B, with amax given: the promised shares of copying.

    Four-over-six tries two scales a block, and is bound by arithmetic, not by memory.
    """
    device, options = torch.device("cuda"), Options(repeats=20)
    check_nvfp4(device, options)
    promised = {"quantize, amax_6": 0.6, "quantize, four_over_six_mse": 0.3}
    promised |= {"dequantize, amax_6": 0.7, "dequantize, four_over_six_mse": 0.7}
    rows = measure_nvfp4(device, options)
    shares = {case: rows[case]["share_of_copy"] for case in promised}
    assert all(shares[case] >= least for case, least in promised.items()), shares
