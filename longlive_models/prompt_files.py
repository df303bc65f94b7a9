"""Prompts as people keep them: text, JSONL, storyboards, and the original's folders."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longlive_models.documents import lines_of, parse_json, read_text
from longlive_models.keys import refuse_unknown_keys
from longlive_models.shots import Shot, Storyboard, require_prompt

_SUFFIXES = (".txt", ".jsonl", ".json")


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """One video that a file asks for; what the file leaves open is None."""

    storyboard: Storyboard
    id: str | None = None
    seed: int | None = None
    image: Path | None = None


def read_prompts(
    path: str | Path, *, lines: Literal["shots", "videos"] = "shots"
) -> list[VideoRequest]:
    """The videos that a prompt file or folder asks for, in order; at least one.

    - ``.txt``: a prompt a line, empty lines skipped. The lines are the shots of one video, or,
      with ``lines="videos"`` (the original's reading), a video each.
    - ``.jsonl``: a video a line, ``{"id", "prompt", "seed", "image"}``; only the prompt is needed.
      Relative image paths start at the file's folder.
    - ``.json``: a storyboard, ``{"shots": [{"prompt", "seconds"}]}``.
    - a folder: a video for each sample folder in it, or in its ``caption`` folder, each with a
      JSON file of the key ``caption`` a shot and, if there, a ``shot_durations.txt`` in blocks.

    Raises ValueError, with the place in the file, for what cannot be read.
    """
    path = Path(path)
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
    shots = [Shot(prompt=line.strip()) for line in lines_of(text) if line.strip()]
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
        if line.strip():
            place = f"{path}, line {number}"
            value = parse_json(line, place)
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
            f"a line is an object with the key 'prompt', got {value!r}: a video needs a prompt. "
            f'Write {{"prompt": "..."}}.'
        )
    refuse_unknown_keys("a video", value, ("id", "prompt", "seed", "image"))
    if "prompt" not in value:
        raise ValueError(
            f"a video needs the key 'prompt', got {sorted(value)}: there is nothing to show. "
            f'Write {{"prompt": "..."}}.'
        )
    require_prompt(value["prompt"])
    seed, image, name = value.get("seed"), value.get("image"), value.get("id")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
        raise ValueError(
            f"a seed is a whole number from 0 up, got {seed!r}: it names one stream of noise. "
            f"Use for example 7."
        )
    if image is not None and not isinstance(image, str):
        raise ValueError(
            f"an image is the path of a file, got {image!r}: the video starts from it. "
            f"Put the path in quotes."
        )
    return VideoRequest(
        storyboard=Storyboard(shots=(Shot(prompt=value["prompt"]),)),
        id=None if name is None else str(name),
        seed=seed,
        image=None if image is None else folder / image,
    )


def _read_folder(folder: Path) -> list[VideoRequest]:
    root = folder / "caption" if (folder / "caption").is_dir() else folder
    samples = sorted(p for p in root.iterdir() if p.is_dir() and any(p.glob("*.json")))
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
    """Shots by file name: names that are no number first, then numbers by value."""
    files = [path for path in folder.glob("*.json") if path.name != "global.json"]
    files.sort(key=lambda p: (p.stem.isdecimal(), int(p.stem) if p.stem.isdecimal() else p.stem))
    captions = [_caption(path) for path in files]
    durations = folder / "shot_durations.txt"
    if not durations.is_file():
        return Storyboard(shots=tuple(Shot(prompt=caption) for caption in captions))
    words = read_text(durations, "a list of durations").replace(",", " ").split()
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(
            f"{durations.name}: durations are whole numbers of blocks above 0, got "
            f"{' '.join(words)!r}: blocks are generated whole. Write for example '2, 6'."
        )
    pairs = zip(captions, words, strict=False)  # captions without a duration are left out
    return Storyboard(shots=tuple(Shot(prompt=text, blocks=int(word)) for text, word in pairs))


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
