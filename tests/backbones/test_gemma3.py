"""What only Gemma 3 does; what all VLMs owe is in test_transformers_vlm.py."""

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vlms import SMALL, WORDS, needs_processor, processed, tiny_vlm
from transformers import Gemma3Config, GenerationConfig

from transporter_pl.backbones.gemma3 import Gemma3Adapter, SquareFrames
from transporter_pl.backbones.scratch import new_gemma3
from transporter_pl.backbones.shipped import PUBLISHED
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

with suppress(ImportError, RuntimeError):  # ``needs_processor`` says why
    from transformers.models.gemma3 import Gemma3ImageProcessor

PROMPT = "a red ball?"


@pytest.fixture(scope="module")
def gemma() -> Gemma3Adapter:
    return tiny_vlm("gemma3")


@pytest.fixture(scope="module")
def chat() -> Gemma3Adapter:
    """With a template that writes the beginning of the sequence, and a tokenizer that loses no byte."""
    return tiny_vlm("gemma3 with a template")


def config(image=24, patch=8, tokens=9):
    vision = {"model_type": "siglip_vision_model", "image_size": image, "patch_size": patch}
    return Gemma3Config(vision_config=vision, mm_tokens_per_image=tokens)


def official(processor, clips):
    frames = list(clips.flatten(0, 1))
    return Gemma3ImageProcessor(**processor)(images=frames, return_tensors="pt")["pixel_values"]


class TestPixels:
    @needs_processor
    @pytest.mark.parametrize("own", [{}, {"image_mean": [0.4, 0.5, 0.6], "image_std": 0.25}, {"do_normalize": False}])
    def test_equal_the_official_processors_where_nothing_is_resized(self, own):
        clips = torch.randint(0, 256, (2, 3, 3, 24, 24), dtype=torch.uint8)
        processor = {"do_resize": False, **own}
        frames = SquareFrames.fit(config(), processor, VideoSpec(3, 24, 24))
        torch.testing.assert_close(frames.images(clips / 255), official(processor, clips), atol=1e-6, rtol=0)

    @needs_processor
    @settings(max_examples=40)
    @given(height=st.integers(8, 90), width=st.integers(8, 90), seed=st.integers(0, 99))
    def test_squashed_to_a_square_they_are_within_a_grey_level(self, height, width, seed):
        generator = torch.Generator().manual_seed(seed)
        clips = torch.randint(0, 256, (1, 2, 3, height, width), dtype=torch.uint8, generator=generator)
        processor = {"size": {"height": 24, "width": 24}}
        images = SquareFrames.fit(config(), processor, VideoSpec(2, height, width)).images(clips / 255)
        assert images.shape == (2, 3, 24, 24)
        torch.testing.assert_close(images, official(processor, clips), atol=8e-3, rtol=0)

    @needs_processor
    def test_floats_would_be_rescaled_twice_by_the_processor(self, gemma, clips, video):
        """Ours takes pixels in [0, 1], and sees what the processor makes of bytes."""
        bytes_in, floats_in = (processed(gemma, pixels, PROMPT)["pixel_values"] for pixels in (clips, video))
        torch.testing.assert_close(gemma.grid.images(video), bytes_in, atol=1e-6, rtol=0)
        assert floats_in.max() - floats_in.min() < 0.01  # all but black

    def test_gradients_reach_every_pixel_through_the_resize(self):
        frames = SquareFrames.fit(config(), {}, VideoSpec(2, 60, 20))
        video = torch.rand(1, 2, 3, 60, 20, dtype=torch.float64).requires_grad_()
        (gradient,) = torch.autograd.grad(frames.images(video).sum(), video)
        assert (gradient != 0).all()

    def test_gradcheck(self):
        frames = SquareFrames.fit(config(image=4, patch=2, tokens=4), {}, VideoSpec(1, 6, 3))
        video = torch.rand(1, 1, 3, 6, 3, dtype=torch.float64).requires_grad_()
        torch.autograd.gradcheck(frames.images, (video,))


