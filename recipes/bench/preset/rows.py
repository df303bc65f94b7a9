"""The tables of a preset, from what was measured of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from longlive_recipes.bench.options import Table
from longlive_recipes.bench.preset.case import BlockTimes, Case, StreamTimes, quantile
from longlive_recipes.bench.preset.ceilings import TERA, Ceilings, Work
from longlive_recipes.bench.preset.decoding import DecodeError
from longlive_recipes.bench.preset.models import Preset
from longlive_recipes.bench.preset.variants import HIGH, PLAIN

Cell = float | str

EARLIER = "the earlier tree"
GIB = 2**30


@dataclass
class Found:
    """What a run has found so far.

    Attributes:
        preset: the model.
        work: operations of a pass by how many blocks it sees, from 1.
        on_gpu: whether memory was counted.
        cases: the variants that were timed.
        streams: by name.
        errors: of each variant's first blocks against the plain path; 0 for the same bytes.
        block_errors: of each block of the first window.
        refused: why a variant has no time, by name.
        text: seconds of encoding a prompt, and bytes of the encoder.
        decode_errors: how far frames are from the plain path's, by name.
        beside: blocks of the variant that another took turns with, by the other's name.
        apart: those that decode on a second device.
        earlier_fill, earlier_blocks, earlier_decodes: seconds of the other tree.
    """

    preset: Preset
    work: list[Work]
    on_gpu: bool
    ceilings: Ceilings = field(default_factory=Ceilings)
    cases: list[Case] = field(default_factory=list)
    streams: dict[str, StreamTimes] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    block_errors: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    text: tuple[float, int] = (0.0, 0)
    decode_errors: dict[str, DecodeError] = field(default_factory=dict)
    beside: dict[str, list[BlockTimes]] = field(default_factory=dict)
    apart: list[Case] = field(default_factory=list)
    earlier_fill: list[float] = field(default_factory=list)
    earlier_blocks: list[float] = field(default_factory=list)
    earlier_decodes: list[float] = field(default_factory=list)


def parts_of(found: Found) -> dict[str, Table]:
    """The tables, by heading."""
    parts: dict[str, Table] = {
        "A block over a full window": _blocks(found),
        "A pass, by how many blocks it sees": _passes(found),
        "Decoding a block": _decoding(found),
        "End to end": _streams(found),
        "Text": {"a prompt": {"seconds": found.text[0]}},
        "Memory, GiB": _memory(found) if found.on_gpu else {},
        "Latents' error by block, relative": _errors(found),
        "What the device does at best": found.ceilings.rows(),
    }
    return {heading: rows for heading, rows in parts.items() if rows}


def _blocks(found: Found) -> Table:
    by_name = {case.variant.name: _seconds(case.blocks) for case in found.cases}
    earlier = median(found.earlier_blocks) if found.earlier_blocks else None
    rows: Table = {}
    if earlier is not None:
        rows[EARLIER] = {**_spread(found.earlier_blocks), "frames_a_second": _rate(found, earlier)}
    for case in found.cases:
        name, seconds = case.variant.name, [block.seconds for block in case.blocks]
        middle = by_name[name]
        passes = len(case.blocks[0].steps) + 1
        work, fp8 = found.work[-1], "fp8" in case.pipe.runtime.weights
        high = case.variant.tier == HIGH
        row: dict[str, Cell] = {"error": _error(found.errors[name]), **_spread(seconds)}
        row["a_step"] = median(step for block in case.blocks for step in block.steps)
        row["clean_pass"] = median(block.clean for block in case.blocks)
        row["frames_a_second"] = _rate(found, middle)
        row["tflops"] = passes * (work.products + work.attention) / middle / TERA
        row["share_of_ceilings"] = passes * work.ideal(found.ceilings, fp8=fp8, high=high) / middle
        if PLAIN in by_name:
            row["times_plain_speed"] = by_name[PLAIN] / middle
        if earlier is not None:
            row["times_earlier_speed"] = earlier / middle
        if name in found.beside:
            ratio = middle / _seconds(found.beside[name])
            row["seconds_over"] = f"{ratio:.3f} of {case.variant.beside}"
        rows[name] = row
    for name, why in found.refused.items():
        rows[name] = {"error": f"not timed: {why}"}
    return rows


def _passes(found: Found) -> Table:
    rows: Table = {}
    for case in found.cases:
        row: dict[str, Cell] = {"first_block_cold": case.fills[0].seconds}
        for seen, fill in enumerate(case.fills, start=1):
            row[f"sees_{seen}"] = median(fill.steps[1:] or fill.steps)
            row[f"tflops_{seen}"] = (
                (found.work[seen - 1].products + found.work[seen - 1].attention)
                / median(fill.steps[1:] or fill.steps)
                / TERA
            )
        rows[case.variant.name] = row
    return rows


def _decoding(found: Found) -> Table:
    rows: Table = {}
    earlier = median(found.earlier_decodes) if found.earlier_decodes else None
    if earlier is not None:
        rows[EARLIER] = {**_spread(found.earlier_decodes), "frames_a_second": _rate(found, earlier)}
    timed = [case for case in found.cases if case.decodes]
    plain = next((median(case.decodes) for case in timed if case.variant.name == PLAIN), None)
    for case in found.cases:
        error = found.decode_errors.get(case.variant.name)
        if error is None:
            continue
        row: dict[str, Cell] = {"levels_off": error.mean, "within_2": f"{error.near:.3%}"}
        rows[case.variant.name] = row
        if error.problem is not None:
            row["levels_off"] = f"not timed: {error.problem}"
            continue
        middle = median(case.decodes)
        row |= {"first_cold": case.first_decode, **_spread(case.decodes)}
        row["frames_a_second"] = _rate(found, middle)
        row["tflops"] = found.work[-1].decoding / middle / TERA
        row["share_of_ceilings"] = found.work[-1].decoding / found.ceilings.bf16 / middle
        if plain is not None:
            row["times_plain_speed"] = plain / middle
        if earlier is not None:
            row["times_earlier_speed"] = earlier / middle
    return rows


def _streams(found: Found) -> Table:
    rows: Table = {}
    for case in (*found.cases, *found.apart):
        made = found.streams.get(case.variant.name)
        if made is None:
            continue
        row: dict[str, Cell] = {
            "frames_a_second": made.frames * len(made.intervals) / sum(made.intervals)
        }
        if case.decodes:
            apart = _seconds(case.blocks) + median(case.decodes)
            row["frames_a_second_of_the_sum"] = made.frames / apart
        row |= _spread(made.intervals)
        if case.decodes:
            cold = found.text[0] + case.fills[0].seconds + case.first_decode
            row["first_frame_cold"] = cold
        row["first_frame"] = found.text[0] + made.first
        if found.on_gpu:
            row["peak_gib"] = made.peak / GIB
        rows[case.variant.name] = row
    return rows


def _memory(found: Found) -> Table:
    rows: Table = {}
    for case in found.cases:
        row: dict[str, Cell] = {name: held / GIB for name, held in case.parts().items()}
        row["text_encoder"] = found.text[1] / GIB
        row |= {f"peak_{name}": held / GIB for name, held in case.peaks.items()}
        if case.variant.name in found.streams:
            row["peak_end_to_end"] = found.streams[case.variant.name].peak / GIB
        rows[case.variant.name] = row
    return rows


def _errors(found: Found) -> Table:
    named: Callable[[int], str] = "block_{}".format
    return {
        name: {named(index): error for index, error in enumerate(errors)}
        for name, errors in found.block_errors.items()
    }


def _seconds(blocks: Sequence[BlockTimes]) -> float:
    return median(block.seconds for block in blocks)


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    return {"seconds_p50": quantile(seconds, 0.5), "seconds_p90": quantile(seconds, 0.9)}


def _rate(found: Found, seconds: float) -> float:
    spec = found.preset.spec
    return (spec.timing.frames(2) - spec.timing.frames(1)) / seconds


def _error(error: float) -> str:
    return "same bytes" if not error else f"{error:.3g}"
