import itertools
import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from transporter_pl.adapters import GeneratorAdapter, generators
from transporter_pl.backbones.wan import WanAdapter, decode_raw
from transporter_pl.errors import TransporterError
from transporter_pl.explain.sampler import sample
from transporter_pl.samples import VideoSpec

CAPTIONS = ["a red ball", "the blue square moves to the left"]
UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def noise_like(adapter, count=2, seed=1):
    return torch.randn(count, *adapter.latent_shape, generator=torch.Generator().manual_seed(seed))


def drawn(adapter, noise, steps, guidance=None):
    with torch.no_grad():
        return sample(adapter, adapter.encode_text(CAPTIONS), noise, steps, guidance)


def pipeline_call(adapter, noise, steps, **options):
    """What the pipeline itself draws of the same captions and noise."""
    spec, length = adapter.video, adapter.condition_shape[0]
    return adapter.pipeline(
        prompt=CAPTIONS,
        height=spec.height,
        width=spec.width,
        num_frames=spec.frames,
        num_inference_steps=steps,
        max_sequence_length=length,
        latents=noise,
        **options,
    ).frames


@pytest.fixture(scope="module")
def unequal(pipelines, spec):
    """Two experts that are guided by other scales."""
    return WanAdapter(pipelines["two_experts"], spec, guidance_scale=4.0, guidance_scale_2=2.0).freeze()


@contextmanager
def interrupted(module, act):
    """After the module's first call in here, with the first frames in the cache, something else happens."""
    calls = itertools.count()
    hook = module.register_forward_hook(lambda *_: act() if next(calls) == 0 else None)
    try:
        yield
    finally:
        hook.remove()


def test_the_registered_name_is_the_adapter():
    assert generators.get("wan") is WanAdapter