class TestGeometry:
    def test_a_frame_that_is_no_such_square_is_refused_where_none_is_resized(self):
        with pytest.raises(TransporterError, match=r"^video: .* takes frames of 24x24 .*; use height 24 and width 24$"):
            SquareFrames.fit(config(), {"do_resize": False}, VideoSpec(3, 24, 32))
        grid = SquareFrames.fit(config(), {}, VideoSpec(3, 24, 32))
        assert grid.tokens == 9
        assert grid.patch_share == (1 / 3, 1 / 3)  # three patches a side, however wide the frame was

    @pytest.mark.parametrize("tokens", [-4, 0, 2, 4, 8, 16])
    def test_tokens_that_do_not_pool_the_patches_are_refused(self, tokens):
        with pytest.raises(TransporterError, match=rf"^path: {tokens} tokens an image don't pool 3x3 patches; correct"):
            SquareFrames.fit(config(tokens=tokens), {}, VideoSpec(3, 24, 24))

    def test_both_are_found_before_any_weight_is_read(self, gemma, tmp_path):
        gemma.save(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(TransporterError, match="use height 32 and width 32"):
            Gemma3Adapter.from_pretrained(tmp_path, VideoSpec(5, 32, 40))
        settings = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**settings, "mm_tokens_per_image": 9}))
        with pytest.raises(TransporterError, match="9 tokens an image don't pool 8x8 patches"):
            Gemma3Adapter.from_pretrained(tmp_path, VideoSpec(5, 32, 32))

    @pytest.mark.parametrize(("name", "width"), [("google--gemma-3-12b-it", 3840), ("google--gemma-3-4b-it", 2560)])
    def test_of_the_published_ones(self, name, width):
        assert Gemma3Adapter.token_shape_of(PUBLISHED / name, VideoSpec(81, 480, 832)) == (81 * 256, width)


