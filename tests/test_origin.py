import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.explain.explainer import Explainer
from transporter_pl.loading import load_generator, load_vlm
from transporter_pl.origin import check_weights, checkpoint_name, origin_of, split_revision, weights_fingerprint
from transporter_pl.samples import Origin, VideoSpec


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(50, 50), nn.BatchNorm1d(50))


def test_the_same_weights_have_the_same_fingerprint_in_whatever_type():
    made = weights_fingerprint(model())
    assert made == weights_fingerprint(model()) == weights_fingerprint(model().bfloat16())
    assert made == weights_fingerprint(model().double())


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "1.running_mean"])
def test_a_step_of_training_changes_it(name):
    trained = model()
    trained.state_dict()[name].add_(0.01)
    assert weights_fingerprint(trained) != weights_fingerprint(model())


def test_a_renamed_or_reshaped_tensor_changes_it():
    zeros = [nn.ParameterDict({"a": torch.zeros(4)}), nn.ParameterDict({"b": torch.zeros(4)})]
    zeros += [nn.ParameterDict({"a": torch.zeros(2, 2)})]
    assert len({weights_fingerprint(z) for z in zeros}) == 3


def test_origin_names_both_models(tiny):
    generator, vlm = load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video)
    expected = Origin(tiny.generator.path, tiny.vlm.path, tiny.video, *map(weights_fingerprint, (generator, vlm)))
    assert origin_of(generator, vlm) == expected


@pytest.mark.parametrize(
    ("source", "repo", "revision", "name"),
    [
        ("microsoft/Phi-4@refs/pr/70", "microsoft/Phi-4", "refs/pr/70", "Phi-4"),
        ("org/name.v2_x@3f2a", "org/name.v2_x", "3f2a", "name.v2_x"),
        ("org/name@v1@x", "org/name", "v1@x", "name"),
        ("org/name", "org/name", None, "name"),
        ("shapemotion-wan", "shapemotion-wan", None, "shapemotion-wan"),
        ("/home/me@host/models/wan", "/home/me@host/models/wan", None, "wan"),
        ("./models/wan@2", "./models/wan@2", None, "wan@2"),
        ("~/models/wan@2", "~/models/wan@2", None, "wan@2"),
        ("org/name@", "org/name@", None, "name@"),
    ],
)
def test_a_hub_id_may_name_a_revision(source, repo, revision, name):
    assert split_revision(source) == (repo, revision)
    assert checkpoint_name(source) == name


def test_a_local_folder_with_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "wan@2").mkdir(parents=True)
    assert split_revision("models/wan@2") == ("models/wan@2", None)
    assert split_revision("models/wan@3") == ("models/wan", "3")
    assert checkpoint_name("models/wan@2") == "wan@2"


def test_other_weights_are_refused_by_the_model_that_has_them():
    given = Origin("some/wan", "some/llama", VideoSpec(5, 32, 32), "w1", "w2")
    for same_or_unknown in (("w1", "w2"), ("", "w2"), ("w1", ""), ("", "")):
        check_weights("bank", same_or_unknown, given)
    check_weights("bank", ("w1", "w2"), Origin("some/wan", "some/llama", VideoSpec(5, 32, 32)))
    for other, named in ((("w3", "w2"), "generator: .*'some/wan'.*w3, not w1"), (("w1", "w3"), "vlm: .*w3, not w2")):
        with pytest.raises(TransporterError, match=named):
            check_weights("bank", other, given)


@pytest.fixture
def trained_anew(tiny, tmp_path):
    """The tiny models with another step of training in their folders, under the same names."""
    made = {}
    for kind in ("generator", "vlm"):
        spec = getattr(tiny, kind)
        copy = shutil.copytree(spec.path, tmp_path / Path(spec.path).name)
        for path in copy.rglob("*.safetensors"):
            save_file({name: weight * 1.01 for name, weight in load_file(path).items()}, path, {"format": "pt"})
        made[kind] = replace(spec, path=str(copy))
    return made


@pytest.mark.parametrize("kind", ["generator", "vlm"])
def test_backbones_trained_anew_serve_neither_the_old_network_nor_the_old_bank(
    tiny, tiny_coupling, trained_anew, tmp_path, kind
):
    models = {"generator": tiny.generator, "vlm": tiny.vlm}
    made = origin_of(load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video))
    network = CouplingNetwork.from_pretrained(tiny_coupling)
    network.save(tmp_path / "older")
    network.origin = made
    network.save(tmp_path / "coupling")
    weights = made.generator_weights, made.vlm_weights
    ConceptBank(made.generator, made.vlm, "", (), *weights).save(tmp_path / "concepts")
    Explainer.from_pretrained(*models.values(), tmp_path / "coupling", tmp_path / "concepts", tiny.video)

    other = {**models, kind: trained_anew[kind]}.values()
    for coupling, what in (("coupling", "coupling network"), ("older", "concept bank")):
        with pytest.raises(TransporterError, match=f"{kind}: the {what} was trained with other weights"):
            Explainer.from_pretrained(*other, tmp_path / coupling, tmp_path / "concepts", tiny.video)
