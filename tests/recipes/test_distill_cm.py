"""Consistency distillation as a recipe: what it begins with, learns and writes, and a kill."""

import math
from dataclasses import replace

import pytest
import torch

from longlive_core.nvfp4 import TrainingConfig
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import load_part
from longlive_models.objectives import Guidance
from longlive_recipes import distill_cm, train_ar
from longlive_recipes.distill_cm import DistillCM, DistillCMModule, cm_tiny
from longlive_recipes.training.parallel import Parallel, Ranks
from longlive_recipes.training.schedule import TrainingSchedule
from tests.recipes.on_ranks import (
    consistency_step,
    consistency_step_on_ranks,
    shared_config,
)
from tests.recipes.tiny_runs import (
    ar_config,
    assert_equal,
    assert_same_run,
    column,
    quiet_run,
    run_until_killed,
    write_tiny_vae,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A VAE and a teacher."""
    vae, teacher = write_tiny_vae(tmp_path_factory.mktemp("vae")), tmp_path_factory.mktemp("ar")
    train_ar.run(ar_config(teacher, vae))
    return vae, teacher / "model"


def config(output, folders, **changes) -> DistillCM:
    vae, teacher = folders
    given = {"vae": str(vae), "start_from": str(teacher), "run": quiet_run(output)}
    return replace(cm_tiny(), **{**given, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, folders):
    folder = tmp_path_factory.mktemp("cm")
    assert distill_cm.run(config(folder, folders)) == folder / "model"
    return folder


def ready(made: DistillCM) -> DistillCMModule:
    module = DistillCMModule(made)
    module.configure_model()
    module.on_fit_start()
    return module


def test_the_tiny_preset_takes_its_steps(trained):
    losses = column(trained / "train.csv", "loss")
    assert len(losses) == cm_tiny().budget.steps == 4
    assert all(map(math.isfinite, losses))
    assert all(map(math.isfinite, column(trained / "validation.csv", "score")))


def test_a_killed_run_goes_on_bit_for_bit(trained, tmp_path, folders):
    vae, teacher = map(str, folders)
    killed = tmp_path / "killed"
    run_until_killed(
        "from longlive_recipes import distill_cm\n"
        "distill_cm.DistillCMModule = kill_at(distill_cm.DistillCMModule, 2)\n"
        f"distill_cm.run(replace(distill_cm.cm_tiny(), vae={vae!r}, start_from={teacher!r}, "
        f"run=quiet_run({str(killed)!r})))\n"
    )
    assert column(killed / "train.csv", "step") == [1, 2]
    distill_cm.run(config(killed, folders), resume=str(killed))
    assert_same_run(killed, trained)
    one, other = (load_part(folder / "model" / "transformer") for folder in (killed, trained))
    assert_equal(one, other, "transformer")


def test_the_student_begins_as_the_teacher_and_leaves_it_and_the_text_alone(trained, folders):
    _, wanted = load_part(folders[1] / "transformer")
    module = ready(config(trained / "unused", folders))
    for name, weight in module.model.state_dict().items():
        assert torch.equal(weight, module.teachers[0].state_dict()[name])
        assert torch.equal(weight, wanted[name].float())
    _, text = load_part(folders[1] / "text_encoder")
    assert_equal(load_part(trained / "model" / "text_encoder")[1], text, "text")
    _, student = load_part(trained / "model" / "transformer")
    assert any(not torch.equal(student[name], wanted[name]) for name in wanted)
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(name.startswith(("model.", "text.")) for name in checkpoint["state_dict"])


def test_what_it_writes_is_run_in_few_steps_without_guidance(trained):
    pipeline = LongLivePipeline.from_pretrained(str(trained / "model"), device="cpu")
    settings = pipeline.settings
    assert (settings.sampler, settings.steps, settings.guidance) == ("few_step", 2, 1.0)
    assert '"recipe": "DistillCM"' in (trained / "model" / "model_index.json").read_text()
    video = pipeline("a red circle moves right on a navy background", seconds=1)
    assert video.frames.shape[1:] == (32, 32, 3)


def test_the_target_is_the_average_and_gets_no_gradients(tmp_path, folders):
    module = ready(config(tmp_path, folders))
    for average in module.averages.values():
        average.start(module)
    with torch.no_grad():
        for weight in module.model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    moved = [weight.detach().clone() for weight in module.model.parameters()]
    seen = []

    def watched(network):
        def forward(*given, **how):
            seen.append((network, torch.is_grad_enabled(), len(given[0])))
            return network(*given, **how)

        return forward

    module.frozen = watched
    chance = torch.Generator().manual_seed(0)
    module.losses(watched(module.model), module.sets[2], 1, chance).mean().backward()
    [twin], [teacher] = module.twins, module.teachers
    assert [one[0] for one in seen] == [teacher, teacher, twin, module.model]
    assert [one[1] for one in seen] == [False, False, False, True]
    assert all(map(torch.equal, module.model.parameters(), moved))
    assert all(map(torch.equal, twin.parameters(), teacher.parameters()))
    assert not any(map(torch.equal, twin.parameters(), moved))
    assert all(weight.grad is None for weight in twin.parameters())
    module.averages["target"].update(module)  # its twin follows without being told
    assert not any(map(torch.equal, twin.parameters(), teacher.parameters()))
    assert all(weight.grad is None for weight in module.teachers[0].parameters())


def test_it_learns_a_few_clips(tmp_path, folders):
    made = config(
        tmp_path,
        folders,
        budget=TrainingSchedule(steps=30, warmup_steps=1),
        optimization=replace(cm_tiny().optimization, learning_rate=3e-3),
        run=quiet_run(tmp_path, validate_every=30),
    )
    distill_cm.run(made)
    losses = column(tmp_path / "train.csv", "loss")
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"start_from": None}, "start_from is the folder of a model, got none: it is the weights"),
        ({"sampling_steps": 3}, "sampling_steps divide levels, got 3 of 8"),
        ({"guidance": 2.0}, "has learnt that of its teacher"),
        (
            {"parallel": Parallel(data=2), "quantized": TrainingConfig()},
            "in four or eight bits runs on one rank, got 2",
        ),
        ({"levels": 0}, "levels"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, words):
    fitting = {"parallel": {"phases": tuple(replace(p, batch=2) for p in cm_tiny().phases)}}
    extra = fitting.get(next(iter(wrong)), {})
    with pytest.raises(ValueError, match=words):
        replace(cm_tiny(), **extra, **({"validation_clips": 2} if extra else {}), **wrong)


def test_a_teacher_of_another_size_is_refused(tmp_path, folders):
    wide = replace(cm_tiny().model, num_layers=3)
    with pytest.raises(ValueError, match=r"blocks\.2"):
        distill_cm.run(config(tmp_path, folders, model=wide))


def test_a_teacher_that_is_run_without_guidance_cannot_be_guided(tmp_path, folders, trained):
    """As a student that is taken for a teacher."""
    vae, _ = folders
    made = config(tmp_path, (vae, trained / "model"))
    with pytest.raises(ValueError, match=r"uncond \+ 2 .* run without guidance .*empty prompt"):
        distill_cm.check(made)
    distill_cm.check(replace(made, teacher_guidance=Guidance(scale=1.0)))


def test_a_teacher_of_other_noise_levels_is_refused(tmp_path, folders):
    made = config(tmp_path, folders)
    distill_cm.check(made)
    with pytest.raises(ValueError, match=r"shift=5, and .* has 3 .*model_index.* Use shift=3\."):
        distill_cm.check(replace(made, shift=5.0))


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
def test_ranks_share_clips_and_frames_and_have_one_ranks_losses(tmp_path, ranks, shape):
    """The target network is then the student under the average, whose weights are sharded."""
    write_tiny_vae(tmp_path / "vae")
    train_ar.run(shared_config(str(tmp_path)))
    alone = consistency_step(str(tmp_path), (1, 1), Ranks())
    for made in ranks(2, consistency_step_on_ranks, str(tmp_path), shape):
        assert made == pytest.approx(alone, rel=1e-4)
