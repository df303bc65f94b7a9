"""Loading published weights of the VAE: `Wan2.2_VAE.pth`, or safetensors with the same keys."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from longlive_core.names import few
from longlive_models.checkpoints.tensor_files import read_tensors
from longlive_models.vae.autoencoder import WanVAE
from longlive_models.vae.config import WAN22_VAE, VAEConfig


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a ``.pth``, ``.pt`` or ``.safetensors`` file to the CPU.

    Pickles are read with ``weights_only=True``, and mapped rather than copied. Raises ValueError
    for another kind of file, an incomplete one, a pickle with other values than tensors by name,
    and weights that are NaN or infinite.
    """
    return read_tensors(path)


def load_weights(vae: WanVAE, source: str | Path | Mapping[str, Tensor]) -> None:
    """Put weights from a file or a state dict into ``vae``, each converted to its own dtype.

    Raises ValueError that lists missing keys, unexpected ones, and those of another shape.
    """
    state = source if isinstance(source, Mapping) else read_state_dict(source)
    check_keys(vae, state)
    vae.load_state_dict(state)


def load_vae(
    source: str | Path | Mapping[str, Tensor],
    *,
    config: VAEConfig = WAN22_VAE,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
) -> WanVAE:
    """Load the VAE of a weight file, in evaluation mode, with the latent statistics of ``config``.

    ``dtype`` is the type of the weights; None keeps that of the file.

    It is built without memory for weights, so that they are in memory once. Raises ValueError as
    ``load_weights`` does.
    """
    state = source if isinstance(source, Mapping) else read_state_dict(source)
    with torch.device("meta"):
        vae = WanVAE(config)
    check_keys(vae, state)
    own = {name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}
    vae.load_state_dict(own, assign=True)
    vae.reset_statistics()
    return vae.eval()


def check_keys(vae: WanVAE, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless ``state`` has exactly the keys and shapes of ``vae``."""
    own = vae.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "wrong shapes": [
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in sorted(own.keys() & state.keys())
            if state[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {few(keys)}" for what, keys in problems.items() if keys)
        config = vae.config
        raise ValueError(
            f"these are not the weights of this VAE (encoder {config.encoder_dim}, decoder "
            f"{config.decoder_dim}, {config.latent_channels} latent channels). {listed}. "
            f"Pass the config that they were made with."
        )
