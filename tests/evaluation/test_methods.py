"""What the methods draw: held against the models themselves, step by step."""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from transporter_pl.chance import draws_of
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.cases import ReferenceClips
from transporter_pl.evaluation.cells import quantised
from transporter_pl.evaluation.methods.base import Method, methods, new_method
from transporter_pl.evaluation.samples import Case
from transporter_pl.evaluation.setup import Explained, Setup
from transporter_pl.evaluation.studio import Studio
from transporter_pl.explain.sampler import sample
from transporter_pl.loading import load_generator
from transporter_pl.samples import Origin, VideoSpec
from transporter_pl.stages.baseline import BaselineStage

CONTEXTS = "a red oval moves {} slowly", "a small oval moves {} quickly", "a blue oval moves {} on bright background"


@pytest.fixture(scope="module")
def setup(tiny):
    return Setup(tiny.generator, tiny.video, (Pair("left", "right"),), steps=2, batch_size=2)


@pytest.fixture(scope="module")
def explained(tiny, trained):
    return Explained(tiny.vlm, trained["coupling"], trained["concepts"])


@pytest.fixture(scope="module")
def studio(setup, explained, tmp_path_factory):
    generator = cache(partial(load_generator, setup.generator, setup.video))
    out = tmp_path_factory.mktemp("studio")
    return Studio(setup, explained, generator, ReferenceClips([], [], print), out, torch.device("cpu"))


@pytest.fixture(scope="module")
def cases(setup):
    """Three cases, one more than a batch."""
    draws, spec = torch.Generator().manual_seed(0), setup.video
    reals = torch.rand(len(CONTEXTS), spec.frames, 3, spec.height, spec.width, generator=draws)
    return tuple(Case(setup.pairs[0], c, str(k), real) for k, (c, real) in enumerate(zip(CONTEXTS, reals, strict=True)))


def drawn(name, studio, cases, tmp_path, seed=0, **options):
    return new_method(name, options).draw(studio, cases, seed, tmp_path)


def sampled(studio, captions, seed=0):
    """Videos of captions or conditions, one at a time."""
    generator, videos = studio.generator, []
    for index, caption in enumerate(captions):
        noise = torch.randn(1, *generator.latent_shape, generator=draws_of(f"noise-{seed}-{index}"))
        condition = caption if isinstance(caption, torch.Tensor) else generator.encode_text([caption])
        videos.append(generator.decode(sample(generator, condition, noise, steps=2)))
    return quantised(torch.cat(videos))


def chance(studio, video, case):
    """P(token+) of one video by the VLM itself."""
    contrast = Contrast.of(studio.vlm, case.pair, case.context)
    logits = studio.vlm.logits(studio.vlm.encode(video[None]), answer=contrast.prefix)
    return logits.softmax(-1)[0, contrast.positive]


def close(a, b):
    """Equal but for one of 255 steps, where two ways of the same sum round apart."""
    return (a - b).abs().max() <= 1.01 / 255 and ((a - b).abs() > 1e-6).float().mean() < 0.01


@torch.no_grad()
def test_real_is_the_clip_itself(studio, cases, tmp_path):
    found = drawn("real", studio, cases, tmp_path)
    assert torch.equal(found.video, quantised(torch.stack([case.real for case in cases])))
    expected = torch.stack([chance(studio, video, case) for video, case in zip(found.video, cases, strict=True)])
    assert torch.allclose(found.positive, expected, atol=1e-6)
    assert list(found.captions) == studio.vlm.caption(studio.vlm.encode(found.video))
    assert found.seconds == found.forwards == 0


@torch.no_grad()
def test_the_generator_draws_the_positive_caption_from_the_starts_noise(studio, cases, tmp_path):
    found = drawn("generator", studio, cases, tmp_path, seed=3)
    assert close(found.video, sampled(studio, [case.captions[1] for case in cases], seed=3))
    starts = studio.starts(cases, 3)
    assert close(starts, sampled(studio, [case.captions[0] for case in cases], seed=3))
    expected = torch.stack([chance(studio, video, case) for video, case in zip(starts, cases, strict=True)])
    assert torch.allclose(found.start, expected, atol=1e-6)
    assert found.seconds > 0


