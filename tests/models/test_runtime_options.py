"""What is asked of a machine: fields that configs share, and what is no precision."""

from dataclasses import fields

import pytest

from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RUNTIME_OPTIONS, RuntimeOptions
from longlive_recipes.configs.evaluate import Evaluate
from longlive_recipes.configs.generate import Generate


def test_what_is_decided_has_every_field_of_what_is_asked():
    assert tuple(field.name for field in fields(Runtime)) == RUNTIME_OPTIONS


@pytest.mark.parametrize("config", [Generate, Evaluate])
def test_configs_that_run_a_model_are_options(config):
    made = config(device="cpu", weights="nvfp4", kv_cache="int8", strict=True)
    options = RuntimeOptions(**{name: getattr(made, name) for name in RUNTIME_OPTIONS})
    assert Runtime.choose(made) == Runtime.choose(options)
    with pytest.raises(ValueError, match="kv_cache='fp5' is no precision of this version"):
        config(kv_cache="fp5")


@pytest.mark.parametrize("name", ["weights", "kv_cache"])
def test_an_unknown_precision_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}='int3' is no precision of this version: it has"):
        RuntimeOptions(**{name: "int3"})


def test_an_unknown_quality_is_refused():
    with pytest.raises(ValueError, match="quality='fast' is no quality of this version: it has"):
        RuntimeOptions(quality="fast")