class TestPipelineParity:
    @pytest.mark.parametrize("steps", [1, 4, 9])
    @torch.no_grad()
    def test_own_sampling_equals_the_pipelines_call(self, wan, steps):
        noise, scale = noise_like(wan), {"guidance_scale": wan.guidance_scale}
        latents = drawn(wan, noise, steps)
        theirs = pipeline_call(wan, noise, steps, **scale, output_type="latent")
        torch.testing.assert_close(latents, theirs, atol=1e-4, rtol=0)
        frames = pipeline_call(wan, noise, steps, **scale, output_type="pt")
        torch.testing.assert_close(wan.decode(latents), frames, atol=1e-4, rtol=0)

    def test_without_guidance_too(self, wan):
        noise = noise_like(wan)
        theirs = pipeline_call(wan, noise, 3, guidance_scale=1.0, output_type="latent")
        torch.testing.assert_close(drawn(wan, noise, 3, 1.0), theirs, atol=1e-4, rtol=0)

    def test_noise_of_the_same_seed_too(self, wan):
        """Drawn by the pipeline itself: our latents have its shape."""
        seed = torch.Generator().manual_seed(5)
        theirs = pipeline_call(wan, None, 3, guidance_scale=3.0, output_type="latent", generator=seed)
        torch.testing.assert_close(drawn(wan, noise_like(wan, 2, 5), 3), theirs, atol=1e-4, rtol=0)

    @torch.no_grad()
    def test_in_half_precision_too(self, wan, spec, tmp_path):
        """As near as its rounding allows: the pipeline guides in bfloat16, we do in float32."""
        wan.save(tmp_path)
        half = WanAdapter.from_pretrained(tmp_path, spec, torch.bfloat16)
        half.pipeline.set_progress_bar_config(disable=True)
        noise = noise_like(half)
        theirs = pipeline_call(half, noise, 4, guidance_scale=3.0, output_type="latent")
        gap = (drawn(half, noise, 4) - theirs).abs().max() / theirs.std()
        assert gap < 0.05

    def test_text_is_cleaned_padded_and_cut_as_the_pipeline_does(self, wan):
        length, width = wan.condition_shape
        captions = ["  a &amp; red\n ball", "a red ball " * 20, ""]
        theirs = wan.pipeline.encode_prompt(captions, max_sequence_length=length)
        torch.testing.assert_close(wan.encode_text(captions), theirs[0])
        torch.testing.assert_close(wan.encode_text([""]), theirs[1][:1])
        written = (wan.encode_text(["a red ball"]).abs().sum(-1) > 0).sum()
        assert written == 4  # three words and </s>; the rest are zero rows
        assert wan.encode_text(captions).shape == (3, length, width)

    def test_text_states_are_those_of_the_padded_ids_with_an_end(self, wan):
        """By hand: padded on the right, ``</s>`` behind the words, and nothing left of what comes after it."""
        length, tokenizer = wan.condition_shape[0], wan.pipeline.tokenizer
        ids = [*tokenizer.convert_tokens_to_ids(["a", "red", "ball"]), tokenizer.eos_token_id]
        padded = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids))])
        states = wan.text_encoder(padded, (torch.arange(length) < len(ids)).long()[None]).last_hidden_state
        condition = wan.encode_text(["a red ball"])
        torch.testing.assert_close(condition[:, : len(ids)], states[:, : len(ids)])
        assert not condition[:, len(ids) :].any()

    def test_zero_rows_take_part(self, small_wan):
        latents, t = noise_like(small_wan, 1), torch.tensor([0.5])
        condition = small_wan.encode_text(["a red ball"])
        whole = small_wan.velocity(latents, condition, t)
        cut = small_wan.velocity(latents, condition[:, :4], t)
        assert (whole - cut).abs().max() > 1e-4

    def test_every_row_of_the_condition_gets_a_gradient(self, wan):
        """The zero rows too, as they are attended."""
        condition = wan.encode_text(["a", "a red ball"]).requires_grad_()
        wan.velocity(noise_like(wan), condition, torch.tensor([0.95, 0.3])).square().sum().backward()
        assert (condition.grad.abs().sum(-1) > 0).all()

    def test_the_pixels_gradient_reaches_the_condition_through_a_step(self, wan):
        """What the pipeline's own call, which records no gradients, can't give."""
        condition, noise = wan.encode_text(CAPTIONS).requires_grad_(), noise_like(wan) / 10
        schedule = wan.schedule(3)
        latents = schedule.step(wan.velocity(noise, condition, schedule.times[:1].expand(2)), 0, noise)
        wan.decode(latents).square().sum().backward()
        assert (condition.grad.flatten(1).abs().sum(1) > 0).all()
        theirs = wan.pipeline(
            prompt_embeds=condition,
            height=wan.video.height,
            width=wan.video.width,
            num_frames=wan.video.frames,
            num_inference_steps=1,
            guidance_scale=1.0,
            output_type="pt",
        ).frames
        assert not theirs.requires_grad

    @pytest.mark.parametrize("steps", [1, 6])
    def test_perfect_velocities_lead_to_the_clean_latents(self, wan, steps):
        class Knows(WanAdapter):
            def velocity(self, latents, condition, t):
                return (noise - clean).repeat(len(latents) // len(noise), 1, 1, 1, 1)

        knows = Knows(wan.pipeline, wan.video, guidance_scale=3.0).freeze()
        clean, noise = noise_like(wan, seed=2), noise_like(wan)
        torch.testing.assert_close(drawn(knows, noise, steps), clean, atol=1e-4, rtol=0)

    def test_a_time_for_every_token_equals_a_time_for_every_clip(self, pipelines, spec):
        adapter = WanAdapter(pipelines["expanded"], spec).freeze()
        latents, condition = noise_like(adapter), adapter.encode_text(CAPTIONS)
        t = torch.tensor([0.9, 0.2])
        tokens = latents[0, 0, :, ::2, ::2].numel()
        each = (t * 1000).floor()[:, None].expand(-1, tokens)
        theirs = adapter.transformer(latents, each, condition, return_dict=False)[0]
        torch.testing.assert_close(adapter.velocity(latents, condition, t), theirs, atol=1e-5, rtol=1e-5)


class TestLatents:
    def test_normalisation_is_mode_minus_mean_over_std(self, wan, video):
        config = wan.vae.config
        mode = wan.vae.encode(video.transpose(1, 2) * 2 - 1).latent_dist.mode()
        mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (config.latents_mean, config.latents_std))
        torch.testing.assert_close(wan.encode(video), (mode - mean) / std)
        assert (std != 1).any()  # else 1 / std would pass too

    def test_decode_inverts_the_normalisation(self, wan):
        latents = noise_like(wan) / 10
        mean, std = (
            torch.tensor(x).view(1, -1, 1, 1, 1) for x in (wan.vae.config.latents_mean, wan.vae.config.latents_std)
        )
        theirs = (wan.vae.decode(latents * std + mean).sample + 1) / 2
        torch.testing.assert_close(wan.decode(latents), theirs.transpose(1, 2))

    def test_shapes_follow_the_configuration(self, wan, video):
        assert wan.encode(video).shape[1:] == wan.latent_shape
        assert wan.encode_text(["a"]).shape[1:] == wan.condition_shape

    @pytest.mark.parametrize("frames", [1, 4, 6, 9])
    def test_another_frame_count_is_refused_not_dropped(self, small_wan, frames):
        with pytest.raises(TransporterError, match=r"video: shape .*5 frames of 32x32"):
            small_wan.encode(torch.rand(1, frames, 3, 32, 32))

    def test_the_vae_would_have_dropped_frames_silently(self, small_wan):
        pixels = torch.rand(1, 3, 8, 32, 32)
        kept = small_wan.vae.encode(pixels[:, :, :5]).latent_dist.mode()
        torch.testing.assert_close(small_wan.vae.encode(pixels).latent_dist.mode(), kept)

    def test_every_frame_reaches_the_latents(self, wan, video):
        video = video.clone().requires_grad_()
        wan.encode(video).square().sum().backward()
        assert (video.grad.flatten(2).abs().sum(-1) > 0).all()


