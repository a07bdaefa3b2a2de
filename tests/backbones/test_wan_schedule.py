import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter_pl.backbones.wan_schedule import WanSchedule
from transporter_pl.errors import TransporterError

UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("kind", ["euler", "unipc"])
@settings(max_examples=8)
@given(steps=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_perfect_velocity_leads_to_the_clean_latents(kind, shift, steps, seed):
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=shift)
        if kind == "euler"
        else UniPCMultistepScheduler(**UNIPC, flow_shift=shift)
    )
    clean, noise = torch.randn(2, 1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    schedule = WanSchedule(scheduler, steps)
    latents = (1 - schedule.times[0]) * clean + schedule.times[0] * noise
    for index in range(steps):
        latents = schedule.step(noise - clean, index, latents)
    torch.testing.assert_close(latents, clean, atol=1e-4, rtol=0)


def test_times_are_sigmas_not_whole_time_steps():
    schedule = WanSchedule(UniPCMultistepScheduler(**UNIPC, flow_shift=3.0), 7)
    reference = torch.linspace(1, 1e-3, 8, dtype=torch.float64)[:-1]
    shifted = 3 * reference / (1 + 2 * reference)
    torch.testing.assert_close(schedule.times, shifted.float(), atol=2e-6, rtol=0)
    assert schedule.whole
    assert ((schedule.times * 1000) % 1 > 1e-3).any()


def test_euler_and_unipc_shift_differently():
    euler = WanSchedule(FlowMatchEulerDiscreteScheduler(shift=3.0), 7)
    unipc = WanSchedule(UniPCMultistepScheduler(**UNIPC, flow_shift=3.0), 7)
    assert not euler.whole
    assert (euler.times - unipc.times).abs().max() > 1e-2


def test_schedules_share_no_history(experts):
    noise = torch.randn(1, *experts.latent_shape)
    first, second = experts.schedule(4), experts.schedule(4)
    once = [first.step(noise * i, i, noise) for i in range(4)]
    again = [second.step(noise * i, i, noise) for i in range(4)]
    torch.testing.assert_close(torch.stack(once), torch.stack(again), atol=0, rtol=0)


def test_a_run_may_begin_in_the_middle():
    clean, noise = torch.randn(2, 1, 4, 2, 2, 2)
    schedule = WanSchedule(FlowMatchEulerDiscreteScheduler(shift=3.0), 6)
    latents = (1 - schedule.times[3]) * clean + schedule.times[3] * noise
    for index in (3, 4, 5):
        latents = schedule.step(noise - clean, index, latents)
    torch.testing.assert_close(latents, clean, atol=1e-5, rtol=0)


def test_no_steps_are_refused(small_wan):
    with pytest.raises(TransporterError, match="steps: 0"):
        small_wan.schedule(0)
