"""What is saved comes back; what is not ours is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Origin, TokenStatistics, VideoSpec

ORIGIN = Origin("hub/generator", "hub/vlm", VideoSpec(9, 64, 64, 8.0), "w1", "w2")
CONFIG = CouplingConfig(
    latent_shape=(4, 2, 4, 4),
    condition_shape=(3, 6),
    token_shape=(10, 8),
    width=16,
    heads=2,
    mixer_layers=1,
    transformer_layers=1,
    patch=(1, 2, 2),
    transport_options={"projections": 4},
)


@pytest.fixture
def folder(tmp_path):
    network = CouplingNetwork(CONFIG)
    network.set_statistics(TokenStatistics.of(torch.randn(5, *CONFIG.token_shape)))
    network.origin = ORIGIN
    network.save(tmp_path / "coupling")
    return tmp_path / "coupling"


def test_round_trip(folder):
    network = CouplingNetwork.from_pretrained(folder)
    assert network.config == CONFIG
    assert network.origin == ORIGIN
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "coupling.safetensors"]
    again = folder.with_name("again")
    network.save(again)
    for name in ("config.json", "coupling.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_without_fingerprints_still_loads(folder):
    described = json.loads((folder / "config.json").read_text())
    for name in ("generator_weights", "vlm_weights"):
        del described["origin"][name]
    (folder / "config.json").write_text(json.dumps(described))
    assert CouplingNetwork.from_pretrained(folder).origin == Origin(ORIGIN.generator, ORIGIN.vlm, ORIGIN.video)


def test_the_same_tokens_come_out(folder):
    batch = torch.randn(2, 4, 2, 4, 4), torch.randn(2, 3, 6), torch.randn(2, 10, 8)
    one, two = (CouplingNetwork.from_pretrained(folder)(*batch).tokens for _ in range(2))
    torch.testing.assert_close(one, two)


def test_a_failed_write_leaves_the_old_files(folder, monkeypatch):
    before = (folder / "coupling.safetensors").read_bytes()

    def fails(*_):
        message = "disk full"
        raise OSError(message)

    monkeypatch.setattr("transporter_pl.coupling.storage.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        CouplingNetwork(CONFIG).save(folder)
    assert (folder / "coupling.safetensors").read_bytes() == before
    assert len(list(folder.iterdir())) == 2


def test_missing_folder(tmp_path):
    with pytest.raises(TransporterError, match=r"coupling: no folder .*nowhere"):
        CouplingNetwork.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "description", ["no json", "{}", '{"model_type": "wan"}', '{"coupling": {"depth": 3}, "origin": null}', "[]"]
)
def test_foreign_folder(folder, description):
    (folder / "config.json").write_text(description)
    with pytest.raises(TransporterError, match="holds no coupling network"):
        CouplingNetwork.from_pretrained(folder)


def test_missing_or_broken_weights(folder):
    weights = folder / "coupling.safetensors"
    weights.write_bytes(b"nothing")
    with pytest.raises(TransporterError, match="holds no coupling network"):
        CouplingNetwork.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(TransporterError, match="holds no coupling network"):
        CouplingNetwork.from_pretrained(folder)


def test_weights_of_another_network(folder):
    tensors = load_file(folder / "coupling.safetensors")
    tensors.pop("transport.first_projections")
    save_file(tensors, folder / "coupling.safetensors")
    with pytest.raises(TransporterError, match=r"not those of its config\.json"):
        CouplingNetwork.from_pretrained(folder)


def test_config_is_readable(folder):
    described = json.loads((folder / "config.json").read_text())
    assert described["origin"]["generator"] == "hub/generator"
    assert described["coupling"]["token_shape"] == [10, 8]
