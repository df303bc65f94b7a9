"""A part of group 11: the buffer of errors, and training steps that recycle them."""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from longlive_models.diffusion import FlowSchedule, x0_from_velocity
from longlive_models.objectives import (
    ErrorBank,
    ErrorBankConfig,
    ErrorRecycler,
    ErrorRecycling,
    counted_mean,
    recycled_losses,
    teacher_forcing_mask,
)
from tests.checks.framework import Case, Report, Verdict
from tests.checks.settings import Settings
from tests.checks.transformers import tolerance

REPLACEMENTS = {"l2": "nearest"}
"""Names of the original where they are others."""


def check_buffer(case: Case) -> Verdict:
    """Replay the operations of each run: which errors lie where, and what is counted."""
    report = Report(case)
    for number, run in enumerate(case.meta["runs"]):
        config, label = Settings(run["config"]), f"run{number}"
        bank = ErrorBank(_config(config), dtype=torch.float32)
        if "ops" in run:
            _check_places(report, label, bank, run, config.get("global_block_offset", 0))
        else:
            config.use("modulate_factor")
            _check_nearest(report, label, bank, case.tensors["input.l2_entries"], run)
        if unknown := config.unused():
            return Verdict("failed", f"unknown key runs.{', runs.'.join(unknown)}")
    return report.verdict()


def _config(config: Mapping[str, Any]) -> ErrorBankConfig:
    size = config.get("max_size_per_bucket", config.get("buffer_size_per_bucket"))
    strategy = config["replacement_strategy"]
    return ErrorBankConfig(
        buckets=config["num_buckets"],
        bucket_size=size,
        replacement=REPLACEMENTS.get(strategy, strategy),
        modulation=config.get("modulate_factor", 0.3),
        levels=config.get("num_train_timesteps", 1000),
        blocks=config.get("num_blocks", 0),
        rank=config.get("shard_rank", 0),
        ranks=config.get("shard_size", 1),
    )


def _check_places(
    report: Report, label: str, bank: ErrorBank, run: Mapping[str, Any], offset: int
) -> None:
    config, chance = bank.config, random.Random(0)
    traces = {trace["after_op"]: trace["buckets"] for trace in run["trace"]}
    for op in run["ops"]:
        error = torch.tensor([float(op["id"])])
        bank.add(error, op["timestep_index"], chance, block=op["block_pos"])
        if (want := traces.get(op["id"])) is not None:
            got = {
                str(place) if config.blocks else str(place[1]): [int(e) for e in held]
                for place, held in sorted(bank.entries.items())
            }
            report.equal(f"{label} after {op['id']}", got, want)
    report.equal(f"{label} owned", list(config.owned), run["owned_t_buckets"])
    nearest = [config.nearest_owned(bucket) for bucket in range(config.buckets)]
    report.equal(f"{label} nearest", nearest, run["nearest_owned_for_each_bucket"])
    buckets = {index: config.bucket(int(index)) for index in run["bucket_of_timestep"]}
    report.equal(f"{label} buckets", buckets, run["bucket_of_timestep"])
    has = [bool(bank.held(block)) for block in range(len(run["has_pos"]))]
    report.equal(f"{label} has_pos", has, run["has_pos"])
    report.equal(f"{label} added", bank.added, run["total_added"])
    report.equal(f"{label} stats", _stats(bank, offset), run["stats"])


def _stats(bank: ErrorBank, offset: int) -> dict[str, Any]:
    """What the original says of a buffer."""
    config = bank.config
    places = len(config.owned) * max(config.blocks, 1)
    stats: dict[str, Any] = {
        "total_added": bank.added,
        "filled_buckets": f"{len(bank.entries)}/{places}",
        "total_entries": len(bank),
    }
    if config.ranks > 1:
        share = f"{len(config.owned)}/{config.buckets} t-buckets"
        stats["shard"] = f"shard_rank={config.rank}/{config.ranks} ({share})"
    if config.blocks:
        stats["global_block_range"] = f"[{offset},{offset + config.blocks})"
    return stats


def _check_nearest(
    report: Report, label: str, bank: ErrorBank, entries: Tensor, run: Mapping[str, Any]
) -> None:
    for count, want in enumerate(run["l2_bucket_entry_index_after_each_add"], 1):
        bank.add(entries[count - 1], 0, random.Random(0))
        got = [
            next(i for i in range(count) if torch.equal(entries[i], held)) for held in bank.held()
        ]
        report.equal(f"{label} after {count}", got, want)


