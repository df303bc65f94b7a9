"""Distribution matching as a recipe: what begins as what, who learns when, kills, and adapters."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longlive_core.nvfp4 import NVFP4Linear, NVFP4TrainingLinear, TrainingConfig
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import load_part
from longlive_models.lora import add_lora, save_lora
from longlive_models.objectives import Guidance
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX
from longlive_models.wan import WanTransformer
from longlive_recipes import distill_cm, distill_dmd, quantize_weights, train_ar
from longlive_recipes.configs.quantize_weights import QuantizeWeights
from longlive_recipes.distill_dmd import DistillDMD, DistillDMDModule, dmd_pocket, dmd_tiny
from longlive_recipes.distillation.checks import check_written
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.training import ar_clips
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.parallel import Parallel
from longlive_recipes.training.schedule import Phase, TrainingSchedule
from tests.recipes.tiny_runs import (
    ar_config,
    assert_equal,
    assert_same_run,
    column,
    load_last,
    quiet_run,
    run_until_killed,
    write_tiny_vae,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A VAE, a teacher, and a student of few steps."""
    vae = write_tiny_vae(tmp_path_factory.mktemp("vae"))
    teacher, student = tmp_path_factory.mktemp("ar"), tmp_path_factory.mktemp("cm")
    train_ar.run(ar_config(teacher, vae))
    made = replace(
        distill_cm.cm_tiny(),
        vae=str(vae),
        start_from=str(teacher / "model"),
        run=quiet_run(student, validate_every=4),
    )
    distill_cm.run(made)
    return vae, teacher / "model", student / "model"


def config(output, folders, **changes) -> DistillDMD:
    vae, teacher, student = map(str, folders)
    given = {
        "vae": vae,
        "start_from": student,
        "teacher_from": teacher,
        "run": quiet_run(output, validate_every=3),
    }
    return replace(dmd_tiny(), **{**given, **changes})


def on_the_base(folders, **changes):
    """Fields of adapters on the teacher."""
    return {"start_from": str(folders[1]), "lora_rank": 4, **changes}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, folders):
    folder = tmp_path_factory.mktemp("dmd")
    assert distill_dmd.run(config(folder, folders)) == folder / "model"
    return folder


def ready(made: DistillDMD) -> DistillDMDModule:
    module = DistillDMDModule(made)
    module.configure_model()
    module.on_fit_start()
    for average in module.averages.values():
        average.start(module)
    return module


