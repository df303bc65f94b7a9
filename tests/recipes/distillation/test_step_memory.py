"""Predicted memory of distillation, beside what torch's profiler says of real steps."""

from dataclasses import replace

import pytest

from longlive_models.wan import POCKET
from longlive_recipes import distill_cm, distill_dmd, train_ar
from longlive_recipes.configs.judge import Judged
from longlive_recipes.distill_cm import DistillCMModule, cm_tiny
from longlive_recipes.distill_dmd import DistillDMDModule, dmd_tiny
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.training.schedule import Phase
from tests.recipes.memory_peaks import ENOUGH, measured_peak
from tests.recipes.tiny_runs import ar_config, quiet_run, write_tiny_vae

MODEL = replace(POCKET, dim=96, ffn_dim=256, num_heads=2, num_layers=3, text_dim=16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    vae = write_tiny_vae(folder / "vae")
    return {"vae": str(vae), "teacher": str(train_ar.run(ar_config(folder, vae, model=MODEL)))}


def sized(tiny, folder, folders, precision, **changes):
    return replace(
        tiny,
        model=MODEL,
        vae=folders["vae"],
        start_from=folders["teacher"],
        judged=Judged(videos=0),
        sets=(ClipSet(blocks=2, clips=3),),
        phases=(Phase(length=2, batch=6, until=1.0),),
        budget=ENOUGH,
        run=quiet_run(folder / "run", precision=precision),
        **changes,
    )


@pytest.mark.filterwarnings("ignore")  # the profiler has its own
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_consistency_takes_what_is_predicted(precision, tmp_path, folders):
    made = sized(cm_tiny(), tmp_path, folders, precision)
    plan = distill_cm.predict(made)
    within = plan.peak - sum(plan.lasting.values())
    peak = measured_peak(DistillCMModule, made)
    assert within == pytest.approx(peak, rel=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_update_of_a_critic_takes_what_is_predicted(precision, tmp_path, folders):
    made = sized(
        dmd_tiny(),
        tmp_path,
        folders,
        precision,
        teacher_from=folders["teacher"],
        critic_warmup=0,
        critic_updates=1,
    )
    plan = distill_dmd.predict(made)
    assert "an update of the critic" in plan.about
    gradients = plan.lasting["gradients of one of them, and the student's average"] / 2
    peak = measured_peak(DistillDMDModule, made)
    assert plan.step.total + gradients == pytest.approx(peak, rel=0.1)


def test_what_lasts_is_what_a_run_holds(tmp_path, folders):
    made = sized(cm_tiny(), tmp_path, folders, "32-true")
    module = DistillCMModule(made)
    module.configure_model()
    weights = sum(p.nbytes for p in module.model.parameters())
    lasting = distill_cm.predict(made).lasting
    assert lasting["the teacher"] == lasting["the target network"] == weights
    assert lasting["moving average"] == weights
    assert lasting["states of the optimizer"] == 2 * weights
    assert lasting["weights, in float32"] == sum(p.nbytes for p in module.parameters())
