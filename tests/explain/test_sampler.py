import pytest
import torch

from transporter_pl.errors import TransporterError
from transporter_pl.explain.modulation import Modulation
from transporter_pl.explain.sampler import denoise, draw_noise, sample
from transporter_pl.loading import load_generator

CAPTION = "a red oval moves left"


@pytest.fixture(scope="module")
def generator(tiny):
    return load_generator(tiny.generator, tiny.video)


@pytest.fixture(scope="module")
def condition(generator):
    with torch.no_grad():
        return generator.encode_text([CAPTION, "a blue oval moves right"])


@pytest.fixture(scope="module")
def noise(generator):
    return draw_noise(generator, [3, 4])


@pytest.fixture(scope="module")
def q(condition):
    return torch.randn(condition.shape[1:], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_is_the_pipelines_own_loop(generator, condition, noise, guidance):
    out = generator.pipeline(
        prompt_embeds=condition,
        negative_prompt="",
        height=generator.video.height,
        width=generator.video.width,
        num_frames=generator.video.frames,
        num_inference_steps=4,
        guidance_scale=guidance,
        max_sequence_length=generator.condition_shape[0],
        latents=noise,
        output_type="latent",
    ).frames
    torch.testing.assert_close(sample(generator, condition, noise, 4, guidance), out, atol=1e-5, rtol=1e-4)


def test_guidance_of_the_generator_is_the_default(generator, condition, noise):
    own = sample(generator, condition, noise, 2, generator.guidance_scale)
    assert torch.equal(sample(generator, condition, noise, 2), own)
    assert not torch.equal(sample(generator, condition, noise, 2, 1.0), own)


def test_guidance_may_depend_on_t(generator, condition, noise, monkeypatch):
    """Other steps, other scales, by hand; a number of the user's counts for all."""
    monkeypatch.setattr(generator, "guidance_at", lambda t: 4.0 if t >= 0.6 else 1.0)
    schedule, latents, uncond = generator.schedule(4), noise, generator.encode_text(["", ""])
    with torch.no_grad():
        for index, t in enumerate(schedule.times):
            v_c, v_u = (generator.velocity(latents, e, t.expand(2)) for e in (condition, uncond))
            latents = schedule.step(v_u + (4 if t >= 0.6 else 1) * (v_c - v_u), index, latents)
    torch.testing.assert_close(sample(generator, condition, noise, 4), latents, atol=1e-5, rtol=1e-4)
    overall = sample(generator, condition, noise, 4, 4.0)
    assert not torch.allclose(overall, latents, atol=1e-3)
    monkeypatch.setattr(generator, "guidance_at", lambda t: 4.0)
    assert torch.equal(sample(generator, condition, noise, 4), overall)


def test_noise_is_the_seeds_own(generator):
    pair = draw_noise(generator, [5, 7])
    assert torch.equal(pair[1:], draw_noise(generator, [7]))
    assert not torch.equal(pair[0], pair[1])


def test_the_path_begins_with_noise_and_ends_with_the_sample(generator, condition, noise):
    path = list(denoise(generator, condition, noise, 3))
    assert torch.equal(path[0][1], noise)
    assert [t for t, _ in path] == [*generator.schedule(3).times.tolist(), 0.0]
    assert torch.equal(path[-1][1], sample(generator, condition, noise, 3))


def test_zero_phi_and_windows_outside_all_steps_change_no_bit(generator, condition, noise, q):
    plain = sample(generator, condition, noise, 3)
    assert torch.equal(sample(generator, condition, noise, 3, modulations=[Modulation(q, 0.0)]), plain)
    outside = Modulation(q, 1.0, window=(0.01, 0.02))
    assert torch.equal(sample(generator, condition, noise, 3, modulations=[outside]), plain)
    masked = Modulation(q, 1.0, window=(0.01, 0.02), frames=(1.0, 1.0))
    assert torch.equal(sample(generator, condition, noise, 3, modulations=[masked]), plain)


def test_modulation_is_a_moved_condition(generator, condition, noise, q):
    phi = torch.tensor([0.5, -2.0])
    moved = sample(generator, condition, noise, 3, modulations=[Modulation(q, phi)])
    assert torch.equal(moved, sample(generator, condition + phi[:, None, None] * q, noise, 3))


def test_a_window_splits_the_run(generator, condition, noise, q):
    """Early steps with q, late steps without, by hand."""
    schedule = generator.schedule(4)
    latents, uncond = noise, generator.encode_text(["", ""])
    with torch.no_grad():
        for index, t in enumerate(schedule.times):
            c = condition + q if t >= 0.6 else condition
            v_c, v_u = (generator.velocity(latents, e, t.expand(2)) for e in (c, uncond))
            latents = schedule.step(v_u + 3 * (v_c - v_u), index, latents)
    windowed = sample(generator, condition, noise, 4, 3.0, [Modulation(q, 1.0, window=(0.6, 1.0))])
    torch.testing.assert_close(windowed, latents, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_frame_weights_pick_the_velocity_field(generator, condition, noise, q, guidance):
    """One step: every frame goes where its own field leads."""
    with_q = sample(generator, condition, noise, 1, guidance, [Modulation(q, 1.0)])
    without = sample(generator, condition, noise, 1, guidance)
    masked = sample(generator, condition, noise, 1, guidance, [Modulation(q, 1.0, frames=(0.0, 1.0))])
    torch.testing.assert_close(masked[:, :, 0], without[:, :, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masked[:, :, 1], with_q[:, :, 1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(masked[:, :, 0], with_q[:, :, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("steps", "guidance", "name"), [(0, None, "steps"), (2, 0.5, "guidance"), (2, float("nan"), "guidance")]
)
def test_refuses(generator, condition, noise, steps, guidance, name):
    with pytest.raises(TransporterError, match=f"{name}: .* is too small"):
        sample(generator, condition, noise, steps, guidance)


@pytest.mark.parametrize("start", [-1, 4])
def test_a_start_that_is_no_step_is_refused_before_any_forward(generator, condition, noise, asked, start):
    with pytest.raises(TransporterError, match=f"start: {start} is none of the 4 steps; give 0 to 3"):
        sample(generator, condition, noise, 4, start=start)
    assert asked == []


@pytest.mark.parametrize("count", [1, 3])
def test_phi_for_other_clips_is_refused_before_any_forward(generator, condition, noise, q, asked, count):
    late = Modulation(q, torch.zeros(count), window=(0.0, 0.3))
    with pytest.raises(TransporterError, match=f"phi: {count} for 2 clips"):
        sample(generator, condition, noise, 4, modulations=[late])
    assert asked == []


@pytest.fixture
def asked(generator, monkeypatch):
    """Rows of every call of the generator."""
    rows, ask = [], generator.velocity

    def velocity(latents, condition, t):
        rows.append(len(latents))
        return ask(latents, condition, t)

    monkeypatch.setattr(generator, "velocity", velocity)
    return rows


def row_by_row(generator, condition, noise, steps, guidance, modulations):
    """Every row alone."""
    every = [
        sample(
            generator,
            condition[i : i + 1],
            noise[i : i + 1],
            steps,
            guidance,
            [m.of(torch.tensor([i])) for m in modulations],
        )
        for i in range(len(noise))
    ]
    return torch.cat(every)


SWEEP = torch.tensor([0.0, 0.5, 0.5, 1.0])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize(
    "concepts",
    [
        [],
        [{"window": (0.0, 0.7)}],
        [
            {"window": (0.5, 0.9)},
            {"phi": torch.tensor([1.0, 1.0, 0.0, 0.0]), "window": (0.0, 0.6), "frames": (0.0, 1.0)},
        ],
        [{"phi": 0.3}],
        [{"own": True, "window": (0.0, 0.7)}],
        [{"own": True, "phi": 0.7}],
    ],
)
def test_sharing_changes_nothing_but_rounding(generator, condition, noise, q, guidance, batch_size, concepts):
    own = torch.randn(4, *q.shape, generator=torch.Generator().manual_seed(2))
    modulations = [
        Modulation(own if c.get("own") else q, **{"phi": SWEEP, **{k: v for k, v in c.items() if k != "own"}})
        for c in concepts
    ]
    captions, seeds = condition[[0, 0, 1, 1]], noise[[0, 0, 1, 0]]  # rows 0 and 1 alone are alike
    shared = sample(generator, captions, seeds, 4, guidance, modulations, batch_size=batch_size)
    alone = row_by_row(generator, captions, seeds, 4, guidance, modulations)
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-4)


def test_sharing_with_a_solver_that_keeps_a_history(generator, condition, noise, q, monkeypatch):
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    monkeypatch.setattr(generator.pipeline, "scheduler", scheduler)
    rows = torch.zeros(4, dtype=torch.long)
    modulations = [Modulation(q, SWEEP, window=(0.0, 0.8))]
    shared = sample(generator, condition[rows], noise[rows], 6, 3.0, modulations)
    alone = row_by_row(generator, condition[rows], noise[rows], 6, 3.0, modulations)
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(shared[0], shared[3], atol=1e-3)


def test_steps_before_the_window_cost_one_row(generator, condition, noise, q, asked):
    times = generator.schedule(6).times
    rows = torch.zeros(4, dtype=torch.long)
    window = Modulation(q, SWEEP, window=(0.0, 0.8))
    before = int((times > 0.8).sum())
    assert 0 < before < 6
    sample(generator, condition[rows], noise[rows], 6, 1.0, [window])
    assert asked == [1] * before + [3] * (6 - before)  # two of the four φ are equal
    asked.clear()
    sample(generator, condition[rows], noise[rows], 6, 3.0, [window], batch_size=2)
    assert asked == [2] * before + [4, 2] * (6 - before)  # with the empty caption
