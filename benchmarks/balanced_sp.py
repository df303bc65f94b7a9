"""One video over ranks of this host: correctness first, then time and bytes on the wire.

    python -m benchmarks.balanced_sp                                  # small, on a CPU: gloo
    python -m benchmarks.balanced_sp --device cuda --ranks 1 2 4      # layers of the 5B: NCCL

Starts its own ranks, a GPU or a thread each. Writes ``results/balanced_sp_DEVICE.json`` and a table
as ``benchmarks.run`` does. Where ranks give other numbers than one rank it writes nothing.
Source of what is compared: LongLive-2.0 (arXiv 2605.18739), Balanced SP.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import Rows
from benchmarks.ranks import on_ranks
from benchmarks.record import RESULTS, stamped, table, write
from benchmarks.shared_generation import NEAR, work_on_block, work_on_video
from benchmarks.shared_sizes import TOLERANCE, Sizes
from benchmarks.shared_training import Values, work_on_training
from longlive_models.wan import WAN_5B

ABOUT = (
    "One video over ranks of one host; times are those of the slowest rank. A training step is the "
    "forward and backward pass of the teacher-forcing loss, without averaging of gradients and "
    "optimizer. Balanced: a rank holds both copies of its frames, and encodes them with a halo. "
    "Unbalanced: all clean tokens, then all noisy ones, are dealt out, and each rank encodes the "
    "whole clip. Efficiency is t(1) / (P t(P)); bytes are those that one rank sends to others."
)
Answers = dict[int, list[dict[str, Any]]]
"""What every rank found, by the number of ranks."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, where.

    Attributes:
        ranks: numbers of ranks; one rank is measured first, whether named or not.
        device: "cpu" or "cuda".
        sizes: of the video and the models.
    """

    ranks: tuple[int, ...] = (1, 2, 4)
    device: str = "cpu"
    sizes: Sizes

    def __post_init__(self) -> None:
        if self.device not in TOLERANCE:
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}.")
        if min(self.ranks) < 1:
            raise ValueError(f"ranks must be 1 or more, got {self.ranks}.")
        if self.device == "cuda" and max(self.ranks) > torch.cuda.device_count():
            raise ValueError(
                f"{max(self.ranks)} ranks take a GPU each, and this host has "
                f"{torch.cuda.device_count()}."
            )
        for ranks in self.ranks:
            self.sizes.balanced(ranks)
            if ranks > self.sizes.model.frames_per_block or ranks > self.sizes.model.num_heads:
                raise ValueError(
                    f"{ranks} ranks share blocks of {self.sizes.model.frames_per_block} frames and "
                    f"{self.sizes.model.num_heads} heads: each needs one at least."
                )


def measure(options: Options) -> dict[str, Any]:
    """Check, then time, every part on every number of ranks, each in processes of its own.

    Raises:
        AssertionError: ranks gave other numbers than one rank.
    """
    trained = _on_each(options, work_on_training)
    blocks = _on_each(options, work_on_block)
    videos = _on_each(options, work_on_video)
    bound, pixels = TOLERANCE[options.device], NEAR[options.device]
    return {
        "benchmark": "balanced_sp",
        "about": ABOUT + _shortened(options) + _crowded(options),
        "parts": {
            "Training step: the transformer": training_rows(trained),
            "Training step: encoding its clip": encoding_rows(trained, options.sizes),
            "Training step: both": both_rows(trained),
            "Denoising one block under a full window": block_rows(blocks),
            "Wires of a block": wire_rows(blocks),
            f"A video of {options.sizes.video_seconds:g} s by the {_name(options)} model": {
                _ranks(count): answers[0]["row"] for count, answers in videos.items()
            },
        },
        "checked": (
            f"loss, a gradient, encoded latents and a block's latents equal one rank's within "
            f"{bound:g}; the two layouts have one loss; pixels of a video within {pixels:g} of 255"
        ),
    }


def training_rows(trained: Answers) -> Rows:
    """Both layouts of the transformer's part."""
    rows: Rows = {}
    alone = trained[1][0]["row"]["balanced_seconds"]
    for count, answers in trained.items():
        row = answers[0]["row"]
        rows[_ranks(count)] = {
            "balanced_seconds": row["balanced_seconds"],
            "efficiency": alone / (count * row["balanced_seconds"]),
            "unbalanced_seconds": row["unbalanced_seconds"],
            "unbalanced_efficiency": alone / (count * row["unbalanced_seconds"]),
            "mib_sent": _most(answers, "balanced_mib_sent"),
            "unbalanced_mib_sent": _most(answers, "unbalanced_mib_sent"),
            **{name: value for name, value in row.items() if "peak_memory" in name},
        }
    return rows


