"""What does not fit is told with the smallest change that makes it fit; names and sizes first."""

from dataclasses import replace

import pytest

from longlive_recipes.configs.plan import PlanWishes
from longlive_recipes.plan import run
from longlive_recipes.planning.advice import FREE, ROOM, advise, fits, levers, pick, smallest
from longlive_recipes.planning.hardware import GIB, GPUS, here, named, with_memory
from longlive_recipes.planning.memory import Choice, memory_of
from longlive_recipes.planning.sizes import sizes_of

BF16 = Choice(weights="bf16", kv_cache="bf16", steps=4, guidance=False)


@pytest.fixture(scope="module")
def sizes():
    return sizes_of()


@pytest.mark.parametrize("quality", ["lossless", "high"])
@pytest.mark.parametrize("gib", range(12, 50, 6))
def test_what_is_picked_fits_and_nothing_cheaper_does(sizes, gib, quality):
    hardware = replace(GPUS["h200"], memory=gib * GIB)
    found = pick(sizes, BF16, hardware, quality=quality)
    least = smallest(sizes, BF16, hardware)
    if found is None:
        assert least.needed > hardware.memory - hardware.reserved
        return
    assert fits(found.memory, hardware) and least.needed <= found.memory.needed
    assert found.memory == memory_of(sizes, found.choice, hardware)
    known = {c.option: c for lever in levers(sizes, BF16, hardware, quality) for c in lever}
    cost = sum(known[option].cost for option in found.options)
    most = hardware.memory - hardware.reserved
    if least.needed <= ROOM * most:
        assert found.memory.needed <= ROOM * most, "there is room, if there can be"
        most = int(ROOM * most)
    for option, change in known.items():
        if change.cost < cost:
            memory = memory_of(sizes, change.apply(BF16), hardware)
            assert memory.needed > most, f"{option} would have been enough"


def test_frames_are_kept_before_numbers_are_rounded_unless_rounding_is_allowed(sizes):
    hardware = replace(GPUS["h200"], memory=24 * GIB)
    kept = pick(sizes, BF16, hardware)
    assert (kept.choice.weights, kept.choice.kv_cache) == ("bf16", "bf16")
    assert kept.choice.offload and kept.choice.text_encoder == "offload"
    rounded = pick(sizes, BF16, hardware, quality="high")
    assert not rounded.choice.offload
    assert {rounded.choice.weights, rounded.choice.kv_cache} != {"bf16"}


def test_the_5b_in_four_bits_takes_18_gib_and_runs_on_16(sizes):
    four = replace(BF16, weights="nvfp4", kv_cache="nvfp4", text_encoder="offload", vae_latents=1)
    assert memory_of(sizes, four, GPUS["h200"]).peak <= 18 * GIB
    card = replace(GPUS["4090"], memory=16 * GIB)
    for quality in ("lossless", "high"):
        assert pick(sizes, BF16, card, quality=quality) is not None


def test_the_5b_runs_on_12_gib_with_its_weights_as_they_are(sizes):
    """Blocks wait on the host, frames are decoded in strips and in turn with denoising."""
    card = replace(GPUS["4090"], memory=12 * GIB)
    found = pick(sizes, BF16, card)
    assert found.memory.peak <= ROOM * (card.memory - card.reserved)
    assert found.choice.weights == "bf16" and found.choice.offload
    assert found.choice.vae_tiles > 1 and found.choice.vae_latents == 1
    assert not found.choice.beside and "--lane inline" in found.options
    assert smallest(sizes, BF16, card).peak < 10 * GIB
    in_turn = memory_of(sizes, found.choice, card)
    beside = memory_of(sizes, replace(found.choice, beside=True), card)
    assert beside.peak - in_turn.peak == min(beside.denoising, beside.decoding)
    assert sum(in_turn.parts().values()) == in_turn.peak == in_turn.needed
    assert sum(beside.parts().values()) == beside.needed


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (12, "--kv-cache nvfp4 --offload --lane inline --vae-latents 1 --vae-tiles 4"),
        (16, "--kv-cache fp8 --offload --vae-latents 1 --vae-tiles 4"),
        (18, "--kv-cache fp8 --offload --vae-tiles 4"),
        (24, "--offload --vae-latents 1"),
    ],
)
def test_what_an_h200_of_so_many_gb_has_room_for_is_picked(size, options):
    """All four ran so; of 18 the same without tiles ended in fragments (max_memory.json)."""
    found = run(PlanWishes(gpu="h200", max_memory=f"{size}GB"))
    assert " ".join(found.picked) == options
    assert found.fits and found.memory.needed <= found.hardware.memory - found.hardware.reserved
    values = found.to_dict()["memory"]
    assert values["needed"] == found.memory.needed >= values["peak"] == found.memory.peak


