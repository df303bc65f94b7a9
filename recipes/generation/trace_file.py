"""The file of a generation's trace, for Perfetto; and what it says, in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longlive_models.documents import to_json
from longlive_models.file_names import part
from longlive_models.video.file_name import destination
from longlive_recipes.configs.generate import Generate, Snapshots, VideoJob
from longlive_recipes.generation.inputs import refuse_inputs
from longlive_recipes.generation.outputs import (
    check_writable,
    inputs,
    output_paths,
    sidecar_path,
)

if TYPE_CHECKING:
    from longlive_models.trace import Span


class TraceFile:
    """A trace of all videos of a run, written anew with each video that is made.

    Attributes:
        path: the file.
        lines: critical path and bubbles of the videos so far, as text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self._videos: dict[str, Sequence[Span]] = {}

    def add(self, name: str, spans: "Sequence[Span]") -> None:
        """Write the file with one more video in it."""
        from longlive_models.trace import perfetto, summarize

        self._videos[name] = spans
        self.lines += [f"{name}: {line}" for line in summarize(spans).lines()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(part(self.path.name))
        new.write_text(to_json(perfetto(self._videos), str(self.path)) + "\n", encoding="utf-8")
        new.replace(self.path)


def trace_file(
    path: Path | None,
    config: Generate,
    jobs: Sequence[VideoJob],
    output: Path,
    *,
    ranks: int,
    overwrite: bool,
    snapshots: Snapshots | None = None,
) -> TraceFile | None:
    """The file of a trace, if one is asked for.

    Raises:
        ValueError: it is no .json, it exists, cannot be written, is an input or another output, or
            several ranks make the videos.
    """
    if path is None:
        return None
    if ranks > 1:
        raise ValueError(
            f"--trace is of one process, and {ranks} ranks would each have their own. Leave out "
            f"--nproc, or --trace."
        )
    if path.suffix.lower() != ".json":
        raise ValueError(f"--trace {path}: a trace is JSON, which Perfetto reads. Name a .json.")
    written = [
        taken
        for video in output_paths(jobs, output)
        for taken in (destination(video), sidecar_path(video))
    ]
    written += [] if snapshots is None else [snapshots.path]
    if path.resolve() in [taken.resolve() for taken in written]:
        raise ValueError(
            f"--trace {path} is the name of another output of this run: a video's record is the "
            f".json beside it. Name another file."
        )
    refuse_inputs([("the trace", path)], inputs(config, jobs), option="--trace")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: pass --overwrite to replace it, or another --trace.")
    check_writable(path, "trace")
    return TraceFile(path)