def rows(folder) -> list[dict[str, str]]:
    with (folder / "train.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_critic_learns_alone_at_first_and_then_more_often_than_the_student(trained):
    made = rows(trained)
    assert [bool(row["student_loss"]) for row in made] == [False, False, True, False, True, False]
    assert all(math.isfinite(float(row["critic_loss"])) for row in made)
    kept = load_last(trained)
    assert {name: one["updates"] for name, one in kept["optimizers"].items()} == {
        "student": 2,
        "critic": 6,
    }


def test_weights_that_are_trained_are_float32_and_the_first_momentum_is_none(trained):
    kept = load_last(trained)
    for state in kept["optimizer_states"]:
        assert [group["betas"] for group in state["param_groups"]] == [(0.0, 0.999)]
    trains = [name for one in kept["optimizers"].values() for name in one["parameters"]]
    assert all(kept["state_dict"][name].dtype == torch.float32 for name in trains)
    assert not any(name.startswith("text.") for name in trains)


def test_a_killed_run_goes_on_bit_for_bit(trained, tmp_path, folders):
    vae, teacher, student = map(str, folders)
    killed = tmp_path / "killed"
    run_until_killed(
        "from longlive_recipes import distill_dmd\n"
        "distill_dmd.DistillDMDModule = kill_at(distill_dmd.DistillDMDModule, 4)\n"
        f"distill_dmd.run(replace(distill_dmd.dmd_tiny(), vae={vae!r}, start_from={student!r}, "
        f"teacher_from={teacher!r}, run=quiet_run({str(killed)!r}, validate_every=3)))\n"
    )
    distill_dmd.run(config(killed, folders), resume=str(killed))
    assert_same_run(killed, trained)
    assert load_last(killed)["judge"] == load_last(trained)["judge"]


def test_it_begins_with_the_student_and_a_critic_that_is_the_teacher(tmp_path, folders):
    module = ready(config(tmp_path, folders))
    [teacher] = module.teachers
    _, student = load_part(folders[2] / "transformer")
    for name, weight in module.model.state_dict().items():
        assert torch.equal(weight, student[name].float())
    assert_equal(module.critic.state_dict(), teacher.state_dict(), "critic")
    assert all(weight.requires_grad for weight in module.critic.parameters())
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_videos_are_longer_than_the_window_and_the_gradient_is_of_the_student_alone(
    tmp_path, folders
):
    module = ready(config(tmp_path, folders))
    chance = module.choices(2)
    clips = module.sets[3]
    asked = module.ask(clips, 2, chance)
    assert len(asked.prompts[0]) == 5 > module.config.window.pages
    videos = module.roll_out(asked, 2, module.exit_steps(chance), trained=None)
    assert videos.shape[2] == 5 * module.config.model.frames_per_block
    assert videos.requires_grad
    loss = module.student_loss(module.ask(clips, 2, chance), 2, chance)
    loss.backward()
    assert any(weight.grad is not None for weight in module.model.parameters())
    assert all(weight.grad is None for weight in module.critic.parameters())
    loss = module.critic_loss(module.ask(clips, 2, chance), 2, chance)
    module.model.zero_grad()
    loss.backward()
    assert all(weight.grad is not None for weight in module.critic.parameters())
    assert all(weight.grad is None for weight in module.model.parameters())


def test_student_critic_and_teacher_are_asked_the_same(tmp_path, folders):
    """Text, mask, positions, levels and past; guidance has two passes of the teacher at most."""
    module = ready(config(tmp_path, folders, teacher_guidance=Guidance(scale=2.0)))
    seen = []

    def watched(network):
        def forward(latents, timesteps, text, **how):
            seen.append((network, latents, timesteps, text, how))
            return network(latents, timesteps, text, **how)

        return forward

    module.frozen = watched
    chance = module.choices(2)
    asked = module.ask(module.sets[3], 2, chance)
    module.student_loss(asked, 2, chance)
    (real, x, t, text, how), (_, *negative), (fake, *other) = seen
    assert real is module.teachers[0]
    assert fake is module.critic
    assert text is other[2] is asked.text
    assert not torch.equal(negative[2], text)
    for one in (negative, other):
        assert torch.equal(one[0], x)
        assert torch.equal(one[1], t)
        assert one[3]["mask"] is how["mask"] is asked.how["mask"]
        assert one[3]["positions"] is how["positions"]
        assert torch.equal(one[3]["clean"], how["clean"])
    assert t.min() >= 20
    assert t.max() <= 980
    prompts = [prompt for some in asked.prompts for prompt in some]
    assert torch.equal(asked.book.encode(prompts).view_as(text), text)


@pytest.mark.parametrize("scores", ["given_past", "whole"])
def test_the_mask_of_scores_is_the_window_of_the_cache(tmp_path, folders, scores):
    module = ready(config(tmp_path, folders, scores=scores))
    run = 4
    cuts = (False, False, True, False, False)
    table = module._mask(cuts, run).table[0]
    policy = module.config.window
    starts = (0, 0, 0, 2, 2)
    for block, start in enumerate(starts):
        seen = policy.visible(block, start)
        if scores == "whole":
            assert table[block].nonzero().flatten().tolist() == list(seen)
        else:  # a noisy block sees the clean past, and itself
            past = [one for one in seen if one != block]
            assert table[5 + block].nonzero().flatten().tolist() == [*past, 5 + block]


def test_what_it_writes_is_run_in_few_steps_without_guidance(trained):
    pipeline = LongLivePipeline.from_pretrained(str(trained / "model"), device="cpu")
    settings = pipeline.settings
    assert (settings.sampler, settings.steps, settings.guidance) == ("few_step", 2, 1.0)
    assert '"recipe": "DistillDMD"' in (trained / "model" / "model_index.json").read_text()
    video = pipeline("a red circle moves right on a navy background", seconds=1)
    assert video.frames.shape[1:] == (32, 32, 3)
    assert (trained / "curve.svg").read_text().startswith("<svg")


def test_the_best_is_kept_and_not_the_last(tmp_path, folders, monkeypatch):
    """Whichever the judge likes: here the first of three."""
    from longlive_recipes.distillation.curve import JudgeCurve

    scores = iter((0.9, 0.2, 0.1))

    def judge(self, pipeline, step):
        score = next(scores)
        self.rows = [*self.rows, {"step": step, "score": score}]
        return {"score": score, "best_step": self.best["step"]}

    monkeypatch.setattr(JudgeCurve, "judge", judge)
    made = config(tmp_path, folders, run=quiet_run(tmp_path, best_metric="score", best_k=1))
    distill_dmd.run(made)
    assert column(tmp_path / "validation.csv", "best_step") == [2, 2, 2]
    assert '"step": 2' in (tmp_path / "model" / "model_index.json").read_text()


def test_the_pull_to_real_clips_is_a_loss_of_its_own(tmp_path, folders):
    made = config(tmp_path, folders, pull=0.5, judged=replace(dmd_tiny().judged, videos=0))
    distill_dmd.run(made)
    pulled = [row["pull_loss"] for row in rows(tmp_path)]
    assert [bool(value) for value in pulled] == [False, False, True, False, True, False]
    assert column(tmp_path / "validation.csv", "loss_2_blocks")  # of consistency, unless judged


@pytest.mark.parametrize("base", ["fp32", "bf16", "nvfp4"])
def test_adapters_of_two_learn_beside_one_base_that_is_held_once(tmp_path, folders, base):
    made = config(tmp_path, folders, **on_the_base(folders, base=base))
    module = ready(made)
    networks = (module.model, module.critic, module.teachers[0], module.twins[0])
    places = [
        {x.data_ptr() for x in (*n.parameters(), *n.buffers()) if not x.requires_grad}
        for n in networks
    ]
    bases = places[2]
    assert bases
    assert all(bases <= some for some in places)
    trains = [n for n, p in module.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trains)
    assert {name.partition(".")[0] for name in trains} == {"model", "critic"}
    distill_dmd.run(made)
    kept = load_last(tmp_path)["state_dict"]
    assert kept.keys() == set(trains)
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
    assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_student_whose_linears_train_in_four_bits_is_distilled_and_packed(tmp_path, folders):
    made = config(tmp_path, folders, quantized=TrainingConfig(), pull=0.5)
    module = ready(made)
    kinds = [
        any(isinstance(part, NVFP4TrainingLinear) for part in network.modules())
        for network in (module.model, module.twins[0], module.critic, module.teachers[0])
    ]
    assert kinds == [True, True, False, False]
    distill_dmd.run(made)
    quantize_weights.run(QuantizeWeights(model=str(tmp_path / "model")), tmp_path / "packed")
    packed = LongLivePipeline.from_pretrained(
        str(tmp_path / "packed"), device="cpu", weights="nvfp4"
    )
    assert any(isinstance(part, NVFP4Linear) for part in packed.transformer.modules())
    assert packed("a red circle moves right on a navy background", seconds=1).frames.numel()


def test_an_adapter_beside_a_student_learns_from_the_teacher_beside_it(tmp_path, folders):
    made = config(tmp_path, folders, lora_rank=4, base="bf16")
    module = ready(made)
    own, theirs = (
        {n: p.clone() for n, p in base_of(part)} for part in (module.model, module.critic)
    )
    teacher, twin = (
        dict(part.named_parameters()) for part in (module.teachers[0], module.twins[0])
    )
    start = load_part(Path(made.start_from) / "transformer")[1]
    assert own.keys() == theirs.keys() == teacher.keys() == start.keys()
    for name, weight in start.items():
        torch.testing.assert_close(own[name], weight.bfloat16(), rtol=0, atol=0)
        torch.testing.assert_close(theirs[name], teacher[name], rtol=0, atol=0)
    assert any(not torch.equal(own[name], teacher[name]) for name in own)
    frozen = {x.data_ptr() for x in teacher.values()}
    assert frozen <= {x.data_ptr() for _, x in base_of(module.critic)}
    assert {x.data_ptr() for _, x in base_of(module.model)} <= {x.data_ptr() for x in twin.values()}
    distill_dmd.run(made)
    for name, weight in base_of(ready(made).model):
        torch.testing.assert_close(weight, own[name], rtol=0, atol=0)
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == made.start_from
    plain, adapted = (
        LongLivePipeline.from_pretrained(made.start_from, device="cpu", lora=lora)
        for lora in ((), str(tmp_path / "lora"))
    )
    whole = LongLivePipeline.from_pretrained(str(tmp_path / "model"), device="cpu")
    weights = dict(whole.transformer.named_parameters())
    moved = 0
    for name, weight in adapted.transformer.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=1e-2, atol=1e-2)
        moved += not torch.equal(weight, dict(plain.transformer.named_parameters())[name])
    assert moved


