import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.adapters import vlms
from transporter_pl.backbones.qwen3_vl import PIXELS, Qwen3VLAdapter, clip_size
from transporter_pl.backbones.scratch import new_qwen3_vl
from transporter_pl.backbones.shipped import PUBLISHED
from transporter_pl.errors import TransporterError
from transporter_pl.planning.meter import without_data
from transporter_pl.samples import VideoSpec
from transporter_pl.testing import check_vlm

try:
    import torchvision  # noqa: F401
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as official_resize
except ImportError as error:
    broken = str(error)
else:
    broken = ""
needs_processor = pytest.mark.skipif(
    bool(broken), reason=f"the official processor needs a torchvision that works: {broken}"
)

PROMPT = "a red ball?"
WORDS = ["a", "the", "red", "blue", "large", "square", "ball", "that", "moves", "to", "left", "Describe", "video"]
MARKS = ["<", "seconds>", "user", "assistant", "<|im_start|>", "<|im_end|>"]
PUBLISHED_QWEN = PUBLISHED / "Qwen--Qwen3-VL-8B-Instruct"
CHAT = (  # as the published one has a video
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def new_adapter(video, **sizes):
    torch.manual_seed(0)
    small = {"vision_dim": 32, "vision_layers": 3, "text_dim": 32, "text_layers": 3}
    model, tokenizer = new_qwen3_vl([*WORDS, *MARKS], **{**small, **sizes})
    # random weights of the usual size say nearly the same whatever they see
    for weight in model.parameters():
        weight.data.mul_(3 if weight.ndim > 1 else 1)
    return Qwen3VLAdapter(model, tokenizer, video, source="tiny").freeze()


@pytest.fixture(scope="module", params=["odd", "even"])
def vlm(request):
    """Five wide frames and no chat template; four tall ones and the published template's form."""
    if request.param == "odd":
        return new_adapter(VideoSpec(5, 32, 48, 8))
    adapter = new_adapter(VideoSpec(4, 48, 32, 8))
    adapter.tokenizer.chat_template = CHAT
    return adapter


@pytest.fixture(scope="module")
def small():
    return new_adapter(VideoSpec(5, 32, 32, 8))


@pytest.fixture
def clips(vlm):
    return bytes_of(vlm.video)


def bytes_of(spec, count=2):
    """Bytes, as a decoder gives them: what the official processor is made for."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, spec.frames, 3, spec.height, spec.width), generator=generator).byte()


def processed(adapter, clips, text, **changes):
    """What a user of transformers would give the model."""
    spec, images = adapter.video, Qwen2VLImageProcessor(patch_size=8, merge_size=2)
    videos = Qwen3VLVideoProcessor(**{**adapter.processor, "cap_pixels_per_frame": False, **changes})
    meta = [{"total_num_frames": spec.frames, "fps": spec.fps, "frames_indices": list(range(spec.frames))}] * len(clips)
    processor = Qwen3VLProcessor(images, adapter.tokenizer, videos)
    return dict(
        processor(text=[text] * len(clips), videos=list(clips), video_metadata=meta, return_tensors="pt").items()
    )


def asked(adapter, prompt):
    """The text that goes to the processor: of the chat template, or plain."""
    if not adapter.tokenizer.chat_template:
        return f"<|video_pad|>\n{prompt}"
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    return adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def test_the_registered_name_is_the_adapter():
    assert vlms.get("qwen3_vl") is Qwen3VLAdapter


def test_keeps_every_promise(vlm):
    assert check_vlm(vlm) == []


def test_keeps_every_promise_in_half_precision(small, tmp_path):
    small.save(tmp_path)
    assert check_vlm(Qwen3VLAdapter.from_pretrained(tmp_path, small.video, torch.bfloat16)) == []


@needs_processor
class TestParity:
    """Against the model's own forward and generate, fed by its own processor."""

    @torch.no_grad()
    def test_pixels(self, vlm, clips, monkeypatch):
        inputs, seen = processed(vlm, clips, asked(vlm, PROMPT)), []
        original = vlm.model.get_video_features
        monkeypatch.setattr(vlm.model, "get_video_features", lambda *args: seen.append(args) or original(*args))
        vlm.encode(clips / 255)
        ((rows, shape),) = seen
        torch.testing.assert_close(rows, inputs["pixel_values_videos"], atol=1e-5, rtol=0)
        assert torch.equal(shape, inputs["video_grid_thw"])

    @torch.no_grad()
    def test_prompt_ids_and_positions(self, vlm, clips):
        inputs = processed(vlm, clips, asked(vlm, PROMPT))
        ids = vlm.prompt_ids(PROMPT)
        assert inputs["input_ids"].tolist() == [ids] * 2
        theirs, _ = vlm.model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"]
        )
        assert torch.equal(theirs[:, 0], vlm.positions(ids, len(ids)))

    @torch.no_grad()
    def test_tokens_and_logits(self, vlm, clips):
        inputs = processed(vlm, clips, asked(vlm, PROMPT))
        seen = vlm.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        parts = [torch.stack(part) for part in (seen.pooler_output, *seen.deepstack_features)]
        tokens = vlm.encode(clips / 255)
        assert len(parts) == 3  # the main features, and those of two layers
        torch.testing.assert_close(tokens, torch.cat(parts, -1), atol=1e-5, rtol=0)
        theirs = vlm.model(**inputs).logits[:, -1]
        torch.testing.assert_close(vlm.logits(tokens, PROMPT), theirs, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_logits_within_an_answer(self, vlm, clips):
        inputs = processed(vlm, clips, asked(vlm, PROMPT))
        ids = torch.tensor([vlm.token_ids("the blue ball"), vlm.token_ids("a red square")])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], 0 * ids], 1)
        del inputs["attention_mask"]
        theirs = vlm.model(**inputs).logits[:, -4:]
        tokens = vlm.encode(clips / 255)
        torch.testing.assert_close(vlm.answer_logits(tokens, ids, PROMPT), theirs, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_captions_are_the_greedy_ones(self, vlm, clips, monkeypatch):
        inputs = processed(vlm, clips, asked(vlm, PROMPT))
        generated = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=12)
        said = vlm.tokenizer.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert len(set(said)) == 2  # of different clips, different captions
        # a checkpoint's sampling settings must not change what greedy means
        monkeypatch.setattr(vlm.model.generation_config, "do_sample", True)
        tokens = vlm.encode(clips / 255)
        assert vlm.caption(tokens, PROMPT, max_new_tokens=12) == [text.strip() for text in said]

    @pytest.mark.parametrize("cap", [False, True])
    @torch.no_grad()
    def test_resized_frames_are_within_a_grey_level(self, small, cap, monkeypatch):
        spec, seen = VideoSpec(5, 44, 61, 8), []
        size = {"shortest_edge": 256, "longest_edge": 4 * 32 * 48}
        processor = {"size": size, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.25, 0.5], "max_video_tokens": 2}
        processor |= {"patch_size": 8, "do_sample_frames": False, "cap_pixels_per_frame": cap}
        adapter = Qwen3VLAdapter(small.model, small.tokenizer, spec, processor=processor)
        monkeypatch.setattr(adapter, "processor", processor)
        clips = bytes_of(spec)
        inputs = processed(adapter, clips, asked(adapter, PROMPT), cap_pixels_per_frame=cap)
        original = small.model.get_video_features
        monkeypatch.setattr(small.model, "get_video_features", lambda *args: seen.append(args) or original(*args))
        adapter.encode(clips / 255)
        ((rows, shape),) = seen
        assert torch.equal(shape, inputs["video_grid_thw"])
        assert shape[0].tolist() == ([3, 2, 2] if cap else [3, 2, 4])
        assert adapter.prompt_ids(PROMPT) == inputs["input_ids"][0].tolist()
        levels = (rows - inputs["pixel_values_videos"]).view(len(rows), 3, -1).abs() * 255
        levels = levels * torch.tensor(processor["image_std"])[:, None]
        assert levels.max() < 1.2
        assert levels.mean() < 0.5

    @given(
        frames=st.integers(2, 33),
        sides=st.tuples(st.integers(8, 900), st.integers(8, 900)),
        factor=st.sampled_from([16, 28, 32]),
        least=st.integers(256, 100_000),
        extra=st.integers(0, 4_000_000),
    )
    def test_sizes_are_chosen_as_the_processor_chooses_them(self, frames, sides, factor, least, extra):
        size = {"shortest_edge": least, "longest_edge": least + extra}
        ours = clip_size(VideoSpec(frames, *sides), factor, 2, {"size": size})
        assert ours == official_resize(frames, *sides, 2, factor, least, least + extra)

    @given(
        frames=st.integers(2, 33),
        sides=st.tuples(st.integers(32, 900), st.integers(32, 900)),
        least=st.integers(256, 400_000),
        extra=st.integers(0, 4_000_000),
    )
    def test_a_cap_of_each_frames_pixels_is_the_processors(self, frames, sides, least, extra):
        settings = {"size": {"shortest_edge": least, "longest_edge": least + extra}, "cap_pixels_per_frame": True}
        height, width = clip_size(VideoSpec(frames, *sides), 32, 2, settings)
        theirs = Qwen3VLVideoProcessor().get_num_of_video_patches(frames, *sides, settings)
        assert (frames + frames % 2) // 2 * (height // 16) * (width // 16) == theirs

    def test_default_sizes_are_the_processors(self):
        assert dict(Qwen3VLVideoProcessor().size) == PIXELS

    def test_the_published_processor_gives_as_many_tokens(self):
        spec = VideoSpec(17, 480, 832, 8)
        count, width = Qwen3VLAdapter.token_shape_of(PUBLISHED_QWEN, spec)
        videos = Qwen3VLVideoProcessor.from_pretrained(PUBLISHED_QWEN)
        assert count == videos.get_num_of_video_patches(17, 480, 832) // 4 == 9 * 15 * 26
        assert width == 4 * 4096  # three layers deep


