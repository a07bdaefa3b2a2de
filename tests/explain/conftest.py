"""An explainer of tiny backbones, with two concepts of random vectors, and a sweep of it."""

import pytest
import torch

from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.explain.explainer import Explainer


@pytest.fixture(scope="package")
def bank(tiny):
    facts = {"divergence": 0.5, "steps": 1, "loss": 0.1, "explained": 0.9, "prompt": "", "objective": "velocity"}
    draws = torch.Generator().manual_seed(0)
    entries = (
        Concept(pair=Pair("left", "right"), vector=torch.randn(12, 16, generator=draws), **facts),
        Concept(pair=Pair("red", "blue"), vector=torch.randn(16, generator=draws), **facts),
    )
    return ConceptBank(tiny.generator.path, tiny.vlm.path, "coupling", entries)


@pytest.fixture(scope="package")
def explainer(tiny, tiny_coupling, bank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    bank.save(folder)
    return Explainer.from_pretrained(tiny.generator, tiny.vlm, tiny_coupling, folder, tiny.video)


@pytest.fixture(scope="package")
def explanation(explainer):
    return explainer.explain("a red oval moves left slowly", "left:right", phi=(0.0, 0.5, 1.0), seed=7, steps=3)