@needs_processor
class TestProcessor:
    @torch.no_grad()
    def test_tokens_are_the_models_features_of_its_processors_images(self, gemma, clips, video):
        features = gemma.model.get_image_features(processed(gemma, clips, PROMPT)["pixel_values"]).pooler_output
        assert features.std() > 0.1
        torch.testing.assert_close(gemma.encode(video), features.view(2, *gemma.token_shape), atol=1e-5, rtol=0)

    def test_its_own_files_are_read(self, gemma, tmp_path):
        """As it writes them now; and as ours are read by it."""
        own = Gemma3ImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], do_pan_and_scan=None)
        nested = {"image_processor": own.to_dict(), "image_seq_length": 16}
        (tmp_path / "processor_config.json").write_text(json.dumps(nested))
        read = Gemma3Adapter.read_processor(str(tmp_path))
        frames = SquareFrames.fit(gemma.model.config, read, VideoSpec(5, 20, 40))
        assert (frames.side, frames.mean, frames.std) == (32, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
        gemma.save(tmp_path / "ours")
        again = Gemma3ImageProcessor.from_pretrained(tmp_path / "ours")
        assert again.do_resize is False
        assert (again.size.height, again.size.width) == (32, 32)


class TestPrompt:
    def test_every_frame_stands_between_its_begin_and_end(self, chat):
        names = chat.tokenizer.convert_ids_to_tokens(chat.prompt_ids(PROMPT))
        begins, ends = ([i for i, n in enumerate(names) if n == f"<{x}_of_image>"] for x in ("start", "end"))
        assert len(begins) == len(ends) == chat.video.frames
        for begin, end in zip(begins, ends, strict=True):
            assert set(names[begin + 1 : end]) == {"<image_soft_token>"}
            assert end - begin - 1 == chat.grid.tokens
            assert names[begin - 2 : begin] == names[end + 1 : end + 3] == ["Ċ", "Ċ"]  # newlines, as bytes are written

    def test_it_begins_once(self, chat, monkeypatch):
        """With the template, which writes the beginning, and without, when the tokenizer does."""
        begin = chat.tokenizer.bos_token_id
        assert chat.tokenizer("a")["input_ids"][0] == begin
        own = chat.tokenizer.chat_template
        for template in (own, own.removeprefix("{{ bos_token }}"), None):
            monkeypatch.setattr(chat.tokenizer, "chat_template", template)
            ids = chat.prompt_ids(PROMPT)
            assert ids[0] == begin
            assert ids.count(begin) == 1

    @needs_processor
    def test_without_a_template_it_is_the_processors_too(self, chat, clips, monkeypatch):
        monkeypatch.setattr(chat.tokenizer, "chat_template", None)
        assert processed(chat, clips, PROMPT)["input_ids"].tolist() == [chat.prompt_ids(PROMPT)] * 2


class TestTraps:
    @torch.no_grad()
    def test_without_token_types_frames_would_be_read_in_causal_order(self, gemma, video):
        tokens, ids = gemma.encode(video), gemma.prompt_ids(PROMPT)
        embedded = gemma.embed(ids, tokens)
        causal = gemma.model(inputs_embeds=embedded).logits
        types = gemma.context(embedded, ids, None)
        seen = gemma.model(inputs_embeds=embedded, **types).logits
        assert (causal - seen).abs().max() > 0.5
        assert (causal - seen)[:, -1].abs().max() > 0.02
        torch.testing.assert_close(gemma.logits(tokens, PROMPT), seen[:, -1], atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_a_frame_is_read_in_both_directions_and_no_other(self, gemma, video):
        """A change of a frame's last token is seen by its first, and by no frame before."""
        tokens, ids = gemma.encode(video), gemma.prompt_ids(PROMPT)
        changed, last = tokens.clone(), 3 * gemma.grid.tokens - 1  # of the third frame
        changed[:, last] += 1
        before, after = (gemma.hidden(gemma.embed(ids, t), ids, t) for t in (tokens, changed))
        places = [i for i, token in enumerate(ids) if token == gemma.placeholder]
        moved = ((before - after)[:, places].abs().amax((0, 2)) > 1e-6).view(gemma.video.frames, -1)
        assert moved.all(1).tolist() == [False, False, True, True, True]
        assert not moved[:2].any()

    @torch.no_grad()
    def test_frames_without_begin_and_end_would_merge_into_one(self, gemma, video):
        tokens, ids = gemma.encode(video), gemma.prompt_ids(PROMPT)
        own = gemma.model.config.boi_token_id, gemma.model.config.eoi_token_id
        merged = [token for token in ids if token not in own]
        changed = tokens.clone()
        changed[:, -1] += 1
        for asked, reaches in ((ids, False), (merged, True)):
            before, after = (gemma.hidden(gemma.embed(asked, t), asked, t) for t in (tokens, changed))
            first = asked.index(gemma.placeholder)
            assert bool((before - after)[:, first].abs().max() > 1e-6) == reaches

    @torch.no_grad()
    def test_words_are_scaled_and_tokens_are_not(self, gemma, video):
        tokens, ids = gemma.encode(video), gemma.prompt_ids(PROMPT)
        embedded, weight = gemma.embed(ids, tokens), gemma.model.get_input_embeddings().weight
        visual = torch.tensor(ids) == gemma.placeholder
        torch.testing.assert_close(embedded[:, visual], tokens, atol=0, rtol=0)
        words = weight[torch.tensor(ids)[~visual]] * tokens.shape[-1] ** 0.5
        torch.testing.assert_close(embedded[:, ~visual], words.expand(2, -1, -1), atol=1e-6, rtol=1e-5)

    def test_in_a_new_model_all_images_would_look_alike(self, spec):
        """The projection is zero in transformers' own start; a model of ours sees from the beginning."""
        model, tokenizer = new_gemma3(WORDS, **SMALL)
        pair = torch.rand(2, spec.frames, 3, spec.height, spec.width)
        first, second = Gemma3Adapter(model, tokenizer, spec).encode(pair)
        assert (first - second).abs().max() > 1e-3
        blank = type(model)(model.config)
        assert not Gemma3Adapter(blank, tokenizer, spec).encode(pair).any()

    def test_prompts_here_are_longer_than_the_sliding_window(self, gemma, chat):
        """So that the window is at work in all that is compared with the model's own forward and ``generate``."""
        for adapter in (gemma, chat):
            text = adapter.model.config.text_config
            assert set(text.layer_types) == {"sliding_attention", "full_attention"}
            assert len(adapter.prompt_ids("a")) > text.sliding_window

    @torch.no_grad()
    def test_the_window_is_obeyed_when_a_cache_is_read(self, gemma, video, monkeypatch):
        """Word by word through a cache, hidden states are those of one forward over all."""
        tokens, ids = gemma.encode(video), gemma.prompt_ids(PROMPT)
        answer = torch.tensor([gemma.token_ids("the left " * 20)] * 2)
        embedded, cache = gemma.embed(ids, tokens), gemma.new_cache(len(ids), answer.shape[1])
        steps = [gemma.hidden(embedded, ids, tokens, cache)]
        words = gemma.model.get_input_embeddings()
        steps += [gemma.hidden(words(word[:, None]), ids, tokens, cache) for word in answer.T]
        whole = gemma.hidden(gemma.embed(ids, tokens, answer), ids, tokens)
        torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=0)
        monkeypatch.setattr(gemma.model.config.text_config, "sliding_window", 1000)
        wide = gemma.hidden(gemma.embed(ids, tokens, answer), ids, tokens)
        assert (wide - whole).abs().max() > 1e-2

    @torch.no_grad()
    def test_a_placeholder_in_an_answer_is_no_image(self, gemma, video):
        tokens, ids = gemma.encode(video), gemma.prompt_ids(PROMPT)
        answer = torch.tensor([[9, gemma.placeholder, gemma.placeholder]] * 2)
        types = gemma.context(gemma.embed(ids, tokens, answer), ids, None)["token_type_ids"]
        assert types.sum(1).tolist() == [gemma.token_shape[0]] * 2
        assert not types[:, len(ids) :].any()

    def test_generate_takes_no_embeddings_which_is_why_there_is_a_loop(self, gemma, video):
        embedded = gemma.embed(gemma.prompt_ids(), gemma.encode(video))
        with pytest.raises(ValueError, match="inputs_embeds"):
            gemma.model.generate(inputs_embeds=embedded, max_new_tokens=2)


def test_of_a_published_configuration_both_ends_are_obeyed():
    """Of a text and of a turn, though no file of generation settings says so."""
    read, _ = Gemma3Adapter.read(str(PUBLISHED / "google--gemma-3-12b-it"))
    assert GenerationConfig.from_model_config(read).eos_token_id == [1, 106]
