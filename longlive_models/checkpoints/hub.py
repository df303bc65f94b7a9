"""Finding the local folder of a model's name, folder or hub id. Downloads only if asked."""

from collections.abc import Sequence
from pathlib import Path

EMBEDDED = {"pocket": Path(__file__).parents[1] / "pocket"}
INDEX = "model_index.json"
PACKED_WEIGHTS = "model_4o6.pt"
PUBLISHED_WEIGHTS = ("model_bf16.pt", "model_te.pt", PACKED_WEIGHTS)
"""Names of the transformer's file in the original's layout, which ``published.py`` reads."""


def resolve(model: str, *, download: bool = False, revision: str | None = None) -> Path:
    """Find the local folder of ``model``.

    Args:
        model: "pocket" (ships with the package), a model folder, or a hub id ("owner/name").
        download: fetch a hub id that is not in the local hub cache.
        revision: a branch, a tag or a commit of a hub id.

        Raises:
            ValueError: there is no such model here; the message says what would help.
    """
    if model in EMBEDDED:
        return EMBEDDED[model]
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "/", "~")):
            known = ", ".join(repr(name) for name in EMBEDDED)
            raise ValueError(
                f"there is no model {model!r}: it is neither a shipped one ({known}), nor a "
                f"folder that exists, nor a hub id of the form owner/name."
            )
        folder = snapshot(model, download=download, revision=revision)
    if not (folder / INDEX).is_file() and not is_published(folder):
        raise ValueError(
            f"the folder {str(folder)!r} holds no {INDEX}, so it is no model folder: name a folder "
            f"that a training recipe wrote, or one with the published {PUBLISHED_WEIGHTS[0]}."
        )
    return folder


def is_published(folder: Path) -> bool:
    """Whether a folder holds the original's files rather than this library's."""
    return not (folder / INDEX).is_file() and any((folder / f).is_file() for f in PUBLISHED_WEIGHTS)


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
                f"and nothing is downloaded unless asked: pass download=True (or "
                f"`--set download=true`), or fetch it with `hf download {model}`"
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
