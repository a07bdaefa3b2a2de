import pytest
import torch

from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.objectives import Velocity, new_objective, objectives, velocity_objective
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.concepts.points import Points
from transporter_pl.concepts.reading import token_divergence
from transporter_pl.concepts.teacher import Teacher
from transporter_pl.concepts.trajectories import settings_of
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_generator, load_vlm

PAIR = Pair("left", "right", ("a red oval moves {} slowly",))


@pytest.fixture(scope="module")
def teacher(tiny, tiny_coupling):
    network = CouplingNetwork.from_pretrained(tiny_coupling)
    bridge = Bridge(load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video), network)
    teacher = Teacher(bridge, [PAIR], settings_of([PAIR]), at_once=5)
    teacher.draw(torch.Generator().manual_seed(0), seeds=2, steps=3)
    return teacher


@pytest.fixture(scope="module")
def generator(teacher):
    return teacher.bridge.generator


@pytest.fixture(scope="module")
def ends(teacher):
    return teacher.conditions[teacher.ends[0]]


@pytest.fixture(scope="module")
def points(teacher):
    return teacher.points(teacher.places(0))


def test_points_hold_what_the_generator_says(generator, ends, points):
    assert len(points) == 3 * 2 * 2
    with torch.no_grad():
        negative, positive = (generator.velocity(points.latents, e.expand(len(points), -1, -1), points.t) for e in ends)
    torch.testing.assert_close(points.velocity, negative)
    torch.testing.assert_close(points.change, positive - negative, atol=1e-5, rtol=1e-4)


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


@torch.no_grad()
def test_token_divergence_against_its_definition(teacher, ends, points):
    bridge, contrast = teacher.bridge, teacher.contrasts[0]
    assert contrast.prefix == "a red oval moves"
    other = Contrast("a red", contrast.negative, contrast.positive)
    asked = [contrast if index != 5 else other for index in range(len(points))]
    measured = token_divergence(bridge, points, ends.expand(len(points), -1, -1, -1), asked, None, hellinger)
    for index, answer in ((4, "a red oval moves"), (5, "a red")):
        read = []
        for v, e in ((points.velocity, ends[:1]), (points.velocity + points.change, ends[1:])):
            tokens = bridge.tokens((points.latents[index] - points.t[index] * v[index])[None], e)
            read.append(bridge.vlm.logits(tokens, answer=answer).softmax(-1)[0].double())
        expected = (1 - (read[0] * read[1]).sqrt().sum()).clamp_min(0).sqrt()
        torch.testing.assert_close(measured[index].double(), expected, atol=1e-4, rtol=1e-3)


def test_velocity_is_the_papers(teacher, points, ends):
    phi, q = torch.rand(len(points)), torch.randn(len(points), *ends.shape[1:])
    found = Velocity(teacher)(points, q, phi)
    loss, start = velocity_objective(teacher.bridge.generator, points, ends[:1].expand(len(points), -1, -1), q, phi)
    assert torch.equal(found.total, loss)
    assert torch.equal(found.velocity, loss)
    assert torch.equal(found.start, start)
    assert found.parts == {}
    assert list(Velocity(teacher).parameters()) == []


def test_an_objective_of_ones_own(teacher, points):
    @objectives.register("half")
    class Half(Velocity):
        def __init__(self, teacher, prompt=None, share: float = 0.5):
            super().__init__(teacher, prompt)
            self.share = share

        def forward(self, points, vector, phi):
            return super().forward(points, vector, self.share * phi)

    q, phi = torch.randn(len(points), *teacher.conditions.shape[1:]), torch.rand(len(points))
    found = new_objective("half", teacher, None, {"share": 0.25})
    assert torch.equal(found(points, q, phi).total, Velocity(teacher)(points, q, phi / 4).total)
    with pytest.raises(TransporterError, match=r"objective_options.share: 'x' is of the wrong type"):
        new_objective("half", teacher, None, {"share": "x"})
    with pytest.raises(TransporterError, match=r"objectives: unknown name .velocty.\. Did you mean 'velocity'"):
        new_objective("velocty", teacher, None, {})


def test_points_are_moved_whole(points):
    moved = points.to(torch.device("meta"))
    assert isinstance(moved, Points)
    assert {field.device.type for field in vars(moved).values()} == {"meta"}