class TestTraps:
    @needs_processor
    def test_the_processor_would_sample_frames_by_their_rate(self, small, tmp_path):
        clips = bytes_of(small.video)
        sampled = processed(small, clips, asked(small, PROMPT), do_sample_frames=True)
        assert sampled["video_grid_thw"][0, 0] == 2  # of three
        small.save(tmp_path)
        assert Qwen3VLVideoProcessor.from_pretrained(tmp_path).do_sample_frames is False
        assert small.encode(clips / 255).shape[1:] == small.token_shape == (3 * 4, 3 * 32)

    @pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
    def test_the_last_of_an_odd_number_is_seen_twice(self, small, frames):
        clips = bytes_of(VideoSpec(frames, 32, 32)) / 255
        even = torch.cat([clips, clips[:, -1:]], 1) if frames % 2 else clips
        ours = Qwen3VLAdapter(small.model, small.tokenizer, VideoSpec(frames, 32, 32))
        twice = Qwen3VLAdapter(small.model, small.tokenizer, VideoSpec(even.shape[1], 32, 32))
        torch.testing.assert_close(ours.encode(clips), twice.encode(even), atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("frames", "fps", "stamps"), [(5, 8, "0.1 0.3 0.5"), (4, 1, "0.5 2.5"), (3, 0.5, "1.0 4.0"), (1, 2, "0.0")]
    )
    def test_a_moment_has_the_time_midway_between_its_frames(self, small, frames, fps, stamps):
        adapter = Qwen3VLAdapter(small.model, small.tokenizer, VideoSpec(frames, 32, 32, fps))
        shown = small.tokenizer.decode([i for i in adapter.prompt_ids() if i != adapter.placeholder])
        block = "<|vision_start|><|vision_end|>"
        expected = "".join(f"<{stamp} seconds>{block}" for stamp in stamps.split()) + "Describe the video."
        assert shown.replace(" ", "") == expected.replace(" ", "")

    def test_attention_stays_within_a_moment(self, small):
        video = bytes_of(small.video) / 255
        changed = video.clone()
        changed[:, 3] = 1 - changed[:, 3]
        before, after = (small.encode(v).unflatten(1, (3, -1)) for v in (video, changed))
        assert ((before - after).abs().amax((0, 2, 3)) > 1e-6).tolist() == [False, True, False]

    @torch.no_grad()
    def test_what_enters_deeper_layers_is_read(self, small):
        tokens = small.encode(bytes_of(small.video) / 255)
        logits = small.logits(tokens)
        for part in range(3):
            less = tokens.clone()
            less[..., 32 * part : 32 * (part + 1)] = 0
            assert (small.logits(less) - logits).abs().max() > 1e-3

    def test_a_logits_gradient_reaches_every_pixel_row_and_every_part_of_a_token(self, small):
        video = (bytes_of(small.video) / 255).requires_grad_()
        tokens = small.encode(video)
        tokens.retain_grad()
        small.logits(tokens)[:, 7].sum().backward()
        parts = tokens.grad.unflatten(-1, (3, 32)).abs().sum(-1)
        assert (parts > 0).all()
        assert (video.grad.abs().sum(-1) > 0).all()
        assert all(weight.grad is None for weight in small.parameters())

    @torch.no_grad()
    def test_a_cached_step_has_the_positions_of_the_full_forward(self, vlm):
        tokens = vlm.encode(bytes_of(vlm.video) / 255)
        ids, answer = vlm.prompt_ids(PROMPT), torch.tensor(vlm.token_ids("the blue ball that"))
        whole, words = vlm.embed(ids, tokens, answer), vlm.model.get_input_embeddings()
        cache = vlm.new_cache(len(ids), len(answer))
        steps = [vlm.hidden(vlm.embed(ids, tokens), ids, tokens, cache)[:, -1:]]
        steps += [vlm.hidden(words(token.expand(2, 1)), ids, tokens, cache) for token in answer]
        expected = vlm.hidden(whole, ids, tokens)[:, len(ids) - 1 :]
        torch.testing.assert_close(torch.cat(steps, 1), expected, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_words_count_on_behind_the_longer_side_of_a_moment(self, vlm, monkeypatch):
        """One after the other, as text does, they would stand further off, and the logits would be others."""
        tokens, ids = vlm.encode(bytes_of(vlm.video) / 255), vlm.prompt_ids(PROMPT)
        moments, visual = len(vlm.times), ids.count(vlm.placeholder)
        assert vlm.positions(ids, len(ids) + 2).max() == len(ids) + 1 - visual + 3 * moments  # 2 x 3 tokens each
        right = vlm.logits(tokens, PROMPT)
        monkeypatch.setattr(vlm, "positions", lambda ids, length: torch.arange(length).expand(3, -1))
        assert (vlm.logits(tokens, PROMPT) - right).abs().max() > 1e-3

    @torch.no_grad()
    def test_the_model_remembers_positions_that_are_not_used(self, vlm):
        """It keeps an offset from its last forward pass, and takes it for embeddings that come without positions."""
        tokens = vlm.encode(bytes_of(vlm.video) / 255)
        logits, said = vlm.logits(tokens), vlm.caption(tokens, max_new_tokens=6)
        vlm.model.model.rope_deltas = torch.full((2, 1), 11)
        torch.testing.assert_close(vlm.logits(tokens), logits, atol=0, rtol=0)
        assert vlm.caption(tokens, max_new_tokens=6) == said
        vlm.model.model.rope_deltas = None

    def test_a_placeholder_in_an_answer_takes_no_visual_token(self, small):
        tokens = small.encode(bytes_of(small.video) / 255)
        ids = torch.tensor(small.token_ids("a <|video_pad|> ball"))
        together = small.answer_logits(tokens, ids)
        alone = torch.cat([small.answer_logits(row[None], ids) for row in tokens])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)

    def test_activations_computed_anew_give_the_same_gradients(self, small):
        saving, found = copy.deepcopy(small), []
        saving.checkpoint_activations()
        for adapter in (small, saving):
            video = (bytes_of(small.video) / 255).requires_grad_()
            adapter.logits(adapter.encode(video))[:, 7].sum().backward()
            found.append(video.grad)
        torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-4)

    def test_a_model_without_deeper_features_has_plain_tokens(self):
        adapter = new_adapter(VideoSpec(4, 32, 32), deepstack=())
        assert adapter.token_shape == (2 * 4, 32)
        assert check_vlm(adapter) == []