class TestDecodeRaw:
    @pytest.mark.parametrize("name", ["one_expert", "two_experts", "expanded"])
    def test_clamped_it_equals_decode(self, pipelines, name):
        vae = pipelines[name].vae
        latents = 2 * torch.randn(2, vae.config.z_dim, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        raw = decode_raw(vae, latents)
        torch.testing.assert_close(raw.clamp(-1, 1), vae.decode(latents).sample)

    def test_saturated_pixels_keep_their_gradient(self, pipelines):
        vae = pipelines["one_expert"].vae
        latents = 1e3 * torch.randn(1, vae.config.z_dim, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        latents.requires_grad_()
        decoded = vae.decode(latents).sample
        saturated = decoded.detach().abs() == 1
        assert saturated.any()
        (clamped,) = torch.autograd.grad(decoded[saturated].sum(), latents)
        (free,) = torch.autograd.grad(decode_raw(vae, latents)[saturated].sum(), latents)
        assert clamped.abs().max() == 0
        assert free.abs().max() > 0


class TestFeatureCache:
    """The VAE keeps one on the module, from one call to the end of it."""

    @torch.no_grad()
    def test_calls_in_any_order_give_the_same(self, wan, video):
        latents = noise_like(wan) / 10
        calls = {
            "encode": lambda: wan.encode(video),
            "encode another": lambda: wan.encode(1 - video[:1]),
            "decode": lambda: wan.decode(latents),
            "decode raw": lambda: decode_raw(wan.vae, latents),
        }
        alone = {name: call() for name, call in calls.items()}
        for pair in itertools.product(calls, repeat=2):
            for name in pair:
                torch.testing.assert_close(calls[name](), alone[name], atol=0, rtol=0)

    @pytest.mark.parametrize("broken", ["encoder", "decoder"])
    @torch.no_grad()
    def test_a_call_that_broke_off_leaves_nothing_behind(self, small_wan, video, broken):
        def break_off():
            raise KeyboardInterrupt

        latents = noise_like(small_wan)
        encoded, decoded = small_wan.encode(video), small_wan.decode(latents)
        raw = decode_raw(small_wan.vae, latents)
        with interrupted(getattr(small_wan.vae, broken), break_off), pytest.raises(KeyboardInterrupt):
            small_wan.decode(small_wan.encode(video))
        torch.testing.assert_close(decode_raw(small_wan.vae, latents), raw, atol=0, rtol=0)
        torch.testing.assert_close(small_wan.decode(latents), decoded, atol=0, rtol=0)
        torch.testing.assert_close(small_wan.encode(video), encoded, atol=0, rtol=0)

    @torch.no_grad()
    def test_a_call_within_a_call_would_disturb_it(self, small_wan):
        """So that one must end before the next begins."""

        def decode_another():
            small_wan.decode(-latents)

        latents = noise_like(small_wan)
        with interrupted(small_wan.vae.decoder, decode_another), pytest.raises(RuntimeError, match="size of tensor"):
            small_wan.decode(latents)


class TestExperts:
    def test_each_clip_gets_the_expert_of_its_time(self, experts):
        latents, condition = noise_like(experts, 3), experts.encode_text([CAPTIONS[0]]).expand(3, -1, -1)
        t = torch.tensor([0.95, 0.3, 0.875])
        velocity = experts.velocity(latents, condition, t)
        for row, expert in ((0, experts.transformer), (1, experts.transformer_2), (2, experts.transformer)):
            one = slice(row, row + 1)
            alone = expert(latents[one], (t[one] * 1000).floor(), condition[one], return_dict=False)[0]
            torch.testing.assert_close(velocity[one], alone, atol=1e-5, rtol=1e-5)

    def test_a_whole_sampling_run_uses_both(self, experts):
        asked = []
        hooks = [
            net.register_forward_pre_hook(lambda *_, name=name: asked.append(name))
            for name, net in (("high", experts.transformer), ("low", experts.transformer_2))
        ]
        with torch.no_grad():
            drawn(experts, noise_like(experts), 6)
        for hook in hooks:
            hook.remove()
        assert asked == sorted(asked)  # high, then low
        assert {"high", "low"} == set(asked)

    def test_gradients_reach_the_condition_through_both(self, experts):
        condition = experts.encode_text(CAPTIONS).requires_grad_()
        experts.velocity(noise_like(experts), condition, torch.tensor([0.95, 0.3])).square().sum().backward()
        assert (condition.grad.flatten(1).abs().sum(1) > 0).all()


class TestGuidance:
    """Of two experts, each with a scale of its own."""

    def test_sampling_equals_the_pipelines_call_with_both_scales(self, unequal, experts):
        noise, steps = noise_like(unequal), 6
        assert {unequal.guidance_at(t) for t in unequal.schedule(steps).times.tolist()} == {4.0, 2.0}
        call = {"guidance_scale": 4.0, "output_type": "latent"}
        theirs = pipeline_call(unequal, noise, steps, **call, guidance_scale_2=2.0)
        torch.testing.assert_close(drawn(unequal, noise, steps), theirs, atol=1e-4, rtol=0)
        assert (pipeline_call(unequal, noise, steps, **call) - theirs).abs().max() > 1e-2

    def test_a_number_of_the_users_counts_for_both(self, unequal):
        noise = noise_like(unequal)
        theirs = pipeline_call(unequal, noise, 6, guidance_scale=3.0, output_type="latent")
        torch.testing.assert_close(drawn(unequal, noise, 6, 3.0), theirs, atol=1e-4, rtol=0)

    def test_the_scale_changes_where_the_expert_does(self, unequal):
        assert [unequal.guidance_at(t) for t in (1.0, 0.876, 0.875, 0.8749, 0.1)] == [4.0, 4.0, 4.0, 2.0, 2.0]

    def test_one_scale_serves_both(self, experts):
        assert {experts.guidance_at(t) for t in (1.0, 0.1)} == {experts.guidance_scale} == {5.0}

    def test_it_is_saved(self, unequal, spec, tmp_path):
        unequal.save(tmp_path)
        again = WanAdapter.from_pretrained(tmp_path, spec)
        assert [again.guidance_at(t) for t in (0.9, 0.8)] == [4.0, 2.0]


class TestFolder:
    def test_round_trip(self, wan, spec, video, tmp_path):
        wan.save(tmp_path / "new" / "folder")
        again = WanAdapter.from_pretrained(tmp_path / "new" / "folder", spec)
        assert again.guidance_scale == wan.guidance_scale
        assert again.source == str(tmp_path / "new" / "folder")
        assert (again.latent_shape, again.condition_shape) == (wan.latent_shape, wan.condition_shape)
        torch.testing.assert_close(again.encode(video), wan.encode(video), atol=0, rtol=0)
        torch.testing.assert_close(again.schedule(5).times, wan.schedule(5).times)
        for setting in ("boundary_ratio", "expand_timesteps"):
            assert again.pipeline.config[setting] == wan.pipeline.config[setting]
        assert (again.transformer_2 is None) == (wan.transformer_2 is None)
        given = noise_like(wan), wan.encode_text(CAPTIONS), torch.tensor([0.95, 0.3])
        torch.testing.assert_close(again.velocity(*given), wan.velocity(*given), atol=1e-5, rtol=0)
        assert not any(p.name.startswith(".") for p in (tmp_path / "new").iterdir())

    def test_without_our_file_guidance_is_the_pipelines_default(self, small_wan, spec, tmp_path):
        small_wan.save(tmp_path)
        assert json.loads((tmp_path / "transporter.json").read_text()) == {"guidance_scale": 3.0}
        (tmp_path / "transporter.json").unlink()
        assert WanAdapter.from_pretrained(tmp_path, spec).guidance_scale == 5.0

    @torch.no_grad()
    def test_half_precision_keeps_the_vae_and_the_latents_in_full(self, wan, spec, video, tmp_path):
        wan.save(tmp_path)
        half = WanAdapter.from_pretrained(tmp_path, spec, torch.bfloat16)
        assert half.dtype == torch.bfloat16
        assert half.encode(video).dtype == torch.float32
        latents, t = noise_like(half), torch.tensor([0.9, 0.2])
        velocity = half.velocity(latents, half.encode_text(CAPTIONS), t)
        assert velocity.dtype == torch.float32
        full = wan.velocity(latents, wan.encode_text(CAPTIONS), t)
        assert (velocity - full).abs().max() < 0.05 * full.std()

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("./no/such/folder", "no folder './no/such/folder'"),
            ("nobody/no-such-model", "can't load 'nobody/no-such-model'"),
            ("no such name", "can't load 'no such name'"),
        ],
    )
    def test_what_is_not_there_is_one_clear_error(self, spec, path, message, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(TransporterError, match=message):
            WanAdapter.from_pretrained(path, spec)

    def test_a_folder_of_something_else_is_refused(self, small_wan, spec, tmp_path):
        with pytest.raises(TransporterError, match=r"has no model_index\.json; give a .* end in -Diffusers"):
            WanAdapter.from_pretrained(tmp_path, spec)
        small_wan.save(tmp_path)
        index = tmp_path / "model_index.json"
        index.write_text(index.read_text().replace('"WanPipeline"', '"WanImageToVideoPipeline"'))
        with pytest.raises(TransporterError, match="holds a WanImageToVideoPipeline, not a WanPipeline"):
            WanAdapter.from_pretrained(tmp_path, spec)

    def test_a_missing_weight_file_is_one_clear_error(self, small_wan, spec, tmp_path):
        small_wan.save(tmp_path)
        next((tmp_path / "transformer").glob("*.safetensors")).unlink()
        with pytest.raises(TransporterError, match=r"can't load .*The folder is not whole"):
            WanAdapter.from_pretrained(tmp_path, spec)

    @pytest.mark.parametrize(
        "scheduler",
        [
            DDIMScheduler(),
            UniPCMultistepScheduler(),
            UniPCMultistepScheduler(**UNIPC, use_dynamic_shifting=True),
            FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        ],
    )
    def test_a_scheduler_of_another_convention_is_refused(self, small_wan, spec, tmp_path, scheduler):
        small_wan.save(tmp_path)
        scheduler.save_pretrained(tmp_path / "scheduler")
        with pytest.raises(TransporterError, match="no plain flow-matching scheduler"):
            WanAdapter.from_pretrained(tmp_path, spec)


def test_training_through_the_adapter_reaches_its_weights(pipelines, spec):
    """The recipes train the very functions that inference uses."""
    adapter = WanAdapter(pipelines["one_expert"], spec)
    weights = [*adapter.transformer.parameters(), *adapter.text_encoder.parameters()]
    before = [w.requires_grad for w in weights]
    for weight in weights:
        weight.requires_grad_(True)
    adapter.velocity(noise_like(adapter), adapter.encode_text(CAPTIONS), torch.tensor([0.9, 0.2])).sum().backward()
    assert adapter.text_encoder.shared.weight.grad.abs().sum() > 0
    assert adapter.transformer.proj_out.weight.grad.abs().sum() > 0
    for weight, asked in zip(weights, before, strict=True):
        weight.grad = None
        weight.requires_grad_(asked)


@pytest.mark.parametrize(
    ("frames", "latents", "held"),
    [
        (9, 3, ((0,), (1, 2, 3, 4), (5, 6, 7, 8))),
        (5, 5, ((0,), (1,), (2,), (3,), (4,))),
        (8, 2, ((0,), (1, 2, 3, 4, 5, 6, 7))),
        (8, 4, ((0, 1), (2, 3), (4, 5), (6, 7))),
        (1, 1, ((0,),)),
        (8, 1, (tuple(range(8)),)),
    ],
)
def test_latent_frames_of_other_codecs(frames, latents, held):
    """Causal codecs where the numbers allow it; else even shares."""
    codec = SimpleNamespace(video=VideoSpec(frames, 32, 32), latent_shape=(4, latents, 2, 2))
    assert tuple(map(tuple, GeneratorAdapter.latent_frames.fget(codec))) == held


@torch.no_grad()
def test_latent_frames_hold_the_frames_that_the_port_says(tiny):
    """A later frame changes no earlier latent; a latent changes no earlier frame, and all of its own."""
    adapter = WanAdapter.from_pretrained(tiny.generator.path, tiny.video)
    held = adapter.latent_frames
    assert held == (range(0, 1), range(1, 5))
    video = torch.rand(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = adapter.encode(video)
    other = video.clone()
    other[:, held[1][0] :] = 0
    moved = adapter.encode(other)
    torch.testing.assert_close(moved[:, :, 0], latents[:, :, 0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(moved[:, :, 1], latents[:, :, 1], atol=1e-3)
    other = latents.clone()
    other[:, :, 1] += 1
    change = (adapter.decode(other) - adapter.decode(latents)).abs().amax((0, 2, 3, 4))
    assert change[0] < 1e-5
    assert (change[1:] > 1e-5).all()
