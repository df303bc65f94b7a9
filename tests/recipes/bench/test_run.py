"""The benchmarks run at a tiny size, refuse wrong results, and say how their numbers were made."""

import shlex
from dataclasses import replace

import pytest
import torch

from longlive_core.backends import BackendUnavailable
from longlive_core.kv_cache import Int8PageCodec
from longlive_models.vae import WanVAE
from longlive_recipes.bench.catalog import BENCHMARKS
from longlive_recipes.bench.measurements import DEVICE_MEASUREMENTS, PIPELINE_MEASUREMENTS
from longlive_recipes.bench.nvfp4 import check_nvfp4, measure_nvfp4
from longlive_recipes.bench.options import BenchOptions, PairsOptions
from longlive_recipes.bench.run import prepare
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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> BenchOptions:
    """A tiny model and a tiny layer on the CPU."""
    model = str(write_tiny_folder(tmp_path_factory.mktemp("tiny")))
    return BenchOptions(
        model=model,
        device="cpu",
        seconds=4.5,
        repeats=2,
        page_tokens=8,
        heads=2,
        head_dim=16,
        pages=3,
    )


def test_every_benchmark_of_a_model_or_a_device_has_a_measurement():
    here = {one.name for one in BENCHMARKS.values() if isinstance(one.options, BenchOptions)}
    assert here == PIPELINE_MEASUREMENTS.keys() | DEVICE_MEASUREMENTS.keys() == NUMBERS.keys()


@pytest.mark.parametrize("name", NUMBERS)
def test_a_record_has_numbers_and_how_they_were_made(name, tiny):
    prepared = prepare(name, tiny)
    record = prepared.measure()
    assert prepared.stem == f"{name}_cpu"
    assert {number for row in record["rows"].values() for number in row} == NUMBERS[name]
    assert all(value > 0 for row in record["rows"].values() for value in row.values())
    words = shlex.split(record["command"])
    assert words[:3] == ["longlive", "bench", name]
    changed = words[3:]
    assert changed[::2] == ["--set"] * len(changed[::2])
    assert {"device=cpu", "seconds=4.5", "repeats=2", "page_tokens=8"} < set(changed[1::2])
    assert record["options"]["model"] == tiny.model
    assert record["commit"]
    assert record["checked"]
    assert record["about"] == BENCHMARKS[name].about
    assert record["hardware"]["cpu"]
    assert record["hardware"]["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__
    assert record["backends"]
    table = prepared.table(record)
    assert record["command"] in table
    of_model = name in PIPELINE_MEASUREMENTS
    assert ("weights fp32, computed in fp32; cache fp32; lane inline" in table) == of_model
    assert len(record.get("model_sha256", "")) == 64 * of_model


def test_steady_speed_is_measured_over_whole_blocks_with_a_full_window(tiny):
    record = prepare("generation", replace(tiny, steps=1)).measure()
    [(case, row)] = record["rows"].items()
    assert case == "4.6 s of video"  # 36 frames are asked for, 5 blocks have 37
    assert (row["frames"], row["steady_from_block"]) == (37, 3)
    assert row["seconds_to_first_frame"] < row["frames"] / row["frames_per_second_overall"]
    assert record["settings"]["steps"] == 1


@pytest.mark.parametrize("name", ["generation", "vae_decode"])
def test_wrong_results_are_not_timed(name, tiny, monkeypatch):
    decode, calls = WanVAE.decode_block, []

    def wrong(self, latents, state=None, **how):
        calls.append(latents)
        video, state = decode(self, latents, state, **how)
        return video + 0.1 * len(calls), state

    monkeypatch.setattr(WanVAE, "decode_block", wrong)
    with pytest.raises(AssertionError, match="gave other frames|differs from decoding whole"):
        prepare(name, tiny).measure()


def test_a_codec_that_is_far_off_is_not_timed(tiny, monkeypatch):
    encode = Int8PageCodec.encode
    monkeypatch.setattr(Int8PageCodec, "encode", lambda self, rows: encode(self, rows * 1.1))
    with pytest.raises(AssertionError, match="int8: 0.1.* of the largest number off"):
        prepare("kv_decode", tiny).measure()


def test_decoding_is_measured_in_bytes_read_and_written(tiny):
    rows = prepare("kv_decode", tiny).measure()["rows"]
    numbers = 2 * 3 * 8 * 2 * 16
    assert rows["copy"]["mib_read"] * 2**20 == numbers * 2
    for name, bits, more in (("nvfp4 amax_6", 4.5, 2 * 3 * 4), ("fp8", 8, 2 * 3 * 8 * 2 * 4)):
        assert rows[name]["mib_read"] * 2**20 == numbers * bits / 8 + more
        assert rows[name]["mib_written"] * 2**20 == numbers * 2
        moved = (rows[name]["mib_read"] + rows[name]["mib_written"]) * 2**20
        speed = moved / rows[name]["milliseconds"] / 1e6
        assert rows[name]["gigabytes_per_second"] == pytest.approx(speed)


def test_what_cannot_be_measured_is_refused_beforehand(tiny):
    with pytest.raises(ValueError, match="generation takes BenchOptions, got PairsOptions"):
        prepare("generation", PairsOptions())
    with pytest.raises(ValueError, match="there is no model './none'"):
        prepare("nvfp4", replace(tiny, model="./none"))
    with pytest.raises(BackendUnavailable, match="'fa3' on cpu"):
        prepare("vae_decode", replace(tiny, attention="fa3"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="speed is that of kernels on a GPU")
def test_quantizing_keeps_up_with_memory():
    """On the window of LongLive-2.0-5B, with amax given: the promised shares of copying.

    Four-over-six tries two scales a block, and is bound by arithmetic, not by memory.
    """
    device, options = torch.device("cuda"), BenchOptions(repeats=20)
    check_nvfp4(device, options)
    promised = {"quantize, amax_6": 0.6, "quantize, four_over_six_mse": 0.3}
    promised |= {"dequantize, amax_6": 0.7, "dequantize, four_over_six_mse": 0.7}
    rows = measure_nvfp4(device, options)
    shares = {case: rows[case]["share_of_copy"] for case in promised}
    assert all(shares[case] >= least for case, least in promised.items()), shares
