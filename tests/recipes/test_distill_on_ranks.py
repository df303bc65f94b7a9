"""Ranks that share videos or make others have the losses and gradients of one rank."""

import pytest

from longlive_recipes import train_ar
from longlive_recipes.training.parallel import Ranks
from tests.recipes.on_ranks import matching_step, matching_step_on_ranks, shared_config
from tests.recipes.tiny_runs import write_tiny_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A VAE and a teacher."""
    folder = tmp_path_factory.mktemp("matching")
    write_tiny_vae(folder / "vae")
    train_ar.run(shared_config(str(folder)))
    return str(folder)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"pull": 0.5}, id="all weights", marks=pytest.mark.slow),
        pytest.param(
            {"scores": "whole", "replay": True, "lora_rank": 4, "trained_blocks": 2}, id="adapters"
        ),
    ],
)
def test_students_and_critics_learn_what_they_learn_on_one_rank(folder, ranks, changes):
    """Five blocks on two ranks of a sequence: one has more of them than the other."""
    alone = matching_step(folder, (1, 1), Ranks(), changes)
    assert len(alone) > 20
    largest = max(float(x.norm()) for name, x in alone.items() if "." in name)
    for shape in ((1, 2), (2, 1)):
        for made in ranks(2, matching_step_on_ranks, folder, shape, changes):
            assert made.keys() == alone.keys()
            for name, wanted in alone.items():
                if "." in name and wanted.norm() < 1e-5 * largest:
                    continue  # rounding alone
                error = float((made[name] - wanted).norm() / wanted.norm())
                assert error <= 1e-3, f"{shape} {name}: {error:.1e}"
