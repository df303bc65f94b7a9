"""What does not fit is told with the smallest change that makes it fit; names and sizes first."""

from dataclasses import replace

import pytest

from longlive_recipes.configs.plan import PlanWishes
from longlive_recipes.plan import run
from longlive_recipes.planning.advice import advise, changes, fits
from longlive_recipes.planning.hardware import GIB, GPUS, here, named, with_memory
from longlive_recipes.planning.memory import Choice, memory_of
from longlive_recipes.planning.sizes import sizes_of

BF16 = Choice(weights="bf16", kv_cache="bf16", steps=4, guidance=False)


@pytest.fixture(scope="module")
def sizes():
    return sizes_of()


@pytest.mark.parametrize("gib", range(12, 70, 6))
def test_advice_fits_and_less_than_it_does_not(sizes, gib):
    hardware = replace(GPUS["h200"], memory=gib * GIB)
    advice = advise(sizes, BF16, hardware)
    if fits(memory_of(sizes, BF16, hardware), hardware) or advice is None:
        return
    assert fits(advice.memory, hardware)
    assert advice.memory == memory_of(sizes, advice.choice, hardware)
    if len(advice.options) > 1:
        for change in changes(sizes, BF16, hardware):
            memory = memory_of(sizes, change.apply(BF16), hardware)
            assert not fits(memory, hardware), f"{change.option} would have been enough"


def test_a_cache_in_fewer_bits_is_tried_before_another_gpu(sizes):
    whole = memory_of(sizes, BF16, GPUS["h200"]).peak + GPUS["h200"].reserved
    hardware = replace(GPUS["h200"], memory=whole - GIB)
    advice = advise(sizes, BF16, hardware)
    assert advice.options == ("--kv-cache fp8",)
    assert advice.choice == replace(BF16, kv_cache="fp8")


def test_no_change_is_known_where_there_is_none(sizes):
    assert advise(sizes, BF16, replace(GPUS["h200"], memory=GIB)) is None


def test_options_of_one_kind_are_not_added(sizes):
    for gib in (10, 14, 20):
        advice = advise(sizes, BF16, replace(GPUS["h200"], memory=gib * GIB))
        words = [] if advice is None else [option.split()[0] for option in advice.options]
        assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    ("name", "is_"),
    [
        ("h100", "H100 80GB"),
        ("NVIDIA H100-80GB", "H100 80GB"),
        ("RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("cpu", "2 CPU cores"),
    ],
)
def test_names_of_devices_are_understood(name, is_):
    assert named(name).name == is_


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"gpu": "h20"}, r"gpu='h20' is no device that is known here; did you mean 'h200'\?"),
        ({"memory": "24"}, "memory='24' is no size: write a number and a unit"),
        ({"memory": "0GB"}, "is no size"),
        ({"memory": "lots"}, "is no size"),
        ({"size": "1280"}, "size='1280' is no size of a frame"),
        ({"size": "0x0"}, "is no size of a frame"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"weights": "int4"}, "weights='int4' is no precision"),
        ({"kv_cache": "int4"}, "kv_cache='int4' is no precision"),
        ({"steps": 0}, "steps"),
        ({"guidance": -1}, "guidance"),
        ({"ranks": 0}, "ranks"),
    ],
)
def test_wishes_that_cannot_be_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        PlanWishes(**how)


def test_models_and_sizes_that_are_not_are_refused():
    with pytest.raises(ValueError, match="there is no model"):
        run(PlanWishes(model="nothing", gpu="h200"))
    with pytest.raises(ValueError, match="does not divide into tokens of 32"):
        run(PlanWishes(gpu="h200", size="1000x700"))


def test_memory_is_read_as_on_the_box():
    assert with_memory(GPUS["h100"], "24GB").memory == 24 * GIB
    assert with_memory(GPUS["h100"], " 1.5 gib ").memory == 3 * GIB // 2
    assert with_memory(GPUS["h100"], None) is GPUS["h100"]


def test_here_is_a_device_with_memory_and_a_rate():
    found = here()
    assert found.memory > GIB and found.bf16 > 0


def test_a_forecast_holds_what_it_says():
    found = run(PlanWishes(gpu="h200", seconds=10, weights="fp8", size="640x352", ranks=2))
    values = found.to_dict()
    assert values["size"] == "640x352" and values["choice"]["ranks"] == 2
    assert values["video"]["frames"] == 240
    assert values["memory"]["peak"] == found.memory.peak
    assert values["fits"] is True and values["advice"] is None
    endless = run(PlanWishes(gpu="h200", seconds=float("inf"))).to_dict()["video"]
    assert endless == {"seconds": None, "frames": None, "wall_seconds": None, "bytes": None}


def test_what_a_model_leaves_to_auto_is_what_would_run():
    assert run(PlanWishes(gpu="h200")).choice == BF16
    cpu = run(PlanWishes(model="pocket", gpu="cpu")).choice
    assert cpu == Choice(weights="fp32", kv_cache="fp32", steps=8, guidance=True)
