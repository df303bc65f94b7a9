"""Reading published weights of the transformer, and loading them into a model.

Keys are those of Wan2.2 and LongLive-2.0. What wrappers added to them is removed: the attribute
that held the model (``model.``), and the names of sharding, checkpointing and compilation.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from longlive_core.names import few
from longlive_models.checkpoints.folder import load_folder
from longlive_models.checkpoints.tensor_files import read_tensors
from longlive_models.layouts.wrappers import WRAPPERS
from longlive_models.wan.transformer import WanTransformer

HOLDERS = ("generator", "generator_ema", "model")
"""Keys under which a training checkpoint may hold its weights; the first that exists is used."""

_SHOWN = 8


def published_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under published keys, without what wrappers of the model added to the keys.

    Raises ValueError if two keys become one.
    """
    clean: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        name = name.removeprefix("model.")
        if name in clean:
            raise ValueError(
                f"two keys of the checkpoint become {name!r}, one of them {key!r}: it holds two "
                f"models. Save them apart."
            )
        clean[name] = value
    return clean


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in ``path``, under published keys, to the CPU.

    ``path`` is a ``.safetensors`` file, a ``.pt`` or ``.pth`` file (read with ``weights_only``; the
    weights may be under ``generator``, ``generator_ema`` or ``model``), or a folder with one or
    several safetensors files and perhaps their index. Raises ValueError for other or incomplete
    files, and for weights that are NaN or infinite.
    """
    path = Path(path)
    if path.is_dir():
        return published_keys(load_folder(path))
    return published_keys(read_tensors(path, HOLDERS))


def load_weights(
    model: WanTransformer, source: str | Path | Mapping[str, Tensor], *, strict: bool = True
) -> None:
    """Copy weights from a file, a folder or a state dict into ``model``, each to its own dtype.

    Raises ValueError that lists missing and unexpected keys, and every key of another shape.
    ``strict=False`` leaves what is missing as it is and ignores what is unexpected.
    """
    state = published_keys(source) if isinstance(source, Mapping) else read_state_dict(source)
    packed = [key for key in state if key.endswith("quantized_weight_values")]
    if packed:
        raise ValueError(
            f"the checkpoint holds packed weights ({packed[0]} and {len(packed) - 1} more): this "
            f"loader reads plain ones. Decode them first, or take the bf16 file."
        )
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = {"wrong shapes": misshapen}
    if strict:
        problems |= {"missing": missing, "unexpected": unexpected}
    if any(problems.values()):
        listed = "; ".join(
            f"{what}: {few(keys, _SHOWN)}" for what, keys in problems.items() if keys
        )
        raise ValueError(
            f"the checkpoint does not fit this WanTransformer ({model.config.num_layers} layers of "
            f"width {model.config.dim}). {listed}. Build it from the checkpoint's config."
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=strict)
