"""Reading prompt files: text, JSONL, storyboards, and the original's folders."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longlive_core.checks import shown, whole
from longlive_models.documents import lines_of, parse_json, read_text
from longlive_models.file_names import require_name
from longlive_models.prompts.storyboard import Shot, Storyboard
from longlive_models.prompts.text import require_prompt
from longlive_models.unknown_keys import refuse_unknown_keys

_SUFFIXES = (".txt", ".jsonl", ".json")
_MARK = "\ufeff"  # where files that begin with one were joined
_MOST_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """One video that a prompt file asks for; what the file does not say is None."""

    storyboard: Storyboard
    id: str | None = None
    seed: int | None = None
    image: Path | None = None


def read_prompts(
    path: str | Path, *, lines: Literal["shots", "videos"] = "shots"
) -> list[VideoRequest]:
    """Read the videos that a prompt file or folder asks for, in order; at least one.

    - ``.txt``: one prompt on each line; empty lines are skipped. The lines are the shots of one
      video, or, with ``lines="videos"`` (as the original reads them), one video each.
    - ``.jsonl``: one video on each line, ``{"id", "prompt", "seed", "image"}``; only the prompt is
      needed. Relative image paths start at the file's folder.
    - ``.json``: a storyboard, ``{"shots": [{"prompt", "seconds"}]}``.
    - a folder: one video for each sample folder in it, or in its ``caption`` folder. A sample has
      a JSON file with the key ``caption`` for each shot, and may have a ``shot_durations.txt``
      with their lengths in blocks. ``shot_2`` comes before ``shot_10``, hidden files and folders
      are ignored, and captions without a duration are left out (``Storyboard.left_out``).

    Files are UTF-8; lines end at LF, CRLF or CR.

    Raises ValueError, with the place in the file, for what cannot be read.
    """
    path = Path(path)
    if lines not in ("shots", "videos"):
        raise ValueError(
            f"lines={shown(lines)} is neither 'shots' nor 'videos': it says what a line of a text "
            f"file is. Use one of them."
        )
    if lines == "videos" and (path.is_dir() or path.suffix.lower() == ".json"):
        raise ValueError(
            f"{path} has no lines that could be a video each: a .txt file has, and in a .jsonl "
            f"file every line is one. Leave --one-video-a-line (lines='videos') out."
        )
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ValueError(
            f"there is no prompt file {str(path)!r}: prompts are read before anything is "
            f"generated. Check the path, or pass the prompt itself."
        )
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"a prompt file ends in {', '.join(_SUFFIXES)}, got {path.name!r}: the suffix says how "
            f"to read it. Rename the file."
        )
    text = read_text(path, "a list of prompts")
    match path.suffix.lower():
        case ".txt":
            return _parse_text(text, path, lines)
        case ".jsonl":
            return _parse_jsonl(text, path)
        case _:
            value = parse_json(text, str(path))
            with _located(str(path)):
                return [VideoRequest(storyboard=Storyboard.of(value))]


def _parse_text(text: str, path: Path, lines: str) -> list[VideoRequest]:
    shots = []
    for number, line in enumerate(lines_of(text), start=1):
        if prompt := line.strip().strip(_MARK).strip():
            with _located(f"{path}, line {number}"):
                shots.append(Shot(prompt=prompt))
    if not shots:
        raise ValueError(
            f"{path}: a prompt file needs at least one line, got none: there is nothing to show. "
            f"Write a prompt a line."
        )
    if lines == "shots":
        return [VideoRequest(storyboard=Storyboard(shots=tuple(shots)))]
    return [VideoRequest(storyboard=Storyboard(shots=(shot,))) for shot in shots]


def _parse_jsonl(text: str, path: Path) -> list[VideoRequest]:
    requests = []
    for number, line in enumerate(lines_of(text), start=1):
        if line.strip().strip(_MARK):
            place = f"{path}, line {number}"
            value = parse_json(line.strip().strip(_MARK), place)
            with _located(place):
                requests.append(_request(value, path.parent))
    if not requests:
        raise ValueError(
            f"{path}: a prompt file needs at least one line, got none: there is nothing to show. "
            f'Write {{"prompt": "..."}} a line.'
        )
    return requests


def _request(value: Any, folder: Path) -> VideoRequest:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"a line is an object with the key 'prompt', got {shown(value)}: a video needs a "
            f'prompt. Write {{"prompt": "..."}}.'
        )
    refuse_unknown_keys("a video", value, ("id", "prompt", "seed", "image"))
    if "prompt" not in value:
        raise ValueError(
            f"a video needs the key 'prompt', got {sorted(value)}: there is nothing to show. "
            f'Write {{"prompt": "..."}}.'
        )
    require_prompt(value["prompt"])
    seed, image, name = value.get("seed"), value.get("image"), value.get("id")
    if seed is not None:
        why = "it names one stream of noise. Use for example 7."
        seed = whole("a seed", seed, at_least=0, at_most=2**64 - 1, why=why)
    if image is not None and not (isinstance(image, str) and image.strip() and "\0" not in image):
        raise ValueError(
            f"an image is the path of a file, got {shown(image)}: the video starts from it. "
            f"Put the path in quotes."
        )
    if name is not None:
        require_name(name, "an id")
    return VideoRequest(
        storyboard=Storyboard(shots=(Shot(prompt=value["prompt"]),)),
        id=name,
        seed=seed,
        image=None if image is None else folder / image,
    )


def _read_folder(folder: Path) -> list[VideoRequest]:
    root = folder / "caption" if (folder / "caption").is_dir() else folder
    folders = [path for path in root.iterdir() if path.is_dir() and not _is_hidden(path)]
    samples = sorted((path for path in folders if _shot_files(path)), key=_natural)
    if not samples:
        raise ValueError(
            f"a prompt folder holds caption/<sample>/<number>.json, got {str(folder)!r} without "
            f"any: there is nothing to show. Check the path."
        )
    requests = []
    for sample in samples:
        with _located(str(sample)):
            requests.append(VideoRequest(storyboard=_read_sample(sample), id=sample.name))
    return requests


def _read_sample(folder: Path) -> Storyboard:
    """Read a sample's shots in the order of their files: names that are no number, then numbers."""
    files = [path for path in _shot_files(folder) if path.name != "global.json"]
    files.sort(key=lambda path: (path.stem.isdecimal(), _natural(path)))
    captions = [_caption(path) for path in files]
    durations = folder / "shot_durations.txt"
    if not durations.exists():
        return Storyboard(shots=tuple(Shot(prompt=caption) for caption in captions))
    words = read_text(durations, "a list of durations").replace(",", " ").split()
    fit = [word.isdecimal() and len(word) <= _MOST_DIGITS and int(word) > 0 for word in words]
    if not words or not all(fit):
        raise ValueError(
            f"{durations.name}: durations are whole numbers of blocks above 0, got "
            f"{shown(' '.join(words))}: blocks are generated whole. Write for example '2, 6'."
        )
    if len(words) > len(captions):
        raise ValueError(
            f"{durations.name} has {len(words)} durations for {len(captions)} captions: each is of "
            f"one. Add the captions, or remove the durations that have none."
        )
    given = zip(captions, words, strict=False)
    return Storyboard(
        shots=tuple(Shot(prompt=text, blocks=int(word)) for text, word in given),
        left_out=tuple(captions[len(words) :]),
    )


def _shot_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.json") if not _is_hidden(path)]


def _is_hidden(path: Path) -> bool:
    """Whether an editor or a system keeps it for itself: ``.ipynb_checkpoints``, ``._1.json``."""
    return path.name.startswith(".")


def _natural(path: Path) -> list[str | int]:
    """A key that sorts names as people number them: ``shot_2`` before ``shot_10``."""
    parts = re.split(r"(\d+)", path.stem)
    return [int(part) if part.isdecimal() else part for part in parts]


def _caption(path: Path) -> str:
    value = parse_json(read_text(path, "a shot's file"), path.name)
    if not isinstance(value, Mapping) or not isinstance(value.get("caption"), str):
        raise ValueError(
            f"{path.name}: a shot's file is an object with the key 'caption', got none: there is "
            f'nothing to show. Write {{"caption": "..."}}.'
        )
    return value["caption"]


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Say where in a file a ValueError comes from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
