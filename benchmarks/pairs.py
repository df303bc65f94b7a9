"""Compare two models, or two precisions of one, video by video.

    python -m benchmarks.pairs --one bf16.json --other nvfp4.json -o results/kv_cache_pairs.json

Takes records of `longlive evaluate -o`, one or more of each (of several seeds, say), in the same
order. The same prompts and seeds give pairs, whose differences are far surer than those of two
rates: only videos that one of the two gets right count.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longlive_recipes.run_record import differences

MAY_DIFFER = ("model", "device", "weights", "kv_cache", "batch", "workers")
"""Fields of an evaluation that two sides of a pair may have of their own."""
ATTRIBUTES = ("shape", "colour", "background", "motion")

Record = dict[str, Any]


def compare(one: Sequence[Record], other: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """For each suite and attribute: both rates, and how many videos only one side gets right.

    ``difference`` is in points, the other's rate less the one's; ``standard_error`` is its own.

    Raises:
        ValueError: the two sides are not of the same videos.
    """
    if len(one) != len(other):
        raise ValueError(
            f"{len(one)} records of the one and {len(other)} of the other are no pairs: give as "
            f"many of both, in the same order."
        )
    suites: dict[str, list[tuple[str, str]]] = {}
    for first, second in zip(one, other, strict=True):
        _check_pair(first, second)
        for name, suite in first["suites"].items():
            pairs = zip(suite["right"], second["suites"][name]["right"], strict=True)
            suites.setdefault(name, []).extend(pairs)
    return {
        name: {"videos": len(pairs)}
        | {attribute: _row(pairs, place) for place, attribute in enumerate(ATTRIBUTES)}
        for name, pairs in suites.items()
    }


def _row(pairs: Sequence[tuple[str, str]], place: int) -> dict[str, float]:
    marks = [(one[place] == "1", other[place] == "1") for one, other in pairs]
    only_one = sum(one and not other for one, other in marks)
    only_other = sum(other and not one for one, other in marks)
    return {
        "one": sum(one for one, _ in marks) / len(marks),
        "other": sum(other for _, other in marks) / len(marks),
        "only_one": only_one,
        "only_other": only_other,
        "difference": round(100 * (only_other - only_one) / len(marks), 2),
        "standard_error": round(100 * math.sqrt(only_one + only_other) / len(marks), 2),
    }


def _check_pair(one: Record, other: Record) -> None:
    names = ("config", "steps", "guidance")
    first, second = ({name: side[name] for name in names} for side in (one, other))
    wrong = differences(first, second, ignore=[f"config.{name}" for name in MAY_DIFFER])
    if wrong:
        raise ValueError(f"these evaluations are not of the same videos: {'; '.join(wrong)}.")


def record(one: Sequence[Record], other: Sequence[Record], command: str) -> Record:
    """The comparison, and how each side was made."""
    sides = {"one": one[0], "other": other[0]}
    told = ("weights", "kv_cache", "seed")
    made = ("model_sha256", "backends", "hardware", "torch", "code")
    return {
        "suites": compare(one, other),
        **{
            name: {
                "config": {key: side["config"][key] for key in told},
                **{key: side[key] for key in made},
            }
            for name, side in sides.items()
        },
        "seeds": [each["config"]["seed"] for each in one],
        "config": {k: v for k, v in one[0]["config"].items() if k not in (*MAY_DIFFER, "seed")},
        "command": command,
    }


def table(suites: dict[str, dict[str, Any]]) -> str:
    """A Markdown table: a line for each suite and attribute."""
    lines = [
        "| suite | videos | attribute | one | other | only one | only other | points |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, suite in suites.items():
        for attribute in ATTRIBUTES:
            row = suite[attribute]
            lines.append(
                f"| {name} | {suite['videos']} | {attribute} | {row['one']:.1%} | "
                f"{row['other']:.1%} | {row['only_one']} | {row['only_other']} | "
                f"{row['difference']:+.1f} ± {row['standard_error']:.1f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("--one", nargs="+", type=Path, required=True, metavar="FILE")
    parser.add_argument("--other", nargs="+", type=Path, required=True, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args(arguments)
    one, other = ([json.loads(p.read_text()) for p in some] for some in (given.one, given.other))
    try:
        made = record(one, other, f"python -m benchmarks.pairs {' '.join(arguments)}")
    except ValueError as error:
        parser.error(str(error))
    if given.output:
        given.output.write_text(json.dumps(made, indent=2) + "\n")
    sys.stdout.write(table(made["suites"]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
