"""What `longlive evaluate --suite` does with videos and prompts of others, and its pages."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longlive_cli.messages import note, say
from longlive_core.names import did_you_mean

if TYPE_CHECKING:
    from longlive_recipes.evaluation.drift import Drift

SUITES = {
    "shapes": "verdicts on moving shapes: shape, color, background, motion, cuts (the default)",
    "drift": "the last 15 % of any video against its first: color, contrast, flicker, motion",
    "vbench": "VBench's folder and prompts, made from its VBench_full_info.json",
}
"""The suites by name, each with what it is."""


def check_suite(name: str, videos: Sequence[Path]) -> None:
    """Raise ValueError for a suite that is unknown, or lacks its files."""
    if name not in SUITES:
        raise ValueError(
            f"--suite {name!r} is no suite{did_you_mean(name, SUITES)}There are "
            f"{', '.join(SUITES)}."
        )
    if name == "drift" and not videos:
        raise ValueError("--suite drift measures videos: name them, or folders of frames.")
    if name == "vbench" and len(videos) != 1:
        raise ValueError(
            f"--suite vbench takes VBench's list of prompts, VBench_full_info.json, got "
            f"{len(videos)} files: it comes with VBench itself (github.com/Vchitect/VBench)."
        )


def require_videos(videos: Sequence[Path]) -> None:
    """Raise ValueError for a video that is not there, before anything heavy is loaded."""
    for path in videos:
        if not path.exists():
            raise ValueError(
                f"there is no video {str(path)!r}: it was to be judged. Check the path."
            )


def check_page(page: Path | None, reads: list[tuple[str, Path]], overwrite: bool) -> None:
    """Raise ValueError if the page of `--html` would replace an input, or cannot be written."""
    if page is None:
        return
    from longlive_recipes.generation.inputs import refuse_inputs
    from longlive_recipes.generation.outputs import check_writable

    if page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html {page} is no page: give it the suffix .html.")
    refuse_inputs([("the page", page)], reads, option="--html")
    if page.is_dir() or (page.exists() and not overwrite):
        raise ValueError(f"{page} exists: pass --overwrite to replace it, or another --html.")
    check_writable(page, "html")


def write_page(page: Path, text: str) -> None:
    """Write a page in one move, and say so."""
    from longlive_recipes.run_record import replace_file

    page.parent.mkdir(parents=True, exist_ok=True)
    replace_file(page, text)
    note(f"longlive: {page} shows it.")


def measure_drift(
    videos: Sequence[Path],
    fps: float | None,
    as_json: bool,
    measured: "Callable[[Mapping[Path, Drift]], None]",
) -> "dict[Path, Drift]":
    """Measure videos, and tell each as it is measured; ``measured`` is then called with all."""
    from longlive_recipes.evaluation.drift import measure_file

    found: dict[Path, Drift] = {}
    for path in videos:
        found[path] = one = measure_file(path, fps)
        measured(found)
        say(json.dumps({"video": str(path), **asdict(one)}) if as_json else described(path, one))
    return found


def described(path: Path, drift: "Drift") -> str:
    """The drift of a video, as lines of text for people."""
    first, last = drift.first, drift.last
    seam = "no whole edge" if drift.edge_jump is None else f"{drift.edge_jump:.2f} times the rest"
    ratio = "" if drift.motion_ratio is None else f" ({drift.motion_ratio:.2f} times)"
    return "\n".join(
        [
            f"{path}: {drift.frames} frames at {drift.fps:g} a second; first part -> last part",
            f"  color moves by {drift.color_change:.3f}: {_color(first.color)} -> "
            f"{_color(last.color)}",
            f"  contrast {first.contrast:.3f} -> {last.contrast:.3f}",
            f"  flicker {first.flicker:.4f} -> {last.flicker:.4f}",
            f"  motion {first.motion:.4f} -> {last.motion:.4f}{ratio}",
            f"  jump at edges of blocks: {seam}",
        ]
    )


def prepare_vbench(info: Path, folder: Path) -> None:
    """Write VBench's folder, and say what comes next.

    Raises:
        ValueError: the list or the folder is not right, or weight files that VBench needs are
            missing; the folder is then there, and a note says so.
    """
    from longlive_recipes.evaluation.vbench import CACHE, prepare

    made = prepare(info, folder)
    say(
        f"{made.folder}: {made.count:,} videos to be made with: longlive generate --prompts "
        f"{made.prompts} --model MODEL -o {made.videos}"
    )
    if made.missing:
        files = "; ".join(f"{file} ({', '.join(uses)})" for file, uses in made.missing.items())
        error = ValueError(
            f"VBench lacks {len(made.missing)} weight files in {CACHE}, without which it cannot "
            f"judge: {files}. Fetch them as VBench's own page says."
        )
        error.add_note(f"{made.folder} was written.")
        raise error
    say(f"then judge them with: vbench evaluate --videos_path {made.videos}")


def as_drift_result(found: "Mapping[Path, Drift]") -> dict[str, Any]:
    """What `-o` stores of a suite of drift."""
    return {"suite": "drift", "videos": {str(path): asdict(one) for path, one in found.items()}}


def _color(color: tuple[float, float, float]) -> str:
    return f"({', '.join(f'{part:.2f}' for part in color)})"
