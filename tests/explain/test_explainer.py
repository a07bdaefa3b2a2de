import math
import shutil
from dataclasses import replace

import pytest
import torch

import transporter_pl
from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.pairs import Pair
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.explain.dials import Dial
from transporter_pl.explain.explainer import Explainer
from transporter_pl.explain.modulation import Modulation, modulate
from transporter_pl.explain.sampler import draw_noise, sample
from transporter_pl.samples import Origin, VideoSpec

CAPTION = "a red oval moves left slowly"


@torch.no_grad()
def drawn(explainer, dials, rows, caption=CAPTION):
    """Latents and moved condition by hand: concepts of the bank and their φ, seed 7, three steps."""
    generator = explainer.bridge.generator
    moved = [Modulation(explainer.bank[pair].vector, phi) for pair, phi in dials.items()]
    condition = generator.encode_text([caption] * rows)
    return sample(generator, condition, draw_noise(generator, [7] * rows), 3, None, moved), modulate(condition, moved)


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
    latents, condition = drawn(explainer, {"left:right": explanation.phi}, 3)
    torch.testing.assert_close(explainer.bridge.generator.decode(latents), explanation.video, atol=1e-5, rtol=1e-4)
    tokens = explainer.bridge.tokens(latents, condition)
    probs = explainer.bridge.vlm.logits(tokens, answer="a red oval moves").softmax(-1)
    (right,) = explainer.bridge.vlm.token_ids("right")
    torch.testing.assert_close(explanation.coupled.positive, probs[:, right], atol=1e-5, rtol=1e-4)


def test_zero_reproduces_the_plain_video(explainer):
    swept = explainer.explain(CAPTION, "left:right", phi=(0.0,), seed=7, steps=3).video
    latents, _ = drawn(explainer, {}, 1)
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


def test_every_step_passes_by_once(explainer, capsys):
    times = []

    def watch(steps):
        for t, z in steps:
            times.append((t, len(z)))
            yield t, z

    explainer.explain(CAPTION, "left:right", seed=7, steps=2, batch_size=3, watch=watch)
    assert times == [(t, 5) for t in [*explainer.bridge.generator.schedule(2).times.tolist(), 0]]
    assert capsys.readouterr().out == ""  # no bar unless it is asked for


