"""A preset at a tiny size: everything is compared, then timed, on the path that a GPU takes."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from longlive_recipes.bench.preset import measure as measured
from longlive_recipes.bench.preset import variants
from longlive_recipes.bench.preset.case import Case
from longlive_recipes.bench.preset_options import PresetOptions
from longlive_recipes.bench.run import prepare
from longlive_recipes.evaluation.pages import bench_page

ROOT = Path(__file__).parents[4]
BLOCKS, ERRORS = "A block over a full window", "Latents' error by block, relative"


def told(**changed: object) -> PresetOptions:
    usual = {"preset": "tiny", "device": "cpu", "repeats": 1, "stream_blocks": 1}
    return PresetOptions(**{**usual, **changed})


def test_every_configuration_is_compared_and_timed():
    prepared = prepare("preset", told(baseline=True, ranks=2, quality=("lossless",)))
    assert prepared.stem == "tiny_2_gpus_cpu"
    record = prepared.measure()
    parts = record["parts"]
    names = ["plain", "lossless", "lossless, 2 steps", "lossless, NVFP4 cache"]
    assert list(parts[BLOCKS]) == names
    for row in parts[BLOCKS].values():
        assert row["error"] == "same bytes"
        assert 0 < row["a_step"] < row["seconds_p50"] <= row["seconds_p90"]
        assert row["frames_a_second"] == pytest.approx(8 / row["seconds_p50"])
    assert parts[BLOCKS]["lossless, 2 steps"]["seconds_over"].endswith("of lossless")
    assert set(parts[ERRORS]["lossless, NVFP4 cache"].values()) == {0.0}
    assert list(parts["Decoding a block"]) == ["plain", "lossless"]
    streamed = ["plain", "lossless", "lossless, decoding on the second GPU"]
    assert list(parts["End to end"]) == streamed
    plain, _, apart = parts["End to end"].values()
    assert plain["frames_a_second_of_the_sum"] > 0 and plain["first_frame_cold"] > 0
    block = parts[BLOCKS]["lossless"]["seconds_p50"]
    decoding = parts["Decoding a block"]["lossless"]["seconds_p50"]
    assert apart["frames_a_second_of_the_sum"] == pytest.approx(8 / (block + decoding))
    assert "lossless: its bytes" in record["checked"]
    assert record["backends"]
    assert "same bytes" in bench_page([record])
    assert prepared.table(record).count("| lossless |") == 5


def test_what_is_known_is_kept_and_few_windows_are_held(monkeypatch):
    made: list[weakref.ref[Case]] = []
    held: list[int] = []

    class Counted(Case):
        def fill(self, blocks):
            made.append(weakref.ref(self))
            super().fill(blocks)
            gc.collect()
            cases = [case for case in (ref() for ref in made) if case is not None]
            held.append(sum(case._generator is not None for case in cases))

    monkeypatch.setattr(measured, "Case", Counted)
    kept: list[dict] = []
    record = prepare("preset", told(baseline=True, stream_blocks=0)).measure(kept.append)
    references = ["", "2 steps", "nvfp4 cache"]
    assert held == [1] * len(references) + [1, 2, 3, *[3, 3], *[2, 2, 2]]
    words = ["blocks", "blocks of every configuration", "blocks and decoding"]
    assert [one["unfinished"] for one in kept] == [f"measured so far: {word}" for word in words]
    names = list(record["parts"][BLOCKS])
    assert [list(one["parts"][BLOCKS]) for one in kept] == [names[:3], names, names]
    assert ["Decoding a block" in one["parts"] for one in kept] == [False, False, True]
    assert "unfinished" not in record


def test_what_is_outside_its_tier_has_no_time(monkeypatch):
    monkeypatch.setitem(variants.PATHS, variants.LOSSLESS, "fp8")
    record = prepare("preset", told(stream_blocks=0)).measure()
    row = record["parts"][BLOCKS]["lossless"]
    assert row == {"error": row["error"]}
    assert row["error"].startswith("not timed: outside its tier: 0.0")
    for name in ("high", "high, 2 steps", "high, NVFP4 cache", "NVFP4 weights and cache"):
        assert record["parts"][BLOCKS][name]["seconds_p50"] > 0
        assert 0.01 < record["parts"][ERRORS][name]["block_0"] < 0.2
    assert "lossless" not in record["parts"]["Decoding a block"]
    with pytest.raises(AssertionError, match="lossless: outside its tier"):
        prepare("preset", told(quality=("lossless",))).measure()


def test_an_earlier_trees_block_takes_turns():
    record = prepare(
        "preset", told(quality=("lossless",), earlier=ROOT, stream_blocks=0, extras=False)
    ).measure()
    rows = record["parts"][BLOCKS]
    earlier, own = rows["the earlier tree"]["seconds_p50"], rows["lossless"]["seconds_p50"]
    assert rows["lossless"]["times_earlier_speed"] == pytest.approx(earlier / own)
    assert record["parts"]["Decoding a block"]["the earlier tree"]["seconds_p50"] > 0


def test_what_cannot_be_measured_is_refused_beforehand(tmp_path):
    with pytest.raises(ValueError, match="has no package longlive_core: .*git archive COMMIT"):
        prepare("preset", told(earlier=tmp_path))
    if torch.cuda.device_count() < 2:
        with pytest.raises(ValueError, match=r"preset on 2 GPU\(s\), and this host has"):
            prepare("preset", told(device="cuda", ranks=2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="fused kernels are a GPU's")
def test_fused_kernels_are_lossless_and_memory_is_counted():
    parts = prepare("preset", told(device="cuda", baseline=True)).measure()["parts"]
    for name in ("lossless", "lossless, 2 steps", "lossless, NVFP4 cache"):
        assert parts[BLOCKS][name]["error"] == "same bytes"
    row = parts["Memory, GiB"]["lossless"]
    assert 0 < row["transformer"] + row["vae"] < row["peak_denoising"]
    assert "seconds_p50" in parts["Decoding a block"]["lossless"]
