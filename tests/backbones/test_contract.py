"""The contract suite passes on our adapters, and finds what a careless one breaks."""

import re

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.testing import Finding, check_generator, check_vlm


def test_wan_keeps_every_promise(wan):
    assert check_generator(wan) == []


def test_every_vlm_keeps_every_promise(vlm):
    assert check_vlm(vlm) == []


def test_and_in_half_precision(vlm, tmp_path):
    vlm.save(tmp_path)
    assert check_vlm(type(vlm).from_pretrained(tmp_path, vlm.video, torch.bfloat16)) == []


def test_wan_in_half_precision_too(small_wan, spec, tmp_path):
    small_wan.save(tmp_path / "wan")
    assert check_generator(WanAdapter.from_pretrained(tmp_path / "wan", spec, torch.bfloat16)) == []


def test_the_state_of_the_random_generator_stays(small_vlm):
    before = torch.get_rng_state()
    check_vlm(small_vlm)
    assert torch.equal(torch.get_rng_state(), before)


def test_shapes_from_the_configuration_are_part_of_the_ports():
    assert "shapes_of" in GeneratorAdapter.__abstractmethods__
    assert "token_shape_of" in VLMAdapter.__abstractmethods__


class WrongShape(WanAdapter):
    latent_shape = (8, 9, 4, 4)


class WrongRange(WanAdapter):
    def decode(self, latents):
        return super().decode(latents) * 2 - 1


class NotFinite(WanAdapter):
    def encode_text(self, captions):
        return super().encode_text(captions) / 0


class Trains(WanAdapter):
    def train(self, mode=True):
        return nn.Module.train(self, mode)


class Detached(WanAdapter):
    def encode(self, video):
        return super().encode(video.detach())


class DropsFrames(WanAdapter):
    def encode(self, video):
        return super().encode(torch.cat([video[:, :-1], video[:, -2:-1]], 1))


class TakesAnything(WanAdapter):
    def encode(self, video):
        repeats = self.video.frames - video.shape[1]
        return super().encode(torch.cat([video, *[video[:, -1:]] * repeats], 1))


class DeafToText(WanAdapter):
    def velocity(self, latents, condition, t):
        return super().velocity(latents, condition * 0, t)


class DeafToTime(WanAdapter):
    def velocity(self, latents, condition, t):
        return super().velocity(latents, condition, t * 0 + 0.5)


class OneTimeForAll(WanAdapter):
    def velocity(self, latents, condition, t):
        return super().velocity(latents, condition, t[:1].expand(len(t)))


class LengthOfTheLongest(WanAdapter):
    def encode_text(self, captions):
        condition = super().encode_text(captions)
        return condition[:, : max(len(c.split()) + 1 for c in captions)]


class LosesFrames(WanAdapter):
    latent_frames = (range(1), range(1, 4))


class WrongSign(WanAdapter):
    def schedule(self, steps):
        schedule = super().schedule(steps)
        step = schedule.step
        schedule.step = lambda velocity, index, latents: step(-velocity, index, latents)
        return schedule


class SharedHistory(WanAdapter):
    def schedule(self, steps):
        if not hasattr(self, "_kept"):
            self._kept = super().schedule(steps)
        return self._kept


class TimesInThousands(WanAdapter):
    def schedule(self, steps):
        schedule = super().schedule(steps)
        schedule.times = schedule.times * 1000
        return schedule


class NoGuidance(WanAdapter):
    guidance_scale = 0.0


class NoGuidanceLate(WanAdapter):
    def guidance_at(self, t):
        return self.guidance_scale if t > 0.5 else 0.5


class ForgetsGuidanceLate(WanAdapter):
    def guidance_at(self, t):
        return self.guidance_scale if t > 0.5 or self.source else 2.0


class ForgetsGuidance(WanAdapter):
    @classmethod
    def from_pretrained(cls, path, video, dtype=torch.float32):
        adapter = super().from_pretrained(path, video, dtype)
        adapter._guidance_scale = 1.0
        return adapter


class ForgetsDecoder(WanAdapter):
    @classmethod
    def from_pretrained(cls, path, video, dtype=torch.float32):
        adapter = super().from_pretrained(path, video, dtype)
        nn.init.zeros_(adapter.vae.decoder.conv_out.weight)
        return adapter


