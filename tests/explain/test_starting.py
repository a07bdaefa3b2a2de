import pytest
import torch

from transporter_pl.errors import TransporterError
from transporter_pl.explain.sampler import denoise, draw_noise, sample
from transporter_pl.explain.starting import first_step, inverted, noised
from transporter_pl.loading import load_generator


@pytest.fixture(scope="module")
def generator(tiny):
    return load_generator(tiny.generator, tiny.video)


@pytest.fixture(scope="module")
def drawn(generator):
    """A clip that the generator itself draws, and its condition."""
    with torch.no_grad():
        condition = generator.encode_text(["a red oval moves left"])
        return sample(generator, condition, draw_noise(generator, [0]), 10), condition


def test_noised_in_closed_form(generator, drawn):
    clean, noise = drawn[0], draw_noise(generator, [5])
    times = generator.schedule(10).times
    latents, start = noised(generator, clean, noise, 10, 0.8)
    assert times[start] <= 0.8 < times[start - 1]
    torch.testing.assert_close(latents, (1 - times[start]) * clean + times[start] * noise)
    latents, start = noised(generator, clean, noise, 10, 1.0)
    assert start == 0
    torch.testing.assert_close(latents, noise, atol=1e-5, rtol=1e-5)


def test_what_was_inverted_is_drawn_again(generator, drawn):
    clean, condition = drawn
    errors = []
    for steps in (5, 20):
        latents, start = inverted(generator, clean, condition, steps, 0.8)
        again = sample(generator, condition, latents, steps, 1.0, start=start)
        errors.append(((again - clean).norm() / clean.norm()).item())
        changed = (latents - clean).norm() / clean.norm()
    assert changed > 0.3
    assert errors[0] < 0.065  # 0.073 with Euler's rule
    assert errors[1] < 0.025


@torch.no_grad()
def test_one_step_back_by_hand(generator, drawn):
    """The midpoint rule: half a step to see where the flow leads, then a whole one."""
    clean, condition = drawn
    h = generator.schedule(4).times[-1]
    first = generator.velocity(clean, condition, torch.zeros(1))
    middle = generator.velocity(clean + h / 2 * first, condition, h[None] / 2)
    latents, start = inverted(generator, clean, condition, 4, float(h))
    assert start == 3
    torch.testing.assert_close(latents, clean + h * middle, atol=1e-6, rtol=1e-6)


def test_a_run_may_begin_anywhere(generator, drawn):
    """The last steps of a run, from where it stood."""
    _, condition = drawn
    path = list(denoise(generator, condition, draw_noise(generator, [1]), 6))
    rest = sample(generator, condition, path[4][1], 6, start=4)
    torch.testing.assert_close(rest, path[-1][1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (0.0, r"depth: 0 is not in \(0, 1\]"),
        (1.2, r"depth: 1.2 is not in"),
        (float("nan"), "depth: nan is not in"),
        (0.01, "depth: 0.01 lies below the last of 3 steps, at t = 0.2; go deeper, or raise steps"),
    ],
)
def test_bad_depths(depth, message):
    with pytest.raises(TransporterError, match=message):
        first_step(torch.tensor([1.0, 0.6, 0.2]), depth)
