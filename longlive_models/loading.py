"""Loading a model's parts to the CPU, from this library's folders or from the original's files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from longlive_core.nvfp4 import LinearConfig
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.adapters.attach import check_files, file_names
from longlive_models.checkpoints.folder import unfilled
from longlive_models.checkpoints.hub import is_published
from longlive_models.checkpoints.model_folder import load_parts, read_spec
from longlive_models.checkpoints.nvfp4 import ReduceAmax
from longlive_models.checkpoints.tensor_files import require_numbers
from longlive_models.checkpoints.weight_hash import FileHash
from longlive_models.finite import sound_weights
from longlive_models.published import (
    PublishedFiles,
    find_files,
    find_weights,
    load_published,
    open_files,
)
from longlive_models.runtime import Runtime
from longlive_models.settings import GenerationSettings, ModelSpec
from longlive_models.text import TextEncoder, UMT5Config
from longlive_models.vae import WanVAE
from longlive_models.vae.light import check_light, find_light, with_light_decoder
from longlive_models.vae.tiles import check_tiles
from longlive_models.wan import WanConfig, WanTransformer, partition_blocks

ALONE = SequenceGroup()
"""The group of a single rank, which makes its videos by itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """The parts of a model with the weights of its files.

    Attributes:
        transformer, vae, text: the parts on the CPU, with the weights as they are in the files.
        settings: picture size, rates and defaults.
        weights: the folder or file that names the model by its hash.
        beside: files that change what it makes, with what each is; they are in that hash.
        others: further files that were loaded; their hashes are recorded beside it.
        unchecked: by part, the file whose weights have not been searched for NaN yet: on a GPU
            that is faster once they are there (see ``check_numbers``).
    """

    transformer: WanTransformer
    vae: WanVAE
    text: TextEncoder
    settings: GenerationSettings
    weights: Path
    beside: tuple[tuple[str, Path], ...] = ()
    others: tuple[Path, ...] = ()
    unchecked: Mapping[str, Path] = field(default_factory=dict)

    def hashes(self, weights: FileHash | None = None) -> tuple[FileHash, ...]:
        """A hash for each file or folder that was loaded; ``weights`` is the first, if known."""
        first = FileHash(self.weights, self.beside) if weights is None else weights
        return (first, *(FileHash(path) for path in self.others))

    def check_numbers(self) -> None:
        """Raise ValueError for a NaN or an infinity in weights that were not searched for them."""
        for part, source in self.unchecked.items():
            module = getattr(self, part)
            if not sound_weights(module):  # one answer for all; which it was is looked for after
                require_numbers(module.state_dict(), source)


def load_model(
    folder: Path, runtime: Runtime, *, download: bool = False, group: SequenceGroup = ALONE
) -> LoadedModel:
    """Load a model folder, of this library's form or the original's.

    Args:
        folder: the model folder.
        runtime: where and how precisely the model will compute.
        group: the ranks that share each video; a single one by default.

    Raises:
        ValueError: files that are missing, damaged or of different models, or too little memory.
        BackendUnavailable: a backend that was named and cannot run.
    """
    if is_published(folder):
        return load_original(folder, runtime, download=download, group=group)
    spec = read_spec(folder)
    _check(spec, runtime, group, folder)
    transformer, vae, text = load_parts(folder, runtime, reduce_amax(spec, group))
    return LoadedModel(
        transformer=transformer,
        vae=_with_decoder(vae, folder, runtime),
        text=text,
        settings=spec.settings,
        weights=folder,
        beside=files_beside(folder, runtime),
    )


def load_original(
    folder: Path,
    runtime: Runtime,
    *,
    spec: ModelSpec | None = None,
    text_config: UMT5Config | None = None,
    download: bool = False,
    group: SequenceGroup = ALONE,
) -> LoadedModel:
    """Load the files of others (see ``longlive_models.published``), in a folder or beside a file.

    ``spec`` and ``text_config`` are the sizes that they must have, by default those of the shapes
    in them. The model's hash is that of the transformer's file alone: the others are the base
    model's.
    Raises what ``load_model`` raises.
    """
    files = find_files(folder, packed=_wants_packed(runtime), download=download)
    opened = open_files(files)
    spec = opened.spec() if spec is None else spec
    _check(spec, runtime, group, folder)
    later = runtime.device.type == "cuda" and runtime.linears is None
    transformer, vae, text = load_published(
        opened,
        runtime=runtime,
        spec=spec,
        text_config=text_config,
        reduce_amax=reduce_amax(spec, group),
        check=not later,
    )
    return LoadedModel(
        transformer=transformer,
        vae=_with_decoder(vae, folder, runtime),
        text=text,
        settings=spec.settings,
        weights=files.transformer,
        beside=files_beside(folder, runtime),
        others=(files.vae, files.text),
        unchecked=_sources(files) if later else {},
    )


def _sources(files: PublishedFiles) -> dict[str, Path]:
    return {"transformer": files.transformer, "vae": files.vae, "text": files.text}


def reduce_amax(spec: ModelSpec, group: SequenceGroup) -> ReduceAmax | None:
    """The function that makes one amax of those of a group's ranks; None for a single rank."""
    if group.size == 1:
        return None
    return partition_blocks(spec.transformer, group, spec.latent_size).max_over_group


def hash_of(folder: Path, runtime: Runtime) -> FileHash:
    """The hash of the files that make a runtime's frames; reads no weights before it is asked for.

    Raises:
        ValueError: a file that the runtime names is not there.
    """
    weights = folder
    if is_published(folder):
        weights = find_weights(folder, packed=_wants_packed(runtime)) or folder
    return FileHash(weights, files_beside(folder, runtime))


def files_beside(folder: Path, runtime: Runtime) -> tuple[tuple[str, Path], ...]:
    """The files beside a model's own ones that a runtime names, each with what it is.

    Raises:
        ValueError: one of them is not there.
    """
    light = (("light decoder", find_light(folder)),) if runtime.vae == "light" else ()
    return (*light, *file_names(runtime.lora))


def check_text(wan: WanConfig, text: TextEncoder) -> None:
    """Raise ValueError if the transformer cannot take the text encoder's features."""
    if text.text_dim != wan.text_dim or text.text_len > wan.text_len:
        raise ValueError(
            f"the text encoder gives {text.text_len} rows of {text.text_dim}, the transformer "
            f"takes up to {wan.text_len} of {wan.text_dim}: they are parts of different models. "
            f"Take both from one training run."
        )


def _with_decoder(vae: WanVAE, folder: Path, runtime: Runtime) -> WanVAE:
    return with_light_decoder(vae, find_light(folder)) if runtime.vae == "light" else vae


def _wants_packed(runtime: Runtime) -> bool:
    return isinstance(runtime.linears, LinearConfig)


def check_beside(folder: Path, spec: ModelSpec, runtime: Runtime) -> None:
    """Raise ValueError where tiles or files beside a model's own do not fit it; reads adapters."""
    check_tiles(spec.vae, spec.latent_size, runtime.vae_tiles)
    if runtime.vae == "light":
        check_light(find_light(folder), spec.vae)
    if runtime.lora:
        with unfilled():
            check_files(WanTransformer(spec.transformer), runtime.lora)


def _check(spec: ModelSpec, runtime: Runtime, group: SequenceGroup, folder: Path) -> None:
    """Refuse what could not run here, before weights are read."""
    check_beside(folder, spec, runtime)
    runtime.check(spec.transformer)
    windows = runtime.reads_windows(spec.transformer.head_dim)
    spec.require_room(runtime.codec(), runtime.device, ranks=group.size, windows=windows)
