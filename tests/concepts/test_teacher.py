import pytest

from transporter_pl.backbones import scratch
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
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
    assert found.ends.shape == (3, 2, 12, 16)
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
