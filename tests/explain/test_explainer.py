import math
import shutil
from dataclasses import replace

import pytest
import torch

from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.pairs import Pair
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.explain.explainer import Explainer
from transporter_pl.samples import Origin, VideoSpec

CAPTION = "a red oval moves left slowly"


@pytest.fixture(scope="module")
def bank(tiny):
    facts = {"divergence": 0.5, "steps": 1, "loss": 0.1, "explained": 0.9, "prompt": "", "objective": "velocity"}
    draws = torch.Generator().manual_seed(0)
    entries = (
        Concept(pair=Pair("left", "right"), vector=torch.randn(12, 16, generator=draws), **facts),
        Concept(pair=Pair("red", "blue"), vector=torch.randn(16, generator=draws), **facts),
    )
    return ConceptBank(tiny.generator.path, tiny.vlm.path, "coupling", entries)


@pytest.fixture(scope="module")
def explainer(tiny, tiny_coupling, bank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    bank.save(folder)
    return Explainer.from_pretrained(tiny.generator, tiny.vlm, tiny_coupling, folder, tiny.video)


@pytest.fixture(scope="module")
def explanation(explainer):
    return explainer.explain(CAPTION, "left:right", phi=(0.0, 0.5, 1.0), seed=7, steps=3)


def test_shapes(explanation, tiny):
    video = tiny.video
    assert explanation.video.shape == (3, video.frames, 3, video.height, video.width)
    assert explanation.phi.tolist() == [0.0, 0.5, 1.0]
    for reading in (explanation.coupled, explanation.reencoded):
        assert len(reading.captions) == 3
        assert reading.positive.shape == reading.negative.shape == reading.divergence.shape == (3,)
        assert reading.divergence[0] == 0
        assert (reading.divergence >= 0).all()
        assert (reading.divergence <= 1).all()


def test_readings_are_the_vlms_own(explainer, explanation):
    vlm = explainer.bridge.vlm
    tokens = vlm.encode(explanation.video)
    probs = vlm.logits(tokens, answer="a red oval moves").softmax(-1)
    for word, read in (("left", explanation.reencoded.negative), ("right", explanation.reencoded.positive)):
        (index,) = vlm.token_ids(word)
        torch.testing.assert_close(read, probs[:, index], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(explanation.reencoded.divergence[2], hellinger(probs[0], probs[2]), atol=1e-4, rtol=1e-2)
    assert explanation.reencoded.captions == tuple(vlm.caption(tokens))


def test_coupled_reading_goes_through_phi(explainer, explanation):
    moved = [explainer.modulation("left:right", explanation.phi)]
    latents, condition = explainer.latents([CAPTION] * 3, [7] * 3, moved, steps=3)
    torch.testing.assert_close(explainer.bridge.generator.decode(latents), explanation.video, atol=1e-5, rtol=1e-4)
    tokens = explainer.bridge.tokens(latents, condition)
    probs = explainer.bridge.vlm.logits(tokens, answer="a red oval moves").softmax(-1)
    (right,) = explainer.bridge.vlm.token_ids("right")
    torch.testing.assert_close(explanation.coupled.positive, probs[:, right], atol=1e-5, rtol=1e-4)


def test_zero_reproduces_the_plain_video(explainer):
    swept = explainer.explain(CAPTION, "left:right", phi=(0.0,), seed=7, steps=3).video
    latents, _ = explainer.latents([CAPTION], [7], steps=3)
    assert torch.equal(swept, explainer.bridge.generator.decode(latents))


def test_divergence_counts_from_zero_though_it_is_not_asked_for(explainer, explanation):
    alone = explainer.explain(CAPTION.replace("left", "{}"), "left:right", phi=[1.0], seed=7, steps=3)
    assert alone.video.shape[0] == 1
    assert alone.caption == CAPTION
    torch.testing.assert_close(alone.coupled.divergence, explanation.coupled.divergence[2:], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("phi", [(0.0, 0.5, 1.0), (0.5, 1.0)])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_change_nothing_but_rounding(explainer, explanation, phi, batch_size):
    parts = explainer.explain(CAPTION, "left:right", phi=phi, seed=7, steps=3, batch_size=batch_size)
    rows = slice(3 - len(phi), 3)
    torch.testing.assert_close(parts.video, explanation.video[rows], atol=1e-4, rtol=1e-4)
    for one, two in ((parts.coupled, explanation.coupled), (parts.reencoded, explanation.reencoded)):
        assert one.captions == two.captions[rows]
        torch.testing.assert_close(one.positive, two.positive[rows], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(one.divergence, two.divergence[rows], atol=1e-3, rtol=1e-2)


def test_every_step_of_every_batch_passes_by(explainer, capsys):
    times = []

    def watch(steps):
        for t, z in steps:
            times.append((t, len(z)))
            yield t, z

    explainer.explain(CAPTION, "left:right", seed=7, steps=2, batch_size=3, watch=watch)
    first, second = times[:3], times[3:]
    assert (
        [t for t, _ in first] == [t for t, _ in second] == [*explainer.bridge.generator.schedule(2).times.tolist(), 0]
    )
    assert [n for _, n in times] == [3] * 3 + [2] * 3
    assert capsys.readouterr().out == ""  # no bar unless it is asked for


def test_several_concepts(explainer, explanation):
    both = explainer.explain(
        CAPTION, "left:right", phi=(0.0, 1.0), seed=7, steps=3, also=[explainer.modulation("red:blue", 1.0)]
    )
    latents, _ = explainer.latents(
        [CAPTION], [7], [explainer.modulation("left:right", 1.0), explainer.modulation("red:blue", 1.0)], steps=3
    )
    torch.testing.assert_close(both.video[1:], explainer.bridge.generator.decode(latents), atol=1e-4, rtol=1e-3)
    assert not torch.equal(both.video[0], explanation.video[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": "up:down"}, "it holds left:right, red:blue"),
        ({"caption": "a red oval moves right"}, "does not hold the word 'left'"),
        ({"phi": [math.nan]}, "phi: .* is not finite"),
        ({"phi": []}, "phi: no value"),
        ({"frames": (1.0, 1.0, 1.0)}, "3 weights for 2 latent frames"),
        ({"window": (0.5, 0.1)}, "window: .* is empty"),
        ({"steps": 0}, "steps: 0 is too small"),
        ({"guidance": 0.5}, "guidance: 0.5 is too small"),
        ({"batch_size": 0}, "batch_size: 0 is too small"),
    ],
)
def test_bad_input_is_refused_before_sampling(explainer, monkeypatch, change, message):
    monkeypatch.setattr("transporter_pl.explain.explainer.sample", None)
    with pytest.raises(TransporterError, match=message):
        explainer.explain(**{"caption": CAPTION, "pair": "left:right", **change})


def test_a_bank_of_another_generator(tiny, tiny_coupling, explainer, bank, tmp_path):
    bank.save(tmp_path)
    other = type(tiny.vlm)("video_llama3", "lkhl/VideoLLaMA3-7B-Image-HF")
    with pytest.raises(TransporterError, match=r"made with the vlm .*VideoLLaMA3-7B"):
        Explainer.from_pretrained(tiny.generator, other, tiny_coupling, tmp_path, tiny.video)
    longer = ConceptBank("a", "b", "c", (Concept(Pair("a", "b"), torch.zeros(99, 16), 0, 0, 0, 0, "", ""),))
    with pytest.raises(TransporterError, match=r"vector of 'a:b' is \(99, 16\)"):
        Explainer(explainer.bridge, longer)


def test_one_seed_a_caption(explainer):
    with pytest.raises(TransporterError, match="seeds: 1 for 2 captions"):
        explainer.latents([CAPTION] * 2, [0])


@pytest.fixture
def bare(tiny, tmp_path):
    """The generator without its weights."""
    path = shutil.copytree(tiny.generator.path, tmp_path / "wan", ignore=shutil.ignore_patterns("*.safetensors"))
    return replace(tiny.generator, path=str(path))


def test_a_coupling_of_another_geometry_is_refused_before_weights_are_read(tiny, tiny_coupling, bank, bare, tmp_path):
    network = CouplingNetwork.from_pretrained(tiny_coupling)
    network.origin = Origin(bare.path, tiny.vlm.path, VideoSpec(9, 32, 32))
    network.save(tmp_path / "coupling")
    bank.save(tmp_path / "bank")
    with pytest.raises(TransporterError, match=r"video\.frames: .* made for 9, not 5"):
        Explainer.from_pretrained(bare, tiny.vlm, tmp_path / "coupling", tmp_path / "bank", tiny.video)


def test_a_vector_that_does_not_fit_is_refused_before_weights_are_read(tiny, tiny_coupling, bank, bare, tmp_path):
    longer = replace(bank, entries=(replace(bank.entries[0], vector=torch.zeros(99, 16)),))
    longer.save(tmp_path / "bank")
    with pytest.raises(TransporterError, match=r"vector of 'left:right' is \(99, 16\)"):
        Explainer.from_pretrained(bare, tiny.vlm, tiny_coupling, tmp_path / "bank", tiny.video)


def test_a_device_that_is_not_there(tiny, tiny_coupling, bank, bare, tmp_path):
    bank.save(tmp_path / "bank")
    with pytest.raises(TransporterError, match="device: 'graphics' is not there"):
        Explainer.from_pretrained(bare, tiny.vlm, tiny_coupling, tmp_path / "bank", tiny.video, "graphics")


@pytest.mark.gpu
def test_on_a_gpu(tiny, tiny_coupling, bank, explanation, tmp_path):
    bank.save(tmp_path / "bank")
    there = Explainer.from_pretrained(tiny.generator, tiny.vlm, tiny_coupling, tmp_path / "bank", tiny.video, "auto")
    assert {p.device.type for p in there.bridge.parameters()} == {"cuda"}
    found = there.explain(CAPTION, "left:right", phi=(0.0, 0.5, 1.0), seed=7, steps=3)
    torch.testing.assert_close(found.video, explanation.video, atol=0.02, rtol=0)


def test_a_sweep_that_draws_nothing_finite_is_refused(explainer):
    with pytest.raises(TransporterError, match=r"^phi: 0 1e\+35 draws nothing finite; give smaller values$"):
        explainer.explain("a red oval moves left slowly", "left:right", (0, 1e35), steps=2)