def base_of(network):
    """The weights of a network below its adapters, under the names of one without."""
    return [
        (name.replace("base_layer.", ""), parameter)
        for name, parameter in network.named_parameters()
        if "lora_" not in name
    ]


def test_adapters_that_are_merged_are_the_student(tmp_path, folders):
    module = ready(config(tmp_path, folders, **on_the_base(folders)))
    with torch.no_grad():
        for name, weight in module.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    plain = module.load_teacher()
    plain.load_state_dict(module.whole_model())
    latents = torch.randn(1, module.config.model.in_channels, 8, 4, 4)
    text = module.empty_prompt()
    given = latents, torch.full((1, 8), 500.0), text
    torch.testing.assert_close(plain(*given), module.model(*given), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(*given), module.teachers[0](*given))


def test_a_killed_run_of_adapters_goes_on_bit_for_bit(tmp_path, folders):
    vae, teacher, _ = map(str, folders)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    how = {"validate_every": 3, "precision": "bf16-mixed"}  # a copy makes the critic's videos
    fields = on_the_base(folders)
    distill_dmd.run(config(whole, folders, run=quiet_run(whole, **how), **fields))
    run_until_killed(
        "from longlive_recipes import distill_dmd\n"
        "distill_dmd.DistillDMDModule = kill_at(distill_dmd.DistillDMDModule, 3)\n"
        f"distill_dmd.run(replace(distill_dmd.dmd_tiny(), vae={vae!r}, teacher_from={teacher!r}, "
        f"run=quiet_run({str(killed)!r}, **{how!r}), **{fields!r}))\n"
    )
    made = config(killed, folders, run=quiet_run(killed, **how), **fields)
    distill_dmd.run(made, resume=str(killed))
    assert_same_run(killed, whole)
    exported = distill_dmd.export(made, resume=str(killed))
    assert exported == killed / "model"


