"""The whole loss of AR training, its gradients included, against float64."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from longlive_models.objectives.error_bank import ErrorBankConfig
from longlive_models.objectives.error_recycling import ErrorRecycling
from longlive_recipes.train_ar import TrainARModule
from tests.recipes.tiny_runs import ar_config, write_tiny_vae

ALWAYS = ErrorRecycling(
    context=1.0, start=1.0, noise=1.0, clean=0.0, bank=ErrorBankConfig(buckets=3, bucket_size=2)
)


def wide(batch):
    """The batch with float64 in place of float32."""
    doubled = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in vars(batch).items()
    }
    return replace(batch, **doubled)


@pytest.mark.parametrize("image_to_video", [0.0, 0.5])
def test_loss_and_gradients_are_those_of_float64(image_to_video, tmp_path):
    """Text encoder, mask, cuts, given frames and recycled errors included."""
    vae = write_tiny_vae(tmp_path / "vae")
    config = ar_config(tmp_path, vae, recycling=ALWAYS, image_to_video=image_to_video)
    module = TrainARModule(config)
    module.configure_model()
    module.on_fit_start()
    torch.nn.init.normal_(module.model.head.head.weight, std=0.1)
    clips = module.sets[3]
    module.losses(module.model, clips, 2, torch.Generator().manual_seed(1))  # errors to recycle
    batch, drawn = module._draw(clips, 4, torch.Generator().manual_seed(2))
    batch, recycled = module._recycle(batch, drawn, clips)
    assert batch.start is not None and not torch.equal(batch.start, batch.latents)
    loss = reference(module, clips, batch, torch.float32)
    exact = deepcopy(module)
    exact.double()
    wanted = reference(exact, clips, wide(batch), torch.float64)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    wanted.backward()
    for (name, own), other in zip(module.named_parameters(), exact.parameters(), strict=True):
        error = (own.grad - other.grad).norm() / other.grad.norm()
        assert error <= 2e-5, f"{name}: {error:.1e}"


def reference(module, clips, batch, dtype):
    """In float32 what a step computes; in float64 the same formula, written out."""
    if dtype == torch.float32:
        return module._mean(batch.weighted(module._denoise(module.model, clips, batch).losses))
    schedule = module.schedule
    sigma = schedule.sigmas.double()[schedule.index(batch.timesteps)][:, None, :, None, None]
    noisy = (1 - sigma) * batch.start + sigma * batch.noise
    text = module.text(batch.ids.flatten(0, 1)).unflatten(0, batch.ids.shape[:2])
    velocity = module.model(
        noisy,
        batch.timesteps,
        text,
        positions=batch.positions,
        mask=clips.mask(batch.some),
        clean=batch.context,
        clean_timesteps=torch.zeros_like(batch.timesteps),
    )
    error = (velocity - (batch.noise - batch.latents)).square().mean((1, 3, 4))
    weight = schedule.weights.double()[schedule.index(batch.timesteps)]
    losses = weight * error
    return (losses if batch.weights is None else losses * batch.weights).mean()
