"""Compare two models, or two precisions of one, video by video.

It takes records of `longlive evaluate -o`, one or more of each (of several seeds, say), in the same
order. The same prompts and seeds give pairs, whose differences are far surer than those of two
rates: only videos that one of the two gets right count.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from longlive_core.names import few
from longlive_models.documents import read_json
from longlive_models.runtime_options import RuntimeOptions
from longlive_recipes.run_record import differences

RUNTIME = tuple(field.name for field in fields(RuntimeOptions))
MAY_DIFFER = ("model", "batch", "workers", *RUNTIME)
"""Fields of an evaluation that two sides of a pair may have of their own."""
ATTRIBUTES = ("shape", "colour", "background", "motion")
TOLD = ("weights", "kv_cache", "seed")
NOT_SHARED = ("model", "device", "batch", "workers", *TOLD)
MADE = ("model_sha256", "backends", "hardware", "torch", "code")
NEEDED = ("steps", "guidance", *MADE)
NEEDED_INSIDE = {"config": TOLD}

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
    counts = [
        {n: len(suite["right"]) for n, suite in side["suites"].items()} for side in (one, other)
    ]
    if counts[0] != counts[1]:
        raise ValueError(
            f"these evaluations are not of the same videos: suites have {counts[0]} of them on the "
            f"one side and {counts[1]} on the other."
        )


def read(files: Sequence[Path]) -> list[Record]:
    """Records of evaluations.

    Raises:
        ValueError: a file that is none.
    """
    return [_read(path) for path in files]


def _read(path: Path) -> Record:
    found = read_json(path, "the record of an evaluation")
    if not isinstance(found, dict):
        found = {}
    lacks = [name for name in NEEDED if name not in found]
    for name, inside in NEEDED_INSIDE.items():
        holder = found.get(name)
        holder = holder if isinstance(holder, dict) else {}
        lacks += [f"{name}.{field}" for field in inside if field not in holder]
    suites = found.get("suites")
    for name, suite in suites.items() if isinstance(suites, dict) else [("NAME", None)]:
        if not isinstance(suite, dict) or not _are_marks(suite.get("right")):
            lacks.append(f"suites.{name}.right")
    if lacks:
        raise ValueError(
            f"{path} is no record of an evaluation: it lacks {few(lacks)}. "
            f"`longlive evaluate -o FILE` writes one."
        )
    record: Record = found
    return record


def _are_marks(right: Any) -> bool:
    """Whether a suite has a text such as "1101" for each of its videos, one or more."""
    wanted = len(ATTRIBUTES)
    return (
        isinstance(right, list)
        and bool(right)
        and all(isinstance(one, str) and len(one) == wanted for one in right)
    )


def sides(one: Sequence[Record], other: Sequence[Record]) -> Record:
    """How each side was made, as a part of a record of the comparison."""
    first, second = one[0]["config"], other[0]["config"]
    apart = [name for name in RUNTIME if first.get(name) != second.get(name)]
    told = dict.fromkeys((*TOLD, *(name for name in apart if name not in NOT_SHARED)))
    return {
        **{
            name: {
                "config": {key: side["config"].get(key) for key in told},
                **{key: side[key] for key in MADE},
            }
            for name, side in (("one", one[0]), ("other", other[0]))
        },
        "seeds": [each["config"]["seed"] for each in one],
        "config": {k: v for k, v in first.items() if k not in (*NOT_SHARED, *apart)},
    }


def as_markdown(record: Record) -> str:
    """A comparison as a table: a line for each suite and attribute."""
    lines = [
        "| suite | videos | attribute | one | other | only one | only other | points |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, suite in record["suites"].items():
        for attribute in ATTRIBUTES:
            row = suite[attribute]
            lines.append(
                f"| {name} | {suite['videos']} | {attribute} | {row['one']:.1%} | "
                f"{row['other']:.1%} | {row['only_one']} | {row['only_other']} | "
                f"{row['difference']:+.1f} ± {row['standard_error']:.1f} |"
            )
    return "\n".join([*lines, ""])