def test_clips_of_which_only_the_words_are_used_are_not_encoded(tmp_path, folders, monkeypatch):
    made = config(tmp_path / "words", folders)
    assert made.judged.videos and not made.pull
    assert replace(made, pull=0.5).learns_from_clips
    whole = config(tmp_path / "whole", folders)
    with monkeypatch.context() as patch:
        patch.setattr(DistillDMD, "learns_from_clips", True)
        patch.setattr(DistillDMD, "validates_on_clips", True)
        distill_dmd.run(replace(whole, judged=replace(whole.judged, videos=0)))
        encoded = ready(whole)
    monkeypatch.setattr(ar_clips, "prepare_clips", None)
    distill_dmd.run(made)
    described = ready(made)
    for blocks, clips in encoded.sets.items():
        words = described.sets[blocks]
        assert (words.prompts, words.latents.shape) == (clips.prompts, clips.latents.shape)
        assert torch.equal(words.cuts, clips.cuts) and torch.equal(words.tables, clips.tables)
        assert words.latents.untyped_storage().nbytes() == 2
    for one in made.sets:
        drawn, words = one.drawn(made.seed + one.blocks, made.world), described.sets[one.blocks]
        assert words.cuts.tolist() == [list(clip.cuts) for clip in drawn]
        for prompts, clip in zip(words.prompts, drawn, strict=True):
            assert [p.removeprefix(SCENE_CUT_PREFIX) for p in prompts] == list(clip.captions)
    assert not described.fresh
    tables = [tmp_path / name / "train.csv" for name in ("words", "whole")]
    assert column(tables[0], "critic_loss") == column(tables[1], "critic_loss")


