"""What each rank does in the tests of parallel training: the tiny recipe, step by step."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, TrainingConfig
from longlive_core.sequence_parallel import SequenceGroup, masked_mean
from longlive_recipes.distill_cm import DistillCMModule, cm_tiny
from longlive_recipes.distill_dmd import DistillDMDModule, dmd_tiny
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.train_ar import TrainAR, TrainARModule
from longlive_recipes.training.fit import fit
from longlive_recipes.training.parallel import Parallel, Ranks, shard
from longlive_recipes.training.schedule import Phase
from tests.recipes.tiny_runs import Toy, ToyModule, ar_config, quiet_run

NEAREST = TrainingConfig(gradient=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))
"""All three products in four bits; rounding at random would differ between ranks."""


def shared_config(folder: str, data: int = 1, sequence: int = 1, **changes: Any) -> TrainAR:
    """Batches of four clips of three blocks: one sequence rank of two holds more than the other."""
    config = ar_config(
        Path(folder) / "run",
        Path(folder) / "vae",
        sets=(ClipSet(blocks=3, clips=6),),
        phases=(Phase(length=3, batch=4, until=1.0),),
        validation_clips=2,
        parallel=Parallel(data=data, sequence=sequence),
    )
    return replace(config, **changes)


def place(group: dist.ProcessGroup, data: int, sequence: int) -> Ranks:
    """This rank's place in a mesh made of a process group, sequence ranks side by side."""
    world = SequenceGroup.of(group)
    if sequence == 1:
        return Ranks(data=world, world=world)
    if data == 1:
        return Ranks(sequence=world, world=world)
    return replace(Ranks.of(init_device_mesh("cpu", (data, sequence))), world=world)


def first_step(module: TrainARModule, mask: bool) -> dict[str, Any]:
    """The loss of a step, and the gradient of each parameter, put together."""
    module.configure_model()
    module.on_fit_start()
    for name, parameter in module.named_parameters():
        if name == "model.head.head.weight":  # it begins at zero, and stops gradients
            with torch.no_grad():
                parameter.fill_(0.1)
    clips, generator = module.sets[3], module.choices(0)
    torch.manual_seed(5)
    if mask:
        counted = torch.rand(4, 24, generator=torch.Generator().manual_seed(1)) < 0.6
        counted[0] = False  # a clip of which nothing counts
        losses = module.losses(module.velocity, clips, 4, generator)
        sp = module.exchange(clips.ids.shape[1], clips.tokens_per_frame)
        own = sp.shard(module.ranks.clips(counted), 1)
        loss = masked_mean(losses, own, module.ranks.world)
    else:
        loss = module.loss(module.velocity, clips, 4, generator)
    loss.backward()
    gradients = {name: whole(p.grad) for name, p in module.named_parameters()}
    if module.errors is not None:
        held = module.errors.recycler.latent_errors.held()
        gradients["errors"] = torch.stack(held).float()
    return {"loss": loss.detach(), "cuts": bool(clips.positions.diff().gt(1).any()), **gradients}


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if hasattr(x, "full_tensor") else x.clone()


def step_on_ranks(
    group: dist.ProcessGroup, folder: str, shape: tuple[int, int], mask: bool, changes: dict
) -> dict[str, Any]:
    """``first_step`` with the ranks of a mesh of this shape."""
    config = shared_config(folder, *shape, **changes)
    return first_step(TrainARModule(config, place(group, *shape)), mask)


def consistency_step(folder: str, shape: tuple[int, int], ranks: Ranks) -> list[float]:
    """The loss of a step of consistency distillation, and the sizes of a few gradients."""
    shared = shared_config(folder, *shape)
    config = replace(
        cm_tiny(),
        vae=shared.vae,
        start_from=f"{folder}/run/model",
        sets=shared.sets,
        phases=shared.phases,
        validation_clips=shared.validation_clips,
        parallel=shared.parallel,
    )
    module = DistillCMModule(config, ranks)
    module.configure_model()
    module.on_fit_start()
    for average in module.averages.values():
        average.start(module)
    torch.manual_seed(5)
    loss = module.loss(module.velocity, module.sets[3], 4, module.choices(0))
    loss.backward()
    gradients = [whole(p.grad).norm() for p in module.model.parameters()]
    return [float(loss.detach()), *map(float, gradients[::5])]


