"""Distribution matching distillation: a student of few steps learns from its own long videos.

The student makes videos as inference does, beyond its window. A critic, which began as the teacher,
learns what these look like; where it and the teacher disagree about them, the student is moved. The
critic learns alone at first, then several times for each update of the student. All weights are
trained, or adapters of both beside frozen weights. What the judge sees of the student is in
``validation.csv`` and ``curve.svg``, and the best is kept, not the last.
Objectives: longlive_models/objectives/dmd.py, critic.py and rollout.py

Command:  longlive train cm_pocket && longlive train dmd_pocket
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longlive_core.attention import TableMask
from longlive_models.checkpoints.folder import unfilled
from longlive_models.lora import add_lora, save_lora
from longlive_models.objectives import (
    critic_loss,
    dmd_loss,
    draw_exit_steps,
    shot_anchors,
    teacher_forcing_table,
)
from longlive_models.wan import WanTransformer
from longlive_recipes import train_ar
from longlive_recipes.configs.distill_dmd import CRITIC, STUDENT, dmd_5b, dmd_pocket, dmd_tiny
from longlive_recipes.configs.distill_dmd import DistillDMD as DistillDMD
from longlive_recipes.distillation.adapters import LORA, merged_weights, only_adapters, share_base
from longlive_recipes.distillation.checks import check_student, check_teacher, check_written
from longlive_recipes.distillation.memory import what_fits as what_fits
from longlive_recipes.distillation.module import DistillModule, run_distillation
from longlive_recipes.distillation.quick import QuickStudent
from longlive_recipes.distillation.rollouts import Asked, PromptBook, Rollouts, lengthened
from longlive_recipes.distillation.shared import SharedNetworks
from longlive_recipes.distillation.step_memory import predict_dmd
from longlive_recipes.distillation.twins import twin
from longlive_recipes.moving_shapes.dataset import TokenClips
from longlive_recipes.training.checkpoint_layout import LEFT_OUT
from longlive_recipes.training.fit import load_average
from longlive_recipes.training.module import maybe_compile
from longlive_recipes.training.optimizers import trainable
from longlive_recipes.training.parallel import Parallel, Ranks
from longlive_recipes.training.schedule import current_phase

PRESETS = {"dmd_pocket": dmd_pocket, "dmd_tiny": dmd_tiny, "dmd_5b": dmd_5b}
predict = predict_dmd


class DistillDMDModule(DistillModule):
    """A student with its text encoder, and a critic; the teacher is in no checkpoint.

    Every rank holds all weights. Ranks make their parts of a batch of videos, those of a sequence
    the same ones together, and average gradients, so that all make the same updates.
    """

    config: DistillDMD
    target = STUDENT
    critic: WanTransformer

    def __init__(self, config: DistillDMD, ranks: Ranks | None = None) -> None:
        super().__init__(config, ranks)
        self.sampler = config.generation.block_sampler
        self.quick: QuickStudent | None = None
        self._masks: dict[tuple[bool, ...], TableMask] = {}

    def distribute(self) -> None:
        """Nothing is shared out: weights that are trained are few, or the base is frozen."""

    def add_networks(self) -> None:
        config = self.config
        if config.lora_rank:
            shared = share_base(
                self.model,
                config.lora,
                kept=config.base,
                student=config.lora_from,
                teacher=None if config.one_base else self.load_teacher(),
            )
            self.critic, self.teachers = shared.critic, (shared.teacher,)
        else:
            teacher = self.load_teacher()
            self.critic = copy.deepcopy(teacher)
            self.teachers = (teacher.requires_grad_(False).eval(),)
        self.twins = (twin(self.model),)
        if QuickStudent.serves(config):
            self.quick = QuickStudent(self.model)
        self.velocity = maybe_compile(self.model.forward, config.run.compile)
        self.critic_velocity = maybe_compile(self.critic.forward, config.run.compile)

    @contextmanager
    def update(self, name: str) -> Iterator[Callable[[Tensor], None]]:
        with super().update(name) as backward:
            yield backward
            if self.ranks.world.size > 1:
                part = self.model if name == STUDENT else self.critic
                self.ranks.mean_gradients(part.parameters())
        if name == STUDENT and self.quick is not None:
            self.quick.changed()

    def training_step(self, step: int) -> dict[str, Tensor]:
        config, chance = self.config, self.choices(step)
        phase = current_phase(config.phases, self.progress)
        clips, count = self.sets[phase.length], phase.batch
        logged: dict[str, Tensor] = {}
        if config.trains_student(step):
            with self.update(STUDENT) as backward:
                asked = self.ask(clips, count, chance)
                if config.replay:
                    loss = self.replayed_loss(asked, count, chance, backward)
                else:
                    loss = self.student_loss(asked, count, chance)
                    backward(loss)
                logged["student_loss"] = self.ranks.mean(loss)
                if config.pull:
                    loss = self.loss(self.velocity, clips, count, chance)
                    logged["pull_loss"] = self.ranks.mean(loss)
                    backward(config.pull * loss)
        with self.update(CRITIC) as backward:
            loss = self.critic_loss(self.ask(clips, count, chance), count, chance)
            logged["critic_loss"] = self.ranks.mean(loss)
            backward(loss)
        return logged

    def frames_of_step(self) -> int:
        config = self.config
        videos = 1 + config.trains_student(self.steps_taken)
        count = current_phase(config.phases, self.progress).batch * videos
        return count * config.world.first_frame(config.rollout_blocks)

    @property
    def alone(self) -> bool:
        """Whether a rank makes and scores videos by itself."""
        return self.ranks.sequence.size == 1

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of latents."""
        height, width = self.sets[self.config.phases[0].length].latents.shape[3:]
        return height, width

    @cached_property
    def shared(self) -> SharedNetworks:
        """How the ranks of a sequence make and score videos."""
        return SharedNetworks(
            group=self.ranks.sequence,
            model=self.config.model,
            blocks=self.config.rollout_blocks,
            latent_size=self.latent_size,
            given_past=self.config.scores == "given_past",
        )

    def scorer(self, network: WanTransformer) -> Callable[..., Tensor]:
        """The forward pass of a network that says what a whole video was, and learns nothing."""
        return self.frozen(network) if self.alone else self.shared.scorer(network)

    def student_loss(self, asked: Asked, count: int, chance: torch.Generator) -> Tensor:
        """The distribution matching loss of this rank's part of ``count`` new videos."""
        exits = self.exit_steps(chance)
        videos = self.roll_out(asked, count, exits, trained=self.config.trained_blocks)
        return self.match(videos, asked, count, chance)

    def replayed_loss(
        self,
        asked: Asked,
        count: int,
        chance: torch.Generator,
        backward: Callable[[Tensor], None],
    ) -> Tensor:
        """As ``student_loss``, with its gradients: videos are made again, from the same noise.

        The first time the gradient by the videos is found; the second time each block's part of it
        goes into the student before the next block is made.
        """
        exits, noise = self.exit_steps(chance), list[Tensor]()
        videos = self.roll_out(asked, count, exits, trained=0, drawn=noise)
        videos.requires_grad_(True)
        loss = self.match(videos, asked, count, chance)
        backward(loss)
        assert videos.grad is not None
        parts = videos.grad.split(self.config.model.frames_per_block, dim=2)
        self.roll_out(
            asked,
            count,
            exits,
            trained=self.config.trained_blocks,
            again=iter(noise),
            on_trained=lambda block, latents: backward((latents * parts[block]).sum()),
        )
        return loss.detach()

    def match(self, videos: Tensor, asked: Asked, count: int, chance: torch.Generator) -> Tensor:
        """What teacher and critic make of videos: the loss whose gradient is their difference."""
        config = self.config
        return dmd_loss(
            videos,
            asked.text,
            real=self.scorer(self.teachers[0]),
            fake=self.scorer(self.critic),
            negative=self.empty_prompt().expand_as(asked.text),
            guidance=config.teacher_guidance,
            frames_per_block=config.model.frames_per_block,
            loss_mask=self._trained_frames(videos),
            **self.scoring(videos, asked, count, chance),
        )

    def critic_loss(self, asked: Asked, count: int, chance: torch.Generator) -> Tensor:
        """The critic's loss on this rank's part of ``count`` new videos."""
        exits, quick = self.exit_steps(chance), self.quick
        if quick is None:
            videos = self.roll_out(asked, count, exits, trained=0)
        else:
            with torch.autocast(self.device.type, enabled=False):
                videos = self.roll_out(asked, count, exits, trained=0, student=quick.network)
        how = self.scoring(videos, asked, count, chance)
        critic = self.critic_velocity if self.alone else self.shared.scorer(self.critic)
        return critic_loss(critic, videos, asked.text, **how)

    def ask(self, clips: TokenClips, count: int, chance: torch.Generator) -> Asked:
        """Draw what ``count`` videos are to show, of clips with the same cuts.

        Clips that are shorter than a video go on with their last prompt.
        """
        blocks, frames = self.config.rollout_blocks, self.config.model.frames_per_block
        drawn = clips.draw_alike(count, chance)
        cuts = tuple((clips.cuts[drawn[0]].tolist() + [False] * blocks)[:blocks])
        prompts = [
            lengthened(clips.prompts[clip], blocks) for clip in self.ranks.clips(drawn).tolist()
        ]
        book = PromptBook(self.text, prompts, self.device)
        rows = book.encode([prompt for some in prompts for prompt in some])
        shots = torch.tensor(cuts, dtype=torch.int64, device="cpu").cumsum(0)
        positions = torch.arange(blocks * frames, dtype=torch.float32, device="cpu")
        positions += self.config.shot_offset * shots.repeat_interleave(frames)
        return Asked(
            prompts=prompts,
            cuts=cuts,
            text=rows.unflatten(0, (len(prompts), blocks)),
            book=book,
            how={
                "mask": self._mask(cuts, clips.tokens_per_frame * frames),
                "positions": positions.to(self.device),
            },
        )

    def exit_steps(self, chance: torch.Generator) -> tuple[int, ...]:
        """The step that makes each block, the same for all videos of all ranks."""
        config = self.config
        blocks, same = config.rollout_blocks, config.same_exit_step
        return draw_exit_steps(self.sampler, chance, blocks=blocks, same=same)

    def roll_out(
        self,
        asked: Asked,
        count: int,
        exits: Sequence[int],
        *,
        trained: int | None,
        student: WanTransformer | None = None,
        drawn: list[Tensor] | None = None,
        again: Iterator[Tensor] | None = None,
        on_trained: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """The student's videos, [videos, C, F, Y, X]; gradients in the last ``trained`` blocks.

        ``student`` makes them, or the model. ``drawn`` takes the noise in, ``again`` gives it.
        """
        config, size = self.config, self.latent_size
        shape = (count, config.model.in_channels, config.model.frames_per_block, *size)

        def draw() -> Tensor:
            noise = self._draw(shape) if again is None else next(again)
            if drawn is not None:
                drawn.append(noise)
            return noise

        how = Rollouts(
            sampler=self.sampler,
            window=config.window,
            latent_size=size,
            shot_offset=config.shot_offset,
        )
        own = self.model if student is None else student
        return how.make(
            own if self.alone else self.shared.maker(own),
            asked.book,
            asked.prompts,
            asked.cuts,
            exit_steps=exits,
            draw=draw,
            trained_blocks=trained,
            on_trained=on_trained,
        ).latents

    def scoring(
        self, videos: Tensor, asked: Asked, count: int, chance: torch.Generator
    ) -> dict[str, Any]:
        """How videos are scored: what both networks get, noise and levels included."""
        config, frames = self.config, videos.shape[2]
        given_past = config.scores == "given_past"
        timesteps = config.timesteps.draw(
            chance,
            batch=count,
            frames=frames,
            frames_per_block=config.model.frames_per_block if given_past else frames,
        )
        return {
            "noise": self._draw((count, *videos.shape[1:])),
            "timesteps": self.ranks.clips(timesteps.to(self.device)),
            "schedule": self.schedule,
            "context": videos.detach() if given_past else None,
            **asked.how,
        }

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        """Noise of a batch, alike on all ranks: this rank's part of it."""
        return self.ranks.clips(torch.randn(shape, dtype=torch.float32, device=self.device))

    def _mask(self, cuts: tuple[bool, ...], run: int) -> TableMask:
        """The mask of scores for videos with these cuts: the student's window in either form."""
        if cuts not in self._masks:
            blocks = len(cuts)
            starts = shot_anchors(blocks, [block for block, cut in enumerate(cuts) if cut])
            if self.config.scores == "whole":
                table = teacher_forcing_table(self.config.window, starts)[:blocks, :blocks]
            else:
                order = self.shared.partition.block_order
                table = teacher_forcing_table(self.config.window, starts, order=order)
            self._masks[cuts] = TableMask(table[None].to(self.device), run)
            self._masks[cuts].prepare(self.device)
        return self._masks[cuts]

    def _trained_frames(self, videos: Tensor) -> Tensor | None:
        """1 for frames of blocks that train; None for all."""
        trained = self.config.trained_blocks
        if trained is None:
            return None
        frames = videos.shape[2]
        first = frames - trained * self.config.model.frames_per_block
        counted = torch.arange(frames, dtype=torch.int64, device=videos.device) >= first
        return counted.expand(len(videos), -1)

    def whole_model(self) -> dict[str, Tensor]:
        return merged_weights(self.model) if self.config.lora_rank else super().whole_model()

    def export(self, folder: Path, step: int) -> None:
        """As ``TrainARModule.export``; adapters are merged, and lie in ``lora`` by themselves."""
        super().export(folder, step)
        if self.config.lora_rank and self.ranks.first:
            save_lora(self.model, folder.with_name(LORA), base_model=self.config.start_from or "")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if not self.plan.store_frozen:  # nor what several networks share, nor what is packed
            kept, state = set(trainable(self)), checkpoint["state_dict"]
            checkpoint[LEFT_OUT] = [name for name in self.state_dict() if name not in kept]
            checkpoint["state_dict"] = {name: x for name, x in state.items() if name in kept}


def check(config: DistillDMD, *, resume: str | None = None) -> None:
    """Raise ValueError for what can be seen to fail before anything is drawn or written."""
    check_teacher(config)
    check_student(config)
    train_ar.check(config, resume=resume, parts=lambda: _parts(config))
    check_written(config)


def _parts(config: DistillDMD) -> nn.ModuleDict:
    """What a checkpoint holds, without weights; of adapters only these."""
    parts = train_ar.unfilled_parts(config)
    with unfilled():
        parts["critic"] = WanTransformer(config.model)
        if not config.lora_rank:
            return parts
        for name in ("model", "critic"):
            add_lora(parts[name], config.lora)
    return nn.ModuleDict({name: only_adapters(parts[name]) for name in ("model", "critic")})


def run(config: DistillDMD, *, resume: str | None = None) -> Path:
    """Distill; the folder ``<output>/model`` has the best student that the judge has seen."""
    check(config, resume=resume)
    return run_distillation(DistillDMDModule(config), resume=resume)


def export(config: DistillDMD, *, resume: str) -> Path:
    """Write the model folder ``<output>/model`` of a checkpoint."""
    check(config, resume=resume)
    module = DistillDMDModule(replace(config, parallel=Parallel()))
    module.configure_model()
    return train_ar.write(module, load_average(module, resume))