def test_the_critic_sees_videos_of_the_student_as_it_is_now(tmp_path, folders, monkeypatch):
    """In mixed precision a copy in bfloat16 makes them; the student learns from its own."""
    run = quiet_run(tmp_path, precision="bf16-mixed", validate_every=99)
    made = config(tmp_path, folders, run=run, judged=replace(dmd_tiny().judged, videos=0))
    real, seen = DistillDMDModule.roll_out, []

    def watched(module, *given, student=None, **how):
        assert (student is None) == (how["trained"] != 0)
        if student is not None:
            assert not torch.is_autocast_enabled("cpu")
            weights = {n: x.bfloat16() for n, x in module.model.state_dict().items()}
            assert_equal(dict(student.state_dict()), weights, "the copy")
            seen.append(weights["head.head.weight"])
        return real(module, *given, student=student, **how)

    monkeypatch.setattr(DistillDMDModule, "roll_out", watched)
    distill_dmd.run(made)
    assert len(seen) == made.budget.steps
    assert any(not torch.equal(one, seen[0]) for one in seen)


def test_it_moves_the_student_to_where_the_teacher_sees_it(tmp_path, folders):
    made = config(
        tmp_path,
        folders,
        critic_warmup=0,
        critic_updates=1,
        budget=TrainingSchedule(steps=3, warmup_steps=0),
        optimization=Optimization(learning_rate=1e-3, betas=(0.0, 0.999), ema_decay=0.0),
        judged=replace(dmd_tiny().judged, videos=0),
    )
    distill_dmd.run(made)
    _, before = load_part(folders[2] / "transformer")
    _, after = load_part(tmp_path / "model" / "transformer")
    assert any(not torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("trained", [None, 2])
def test_videos_that_are_made_twice_have_the_gradients_of_those_made_once(
    tmp_path, folders, trained
):
    module = ready(config(tmp_path, folders, trained_blocks=trained))
    clips = module.sets[3]

    def gradients(replayed: bool) -> tuple[float, list[torch.Tensor]]:
        module.model.zero_grad()
        torch.manual_seed(3)
        chance = module.choices(2)
        asked = module.ask(clips, 2, chance)
        if replayed:
            loss = module.replayed_loss(asked, 2, chance, torch.Tensor.backward)
        else:
            loss = module.student_loss(asked, 2, chance)
            loss.backward()
        found = [p.grad.clone() for p in module.model.parameters() if p.grad is not None]
        return float(loss.detach()), found

    (once, first), (twice, second) = gradients(False), gradients(True)
    assert twice == pytest.approx(once, rel=1e-5)
    assert len(first) == len(second) > 0
    scale = max(float(one.abs().max()) for one in first)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sampling_steps": (4, 8, 3)}, "divide levels, got 3 of 8"),
        ({"sampling_steps": (4, 3), "levels": 24}, "got 3 beside 4: the noise levels of 3"),
        ({"rollout_blocks": 4}, "rollout_blocks .*window shows 4: .*goes dark"),
        ({"trained_blocks": 6}, "videos have 5 blocks"),
        ({"critic_warmup": 6}, "below budget.steps, got 6 of 6"),
        ({"base": "bf16"}, "kept in float32, or small moves are lost"),
        ({"lora_from": "x"}, "lora_rank=0 trains all weights"),
        ({"lora_alpha": 8.0}, "lora_alpha=8.0 is of adapters, and lora_rank=0 trains all"),
        ({"lora_targets": ("q",)}, "lora_targets=.'q',. is of adapters"),
        ({"scores": "some"}, "given_past, whole"),
        ({"lora_rank": 4, "lora_targets": ()}, "targets"),
        ({"pull": -1.0}, "pull"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(dmd_tiny(), **wrong)


def test_more_ranks_than_a_video_has_parts_are_refused():
    two = {"sets": (ClipSet(blocks=3, clips=2),), "phases": (Phase(length=3, batch=2, until=1.0),)}
    assert replace(dmd_tiny(), **two, parallel=Parallel(sequence=2)).parallel.ranks == 2
    with pytest.raises(ValueError, match="sequence=3 is more than model.num_heads=2: ranks that"):
        replace(dmd_tiny(), **two, parallel=Parallel(sequence=3))


def test_a_student_of_another_base_is_refused(tmp_path, folders):
    vae, teacher, student = folders
    other = tmp_path / "other"
    train_ar.run(ar_config(other, vae, seed=5, budget=TrainingSchedule(steps=1, warmup_steps=0)))
    with pytest.raises(ValueError, match="of another base than its teacher .*text encoders"):
        distill_dmd.check(config(tmp_path / "run", (vae, teacher, other / "model")))
    with pytest.raises(ValueError, match="run without guidance"):
        distill_dmd.check(config(tmp_path / "run", (vae, student, student)))


def test_an_adapter_of_another_rank_is_refused(tmp_path, folders):
    first = config(tmp_path / "first", folders, **on_the_base(folders))
    distill_dmd.run(replace(first, judged=replace(first.judged, videos=0)))
    adapter = str(tmp_path / "first" / "lora")
    fields = on_the_base(folders, lora_rank=2, lora_from=adapter)
    words = "adapter of rank 4 and alpha 4 .* some of rank 2 and alpha 2 .* Use lora_rank=4, "
    with pytest.raises(ValueError, match=words):
        distill_dmd.check(config(tmp_path / "second", folders, **fields))
    small = replace(first.model, dim=24)
    model = WanTransformer(small)
    add_lora(model, first.lora)
    save_lora(model, tmp_path / "other")
    fields = on_the_base(folders, lora_from=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"other: .*shape"):
        distill_dmd.check(config(tmp_path / "second", folders, **fields))
    module = ready(config(tmp_path / "second", folders, **on_the_base(folders, lora_from=adapter)))
    assert any(p.any() for n, p in module.model.named_parameters() if "lora_B" in n)
    assert not any(p.any() for n, p in module.critic.named_parameters() if "lora_B" in n)


def test_steps_by_block_are_those_of_the_rollout_and_of_the_model(tmp_path, folders):
    made = config(tmp_path, folders, sampling_steps=(4, 2, 2))
    module = ready(made)
    assert [module.sampler.schedule(block).steps for block in range(5)] == [4, 2, 2, 2, 2]
    assert made.generation.steps == (4, 2, 2)
    chance = module.choices(2)
    asked = module.ask(module.sets[2], 2, chance)
    module.roll_out(asked, 2, module.exit_steps(chance), trained=0)


def test_the_pocket_preset_is_for_one_gpu():
    made = dmd_pocket()
    assert made.rollout_blocks > made.window.pages
    assert made.critic_updates == 5
    assert made.optimization.betas[0] == made.critic.betas[0] == 0


def test_models_that_a_run_reads_are_not_replaced(tmp_path, folders):
    teacher = folders[1]
    distill_dmd.check(config(tmp_path / "run", folders))
    with pytest.raises(ValueError, match="teacher_from=.* would be replaced by"):
        check_written(config(teacher.parent, folders))
    adapter = config(tmp_path, folders, lora_from=str(tmp_path / "lora"), lora_rank=4)
    with pytest.raises(ValueError, match="lora_from=.* would be replaced by .*lora, which the run"):
        check_written(adapter)