def encoding_rows(trained: Answers, sizes: Sizes) -> Rows:
    """The VAE's part. The bound is what the halo leaves of an even share of the frames."""
    rows: Rows = {}
    alone, frames = trained[1][0]["row"]["encode_own_seconds"], sizes.pixel_frames
    for count, answers in trained.items():
        row = answers[0]["row"]
        efficiency = alone / (count * row["encode_own_seconds"])
        bound = frames / (count * row["frames_read"])
        rows[_ranks(count)] = {
            "own_frames_and_halo_seconds": row["encode_own_seconds"],
            "whole_clip_on_each_seconds": row["encode_all_seconds"],
            "frames_read": row["frames_read"],
            "of_frames": frames,
            "efficiency": efficiency,
            "halo_bound": bound,
            "share_of_bound": efficiency / bound,
        }
    return rows


def both_rows(trained: Answers) -> Rows:
    """A step of both parts: what the layouts take, and how many times longer the unbalanced one."""
    rows: Rows = {}
    for count, answers in trained.items():
        row = answers[0]["row"]
        balanced = row["balanced_seconds"] + row["encode_own_seconds"]
        unbalanced = row["unbalanced_seconds"] + row["encode_all_seconds"]
        rows[_ranks(count)] = {
            "balanced_seconds": balanced,
            "unbalanced_seconds": unbalanced,
            "unbalanced_over_balanced": unbalanced / balanced,
        }
    return rows


def block_rows(blocks: Answers) -> Rows:
    """Denoising under the plain wire."""
    rows: Rows = {}
    alone = blocks[1][0]["row"]["seconds_per_block"]
    for count, answers in blocks.items():
        row = answers[0]["row"]
        efficiency = alone / (count * row["seconds_per_block"])
        rows[_ranks(count)] = {**row, "efficiency": efficiency}
    return rows


def wire_rows(blocks: Answers) -> Rows:
    """Every wire on every number of ranks that send something."""
    return {
        f"{_ranks(count)}, {name}": row
        for count, answers in blocks.items()
        for name, row in answers[0]["wires"].items()
    }


def main(arguments: Sequence[str]) -> None:
    """The command line; sizes that are not given are the device's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.balanced_sp", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    counts = ("layers", "heads", "head-dim", "ffn", "latent-frames", "height", "width")
    for name in (*counts, "pages", "steps", "repeats"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--video-model", help="a name or a folder")
    parser.add_argument("--video-seconds", type=float)
    given = {name: x for name, x in vars(parser.parse_args(arguments)).items() if x is not None}
    folder, ranks, device = given.pop("results"), given.pop("ranks"), given.pop("device")
    command = f"python -m benchmarks.balanced_sp {shlex.join(arguments)}".rstrip()
    try:
        sizes = _changed(Sizes.of(device), given)
        options = Options(ranks=tuple(sorted({1, *ranks})), device=device, sizes=sizes)
    except ValueError as error:
        parser.error(str(error))
    record = stamped(measure(options), options, torch.device(device), command)
    path = write(record, folder)
    sys.stdout.write(f"{table(record)}\nwritten to {path}\n")


def _changed(sizes: Sizes, given: dict[str, Any]) -> Sizes:
    """The sizes with what was given on the command line."""
    model, own = sizes.model, dict(given)
    layers = own.pop("layers", model.num_layers)
    heads = own.pop("heads", model.num_heads)
    head_dim, ffn = own.pop("head_dim", model.head_dim), own.pop("ffn", model.ffn_dim)
    model = replace(model, num_layers=layers, num_heads=heads, dim=heads * head_dim, ffn_dim=ffn)
    return replace(sizes, model=model, **own)


def _on_each(options: Options, work: Callable[..., dict[str, Any]]) -> Answers:
    """What ranks find, one rank first: the others are checked against its values."""
    found: Answers = {}
    expected: Values | None = None
    for count in options.ranks:
        found[count] = on_ranks(count, options.device, work, options.sizes, expected)
        expected = expected or found[count][0]["values"]
    return found


def _most(answers: list[dict[str, Any]], name: str) -> float:
    return max(answer["row"][name] for answer in answers)


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def _name(options: Options) -> str:
    return Path(options.sizes.video_model).name


def _shortened(options: Options) -> str:
    """That layers are those of the 5B but not all of them, where that is so."""
    model = options.sizes.model
    if replace(model, num_layers=WAN_5B.num_layers) != WAN_5B:
        return ""
    return f" Layers are the 5B's, {model.num_layers} of its {WAN_5B.num_layers}."


def _crowded(options: Options) -> str:
    """What times on a CPU are worth."""
    if options.device != "cpu":
        return ""
    return (
        " Ranks have one thread each, and share the cores of this CPU with each other: more ranks "
        "than cores take turns, so that times show that everything ran, not a speed-up."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