class TestInput:
    def test_wrong_inputs_are_refused(self, small):
        with pytest.raises(TransporterError, match="video: shape"):
            small.encode(torch.rand(1, 4, 3, 32, 32))
        with pytest.raises(TransporterError, match=r"tokens: shape .*expected \(B, 12, 96\)"):
            small.logits(torch.rand(1, 12, 32))
        with pytest.raises(TransporterError, match=r"prompt: .*<\|video_pad\|>.* remove it"):
            small.prompt_ids("what is <|video_pad|>?")

    def test_geometry_is_checked_before_any_weight_is_read(self, small, tmp_path):
        small.save(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(TransporterError, match=r"multiples of 16 \(patch 8 x merge 2\)"):
            Qwen3VLAdapter.from_pretrained(tmp_path, VideoSpec(5, 32, 40))
        assert Qwen3VLAdapter.token_shape_of(tmp_path, VideoSpec(7, 48, 32)) == (4 * 3 * 2, 3 * 32)

    def test_one_frame_is_no_clip_for_a_processor_that_resizes(self):
        with pytest.raises(TransporterError, match=r"video\.frames: 1 is too short .* use more"):
            Qwen3VLAdapter.token_shape_of(PUBLISHED_QWEN, VideoSpec(1, 480, 832))

    def test_too_many_tokens_for_the_context_are_refused(self, small, tmp_path):
        small.save(tmp_path)
        with pytest.raises(TransporterError, match="too many for this VLM's context of 1024"):
            Qwen3VLAdapter.from_pretrained(tmp_path, VideoSpec(64, 96, 96))

    def test_the_mixture_of_experts_is_another_model(self, small, tmp_path):
        small.save(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "qwen3_vl_moe"}))
        with pytest.raises(TransporterError, match="holds a 'qwen3_vl_moe', not a native 'qwen3_vl'"):
            Qwen3VLAdapter.from_pretrained(tmp_path, small.video)


