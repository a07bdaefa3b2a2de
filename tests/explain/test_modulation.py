import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.errors import TransporterError
from transporter_pl.explain.modulation import Layers, Modulation, check_frames, check_rows, modulate

SEQUENCE, VECTOR = torch.randn(5, 4), torch.randn(4)
CONDITION = torch.randn(3, 5, 4)


def test_condition_is_the_sum():
    phi = torch.tensor([0.0, 0.5, -1.0])
    moved = modulate(CONDITION, [Modulation(SEQUENCE, phi), Modulation(VECTOR, 2.0)])
    expected = CONDITION + phi[:, None, None] * SEQUENCE + 2 * VECTOR
    torch.testing.assert_close(moved, expected)


def test_zero_changes_no_bit():
    assert torch.equal(modulate(CONDITION, [Modulation(SEQUENCE, 0.0), Modulation(VECTOR, torch.zeros(3))]), CONDITION)
    assert modulate(CONDITION, []) is CONDITION


@pytest.mark.parametrize("phi", [math.nan, math.inf, torch.tensor([0.0, -math.inf])])
def test_phi_must_be_finite(phi):
    with pytest.raises(TransporterError, match=r"phi: .* is not finite"):
        Modulation(VECTOR, phi)


@pytest.mark.parametrize("window", [(0.6, 0.4), (math.nan, 1.0), (0.5, 1.2), (-0.1, 0.5), (1.2, 1.4), (0.1,)])
def test_windows_are_parts_of_the_whole_way(window):
    with pytest.raises(TransporterError, match=r"window: .* is no part of \[0, 1\]; give \(low, high\)"):
        Modulation(VECTOR, 1.0, window)


@pytest.mark.parametrize("frames", [(0.0, 1.5), (-0.1, 0.0), (math.nan, 0.0)])
def test_frame_weights_stay_in_their_interval(frames):
    with pytest.raises(TransporterError, match=r"frames: .* leaves"):
        Modulation(VECTOR, 1.0, frames=frames)


def test_frame_weights_must_fit_the_latents():
    check_frames([Modulation(VECTOR, 1.0), Modulation(VECTOR, 1.0, frames=(0.0, 1.0, 1.0))], 3)
    with pytest.raises(TransporterError, match="2 weights for 3 latent frames; give 3"):
        check_frames([Modulation(VECTOR, 1.0, frames=(0.0, 1.0))], 3)


def test_what_is_given_for_each_clip_must_fit_their_number():
    each = Modulation(VECTOR.expand(3, 5, 4), torch.zeros(3))
    check_rows([each, Modulation(SEQUENCE, 1.0), Modulation(VECTOR, 1.0)], 3)
    with pytest.raises(TransporterError, match="phi: 3 for 2 clips; give one for each"):
        check_rows([each], 2)
    with pytest.raises(TransporterError, match="vector: 3 for 4 clips"):
        check_rows([Modulation(VECTOR.expand(3, 5, 4), 1.0)], 4)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_windows(t, one, other):
    low, high = sorted((one, other))
    layers = Layers.at(t, CONDITION, [Modulation(SEQUENCE, 1.0, (low, high))])
    assert torch.equal(layers.conditions[0], CONDITION + SEQUENCE if low <= t <= high else CONDITION)


def test_layers_group_by_frame_weights():
    ramp, late = (0.0, 0.5, 1.0), (0.0, 0.0, 1.0)
    concepts = [
        Modulation(SEQUENCE, 1.0),
        Modulation(VECTOR, 1.0, frames=ramp),
        Modulation(VECTOR, 3.0, frames=late),
        Modulation(SEQUENCE, 2.0, frames=ramp),
        Modulation(VECTOR, 5.0, window=(0.0, 0.1), frames=late),
    ]
    layers = Layers.at(0.5, CONDITION, concepts)
    assert layers.weights == (ramp, late)
    base = CONDITION + SEQUENCE
    torch.testing.assert_close(
        torch.stack(layers.conditions), torch.stack([base, base + VECTOR + 2 * SEQUENCE, base + 3 * VECTOR])
    )


def test_blending_picks_the_field_of_every_frame():
    base, first, second = torch.randn(3, 2, 4, 3, 2, 2).unbind()
    layers = Layers((base, base, base), ((1.0, 0.0, 0.25), (0.0, 1.0, 0.0)))
    blended = layers.blend((base, first, second))
    torch.testing.assert_close(blended[:, :, 0], first[:, :, 0])
    torch.testing.assert_close(blended[:, :, 1], second[:, :, 1])
    torch.testing.assert_close(blended[:, :, 2], torch.lerp(base, first, 0.25)[:, :, 2])
    assert torch.equal(Layers((base,), ()).blend((base,)), base)
