"""What a model's config says of packed layers, in models with either kind of config."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from longlive_core import float8
from longlive_core.nvfp4 import LinearConfig, QuantizeConfig, convert_linears, decode_linears
from longlive_core.saved_config import note_in_config, packed_layers


class Frozen(dict):
    """A config that cannot be written to, as Diffusers has."""

    __getattr__ = dict.get


class Saved(nn.Module):
    def __init__(self, part: nn.Module | None = None):
        super().__init__()
        self.config = SimpleNamespace(width=32)
        self.part = part
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)) for _ in "ab"
        )

    def save_pretrained(self, folder):
        raise AssertionError("nothing is saved here")


class Registered(Saved):
    def __init__(self):
        super().__init__()
        self._internal_dict = Frozen(width=32)
        del self.config

    @property
    def config(self):
        return self._internal_dict

    @config.setter
    def config(self, value):
        self._internal_dict = value

    @config.deleter
    def config(self):
        pass

    def register_to_config(self, **values):
        self._internal_dict = Frozen({**self._internal_dict, **values})


NAMES = ["layers.0.0", "layers.0.1", "layers.1.0", "layers.1.1"]


@pytest.mark.parametrize("kind", [Saved, Registered])
def test_conversions_write_what_is_packed_and_decoding_removes_it(kind):
    model = kind()
    convert_linears(model)
    noted = model.config.quantization_config
    assert noted == packed_layers(model)
    (form,) = noted["forms"]
    assert form["layers"] == NAMES
    assert (form["format"], form["activation"]) == ("nvfp4", None)
    assert QuantizeConfig.from_dict(form["weight"]) == LinearConfig().weight
    decode_linears(model, torch.float32)
    assert not (
        "quantization_config" in model.config
        if isinstance(model.config, dict)
        else hasattr(model.config, "quantization_config")
    )


def test_layers_that_are_packed_alike_stand_together():
    model = Saved()
    convert_linears(model, LinearConfig(activation=QuantizeConfig()), keep="layers.1")
    float8.convert_linears(model)
    forms = model.config.quantization_config["forms"]
    assert [(form["format"], form["layers"]) for form in forms] == [
        ("nvfp4", NAMES[:2]),
        ("float8", NAMES[2:]),
    ]
    assert forms[0]["activation"] == QuantizeConfig().to_dict()


def test_a_part_with_a_config_of_its_own_is_told_its_own_names():
    model = Saved(part=Saved())
    convert_linears(model)
    (form,) = model.part.config.quantization_config["forms"]
    assert form["layers"] == NAMES
    assert len(model.config.quantization_config["forms"][0]["layers"]) == 8


def test_a_shared_config_has_the_names_of_the_whole():
    model = Saved(part=Saved())
    model.part.config = model.config
    convert_linears(model)
    assert len(model.config.quantization_config["forms"][0]["layers"]) == 8


def test_what_others_say_of_their_own_quantization_stays():
    model = Saved()
    model.config.quantization_config = {"quant_method": "another"}
    note_in_config(model)
    assert model.config.quantization_config == {"quant_method": "another"}


def test_a_model_that_is_not_saved_so_is_left_alone():
    model = nn.Module()
    model.config = SimpleNamespace()
    model.layers = nn.ModuleList([nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))])
    convert_linears(model)
    assert not hasattr(model.config, "quantization_config")