def consistency_step_on_ranks(
    group: dist.ProcessGroup, folder: str, shape: tuple[int, int]
) -> list[float]:
    """``consistency_step`` with the ranks of a mesh of this shape."""
    return consistency_step(folder, shape, place(group, *shape))


def matching_step(
    folder: str, shape: tuple[int, int], ranks: Ranks, changes: dict[str, Any]
) -> dict[str, Tensor]:
    """Losses and gradients of student and critic in a step of distribution matching."""
    shared = shared_config(folder, *shape)
    config = replace(
        dmd_tiny(),
        vae=shared.vae,
        start_from=f"{folder}/run/model",
        teacher_from=f"{folder}/run/model",
        sets=shared.sets,
        phases=shared.phases,
        validation_clips=shared.validation_clips,
        parallel=shared.parallel,
        **changes,
    )
    module = DistillDMDModule(config, ranks)
    module.configure_model()
    module.on_fit_start()
    for average in module.averages.values():
        average.start(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    torch.manual_seed(5)
    chance = module.choices(0)
    asked = module.ask(module.sets[3], 4, chance)
    if config.replay:
        student = module.replayed_loss(asked, 4, chance, Tensor.backward)
    else:
        student = module.student_loss(asked, 4, chance)
        student.backward()
    if config.pull:
        pulled = module.loss(module.velocity, module.sets[3], 4, chance)
        (config.pull * pulled).backward()
    critic = module.critic_loss(module.ask(module.sets[3], 4, chance), 4, chance)
    critic.backward()
    module.ranks.mean_gradients(module.parameters())
    losses = {"student": module.ranks.mean(student), "critic": module.ranks.mean(critic)}
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return losses | grads


def matching_step_on_ranks(
    group: dist.ProcessGroup, folder: str, shape: tuple[int, int], changes: dict[str, Any]
) -> dict[str, Tensor]:
    """``matching_step`` with the ranks of a mesh of this shape."""
    return matching_step(folder, shape, place(group, *shape), changes)


@contextmanager
def launched(group: dist.ProcessGroup) -> Iterator[None]:
    """Within the block, Lightning takes this process for a rank that torchrun started."""
    rank, size = str(dist.get_rank(group)), str(dist.get_world_size(group))
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    told |= {"GROUP_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    with patch.dict(os.environ, {**told, "TORCHELASTIC_RUN_ID": "test"}):
        yield


class ShardedToy(ToyModule):
    """The toy, shared out over ranks."""

    def configure_model(self) -> None:
        if not hasattr(self, "ranks"):
            self.ranks = Ranks.of(self.device_mesh)
            shard(self.line, (), self.ranks.world)

    def training_step(self, step: int) -> dict[str, Tensor]:
        x = torch.rand(16, 1, generator=self.choices(step))
        error = (self.line(x) - 2 * x - 1 - 0.1 * torch.randn(16, 1)).square().mean()
        return {"loss": error, "slope": whole(self.line.weight.detach()).squeeze()}

    def validate(self) -> dict[str, float]:
        line = self.line
        return {"slope": float(whole(line.weight)), "offset": float(whole(line.bias))}


def train_toy_on_ranks(group: dist.ProcessGroup, folder: str, output: str, resume: str) -> None:
    """Go on with the toy's run in ``folder / output``, on one of two ranks."""
    os.chdir(folder)
    config = Toy(run=quiet_run(Path(output)))
    with launched(group):
        module = ShardedToy(config)
        fit(module, config.run, config, resume=resume, parallel=Parallel(data=2))
