"""Options of benchmarks: numbers are checked at once, files and models when they are asked for."""

import pytest

from longlive_recipes.bench.catalog import BENCHMARKS
from longlive_recipes.bench.options import (
    BalancedSPOptions,
    BenchOptions,
    PairsOptions,
    StartupOptions,
)
from longlive_recipes.bench.preset_options import (
    BackendsOptions,
    InvarianceOptions,
    PresetOptions,
)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (BenchOptions, {"seconds": 0}, "seconds is above 0, got 0"),
        (BenchOptions, {"seconds": float("nan")}, "seconds is a finite number"),
        (BenchOptions, {"repeats": -1}, "repeats is at least 1, got -1"),
        (BenchOptions, {"steps": (4, 0)}, "steps of block 1 is at least 1"),
        (BenchOptions, {"guidance": -1.0}, "guidance is at least 0"),
        (BenchOptions, {"weights": "fp5"}, "weights='fp5' is no precision"),
        (BalancedSPOptions, {"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        (BalancedSPOptions, {"ranks": ()}, "ranks are one number or more"),
        (BalancedSPOptions, {"ranks": (0,)}, "a number of ranks is at least 1"),
        (BalancedSPOptions, {"repeats": 0}, "repeats is at least 1"),
        (StartupOptions, {"repeats": 0}, "repeats is at least 1"),
        (PresetOptions, {"preset": "5B"}, "preset is one of pocket, 5b, tiny, got '5B'. Use"),
        (PresetOptions, {"device": "tpu"}, "device is one of auto, cpu, cuda, got 'tpu'"),
        (PresetOptions, {"quality": ("best",)}, "quality is one of lossless, high, got 'best'"),
        (PresetOptions, {"quality": ()}, "quality names one tier or more"),
        (PresetOptions, {"quality": ("high", "high")}, "each once, got high, high"),
        (PresetOptions, {"ranks": 3}, "ranks is at most 2"),
        (PresetOptions, {"repeats": 0}, "repeats is at least 1"),
        (PresetOptions, {"stream_blocks": -1}, "stream_blocks is at least 0"),
        (InvarianceOptions, {"ranks": 9}, "ranks is at most 8"),
        (InvarianceOptions, {"layers": 0}, "layers is at least 1"),
        (BackendsOptions, {"repeats": 0}, "repeats is at least 1"),
    ],
)
def test_a_number_that_does_not_fit_is_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_what_is_to_be_read_has_to_be_there(tmp_path):
    there = tmp_path / "one.json"
    there.write_text("{}")
    assert [path for _, path in PairsOptions(one=(there,), other=(there,)).inputs()] == [there] * 2
    for options, message in (
        (PairsOptions(one=(there,)), "'other' has no records: write --set other=FILE"),
        (PairsOptions(one=(there,), other=(tmp_path / "none",)), "as a record of other"),
        (StartupOptions(), "write --set against=OTHER/bin/python"),
        (StartupOptions(against=tmp_path / "none"), "as the other interpreter"),
        (BenchOptions(model="./none"), "there is no model './none'"),
        (PresetOptions(earlier=tmp_path / "none"), "as the other tree"),
        (BalancedSPOptions(video_model="./none"), "there is no model './none'"),
    ):
        with pytest.raises(ValueError, match=message):
            options.inputs()


def test_files_are_named_after_the_benchmark_and_the_device():
    assert BenchOptions().stem("nvfp4") is None  # "auto" is no device yet
    assert BenchOptions(device="cuda:1").stem("nvfp4") == "nvfp4_cuda"
    stems = {name: one.options.stem(name) for name, one in BENCHMARKS.items()}
    assert stems["balanced_sp"] == "balanced_sp_cpu"
    assert stems["preset"] is stems["invariance"] is stems["backends"] is None
    assert PresetOptions(preset="5b", device="cuda").stem("preset") == "5b_cuda"
    assert PresetOptions(preset="5b", device="cuda", ranks=2).stem("preset") == "5b_2_gpus_cuda"
    assert InvarianceOptions(device="cpu").stem("invariance") == "pocket_invariance_cpu"
    assert (stems["pairs"], stems["startup"]) == ("pairs", "startup_cpu")
