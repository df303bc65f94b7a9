"""A field that changes nothing beside others is refused by its name, with the reason and a way out;
one that does something is taken."""

from dataclasses import replace

import pytest

from longlive_core.float8 import Float8TrainingConfig
from longlive_core.nvfp4 import TrainingConfig
from longlive_models.objectives.error_recycling import ErrorRecycling
from longlive_recipes.configs.ar_options import PLAIN, Adapter
from longlive_recipes.configs.distill_chain import pocket_chain, tiny_chain
from longlive_recipes.configs.distill_cm import cm_pocket
from longlive_recipes.configs.distill_dmd import dmd_5b, dmd_pocket
from longlive_recipes.configs.distill_vae import vae_light_5b, vae_light_pocket
from longlive_recipes.configs.judge import Judged
from longlive_recipes.configs.plain_parts import PlainParts
from longlive_recipes.configs.run import Run
from longlive_recipes.configs.train_ar import ar_5b, ar_lora, ar_pocket
from longlive_recipes.configs.train_vae import vae_pocket, vae_pocket_finetune
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.training.optimizers import Optimization
from longlive_recipes.training.schedule import Phase

FOUR = TrainingConfig()
CACHE = "a cache"


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (
            dmd_pocket,
            {"word_dropout": 0.1},
            "DistillDMD.word_dropout=0.1 .*without pull.* Set p",
        ),
        (dmd_pocket, {"context_jitter": 0.2}, "DistillDMD.context_jitter=0.2 changes nothing"),
        (dmd_5b, {"prompt_dropout": 0.1}, "DistillDMD.prompt_dropout=0.1 changes nothing"),
        (ar_5b, {"word_dropout": 0.1}, "TrainAR.word_dropout=0.1 .*features are of whole prompts"),
        (
            ar_pocket,
            {"plain": PlainParts(head=False)},
            "plain.head=False .*Set quantized or ",
        ),
        (ar_pocket, {"quantized": replace(PLAIN, hadamard=False)}, "quantized.hadamard=False"),
        (ar_pocket, {"quantized": replace(PLAIN, strict=True)}, "quantized.strict=True .*leave"),
        (
            ar_lora,
            {"quantized": replace(PLAIN, forward=True, gradient=FOUR.activation)},
            "quantized.gradient=.* changes nothing",
        ),
        (
            ar_pocket,
            {"recycling": ErrorRecycling(context=0, start=0, noise=0, clean=0.5)},
            "recycling.clean=0.5 .*no errors are kept",
        ),
        (
            cm_pocket,
            {"data": CACHE, "judged": Judged(videos=8)},
            "judged.videos=8 .*nothing is",
        ),
        (vae_pocket_finetune, {"kl_weight": 0.1}, "TrainVAE.kl_weight=0.1 .*frozen_encoder"),
        (vae_light_5b, {"clips": 3}, "DistillVAE.clips=3 .*of the cache data/clips_704x1280"),
        (vae_light_5b, {"world": ClipFormat(size=64)}, "DistillVAE.world.size=64 changes nothing"),
    ],
)
def test_what_would_change_nothing_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(make(), **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adapter(alpha=32.0), "Adapter.alpha=32.0 .*rank=0 trains the weights .*Set rank"),
        (lambda: Adapter(dropout=0.1), "Adapter.dropout=0.1 changes nothing"),
        (lambda: Adapter(targets=("q",)), "Adapter.targets=.*changes nothing"),
        (lambda: Optimization(muon_rate=1e-3), "Optimization.muon_rate=0.001 .*without muon"),
        (lambda: Run(output="a", best_mode="max"), "Run.best_mode='max' .*Set best_metric"),
    ],
)
def test_a_part_that_asks_for_nothing_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("stage", "changes", "told"),
    [
        ("cm", {"shift": 4.0}, "cm.shift=4.0 changes nothing: the chain gives its stage 6.0"),
        ("dmd", {"seed": 9}, "dmd.seed=9"),
        ("dmd", {"teacher_from": "mine"}, "dmd.teacher_from='mine'"),
        ("longer", {"vae": "mine"}, "longer.vae='mine'"),
        ("spins", {"start_from": "mine"}, "spins.start_from='mine'"),
        ("ar", {"run": Run(output="mine")}, "ar.run.output='mine'"),
    ],
)
def test_what_a_chain_gives_its_stages_cannot_be_set_in_one(stage, changes, told):
    chain = pocket_chain()
    with pytest.raises(ValueError, match=f"DistillChain.{told}"):
        replace(chain, **{stage: replace(vars(chain)[stage], **changes)})


def test_what_does_something_is_taken():
    replace(dmd_pocket(), pull=0.5, word_dropout=0.1, context_jitter=0.2, prompt_dropout=0.1)
    replace(dmd_pocket(), word_dropout=0.0, context_jitter=0.0)
    replace(ar_pocket(), plain=PlainParts(head=False), float8=Float8TrainingConfig())
    replace(ar_pocket(), quantized=replace(PLAIN, weight_gradient=True, hadamard=False))
    replace(ar_lora(), quantized=replace(PLAIN, forward=True, strict=True))
    replace(ar_lora(), recycling=ErrorRecycling(), accumulate=2, image_to_video=0.5)
    replace(cm_pocket(), data=CACHE, judged=Judged(videos=0, seconds=2.0))
    replace(cm_pocket(), data=CACHE)
    replace(vae_pocket(), kl_weight=0.1)
    replace(vae_light_pocket(), clips=3, world=ClipFormat(size=64))
    chain = pocket_chain()
    replace(chain, cm=replace(chain.cm, levels=12), dmd=replace(chain.dmd, pull=0.5))
    model = replace(chain.ar.model, num_layers=2)
    changed = replace(chain, ar=replace(chain.ar, model=model, shift=4.0))
    assert changed.students[0].model == model


def test_a_chain_on_ones_own_clips_judges_nothing_of_its_tiny_stages():
    chain = tiny_chain()
    given = {name: replace(vars(chain)[name], data=CACHE) for name in ("ar", "longer")}
    given = {name: replace(one, latent_cache=None) for name, one in given.items()}
    made = replace(chain, **given)
    assert [stage.judged.videos for stage in made.students] == [0, 0]
    own = ClipSet(blocks=1, clips=2)
    one_block = replace(ar_pocket(), sets=(own,), phases=(Phase(length=1, batch=2, until=1.0),))
    replace(one_block, image_to_video=1.0)