def test_the_lane_is_left_where_it_was_named():
    named = run(PlanWishes(gpu="4090", max_memory="12GB", lane="stream"))
    assert named.choice.beside and named.choice.weights != "bf16", "it takes more to fit"
    assert "lane" not in " ".join(named.picked)
    free = run(PlanWishes(gpu="4090", max_memory="12GB"))
    assert free.fits and "--lane inline" in free.picked
    assert run(PlanWishes(gpu="4090", lane="inline")).choice.beside is False
    assert run(PlanWishes(gpu="4090", lane="device:cuda:1")).choice.decode_apart
    assert run(PlanWishes(gpu="cpu", model="pocket", lane="thread")).choice.beside


def test_only_what_is_free_is_changed(sizes):
    hardware = replace(GPUS["h200"], memory=24 * GIB)
    for fields in (FREE - {"weights"}, FREE - {"kv_cache"}, FREE - {"offload"}, frozenset({"x"})):
        found = pick(sizes, BF16, hardware, free=fields)
        if found is None:
            assert fields == {"x"}
            continue
        for name in FREE - fields:
            assert getattr(found.choice, name) == getattr(BF16, name)


def test_a_host_without_memory_keeps_no_blocks(sizes):
    card = replace(GPUS["4090"], memory=24 * GIB)
    assert pick(sizes, BF16, replace(card, host=64 * GIB)).choice.offload
    assert not pick(sizes, BF16, replace(card, host=2 * GIB)).choice.offload


def test_another_gpu_or_a_smaller_picture_come_last(sizes):
    hardware = replace(GPUS["h200"], memory=9 * GIB)
    assert pick(sizes, BF16, hardware) is None
    advice = advise(sizes, BF16, hardware)
    assert advice is not None and fits(advice.memory, hardware)
    assert any("GPU" in option or "picture" in option for option in advice.options)


def test_no_change_is_known_where_there_is_none(sizes):
    assert advise(sizes, BF16, replace(GPUS["h200"], memory=GIB)) is None
    assert pick(sizes, BF16, replace(GPUS["h200"], memory=GIB)) is None


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
        ({"videos": 0}, "videos"),
        ({"quality": "best"}, "quality='best' is no quality"),
        ({"vae": "small"}, "vae='small' is no decoder"),
        ({"text_encoder": "disk"}, "text_encoder='disk' is no place"),
        ({"max_memory": "24"}, "max_memory='24' is no size"),
        ({"lane": "gpu"}, "lane='gpu' is no place where frames are decoded: there are auto, in"),
    ],
)
def test_wishes_that_cannot_be_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        PlanWishes(**how)


def test_models_and_sizes_that_are_not_are_refused():
    with pytest.raises(ValueError, match="there is no model"):
        run(PlanWishes(model="nothing", gpu="h200"))
    with pytest.raises(ValueError, match="LongLive-2.0-5B has no light decoder of its own"):
        run(PlanWishes(gpu="h200", vae="light"))
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
    first, rate = found.speed.first_frame, found.speed.frames_per_second
    assert values["video"]["wall_seconds"] == first + (240 - 29) / rate
    short = run(PlanWishes(gpu="h200", seconds=1))
    assert short.video_wall_seconds == short.speed.first_frame  # it has a single block
    endless = run(PlanWishes(gpu="h200", seconds=float("inf"))).to_dict()["video"]
    assert endless == {"seconds": None, "frames": None, "wall_seconds": None, "bytes": None}


def test_what_a_model_leaves_to_auto_is_what_would_run():
    assert run(PlanWishes(gpu="h200")).choice == BF16
    high = replace(BF16, weights="fp8", quality="high")
    assert run(PlanWishes(gpu="h200", quality="high")).choice == high
    assert run(PlanWishes(gpu="4090")).choice == replace(BF16, text_encoder="offload")
    cpu = run(PlanWishes(model="pocket", gpu="cpu")).choice
    plain = Choice(weights="fp32", kv_cache="fp32", steps=4, guidance=False)
    assert cpu == replace(plain, beside=False)


@pytest.mark.parametrize("name", GPUS)
def test_eight_bits_are_advised_where_the_hardware_has_them(sizes, name):
    found = {one.option for lever in levers(sizes, BF16, GPUS[name], "high") for one in lever}
    assert ("--weights fp8" in found) is bool(GPUS[name].fp8)
    assert "--weights nvfp4" in found
