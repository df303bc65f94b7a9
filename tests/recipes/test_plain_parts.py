"""What stays in high precision where a transformer trains in four bits, and its receipt."""

import json
import re
from dataclasses import replace

import pytest
from torch import nn

from longlive_core.float8 import Float8TrainingConfig
from longlive_core.nvfp4 import NVFP4TrainingLinear, TrainingConfig
from longlive_recipes import train_ar
from longlive_recipes.configs.plain_parts import PlainParts
from longlive_recipes.train_ar import TrainARModule, ar_tiny
from tests.recipes.tiny_runs import ar_config, write_tiny_vae


def in_four_bits(plain: PlainParts) -> set[str]:
    """The parts of the tiny recipe's transformer that have linears in four bits."""
    model = replace(ar_tiny().model, num_layers=3)
    config = replace(ar_tiny(), quantized=TrainingConfig(), plain=plain, model=model)
    module = TrainARModule(config)
    module.configure_model()
    names = [
        name
        for name, layer in module.model.named_modules()
        if isinstance(layer, NVFP4TrainingLinear)
    ]
    assert not any(isinstance(layer, NVFP4TrainingLinear) for layer in module.text.modules())
    for name in names:
        assert type(module.model.get_submodule(name)) is not nn.Linear
    return {".".join(name.split(".")[: 2 if name.startswith("blocks") else 1]) for name in names}


BLOCKS = {"blocks.0", "blocks.1", "blocks.2"}
EMBEDDINGS = {"text_embedding", "time_embedding", "time_projection"}


@pytest.mark.parametrize(
    ("plain", "quantized"),
    [
        (PlainParts(), BLOCKS),
        (PlainParts(first_blocks=1), {"blocks.1", "blocks.2"}),
        (PlainParts(first_blocks=1, last_blocks=1), {"blocks.1"}),
        (PlainParts(embeddings=False), BLOCKS | EMBEDDINGS),
        (PlainParts(head=False, last_blocks=2), {"blocks.0", "head"}),
    ],
)
def test_ends_stay_as_they_are_told_to(plain, quantized):
    assert in_four_bits(plain) == quantized


def test_no_block_left_is_refused_where_something_is_quantized():
    plain = PlainParts(first_blocks=1, last_blocks=1)
    with pytest.raises(ValueError, match="TrainAR.plain.first_blocks=1 changes nothing"):
        replace(ar_tiny(), plain=plain)
    with pytest.raises(ValueError, match="leave none of the 2 blocks"):
        replace(ar_tiny(), plain=plain, quantized=TrainingConfig())


def test_products_are_in_four_bits_or_in_eight():
    both = {"quantized": TrainingConfig(), "float8": Float8TrainingConfig()}
    with pytest.raises(ValueError, match="operands of four bits or of eight. Leave one out"):
        replace(ar_tiny(), **both)
    with pytest.raises(ValueError, match="leave none of the 2 blocks"):
        replace(ar_tiny(), plain=PlainParts(first_blocks=2), float8=Float8TrainingConfig())


@pytest.mark.parametrize(
    "changes", [{"first_blocks": -1}, {"last_blocks": 1.5}, {"embeddings": 1}, {"head": None}]
)
def test_what_is_no_number_or_switch_is_refused(changes):
    [name] = changes
    with pytest.raises(ValueError, match=f"PlainParts.{name}"):
        PlainParts(**changes)


@pytest.mark.parametrize(
    ("bits", "fast"),
    [
        ({"quantized": TrainingConfig()}, "nvfp4.matmul: .* not cublas"),
        ({"float8": Float8TrainingConfig()}, "float8.matmul: .* not scaled_mm: .*CUDA"),
    ],
)
def test_a_run_says_that_few_bits_are_emulated(tmp_path, caplog, bits, fast):
    caplog.set_level("INFO", "longlive_recipes")
    write_tiny_vae(tmp_path / "vae")
    config = ar_config(tmp_path / "run", tmp_path / "vae", **bits)
    train_ar.run(replace(config, budget=replace(config.budget, steps=1)))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    [product] = [line for line in record["backends"] if re.match(fast, line)]
    assert "emulated" in product
    assert product in caplog.messages
    assert product.split(":")[0] in (tmp_path / "run" / "report.html").read_text()
