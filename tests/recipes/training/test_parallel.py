"""Training over several ranks has the numbers of one; so has a run that died and was resumed."""

import pytest

from longlive_core.float8 import Float8TrainingConfig
from longlive_models.objectives.error_bank import ErrorBankConfig
from longlive_models.objectives.error_recycling import ErrorRecycling
from longlive_recipes.train_ar import TrainARModule
from tests.processes import Ranks
from tests.recipes.on_ranks import NEAREST, first_step, shared_config, step_on_ranks
from tests.recipes.tiny_runs import write_tiny_vae

MESHES = [(2, 1), (1, 2), (2, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("parallel")
    write_tiny_vae(folder / "vae")
    return str(folder)


def assert_as_one_rank(
    ranks: Ranks, folder: str, shape, mask: bool = False, within: float = 1e-4, **changes
) -> None:
    one = first_step(TrainARModule(shared_config(folder, **changes)), mask)
    answers = ranks(shape[0] * shape[1], step_on_ranks, folder, shape, mask, changes)
    assert one["cuts"]
    for many in answers:
        assert many.keys() == one.keys()
        for name, wanted in one.items():
            if name == "cuts":
                continue
            error = (many[name] - wanted).norm() / wanted.norm()
            assert error <= within, f"{name}: {error:.1e}"


@pytest.mark.parametrize("shape", MESHES)
def test_loss_and_gradients_are_those_of_one_rank(shape, ranks, folder):
    assert_as_one_rank(ranks, folder, shape)


@pytest.mark.parametrize("shape", MESHES)
def test_so_are_those_of_frames_that_count(shape, ranks, folder):
    assert_as_one_rank(ranks, folder, shape, mask=True)


@pytest.mark.parametrize("checkpointing", [True, "attention"])
def test_so_are_those_of_recomputed_blocks(ranks, folder, checkpointing):
    assert_as_one_rank(ranks, folder, (2, 2), checkpointing=checkpointing)


@pytest.mark.parametrize(("shape", "checkpointing"), [((2, 1), False), ((1, 2), "attention")])
@pytest.mark.parametrize(
    ("bits", "within"), [({"quantized": NEAREST}, 1e-2), ({"float8": Float8TrainingConfig()}, 1e-2)]
)
def test_so_are_those_of_products_in_few_bits(shape, checkpointing, bits, within, ranks, folder):
    """A matrix, or a column, has one amax, whether its rows are shared out as clips or frames.

    A sum that is taken in another order may fall on the other side of a tie; a step of E4M3 is a
    sixteenth of a number.
    """
    how = {"checkpointing": checkpointing, "within": within}
    assert_as_one_rank(ranks, folder, shape, **how, **bits)


def test_so_are_those_of_recycled_errors_and_given_first_frames(ranks, folder):
    """The errors that ranks keep are put together first, in the order of one rank."""
    bank = ErrorBankConfig(buckets=4, bucket_size=3)
    recycling = ErrorRecycling(context=1.0, start=1.0, noise=1.0, clean=0.0, bank=bank)
    for shape in ((2, 1), (1, 2)):
        assert_as_one_rank(ranks, folder, shape, recycling=recycling, image_to_video=0.5)
