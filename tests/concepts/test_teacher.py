import pytest
import torch

from transporter_pl.backbones import scratch
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.pairs import Pair
from transporter_pl.concepts.teacher import Teacher
from transporter_pl.concepts.trajectories import settings_of
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_generator


@pytest.fixture(scope="module")
def bridge(tiny, tiny_coupling):
    """A VLM that knows two words more than the generator's tokenizer."""
    words = ["a", "red", "oval", "moves", "left", "right", "up", "down", "on", "slowly", "Describe", "the", "video"]
    model, tokenizer = scratch.new_video_llama3(words, vision_dim=32, vision_layers=1, text_dim=32, text_layers=2)
    vlm = VideoLlama3Adapter(model, tokenizer, tiny.video).freeze()
    return Bridge(load_generator(tiny.generator, tiny.video), vlm, CouplingNetwork.from_pretrained(tiny_coupling))


def teacher(bridge, *pairs):
    return Teacher(bridge, pairs, settings_of(pairs))


def test_both_ends_of_every_context(bridge):
    pairs = Pair("left", "right", ("a red oval moves {} slowly", "moves {}")), Pair("red", "oval", ("a {} moves",))
    found = teacher(bridge, *pairs)
    assert found.ends.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.conditions.shape == (6, 12, 16)
    assert found.pair_of.tolist() == [0, 0, 1]
    assert (found.difference() != 0).flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("pair", "context"),
    [
        (Pair("up", "down"), "a red oval moves {}"),  # two words, but the same unknown token
        (Pair("left", "right"), "a red oval moves" + " slowly on" * 5 + " {}"),  # cut off after twelve tokens
    ],
)
def test_a_pair_that_the_generator_does_not_see(bridge, pair, context):
    seen = Pair("left", "right", ("moves {}",))
    with pytest.raises(TransporterError, match=rf"no contrast in '{pair.name}' in 'a red .*{{}}'; choose words"):
        teacher(bridge, seen, Pair(pair.negative, pair.positive, (context,)))


SHARED = (  # one ε− for two pairs, and a pair in both directions
    Pair("left", "right", ("a red oval moves {} slowly",)),
    Pair("red", "oval", ("a {} oval moves left slowly",)),
    Pair("right", "left", ("a red oval moves {} slowly",)),
)


class Counting:
    """Counts the rows that the generator is asked about."""

    def __init__(self, generator, monkeypatch):
        self.rows, ask = 0, generator.velocity

        def velocity(latents, condition, t):
            self.rows += len(latents)
            return ask(latents, condition, t)

        monkeypatch.setattr(generator, "velocity", velocity)


def test_what_pairs_share_is_asked_once(bridge, monkeypatch):
    found = teacher(bridge, *SHARED)
    assert found.captions == [
        "a red oval moves left slowly",
        "a red oval moves right slowly",
        "a oval oval moves left slowly",
    ]
    counting = Counting(bridge.generator, monkeypatch)
    found.draw(torch.Generator().manual_seed(0), steps=4, guidance=1.0)
    assert counting.rows == 3 * 4  # three captions, four steps, no guidance
    for pair in range(3):
        found.points(found.places(pair))
    # of the first pair, both velocities on both trajectories; the second shares one of them; the third shares all
    assert counting.rows == 12 + 16 + 12
    for pair in range(3):
        found.points(found.places(pair))
    assert counting.rows == 40


def test_sharing_changes_nothing(bridge):
    together = teacher(bridge, *SHARED)
    together.draw(torch.Generator().manual_seed(0), steps=3)
    places = torch.cat([together.places(pair) for pair in range(3)])
    points = together.points(places)
    with torch.no_grad():
        for end in (0, 1):
            condition = together.condition(points.context, end)
            asked = bridge.generator.velocity(points.latents, condition, points.t)
            held = points.velocity + end * points.change
            torch.testing.assert_close(held, asked, atol=1e-5, rtol=1e-4)


def test_means_over_noises(bridge):
    found = teacher(bridge, SHARED[0])
    found.draw(torch.Generator().manual_seed(0), seeds=2, noise_seeds=3, steps=2)
    places = found.places(0)
    assert len(places) == 2 * 2 * 2 * 3
    points = found.points(places)
    with torch.no_grad():
        fields = [
            bridge.generator.velocity(points.latents, found.condition(points.context, end), points.t) for end in (0, 1)
        ]
    change = (fields[1] - fields[0]).reshape(-1, 3, *bridge.generator.latent_shape).mean(1).repeat_interleave(3, 0)
    torch.testing.assert_close(points.change, change, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(points.velocity, fields[0], atol=1e-5, rtol=1e-4)  # no mean: it belongs to its z_t
    divergence = found.divergence(places, None, hellinger).view(-1, 3)
    assert torch.equal(divergence, divergence[:, :1].expand(-1, 3))
    single = found._token_divergence(places, None, hellinger).view(-1, 3).mean(1)
    torch.testing.assert_close(divergence[:, 0], single, atol=1e-4, rtol=1e-3)


def test_captions_are_learned_once(bridge):
    found = teacher(bridge, SHARED[0])
    assert found.learn(["a oval", "a red oval moves left slowly", "a oval"]).tolist() == [2, 0, 2]
    assert len(found.captions) == len(found.conditions) == 3
    with torch.no_grad():
        torch.testing.assert_close(found.conditions[2], bridge.generator.encode_text(["a oval"])[0])