@torch.no_grad()
def test_transporter_moves_the_condition_by_phi_q(studio, cases, tmp_path):
    found = drawn("transporter", studio, cases, tmp_path, phi=0.5)
    moved = [studio.conditions([case.captions[0]]) + 0.5 * studio.bank["left:right"].vector for case in cases]
    assert close(found.video, sampled(studio, moved))
    assert not close(found.video, studio.starts(cases, 0))


@torch.no_grad()
def test_transporter_captions_through_phi(studio, cases, tmp_path):
    found = drawn("transporter", studio, cases, tmp_path)
    condition = studio.conditions([cases[2].captions[0]]) + studio.bank["left:right"].vector
    noise = torch.randn(1, *studio.generator.latent_shape, generator=draws_of("noise-0-2"))
    latents = sample(studio.generator, condition, noise, steps=2)
    assert list(found.captions[2:]) == studio.vlm.caption(studio.bridge.tokens(latents, condition))


def test_at_phi_zero_nothing_moves(studio, cases, tmp_path):
    found = drawn("transporter", studio, cases, tmp_path, phi=0.0)
    assert close(found.video, studio.starts(cases, 0))
    assert torch.allclose(found.positive, found.start, atol=1e-4)


def test_every_case_and_seed_has_noise_of_its_own(studio):
    condition = studio.conditions(["a red oval"] * 2)
    zero, one = studio.sample(condition, 0), studio.sample(condition, 1)
    assert len({tuple(z.flatten().tolist()) for z in (*zero, *one)}) == 4


def test_what_is_not_finite_is_refused(studio, cases, tmp_path):
    with pytest.raises(TransporterError, match="drawn: the generator draws nothing finite"):
        drawn("transporter", studio, cases, tmp_path, phi=3e38)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transprter", {}, "methods: unknown name 'transprter'. Did you mean 'transporter'"),
        ("transporter_pl.registry.Registry", {}, "method: '.*' is no Method"),
        ("transporter", {"psi": 1}, "options: 'transporter' has no option 'psi'; it has: phi"),
        ("transporter", {"phi": "one"}, "options.phi: 'one' is of the wrong type"),
        ("transporter", {"phi": float("nan")}, "options.phi: nan is not finite"),
        ("real", {"phi": 1.0}, "options: 'real' has no option 'phi'; it has: none"),
    ],
)
def test_bad_names_and_options(name, options, message):
    with pytest.raises(TransporterError, match=message):
        new_method(name, options)


def test_ours_are_registered():
    assert {"real", "generator", "transporter"} <= set(methods.names())
    assert all(issubclass(methods.get(name), Method) for name in methods.names())


@pytest.mark.parametrize("need", ["coupling", "concepts"])
def test_what_transporter_needs(setup, explained, need):
    with pytest.raises(TransporterError, match=f"{need}: none is given, and Transporter can't draw without"):
        new_method("transporter", {}).check(replace(explained, **{need: None}), setup)


def test_a_bank_without_the_pair(setup, explained):
    with pytest.raises(TransporterError, match=r"the bank holds no 'red:blue'; it holds left:right"):
        new_method("transporter", {}).check(explained, replace(setup, pairs=(Pair("red", "blue"),)))


def test_a_phi_of_another_geometry(setup, explained, tmp_path):
    network = CouplingNetwork.from_pretrained(explained.coupling)
    network.origin = Origin(setup.generator.path, explained.vlm.path, VideoSpec(9, 32, 32))
    network.save(tmp_path)
    with pytest.raises(TransporterError, match=r"video.frames: the coupling network was made for 9, not 5"):
        new_method("transporter", {}).check(replace(explained, coupling=str(tmp_path)), setup)


@pytest.mark.parametrize("objective", ["positive", "moved"])
def test_baselines_see_the_generators_clips_and_never_the_case_s_own(studio, cases, tmp_path, monkeypatch, objective):
    shown = []
    given = BaselineStage.ask
    monkeypatch.setattr(BaselineStage, "ask", lambda stage, *both: shown.append(both[1]) or given(stage, *both))
    options = {"baseline": "leaps", "objective": objective, "forwards": 12, "options": {"coherence": 0.0}}
    drawn("ascent", studio, cases, tmp_path, **options)
    assert close(torch.cat([part.positive for part in shown]), drawn("generator", studio, cases, tmp_path).video)
    if objective == "moved":
        assert close(torch.cat([part.negative for part in shown]), studio.starts(cases, 0))
    else:
        assert all(part.negative is None for part in shown)