class ForgetsShift(WanAdapter):
    @classmethod
    def from_pretrained(cls, path, video, dtype=torch.float32):
        adapter = super().from_pretrained(path, video, dtype)
        adapter.pipeline.register_modules(scheduler=FlowMatchEulerDiscreteScheduler())
        return adapter


class ForetellsWrongShapes(WanAdapter):
    @classmethod
    def shapes_of(cls, path, video):
        (channels, *grid), condition = super().shapes_of(path, video)
        return (channels + 1, *grid), condition


class LoadsThawed(WanAdapter):
    @classmethod
    def from_pretrained(cls, path, video, dtype=torch.float32):
        return super().from_pretrained(path, video, dtype).requires_grad_(True)


class Noisy(WanAdapter):
    def encode(self, video):
        self._count = getattr(self, "_count", 0) + 1
        return super().encode(video) + 0.01 * self._count


class MixesClips(WanAdapter):
    def encode(self, video):
        return super().encode(video / 2 + video.mean(0, keepdim=True) / 2)


@pytest.mark.parametrize(
    ("adapter", "name", "message"),
    [
        (WrongShape, "generator_shapes", "encode: shape"),
        (WrongRange, "generator_shapes", r"not in \[0, 1\]"),
        (NotFinite, "generator_shapes", "encode_text: not all finite"),
        (Trains, "frozen", r"train after \.train\(\)"),
        (Detached, "generator_gradients", "encode → pixels: no finite gradient"),
        (DropsFrames, "generator_gradients", "encode → pixels: no gradient at 2 of 10 rows"),
        (TakesAnything, "generator_input", "a frame too few"),
        (DeafToText, "condition", "the same for another condition"),
        (DeafToTime, "condition", "the same at another t"),
        (OneTimeForAll, "generator_batch", "velocity: a clip in a batch and alone"),
        (LengthOfTheLongest, "condition", "empty caption: shape"),
        (LosesFrames, "latent_frames", "don't share 5 frames out to 2"),
        (WrongSign, "schedule", "should lead to z"),
        (SharedHistory, "schedule", "second run|raised"),
        (TimesInThousands, "schedule", "falling numbers"),
        (NoGuidance, "guidance", r"guidance_at\(0\.95\): 0\.0 is not at least 1"),
        (NoGuidanceLate, "guidance", r"guidance_at\(0\.3\): 0\.5 is not at least 1"),
        (ForgetsGuidanceLate, "generator_folder", r"guidance_at\(0\.3\): 2\.0 became 3\.0"),
        (ForgetsGuidance, "generator_folder", "became 1.0"),
        (ForgetsDecoder, "generator_folder", "decode after save and load"),
        (ForgetsShift, "generator_folder", "schedule's times after save and load"),
        (ForetellsWrongShapes, "generator_folder", r"shapes_of: \(\(9, 2, .*loaded adapter says \(\(8, 2,"),
        (LoadsThawed, "generator_folder", "weights ask for gradients"),
        (Noisy, "generator_batch", "twice the same input"),
        (MixesClips, "generator_batch", "encode: a clip in a batch and alone"),
    ],
)
def test_faults_of_a_generator_are_found(pipelines, spec, adapter, name, message):
    findings = check_generator(adapter(pipelines["one_expert"], spec, guidance_scale=3.0).freeze())
    assert_found(findings, name, message)


def test_weights_that_learn_are_found(pipelines, spec):
    adapter = WanAdapter(pipelines["one_expert"], spec)
    adapter.transformer.requires_grad_(True)
    try:
        assert_found(check_generator(adapter), "frozen", "ask for gradients")
    finally:
        adapter.requires_grad_(False)


class FewTokens(VideoLlama3Adapter):
    def encode(self, video):
        return super().encode(video)[:, ::2]


class CutsPixels(VideoLlama3Adapter):
    def encode(self, video):
        return super().encode((video * 255).round() / 255)


class CutsTokens(VideoLlama3Adapter):
    def logits(self, tokens, prompt=None, answer=""):
        return super().logits(tokens.detach(), prompt, answer)


class SeesOneFrame(VideoLlama3Adapter):
    def encode(self, video):
        return super().encode(video[:, :1].expand_as(video))


