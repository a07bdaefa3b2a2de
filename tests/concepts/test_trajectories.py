import pytest
import torch

from transporter_pl.concepts.pairs import Pair
from transporter_pl.concepts.trajectories import (
    generated_trajectories,
    noised_trajectories,
    settings_in,
    settings_of,
)
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_generator
from transporter_pl.samples import Encoded

CAPTIONS = ["a red oval moves left", "a red oval moves right", "a blue oval"]


@pytest.fixture(scope="module")
def generator(tiny):
    return load_generator(tiny.generator, tiny.video)


@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 4, 64])
def test_trajectories_lead_from_noise_to_the_captions(generator, at_once):
    conditions = generator.encode_text(CAPTIONS)
    noise = torch.randn(3, 2, *generator.latent_shape, generator=torch.Generator().manual_seed(0))
    found = generated_trajectories(generator, conditions, noise, 4, 2.0, at_once)
    assert (found.noises, found.each, len(found.t)) == (2, 8, 3 * 4 * 2)
    rows = found.rows(1)
    times = generator.schedule(4).times
    torch.testing.assert_close(found.t[rows], times.repeat_interleave(2))
    path = found.latents[rows].reshape(4, 2, *generator.latent_shape)
    assert torch.equal(path[0], noise[1])
    schedule, unconditional = generator.schedule(4), generator.encode_text(["", ""])
    for index in range(3):
        fields = [
            generator.velocity(path[index], e, times[index].expand(2)) for e in (unconditional, conditions[[1, 1]])
        ]
        after = schedule.step(fields[0] + 2 * (fields[1] - fields[0]), index, path[index])
        torch.testing.assert_close(after, path[index + 1], atol=1e-5, rtol=1e-4)


def test_noised_clips_in_closed_form(generator):
    clean, noise = torch.randn(2, *generator.latent_shape), torch.randn(2, 3, *generator.latent_shape)
    found, times = noised_trajectories(generator, clean, noise, 5), generator.schedule(5).times
    assert (found.noises, found.each) == (3, 15)
    row = found.rows(1)[2 * 3 + 1]  # the third time, the second noise
    torch.testing.assert_close(found.t[row], times[2])
    torch.testing.assert_close(found.latents[row], (1 - times[2]) * clean[1] + times[2] * noise[1, 1])


def test_settings_from_data(generator):
    pair = Pair("left", "right", ("a red oval moves {} slowly",))
    captions = ("a red oval moves left", "a blue oval moves right", "a red oval moves left slowly")
    latents = torch.randn(3, *generator.latent_shape)
    batch = Encoded(("0", "1", "2"), captions, latents, latents, latents, latents)
    settings = settings_in([batch, batch], [pair], clips=1)
    assert [s.context for s in settings] == ["a red oval moves {}", "a blue oval moves {}"]
    assert torch.equal(settings[1].clean, latents[1])
    with pytest.raises(TransporterError, match="no caption of the data holds 'up'"):
        settings_in([batch], [Pair("left", "up")], clips=1)
    with pytest.raises(TransporterError, match="'left:right' has none"):
        settings_of([Pair("left", "right")])
