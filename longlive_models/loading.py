"""A model's files become its parts, on the CPU: this library's folders, or the original's."""

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
"""One rank, which makes its videos by itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """The parts of a model with the weights of its files.

    Attributes:
        transformer, vae, text: on the CPU, as the files have them.
        settings: sizes, rates and defaults.
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
    """The model in a folder, of whichever form, for the ranks of a group that share each video.

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
    """The original's files (see ``longlive_models.published``), of these sizes.

    The model is named by the transformer's file alone: the others are the base model's. Raises as
    ``load_model`` does.
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
    """What linears do whose inputs the ranks of a group share; None for one rank alone."""
    if group.size == 1:
        return None
    return partition_blocks(spec.transformer, group, spec.latent_size).max_over_group


def weights_of(folder: Path, runtime: Runtime) -> Path:
    """The folder or file whose hash names the model in a folder; reads no weights."""
    if not is_published(folder):
        return folder
    return find_weights(folder, packed=_wants_packed(runtime)) or folder


def check_text(wan: WanConfig, text: TextEncoder) -> None:
    """Raise ValueError for a text encoder whose features the transformer does not take."""
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