class TestFolder:
    @torch.no_grad()
    def test_round_trip(self, vlm, tmp_path):
        vlm.save(tmp_path)
        again, video = Qwen3VLAdapter.from_pretrained(tmp_path, vlm.video), bytes_of(vlm.video) / 255
        tokens = again.encode(video)
        assert Qwen3VLAdapter.token_shape_of(tmp_path, vlm.video) == vlm.token_shape == tokens.shape[1:]
        assert again.prompt_ids() == vlm.prompt_ids()
        torch.testing.assert_close(tokens, vlm.encode(video), atol=0, rtol=0)
        torch.testing.assert_close(again.logits(tokens), vlm.logits(tokens), atol=0, rtol=0)

    @torch.no_grad()
    def test_half_precision(self, small, tmp_path):
        small.save(tmp_path)
        half = Qwen3VLAdapter.from_pretrained(tmp_path, small.video, torch.bfloat16)
        video = bytes_of(small.video) / 255
        tokens = half.encode(video)
        assert half.logits(tokens).dtype == tokens.dtype == half.dtype == torch.bfloat16
        spread = small.encode(video).std()
        assert (tokens - small.encode(video)).abs().max() < 0.1 * spread

    def test_the_published_model_has_that_size_without_its_files(self):
        with torch.device("meta"):
            adapter = Qwen3VLAdapter.from_config("Qwen/Qwen3-VL-8B-Instruct", VideoSpec(5, 64, 96), torch.bfloat16)
        assert adapter.token_shape == (3 * 2 * 3, 4 * 4096)
        assert adapter.prompt_ids().count(adapter.placeholder) == 3 * 2 * 3
        assert 8.7e9 < sum(weight.numel() for weight in adapter.parameters()) < 8.8e9

    def test_a_plan_runs_it_on_tensors_without_data(self, small, tmp_path):
        """The places of the video are made of numbers, so that they are known where no tensor has values."""
        small.save(tmp_path)
        with without_data():
            adapter = Qwen3VLAdapter.from_config(tmp_path, small.video)
            tokens = adapter.encode(torch.rand(2, 5, 3, 32, 32)).detach().requires_grad_()
            adapter.logits(tokens).sum().backward()
        assert tokens.grad.shape == (2, *small.token_shape)

    def test_weights_stay_frozen(self, small):
        small.train()
        assert not any(module.training for module in small.modules())
        assert not any(weight.requires_grad for weight in small.parameters())