def test_several_concepts(explainer, explanation):
    both = explainer.explain(CAPTION, "left:right", (0.0, 1.0), 7, 3, also=[Dial("red:blue", 0.5)])
    latents, _ = drawn(explainer, {"left:right": 1.0, "red:blue": 0.5}, 1)
    torch.testing.assert_close(both.video[1:], explainer.bridge.generator.decode(latents), atol=1e-4, rtol=1e-3)
    assert not torch.equal(both.video[0], explanation.video[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": "up:down"}, "it holds left:right, red:blue"),
        ({"caption": "a red oval moves right"}, "does not hold the word 'left'"),
        ({"phi": [math.nan]}, "phi: nan; give finite numbers"),
        ({"phi": [0.5, 0.5]}, "phi: 0.5 0.5 holds a value twice"),
        ({"also": [Dial("up:down")]}, "it holds left:right, red:blue"),
        ({"also": [Dial("red:blue"), Dial("red : blue")]}, "also: 'red:blue' is turned twice; give each"),
        ({"also": [Dial("left:right")]}, "also: 'left:right' is turned twice"),
        ({"also": [Dial("red:blue", span="3-7")]}, "span: '3-7' goes beyond the clip, whose last frame is 4"),
        ({"pair": ("up", "down")}, "the bank holds no 'up:down'"),
        ({"caption": None}, "caption: the bank holds no caption for 'left:right'; give one with the word 'left'"),
        ({"phi": []}, "phi: no value"),
        ({"span": "2-5"}, "span: '2-5' goes beyond the clip, whose last frame is 4, at 0.5s"),
        ({"ramp": "2"}, "ramp: '2' without a span"),
        ({"window": (0.5, 0.1)}, r"window: 0.5 0.1 is no part of \[0, 1\]"),
        ({"window": (0.5, 1.5)}, r"window: 0.5 1.5 is no part of \[0, 1\]"),
        ({"video": torch.zeros(9, 3, 32, 32)}, r"video: shape \(9, 3, 32, 32\), but 5 frames of 32x32"),
        ({"video": torch.zeros(5, 3, 32, 32), "depth": 0.0}, r"depth: 0 is not in \(0, 1\]"),
        ({"video": torch.zeros(5, 3, 32, 32), "start": "noisy"}, "start: 'noisy' is unknown; use noised or inverted"),
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


def test_a_window_and_a_span_are_the_samplers(explainer):
    found = explainer.explain(CAPTION, ("left", "right"), (0.0, 1.0), 7, 3, window=(0.0, 0.9), span="1-2", ramp="1")
    generator = explainer.bridge.generator
    with torch.no_grad():
        condition = generator.encode_text([CAPTION])
        moved = Modulation(explainer.bank["left:right"].vector, 1.0, (0.0, 0.9), (1.0 * 0, 0.5))
        latents = sample(generator, condition, draw_noise(generator, [7]), 3, None, [moved])
        expected = generator.decode(latents)
    torch.testing.assert_close(found.video[1:], expected, atol=1e-4, rtol=1e-3)
    assert ("window", "0 ≤ t ≤ 0.9") in found.made_with
    assert ("frames", "1-2, ramp 1") in found.made_with


def test_all_of_phi_in_one_run_that_shares_the_steps_before_the_window(explainer, monkeypatch):
    generator, rows = explainer.bridge.generator, []
    ask = generator.velocity

    def velocity(latents, condition, t):
        rows.append(len(latents))
        return ask(latents, condition, t)

    monkeypatch.setattr(generator, "velocity", velocity)
    monkeypatch.setattr("transporter_pl.explain.explainer.check_memory", lambda *_: None)
    explainer.explain(CAPTION, "left:right", (0.0, 0.5, 1.0), 7, 6, guidance=1.0, window=(0.0, 0.5))
    before = int((generator.schedule(6).times > 0.5).sum())
    assert rows == [1] * before + [3] * (6 - before)


def test_memory_is_checked_before_sampling(explainer, monkeypatch):
    monkeypatch.setattr("transporter_pl.explain.explainer.sample", None)
    monkeypatch.setattr("transporter_pl.explain.memory.free_memory", lambda _: 1)
    with pytest.raises(TransporterError, match="batch_size: 5 clips at once need"):
        Explainer(explainer.bridge, explainer.bank).explain(CAPTION, "left:right")


def test_memory_is_rehearsed_once_for_as_many_rows(explainer, monkeypatch):
    rows = []
    monkeypatch.setattr("transporter_pl.explain.explainer.check_memory", lambda _, count, *rest: rows.append(count))
    fresh = Explainer(explainer.bridge, explainer.bank)
    for phi, also in (
        ([0, 1], []),
        ([0, 1], []),
        ([0, 0.5, 1], []),
        ([0, 1], [Dial("red:blue", span="0-1")]),
        ([0, 1, 2, 3], []),
    ):
        fresh.explain(CAPTION, "left:right", phi, steps=1, also=also)
    assert rows == [2, 3, 2, 4]


def test_names_instead_of_specs(tiny, tiny_coupling, explainer, tmp_path):
    explainer.bank.save(tmp_path / "bank")
    network = CouplingNetwork.from_pretrained(tiny_coupling)
    network.origin = Origin(tiny.generator.path, tiny.vlm.path, tiny.video)
    network.save(tmp_path / "coupling")
    names = {kind: f"{spec.name}:{spec.path}" for kind, spec in (("generator", tiny.generator), ("vlm", tiny.vlm))}
    found = transporter_pl.Explainer.from_pretrained(
        **names, coupling=tmp_path / "coupling", concepts=tmp_path / "bank"
    )
    assert found.bridge.generator.video == tiny.video
    with pytest.raises(TransporterError, match="backbone: 'wan' is not name:path"):
        Explainer.from_pretrained("wan", names["vlm"], tmp_path / "coupling", tmp_path / "bank")
    with pytest.raises(TransporterError, match=r"video: the coupling network in .* does not know its geometry"):
        Explainer.from_pretrained(tiny.generator, tiny.vlm, tiny_coupling, tmp_path / "bank")
