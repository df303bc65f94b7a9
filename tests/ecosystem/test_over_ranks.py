"""Foreign models over several ranks: the numbers and the gradients of one."""

import runpy
from types import SimpleNamespace

import pytest

from tests.ecosystem import over_ranks
from tests.processes import Ranks


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("model", [over_ranks.wan, over_ranks.flux])
def test_a_model_over_ranks_is_the_model_of_one(ranks: Ranks, model, size):
    for errors in ranks(size, model):
        assert len(errors) > 20
        assert max(errors.values()) < 2e-4, max(errors, key=errors.get)


def test_products_in_four_bits_do_not_depend_on_the_ranks(ranks: Ranks):
    for error in ranks(2, over_ranks.wan_in_four_bits):
        assert error < 1e-4


def test_a_wan_with_an_image_beside_the_text_is_refused():
    share = runpy.run_path(str(over_ranks.EXAMPLES / "diffusers_wan_over_ranks.py"))["share"]
    with pytest.raises(ValueError, match="also attends to an image's tokens"):
        share(SimpleNamespace(config=SimpleNamespace(added_kv_proj_dim=64)), None)