class Replay(random.Random):
    """Gives recorded numbers in their order; another question than the recorded one fails."""

    def __init__(self, draws: Sequence[Sequence[Any]]) -> None:
        super().__init__(0)
        self.left = deque(draws)

    def random(self) -> float:
        [value] = self._next("random")
        return value

    def randrange(self, count: int) -> int:  # the only form that banks use
        kind, *numbers = self.left.popleft()
        asked = {"choice_index": [count], "randint": [0, count - 1]}[kind]
        assert numbers[:-1] == asked, f"asked for one of {count}, recorded is {kind} of {numbers}"
        return numbers[-1]

    def uniform(self, low: float, high: float) -> float:
        *bounds, value = self._next("uniform")
        assert all(abs(a - b) < 1e-12 for a, b in zip(bounds, (low, high), strict=True))
        return value

    def _next(self, kind: str) -> Sequence[Any]:
        found, *numbers = self.left.popleft()
        assert found == kind, f"asked for {kind}, recorded is {found}"
        return numbers


class _Network:
    """Answers a fixed velocity and remembers what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer

    def __call__(self, latents: Tensor, timesteps: Tensor, text: Tensor, **how: Tensor) -> Tensor:
        self.latents, self.timesteps, self.how = latents, timesteps, how
        return self.answer


@torch.no_grad()
def check_training(case: Case) -> Verdict:
    """Replay the training steps with their recorded draws."""
    report, config, near = Report(case), case.config, tolerance(case)
    levels = config["er"]["num_train_timesteps"]
    schedule = FlowSchedule(shift=config["timestep_shift"], levels=levels, parity=True)
    recycler, block = _recycler(config), config["num_frame_per_block"]
    config.use("buffer_warmup_iter")  # until then ranks share errors; here is one
    for step in case.meta["steps"]:
        label, chance = f"step{step['step']}", Replay(step["draws"])
        latents, answer, noise = (
            case.tensors[f"input.{label}.{name}"].transpose(1, 2)
            for name in ("clean_latent", "flow_pred", "noise")
        )
        assert [latents.shape[n] for n in (0, 2, 1, 3, 4)] == config["shape"]
        timesteps = schedule.timestep(case.tensors[f"input.{label}.timestep_index"])
        model = _Network(answer)
        losses = recycled_losses(
            model,
            latents,
            torch.zeros(len(latents), 1, 1, 1),
            noise=noise,
            timesteps=timesteps,
            mask=teacher_forcing_mask(latents.shape[2], 1, block),
            schedule=schedule,
            recycler=recycler,
            step=step["step"],
            chance=chance,
        )
        got = {
            "noisy_latents": model.latents,
            "timestep": model.timesteps,
            "clean_context": model.how["clean"],
            "loss": counted_mean(losses, case.tensors.get(f"input.{label}.loss_mask")),
            "x0_pred": x0_from_velocity(model.latents, answer, schedule.sigma(timesteps)),
        }
        for name, value in got.items():
            if (want := case.tensors.get(f"output.{label}.{name}")) is not None:
                value = value.transpose(1, 2) if value.ndim == 5 else value
                report.close(f"{label}.{name}", value, want, *near)
        injected = not torch.equal(model.how["clean"], latents)
        report.equal(f"{label} context", injected, step["injected"]["context"])
        report.equal(f"{label} draws left", list(chance.left), [])
        _check_counts(report, label, recycler, step)
    _check_entries(case, report, recycler, near)
    return report.verdict(parity=True)  # the original's table has no level 0


def _recycler(config: Settings) -> ErrorRecycler:
    assert not config["i2v"] and not config["independent_first_frame"], "a given first frame"
    assert config["noise_augmentation_max_timestep"] == 0, "a noisy context"
    assert not config["position_bucketing"], "blocks that are told apart"
    return ErrorRecycler(
        ErrorRecycling(
            context=config["context_inject_prob"],
            start=config["latent_inject_prob"],
            noise=config["noise_inject_prob"],
            clean=config["clean_prob"],
            clean_learns=config["clean_buffer_update_prob"],
            first_step=config["start_step"],
            spare_first_block=config["skip_block_0"],
            bank=_config(config["er"]),
        ),
        frames_per_block=config["num_frame_per_block"],
        dtype=torch.float32,
    )


def _check_counts(
    report: Report, label: str, recycler: ErrorRecycler, step: Mapping[str, Any]
) -> None:
    banks = {
        "bucket_sizes": recycler.latent_errors,
        "noise_bucket_sizes": recycler.noise_errors,
    }
    for name, bank in banks.items():
        got = {str(bucket): len(bank.entries.get((0, bucket), [])) for bucket in bank.config.owned}
        report.equal(f"{label} {name}", got, step[name])
    report.equal(f"{label} added", recycler.latent_errors.added, step["total_added"])


def _check_entries(
    case: Case, report: Report, recycler: ErrorRecycler, near: tuple[float, float]
) -> None:
    banks = {"latent": recycler.latent_errors, "noise": recycler.noise_errors}
    for kind, bank in banks.items():
        for (_, bucket), held in bank.entries.items():
            name = f"output.final_buffer.{kind}.{bucket}"
            if (want := case.tensors.get(name)) is not None:
                report.close(name, torch.stack(held).transpose(1, 2), want, *near)
