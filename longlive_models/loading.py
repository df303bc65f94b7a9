"""Loading a model's parts to the CPU, from this library's folders or from the original's files."""

from dataclasses import dataclass
from pathlib import Path

from longlive_core.nvfp4 import LinearConfig
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.checkpoints.hub import is_published
from longlive_models.checkpoints.model_folder import load_parts, read_spec
from longlive_models.checkpoints.nvfp4 import ReduceAmax
from longlive_models.published import LONGLIVE_5B, find_files, find_weights, load_published
from longlive_models.runtime import Runtime
from longlive_models.settings import GenerationSettings, ModelSpec
from longlive_models.text import UMT5_XXL, TextEncoder, UMT5Config
from longlive_models.vae import WanVAE
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
    """

    transformer: WanTransformer
    vae: WanVAE
    text: TextEncoder
    settings: GenerationSettings
    weights: Path


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
    _check(spec, runtime, group)
    transformer, vae, text = load_parts(folder, runtime, reduce_amax(spec, group))
    return LoadedModel(
        transformer=transformer, vae=vae, text=text, settings=spec.settings, weights=folder
    )


def load_original(
    folder: Path,
    runtime: Runtime,
    *,
    spec: ModelSpec = LONGLIVE_5B,
    text_config: UMT5Config = UMT5_XXL,
    download: bool = False,
    group: SequenceGroup = ALONE,
) -> LoadedModel:
    """Load the original's files (see ``longlive_models.published``), of the sizes in ``spec``.

    The model's hash is that of the transformer's file alone: the others are the base model's.
    Raises what ``load_model`` raises.
    """
    files = find_files(folder, packed=_wants_packed(runtime), download=download)
    _check(spec, runtime, group)
    transformer, vae, text = load_published(
        files,
        runtime=runtime,
        spec=spec,
        text_config=text_config,
        reduce_amax=reduce_amax(spec, group),
    )
    return LoadedModel(
        transformer=transformer,
        vae=vae,
        text=text,
        settings=spec.settings,
        weights=files.transformer,
    )


def reduce_amax(spec: ModelSpec, group: SequenceGroup) -> ReduceAmax | None:
    """The function that makes one amax of those of a group's ranks; None for a single rank."""
    if group.size == 1:
        return None
    return partition_blocks(spec.transformer, group, spec.latent_size).max_over_group


def weights_of(folder: Path, runtime: Runtime) -> Path:
    """The folder or file whose hash identifies the model in ``folder``; reads no weights."""
    if not is_published(folder):
        return folder
    return find_weights(folder, packed=_wants_packed(runtime)) or folder


def check_text(wan: WanConfig, text: TextEncoder) -> None:
    """Raise ValueError if the transformer cannot take the text encoder's features."""
    if text.text_dim != wan.text_dim or text.text_len > wan.text_len:
        raise ValueError(
            f"the text encoder gives {text.text_len} rows of {text.text_dim}, the transformer "
            f"takes up to {wan.text_len} of {wan.text_dim}: they are parts of different models. "
            f"Take both from one training run."
        )


def _wants_packed(runtime: Runtime) -> bool:
    return isinstance(runtime.linears, LinearConfig)


def _check(spec: ModelSpec, runtime: Runtime, group: SequenceGroup) -> None:
    """Refuse what could not run here, before weights are read."""
    runtime.check(spec.transformer)
    spec.require_room(runtime.codec(), runtime.device, ranks=group.size)
