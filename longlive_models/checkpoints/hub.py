"""Finding the local folder or file of a model's name, path or hub id. Downloads only if asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longlive_models.documents import read_json

EMBEDDED = {"pocket": Path(__file__).parents[1] / "pocket"}
INDEX = "model_index.json"
PACKED_WEIGHTS = "model_4o6.pt"
PUBLISHED_WEIGHTS = ("model_bf16.pt", "model_te.pt", PACKED_WEIGHTS)
"""Names of the transformer's file in the original's layout, which ``published.py`` reads."""


WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".gguf")
"""The suffixes of files that may hold a transformer by themselves."""

UNFINISHED = (".part", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp")
"""Suffixes that download programs give to files that are not complete yet."""

FOREIGN_TRANSFORMER = "WanTransformer3DModel"
"""The class that Diffusers' config of a Wan transformer names."""


def resolve(model: str, *, download: bool = False, revision: str | None = None) -> Path:
    """Find the local folder, or the file, of ``model``.

    Args:
        model: "pocket" (ships with the package), a model folder, a transformer's file of weights,
            or a hub id ("owner/name").
        download: fetch a hub id that is not in the local hub cache.
        revision: a branch, a tag or a commit of a hub id.

    Raises:
        ValueError: there is no such model here; the message says what would help.
    """
    if model in EMBEDDED:
        return EMBEDDED[model]
    folder = Path(model).expanduser()
    if folder.is_file():
        return _require_weights(folder)
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "/", "~")):
            known = ", ".join(repr(name) for name in EMBEDDED)
            raise ValueError(
                f"there is no model {model!r}: it is neither a shipped one ({known}), nor a "
                f"folder or file that exists, nor a hub id of the form owner/name."
            )
        folder = snapshot(model, download=download, revision=revision)
    if not (folder / INDEX).is_file() and not is_published(folder):
        if half := _half_fetched(folder):
            raise ValueError(
                f"the folder {str(folder)!r} holds no model yet, but {half}: the download of its "
                f"file was not finished. Fetch it again."
            )
        raise ValueError(
            f"the folder {str(folder)!r} holds no {INDEX}, so it is no model folder: name a folder "
            f"that a training recipe wrote, or one with the published {PUBLISHED_WEIGHTS[0]}, or "
            f"the transformer's file itself."
        )
    return folder


def _half_fetched(folder: Path) -> str | None:
    """The name of an unfinished download in a folder; None if there is none."""
    names = sorted(file.name for file in folder.iterdir() if file.suffix in UNFINISHED)
    return next((name for name in names if Path(name).stem in (*PUBLISHED_WEIGHTS, INDEX)), None)


def is_published(folder: Path) -> bool:
    """Whether a folder or a file is in the layout of others rather than this library's."""
    if folder.is_file():
        return True
    if (folder / INDEX).is_file():
        return "_class_name" in _values(folder / INDEX)
    if any((folder / f).is_file() for f in PUBLISHED_WEIGHTS):
        return True
    return is_foreign_transformer(folder) or is_foreign_transformer(folder / "transformer")


def is_foreign_transformer(folder: Path) -> bool:
    """Whether a folder holds a Wan transformer as Diffusers saves it."""
    values = _values(folder / "config.json")
    return values.get("_class_name") == FOREIGN_TRANSFORMER


def _values(file: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing if it is missing or broken, which its reader tells."""
    try:
        return read_json(file) if file.is_file() else {}
    except ValueError:
        return {}


def _require_weights(file: Path) -> Path:
    if file.suffix not in WEIGHT_FILES:
        raise ValueError(
            f"{str(file)!r} is no file of weights: it ends in none of {', '.join(WEIGHT_FILES)}. "
            f"Name the transformer's file, or the model's folder."
        )
    return file


def snapshot(
    model: str,
    *,
    download: bool,
    revision: str | None = None,
    patterns: Sequence[str] | None = None,
) -> Path:
    """The folder of a hub id in the local hub cache; only files that match ``patterns``, if given.

    Raises:
        ValueError: the files are not in the cache, and ``download`` is False or fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                local_files_only=not download,
                allow_patterns=None if patterns is None else list(patterns),
            )
        )
    except LocalEntryNotFoundError as error:
        if download:
            reason = "and the hub cannot be reached: check the connection"
        else:
            reason = (
                f"and nothing is downloaded unless asked: pass --download (in "
                f"Python download=True), or fetch it with `hf download {model}`"
            )
        raise ValueError(
            f"{model!r} is no folder here, and as a hub id it is not in the local hub cache, "
            f"{reason}."
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"the hub does not give out {model!r} ({type(error).__name__}): check the name, or "
            f"log in with `hf auth login` if it is gated."
        ) from error
