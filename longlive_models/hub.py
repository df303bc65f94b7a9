"""A model's name, folder or hub id, made into a local folder. No network unless asked."""

from pathlib import Path

EMBEDDED = {"pocket": Path(__file__).parent / "pocket"}
INDEX = "model_index.json"


def resolve(model: str, *, download: bool = False, revision: str | None = None) -> Path:
    """The local folder of ``model``.

    Args:
        model: "pocket" (ships with the package), a model folder, or a hub id ("owner/name").
        download: fetch a hub id that is not in the local hub cache.

    Raises:
        ValueError: no such model here, with what would help.
    """
    if model in EMBEDDED:
        return EMBEDDED[model]
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise ValueError(
                f"the folder {model!r} holds no {INDEX}, so it is no model folder: name the "
                f"folder that a training recipe or `longlive convert` wrote."
            )
        return folder
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        known = ", ".join(repr(name) for name in EMBEDDED)
        raise ValueError(
            f"there is no model {model!r}: it is neither a shipped one ({known}), nor a folder "
            f"that exists, nor a hub id of the form owner/name."
        )
    return _from_hub(model, download=download, revision=revision)


def _from_hub(model: str, *, download: bool, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=not download))
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{model!r} is not in the local hub cache, and nothing is downloaded unless asked: "
            f"pass download=True (--download), or fetch it with `hf download {model}`."
        ) from error
