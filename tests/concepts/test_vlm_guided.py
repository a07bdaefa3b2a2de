"""On the shipped models, with decoding and encoding again for Φ; a VLM takes each of two words for the other."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from transporter_pl.backbones.shipped import resolve
from transporter_pl.concepts.objectives import new_objective, velocity_objective
from transporter_pl.concepts.pairs import Pair
from transporter_pl.concepts.points import Points
from transporter_pl.concepts.teacher import Teacher
from transporter_pl.concepts.trajectories import settings_of
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.samples import Shapes, VideoSpec

VIDEO = VideoSpec(9, 64, 64)
PAIR = Pair("up", "left", ("a large wide red oval moves {} quickly on a dark background",))


def exchanged(folder: Path) -> str:
    """The shipped VLM with the names of two tokens exchanged: a planted error, exactly known."""
    copy = Path(shutil.copytree(resolve("shapemotion-videollama3"), folder))
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["left"], words["right"] = words["right"], words["left"]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(copy)


def new_teacher(vlm: str, *pairs: Pair) -> Teacher:
    xi, omega = load_pair(BackboneSpec("wan", "shapemotion-wan"), BackboneSpec("video_llama3", vlm), VIDEO)
    shapes = Shapes(xi.latent_shape, xi.condition_shape, omega.token_shape)
    network = CouplingNetwork(CouplingConfig.of(shapes, CouplingOptions(transport="reencoded")))
    teacher = Teacher(Bridge(xi, omega, network), pairs or [PAIR], settings_of(pairs or [PAIR]), at_once=4)
    teacher.draw(torch.Generator().manual_seed(0), steps=5)
    return teacher


@pytest.fixture(scope="module")
def astray(tmp_path_factory):
    return new_teacher(exchanged(tmp_path_factory.mktemp("exchanged") / "vlm"))


def prepared(teacher, **options):
    objective = new_objective("vlm_guided", teacher, None, options)
    objective.draws = torch.Generator()
    objective.prepare([teacher.places(index) for index in range(len(teacher.pairs))])
    return objective


def test_the_vlm_says_which_of_the_generators_words_it_means(astray):
    objective = prepared(astray)
    assert objective.words[0][:2] == ["left", "up"]
    assert "right" in objective.words[0]
    weights = dict(zip(objective.words[0], objective.theta[0].softmax(0).tolist(), strict=False))
    assert weights["right"] > 0.9  # what the VLM calls left
    assert objective.story(0).split(" + ")[0].endswith("right")
    right = astray.conditions[astray.learn([PAIR.contexts[0].replace("{}", "right")])][0]
    q = astray.difference()[0] + objective.shift()[0]
    wanted = right - astray.condition(torch.tensor([0]), 0)[0]
    assert torch.cosine_similarity(q.flatten(), wanted.flatten(), 0) > 0.95


def test_a_vlm_that_agrees_leaves_the_generators_direction():
    teacher = new_teacher("shapemotion-videollama3")
    objective = prepared(teacher)
    assert objective.theta[0].softmax(0)[0] > 0.9
    assert objective.shift()[0].norm() < 0.3 * teacher.difference()[0].norm()


def test_the_word_itself_may_be_what_the_other_word_means(tmp_path):
    """Of left and right exchanged, what the VLM calls right is what ε− draws: q has nothing to move."""
    pair = Pair("left", "right", PAIR.contexts)
    teacher = new_teacher(exchanged(tmp_path / "vlm"), pair)
    objective = prepared(teacher)
    assert objective.story(0).split(" + ")[0].endswith("left")
    assert (teacher.difference()[0] + objective.shift()[0]).norm() < 0.3 * teacher.difference()[0].norm()


def test_the_loss_against_its_definition(astray):
    objective, places = prepared(astray, pull=0.3, preserve=0.7), astray.places(0)[[2, 7]]
    points, bridge = astray.points(places), astray.bridge
    phi = torch.tensor([0.4, 1.0])
    q = (astray.difference() + objective.shift()).expand(2, -1, -1)
    objective.draws.manual_seed(3)
    found = objective(points, q, phi)

    condition = astray.condition(points.context, 0)
    with torch.no_grad():
        fields = []
        for word in objective.words[0]:
            worded = astray.conditions[astray.learn([PAIR.contexts[0].replace("{}", word)] * 2)]
            fields.append(bridge.generator.velocity(points.latents, worded, points.t))
        weights = objective.theta[0].softmax(0)
        mixture = sum(w * (f - points.velocity) for w, f in zip(weights, fields, strict=False))
        target = points.velocity + phi.view(2, 1, 1, 1, 1) * mixture
        moved = bridge.generator.velocity(points.latents, condition + phi.view(2, 1, 1) * q, points.t)
        trust = (target - moved).square().flatten(1).mean(1) / objective.sizes[0]
        t = points.t.view(2, 1, 1, 1, 1)
        tokens, before = (bridge.tokens(points.latents - t * v, condition) for v in (moved, points.velocity))
        (left,) = bridge.vlm.token_ids("left")
        contrast = bridge.vlm.logits(tokens, answer="a large wide red oval moves").log_softmax(-1)[:, left]
        objective.draws.manual_seed(3)
        kept = []
        for row in range(2):
            begun = objective._other_prefix(0)
            p, q_ = (
                bridge.vlm.logits(z[row : row + 1], answer=a).softmax(-1)
                for z, a in zip((before, tokens), begun, strict=True)
            )
            kept.append((p * (p / q_).log()).sum())
    expected = trust - 0.3 * phi * contrast + 0.7 * torch.stack(kept)
    torch.testing.assert_close(found.total.detach(), expected, atol=1e-3, rtol=1e-3)
    assert set(found.parts) == {"seen", "kept"}


def test_gradients_reach_the_vector_and_the_weights(astray):
    objective, points = prepared(astray, pull=1.0, preserve=0.0), astray.points(astray.places(0))
    vector = astray.difference().requires_grad_()
    with torch.no_grad():
        objective.theta[0, : len(objective.words[0])] = torch.tensor([2.0, 0, 0])  # most of it the generator's left
    q = (vector + objective.shift()).expand(len(points), -1, -1)
    objective(points, q, torch.ones(len(points))).total.sum().backward()
    assert vector.grad.abs().sum() > 0
    known = len(objective.words[0])
    assert (objective.theta.grad[0, :known].abs() > 0).all()
    assert not objective.theta.grad[0, known:].any()
    # down the gradient, the weight of what the VLM calls left rises
    assert objective.theta.grad[0, objective.words[0].index("right")] < 0
    assert all(p.grad is None for p in astray.bridge.parameters())


def test_with_neither_pull_nor_mixture_it_is_the_velocity_objective(astray):
    objective, points = prepared(astray, pull=0.0, preserve=0.0), astray.points(astray.places(0)[:3])
    with torch.no_grad():
        objective.theta[0, 1:] = -torch.inf  # the positive word alone
    q, phi = torch.randn(3, *astray.conditions.shape[1:]), torch.rand(3)
    loss, start = velocity_objective(astray.bridge.generator, points, astray.condition(points.context, 0), q, phi)
    found = objective(points, q, phi)
    torch.testing.assert_close(found.velocity, loss, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.total, loss / objective.sizes[0], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found.start, start, atol=1e-5, rtol=1e-4)
    assert torch.equal(objective.shift()[0], torch.zeros_like(q[0]))


def test_a_pairs_loss_does_not_depend_on_its_company(astray):
    other = Pair("red", "blue", ("a large wide {} oval moves up quickly on a dark background",))
    both, alone = new_teacher(astray.bridge.vlm.source, PAIR, other), new_teacher(astray.bridge.vlm.source)
    losses = []
    for teacher in (both, alone):
        objective = prepared(teacher)
        points = teacher.points(teacher.places(0)[:3])
        if teacher is both:
            more = vars(teacher.points(teacher.places(1)[:2])).values()
            points = Points(*(torch.cat(fields) for fields in zip(vars(points).values(), more, strict=True)))
        q = (teacher.difference() + objective.shift())[teacher.pair_of[points.context]]
        objective.draws.manual_seed(1)
        losses.append(objective(points, q, torch.full((len(points),), 0.7)))
    torch.testing.assert_close(losses[0].total[:3], losses[1].total, atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(losses[0].velocity[:3], losses[1].velocity, atol=1e-5, rtol=1e-3)


def test_words_are_looked_for_a_few_at_once(astray, monkeypatch):
    rows, read = [], astray.bridge.tokens
    monkeypatch.setattr(astray.bridge, "tokens", lambda z, e: rows.append(len(z)) or read(z, e))
    prepared(astray)
    assert max(rows) == astray.at_once == 4


def test_a_context_without_other_words(astray, tmp_path):
    bare = new_teacher("shapemotion-videollama3", Pair("left", "right", ("{}",)))
    with pytest.raises(TransporterError, match=r"contexts: '{}' has no word beside the slot to preserve"):
        new_objective("vlm_guided", bare, None, {})
    objective, points = prepared(bare, preserve=0.0), bare.points(bare.places(0)[:2])
    found = objective(points, bare.difference().expand(2, -1, -1), torch.ones(2))
    assert not found.parts["kept"].any()