class DeafToPrompts(VideoLlama3Adapter):
    def logits(self, tokens, prompt=None, answer=""):
        return super().logits(tokens, None, answer)


class DeafToAnswers(VideoLlama3Adapter):
    def logits(self, tokens, prompt=None, answer=""):
        return super().logits(tokens, prompt)


class OnePromptForAll(VideoLlama3Adapter):
    def logits(self, tokens, prompt=None, answer=""):
        prompt, answer = (text if text is None or isinstance(text, str) else text[0] for text in (prompt, answer))
        return super().logits(tokens, prompt, answer)


class Blind(VideoLlama3Adapter):
    def logits(self, tokens, prompt=None, answer=""):
        return super().logits(tokens * 0, prompt, answer)


class EndsTexts(VideoLlama3Adapter):
    def token_ids(self, text):
        return [*super().token_ids(text), self.tokenizer.eos_token_id]


class GluesText(VideoLlama3Adapter):
    def text(self, ids):
        return super().text(ids).replace(" ", "")


class OtherCaptions(VideoLlama3Adapter):
    def caption(self, tokens, prompt=None, max_new_tokens=64):
        return ["not what the logits say"] * len(tokens)


class OneCaptionForAll(VideoLlama3Adapter):
    def caption(self, tokens, prompt=None, max_new_tokens=64):
        return super().caption(tokens[:1].roll(1, 1), prompt, max_new_tokens) * len(tokens) + [""] * (len(tokens) - 1)


class ForgetsWeights(VideoLlama3Adapter):
    @classmethod
    def from_pretrained(cls, path, video, dtype=torch.float32):
        adapter = super().from_pretrained(path, video, dtype)
        nn.init.zeros_(adapter.model.lm_head.weight)
        return adapter


class ForgetsLength(VideoLlama3Adapter):
    longest = 64

    @classmethod
    def from_pretrained(cls, path, video, dtype=torch.float32):
        adapter = super().from_pretrained(path, video, dtype)
        adapter.longest = 1
        return adapter

    def caption(self, tokens, prompt=None, max_new_tokens=64):
        return super().caption(tokens, prompt, min(max_new_tokens, self.longest))


class ForetellsWrongShape(VideoLlama3Adapter):
    @classmethod
    def token_shape_of(cls, path, video):
        count, width = super().token_shape_of(path, video)
        return count + 1, width


class AnyClip(VideoLlama3Adapter):
    def encode(self, video):
        return super().encode(torch.cat([video, video[:, -1:]], 1)[:, : self.video.frames])


@pytest.mark.parametrize(
    ("adapter", "name", "message"),
    [
        (FewTokens, "vlm_shapes", "encode: shape|raised"),
        (CutsPixels, "vlm_gradients", "encode → pixels: no gradient"),
        (CutsTokens, "vlm_gradients", "logits → tokens: no finite gradient"),
        (SeesOneFrame, "vlm_gradients", "no gradient at 8 of 10 rows"),
        (DeafToPrompts, "prompts", "the same for another prompt"),
        (DeafToAnswers, "prompts", "the same after the beginning of an answer"),
        (OnePromptForAll, "prompts", "a prompt and an answer for each clip"),
        (Blind, "prompts", "the same for other tokens"),
        (EndsTexts, "text", "special tokens must stay out"),
        (GluesText, "text", "'a red ball' has ids"),
        (OtherCaptions, "caption", "but the largest logit"),
        (OneCaptionForAll, "vlm_batch", "in a batch"),
        (ForgetsWeights, "vlm_folder", "logits after save and load"),
        (ForgetsLength, "vlm_folder", "caption: .* became .* after save and load"),
        (ForetellsWrongShape, "vlm_folder", r"token_shape_of: \(21, 32\) .*loaded adapter says \(20, 32\)"),
        (AnyClip, "vlm_input", "a frame too few"),
    ],
)
def test_faults_of_a_vlm_are_found(small_vlm, spec, adapter, name, message):
    findings = check_vlm(adapter(small_vlm.model, small_vlm.tokenizer, spec).freeze())
    assert_found(findings, name, message)


def assert_found(findings: list[Finding], name: str, message: str) -> None:
    assert any(f.name == name and re.search(message, f.message) for f in findings), findings
