import pytest
import torch

from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.objectives import Points, token_divergence, velocity_objective
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.concepts.trajectories import (
    generated_latents,
    mean_over_groups,
    noised_latents,
    points_at,
    settings_in,
    settings_of,
)
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.explain.sampler import sample
from transporter_pl.loading import load_generator, load_vlm
from transporter_pl.samples import Encoded

PAIR = Pair("left", "right", ("a red oval moves {} slowly",))


@pytest.fixture(scope="module")
def generator(tiny):
    return load_generator(tiny.generator, tiny.video)


@pytest.fixture(scope="module")
def ends(generator):
    with torch.no_grad():
        return generator.encode_text(list(PAIR.captions(PAIR.contexts[0])))


@pytest.fixture(scope="module")
def points(generator, ends):
    noise = torch.randn(2, *generator.latent_shape, generator=torch.Generator().manual_seed(0))
    latents, times = generated_latents(generator, ends, noise, 3, None)
    return points_at(generator, latents, times, ends, 0)


def test_points_hold_what_the_generator_says(generator, ends, points):
    assert len(points) == 3 * 2 * 2
    with torch.no_grad():
        negative, positive = (generator.velocity(points.latents, e.expand(len(points), -1, -1), points.t) for e in ends)
    torch.testing.assert_close(points.velocity, negative)
    torch.testing.assert_close(points.change, positive - negative, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_trajectories_lead_to_both_ends(generator, ends):
    noise = torch.randn(1, *generator.latent_shape)
    latents, times = generated_latents(generator, ends, noise, 4, 2.0)
    assert latents.shape == (4, 2, *generator.latent_shape)
    torch.testing.assert_close(times, generator.schedule(4).times)
    assert torch.equal(latents[0, 0], latents[0, 1])
    half = sample(generator, ends, noise.repeat(2, 1, 1, 1, 1), 4, 2.0)
    last = generator.schedule(4)
    for index in range(4):
        v_u, v_c = (
            generator.velocity(latents[index], e, times[index].expand(2))
            for e in (generator.encode_text(["", ""]), ends)
        )
        after = last.step(v_u + 2 * (v_c - v_u), index, latents[index])
        torch.testing.assert_close(after, latents[index + 1] if index < 3 else half, atol=1e-5, rtol=1e-4)


def test_noised_latents_closed_form(generator):
    clean, noise = torch.randn(generator.latent_shape), torch.randn(3, *generator.latent_shape)
    latents, times = noised_latents(generator, clean, noise, 5)
    torch.testing.assert_close(latents[2, 1], (1 - times[2]) * clean + times[2] * noise[1])


def test_the_difference_is_an_exact_minimiser_at_one(generator, ends, points):
    condition, q = ends[0].expand(len(points), -1, -1), (ends[1] - ends[0]).expand(len(points), -1, -1)
    loss, start = velocity_objective(generator, points, condition, q, torch.ones(len(points)))
    assert start.min() > 0
    assert loss.max() < 1e-6 * start.min()


def test_zero_vector_and_zero_phi(generator, ends, points):
    condition, phi = ends[0].expand(len(points), -1, -1), torch.rand(len(points))
    loss, start = velocity_objective(generator, points, condition, torch.zeros_like(condition), phi)
    torch.testing.assert_close(loss, start, rtol=1e-3, atol=1e-12)
    loss, start = velocity_objective(generator, points, condition, torch.randn_like(condition), 0 * phi)
    assert start.max() == 0
    assert loss.max() < 1e-10


def test_gradients_reach_the_vector_only(generator, ends, points):
    q = torch.zeros(1, ends.shape[-1], requires_grad=True)
    condition = ends[0].expand(len(points), -1, -1)
    loss, _ = velocity_objective(generator, points, condition, q.expand(len(points), -1, -1), torch.ones(len(points)))
    loss.sum().backward()
    assert q.grad.abs().sum() > 0
    assert all(p.grad is None for p in generator.parameters())


def test_token_divergence_against_its_definition(tiny, tiny_coupling, generator, ends, points):
    vlm = load_vlm(tiny.vlm, tiny.video)
    bridge = Bridge(generator, vlm, CouplingNetwork.from_pretrained(tiny_coupling))
    contrast = Contrast.of(vlm, PAIR, PAIR.contexts[0])
    assert contrast.prefix == "a red oval moves"
    measured = token_divergence(bridge, points, ends, contrast, None, hellinger)
    point = points[4:5]
    with torch.no_grad():
        read = []
        for v, e in ((point.velocity, ends[:1]), (point.velocity + point.change, ends[1:])):
            tokens = bridge.tokens(point.latents - point.t * v, e)
            read.append(vlm.logits(tokens, answer="a red oval moves").softmax(-1)[0].double())
    expected = (1 - (read[0] * read[1]).sqrt().sum()).clamp_min(0).sqrt()
    torch.testing.assert_close(measured[4].double(), expected, atol=1e-4, rtol=1e-3)


def test_mean_over_groups():
    values = torch.tensor([[1.0], [3.0], [5.0], [9.0]])
    assert mean_over_groups(values, 2).flatten().tolist() == [2, 2, 7, 7]
    assert torch.equal(mean_over_groups(values, 1), values)


def test_points_index_together():
    fields = [torch.arange(3.0).view(3, 1, 1, 1, 1)] * 3
    points = Points(fields[0], torch.arange(3.0), torch.arange(3), fields[1], fields[2])[torch.tensor([2, 0])]
    assert points.t.tolist() == points.context.tolist() == points.change.flatten().tolist() == [2, 0]


def test_settings_from_data(generator):
    captions = ("a red oval moves left", "a blue oval moves right", "a red oval moves left slowly")
    latents = torch.randn(3, *generator.latent_shape)
    batch = Encoded(("0", "1", "2"), captions, latents, latents, latents, latents)
    settings = settings_in([batch, batch], [PAIR], clips=1)
    assert [s.context for s in settings] == ["a red oval moves {}", "a blue oval moves {}"]
    assert torch.equal(settings[1].clean, latents[1])
    with pytest.raises(TransporterError, match="no caption of the data holds 'up'"):
        settings_in([batch], [Pair("left", "up")], clips=1)
    with pytest.raises(TransporterError, match="'left:right' has none"):
        settings_of([Pair("left", "right")])
