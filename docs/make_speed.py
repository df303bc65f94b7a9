"""Fill README.md's tables of the 5B's speed from the records in benchmarks/results.

    python docs/make_speed.py

What stands between ``<!-- speed of the 5B -->`` and ``<!-- end -->`` is made of what
``longlive bench --preset 5b`` stored: 5b_cuda.json, and 5b_2_gpus_cuda.json if it is there. Before
there is such a record, it is made of the parts that two scripts timed: 5b_fused_block.json and
5b_vae_pieces.json.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- speed of the 5B -->", "<!-- end -->"
BLOCK, DECODING, STREAM, MEMORY = (
    "A block over a full window",
    "Decoding a block",
    "End to end",
    "Memory, GiB",
)
HEAD = ("", "a block, s", "decoding it, s", "frames a second", "peak, GiB", "latents")
TRANSFORMER = {
    "torch": "a block in bf16, torch's operations one after another",
    "lossless": "`lossless`: fused kernels",
    "fp8": "weights and inputs in FP8, attention in bf16",
    "high": "`high`: fast sums too, attention in FP8",
}
DECODER = {
    "the layers, 8 at a time": "decoding it, the layers as they are trained",
    "fused, 8": "fused, all 8 latents at once",
    "fused, 2": "fused, 2 latents at a time: the default",
    "fused, 1": "fused, 1 latent at a time",
}
LATENTS = {"same bytes": "the reference's bytes", None: ""}


def page(text: str, results: Path) -> str:
    """README's text with the tables that the records give; as it is without records."""
    made = tables(results)
    if made is None:
        return text
    wanted = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return wanted.sub(lambda _: f"{BEGIN}\n{made}{END}", text)


def tables(results: Path) -> str | None:
    """The tables and what they were measured with; None without a record."""
    one = results / "5b_cuda.json"
    if not one.is_file():
        return _parts(results)
    record = json.loads(one.read_text(encoding="utf-8"))
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line(_row(record, name)) for name in record["parts"][BLOCK]]
    sources = [record]
    two = results / "5b_2_gpus_cuda.json"
    if two.is_file():
        apart = json.loads(two.read_text(encoding="utf-8"))
        names = [name for name in apart["parts"].get(STREAM, {}) if name.endswith("second GPU")]
        lines += [_line(_row(apart, name)) for name in names]
        sources.append(apart)
    lines.append("")
    lines += [
        f"{made['hardware'].get('gpu') or made['hardware']['cpu']}, torch "
        f"{made['versions']['torch']}, commit {made['commit']}: `{made['command']}`"
        for made in sources
    ]
    return "\n".join(lines) + "\n"


def _parts(results: Path) -> str | None:
    """The table of a block's two parts, each timed alone; None without their records."""
    paths = [results / name for name in ("5b_fused_block.json", "5b_vae_pieces.json")]
    if not all(path.is_file() for path in paths):
        return None
    block, vae = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    head = ("each part alone", "seconds", "times as fast", "GiB above the weights")
    lines = [_line(head), _line(["---"] * len(head))]
    for timed, names in ((block["paths"], TRANSFORMER), (vae["decoding"], DECODER)):
        plain = timed[next(iter(names))]["seconds"]
        for key, name in names.items():
            seconds, memory = timed[key]["seconds"], timed[key].get("gib_above_weights")
            row = (name, _number(seconds, 3), _number(plain / seconds, 2), _number(memory, 1))
            lines.append(_line(row))
    lines.append("")
    lines += [
        f"{made.get('gpu') or made['device']}, torch {made['torch']}, commit {made['commit']}: "
        f"`{made['command']}`"
        for made in (block, vae)
    ]
    return "\n".join(lines) + "\n"


def _row(record: dict[str, Any], name: str) -> list[str]:
    """A configuration: its seconds, with how many times faster than the earlier tree it is."""
    block, decoding, streams, memory = (
        record["parts"].get(part, {}).get(name, {}) for part in (BLOCK, DECODING, STREAM, MEMORY)
    )
    error = block.get("error")
    if isinstance(error, str) and error.startswith("not timed"):
        return [name, "", "", "", "", error]
    peaks = [value for key, value in memory.items() if key.startswith("peak")]
    peak = streams.get("peak_gib", max(peaks, default=None))
    latents = LATENTS.get(error, f"{error} of their norm off")
    return [
        name,
        _seconds(block),
        _seconds(decoding),
        _number(streams.get("frames_a_second"), 1),
        _number(peak, 1),
        latents,
    ]


def _seconds(row: dict[str, Any]) -> str:
    """The median, and how many times faster than the earlier tree's that is."""
    times = row.get("times_earlier_speed")
    more = "" if times is None else f" ({times:.2f}x)"
    return f"{_number(row.get('seconds_p50'), 3)}{more}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    print(PAGE)
