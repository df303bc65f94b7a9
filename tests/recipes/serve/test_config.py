"""The config of a server: what it refuses before anything is loaded."""

import pytest

from longlive_models.runtime_options import RUNTIME_OPTIONS
from longlive_recipes.configs.serve import Limits, Serve, is_loopback
from longlive_recipes.serve.offers import Offers
from tests.recipes.serve.servers import config_of


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
    ],
)
def test_other_addresses_need_a_token(host, own):
    assert is_loopback(host) == own
    if own:
        Serve(host=host)
    else:
        with pytest.raises(ValueError, match=r"lets other machines in.*pass --token"):
            Serve(host=host)
    Serve(host=host, token="long-enough")


@pytest.mark.parametrize("token", ["short", "with a space", "ümlaut-1", "x" * 257, ""])
def test_a_token_can_be_sent_in_a_header(token):
    with pytest.raises(ValueError, match="a token has 8 to 256") as refused:
        Serve(token=token)
    assert not token or token not in str(refused.value)  # it is a secret


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="port"):
        Serve(port=70_000)
    with pytest.raises(ValueError, match="no host name"):
        Serve(names=("http://a",))
    with pytest.raises(ValueError, match="no precision of weights"):
        Serve(offer=("fp7",))
    for name in ("sessions", "steps", "upload_mb", "ahead", "snapshot_every"):
        with pytest.raises(ValueError, match=name):
            Limits(**{name: 0})
    with pytest.raises(ValueError, match="seconds"):
        Limits(seconds=0)
    assert Limits(queue=0, snapshot_mb=0).queue == 0


def test_what_a_server_runs_on_is_what_it_was_told(tmp_path):
    given = {"offload": True, "text_encoder": "offload", "kv_cache": "bf16", "lane": "thread"}
    config = config_of(tmp_path / "served", **given)
    [offer] = Offers.load(config).all
    for name in (name for name in RUNTIME_OPTIONS if name != "weights"):
        assert getattr(offer.base, name) == getattr(config, name), name
    assert offer.pipeline.transformer.offload is not None
    assert offer.pipeline.text_place == "offload"
