"""What only VideoLLaMA 3 does; what all VLMs owe is in test_transformers_vlm.py."""

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_vlms import needs_processor, processed
from torch.nn.functional import cross_entropy

from transporter_pl.backbones.patches import PatchGrid, smart_resize
from transporter_pl.backbones.scratch import new_video_llama3
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

with suppress(ImportError, RuntimeError):  # ``needs_processor`` says why
    from transformers import VideoLlama3VideoProcessor
    from transformers.models.video_llama_3.video_processing_video_llama_3 import smart_resize as official_resize

PROMPT = "a red ball?"


class TestPixels:
    @needs_processor
    @pytest.mark.parametrize("geometry", [(32, 32), (48, 32), (16, 80)])
    def test_rows_equal_the_official_processors_where_nothing_is_resized(self, geometry):
        clips = torch.randint(0, 256, (2, 3, 3, *geometry), dtype=torch.uint8)
        processor = {"do_resize": False, "patch_size": 8, "merge_size": 2, "use_token_compression": False}
        theirs = VideoLlama3VideoProcessor(**processor)(videos=list(clips), return_tensors="pt")
        grid = PatchGrid.fit(VideoSpec(3, *geometry), 8, processor)
        shape, merge = grid.shapes(2, 3, clips.device)
        torch.testing.assert_close(grid.rows(clips / 255), theirs["pixel_values_videos"], atol=1e-5, rtol=0)
        assert torch.equal(shape, theirs["video_grid_thw"])
        assert torch.equal(merge, theirs["video_merge_sizes"])

    @needs_processor
    @pytest.mark.parametrize("geometry", [(30, 44), (64, 96), (13, 21)])
    @pytest.mark.parametrize("mean", [0.5, [0.4, 0.5, 0.6]])
    def test_resized_rows_are_within_a_grey_level(self, geometry, mean):
        clips = torch.randint(0, 256, (1, 3, 3, *geometry), dtype=torch.uint8)
        processor = {
            "size": {"shortest_edge": 24 * 24, "longest_edge": 3 * 48 * 48},
            "patch_size": 8,
            "merge_size": 2,
            "image_mean": mean if isinstance(mean, list) else [mean] * 3,
            "image_std": [0.5, 0.25, 0.5],
            "use_token_compression": False,
        }
        theirs = VideoLlama3VideoProcessor(**processor)(videos=list(clips), return_tensors="pt")
        grid = PatchGrid.fit(VideoSpec(3, *geometry), 8, processor)
        rows = grid.rows(clips / 255)
        assert torch.equal(grid.shapes(1, 3, clips.device)[0], theirs["video_grid_thw"])
        # in grey levels; random pixels overshoot everywhere, so that a missed clamp shows as tens of them
        levels = (rows - theirs["pixel_values_videos"]).view(len(rows), 3, -1).abs() * 255
        levels = levels * torch.tensor(processor["image_std"])[:, None]
        assert levels.max() < 1.2
        assert levels.mean() < 0.5

    @needs_processor
    @given(
        sides=st.tuples(st.integers(8, 900), st.integers(8, 900)),
        factor=st.sampled_from([16, 28]),
        least=st.integers(256, 100_000),
        extra=st.integers(0, 400_000),
    )
    def test_sizes_are_chosen_as_the_processor_chooses_them(self, sides, factor, least, extra):
        assert smart_resize(*sides, factor, least, least + extra) == official_resize(
            *sides, factor, least, least + extra
        )

    def test_the_pixel_budget_is_shared_by_the_frames(self):
        hub = {"size": {"shortest_edge": 12544, "longest_edge": 12845056}}
        long, default = VideoSpec(81, 480, 832), {}
        assert PatchGrid.fit(long, 14, hub).tokens == 180
        assert PatchGrid.fit(long, 14, default).tokens < 20

    def test_gradients_reach_pixels_through_the_resize(self):
        grid = PatchGrid.fit(VideoSpec(2, 20, 28), 8, {"size": {"shortest_edge": 1024, "longest_edge": 8192}})
        assert (grid.height, grid.width) != (20, 28)
        video = torch.rand(1, 2, 3, 20, 28, dtype=torch.float64).mul(0.2).add(0.4).requires_grad_()
        (gradient,) = torch.autograd.grad(grid.rows(video).sum(), video)
        assert (gradient != 0).all()

    def test_gradcheck(self):
        grid = PatchGrid.fit(VideoSpec(1, 6, 10), 2, {"size": {"shortest_edge": 64, "longest_edge": 64}})
        video = torch.rand(1, 1, 3, 6, 10, dtype=torch.float64).mul(0.2).add(0.4).requires_grad_()
        torch.autograd.gradcheck(grid.rows, (video,))


@needs_processor
@torch.no_grad()
def test_tokens_are_the_models_features_of_its_processors_rows(small_vlm, clips, video):
    inputs = processed(small_vlm, clips, PROMPT)
    features = small_vlm.model.get_video_features(
        inputs["pixel_values_videos"], inputs["video_grid_thw"], video_merge_sizes=inputs["video_merge_sizes"]
    )
    torch.testing.assert_close(small_vlm.encode(video), torch.stack(features.pooler_output), atol=1e-5, rtol=0)


class TestTraps:
    @needs_processor
    @torch.no_grad()
    def test_floats_would_be_rescaled_twice_by_the_processor(self, small_vlm, clips, video):
        """Ours takes pixels in [0, 1], and sees what the processor makes of bytes."""
        bytes_in, floats_in = (processed(small_vlm, x, PROMPT)["pixel_values_videos"] for x in (clips, video))
        torch.testing.assert_close(small_vlm.grid.rows(video), bytes_in, atol=1e-5, rtol=0)
        assert floats_in.max() - floats_in.min() < 0.01  # all but black
        torch.testing.assert_close(floats_in, small_vlm.grid.rows(video / 255), atol=1e-5, rtol=0)

    @needs_processor
    def test_compression_would_make_the_number_of_tokens_depend_on_pixels(self, small_vlm, spec):
        still = torch.full((1, spec.frames, 3, 32, 32), 90, dtype=torch.uint8)
        kept = processed(small_vlm, still, PROMPT, use_token_compression=True)
        assert kept["video_compression_mask"].sum() < small_vlm.token_shape[0]
        assert small_vlm.encode(still / 255).shape[1:] == small_vlm.token_shape

    @needs_processor
    def test_saved_settings_keep_compression_off(self, small_vlm, tmp_path):
        small_vlm.save(tmp_path)
        processor = VideoLlama3VideoProcessor.from_pretrained(tmp_path)
        assert processor.use_token_compression is False
        assert processor.do_resize is False

    @pytest.mark.parametrize(
        ("fps", "stamps"), [(8, "0.0 0.1 0.2 0.4 0.5"), (1, "0.0 1.0 2.0 3.0 4.0"), (16, "0.0 0.1 0.1 0.2 0.2")]
    )
    def test_time_stamps_come_from_the_frame_rate(self, small_vlm, fps, stamps):
        adapter = VideoLlama3Adapter(small_vlm.model, small_vlm.tokenizer, VideoSpec(5, 32, 32, fps))
        shown = small_vlm.text([i for i in adapter.prompt_ids() if i != small_vlm.model.config.video_token_id])
        expected = ",".join(f"Time {stamp}s:" for stamp in stamps.split()) + "Describe the video."
        assert shown.replace(" ", "") == expected.replace(" ", "")

    def test_attention_stays_within_a_frame(self, small_vlm, video):
        changed = video.clone()
        changed[:, 3] = 1 - changed[:, 3]
        before, after = (small_vlm.encode(v).unflatten(1, (5, -1)) for v in (video, changed))
        moved = (before - after).abs().amax((0, 2, 3)) > 1e-6
        assert moved.tolist() == [False, False, False, True, False]

    def test_the_whole_frame_reaches_every_token_of_it(self, small_vlm, video):
        changed = video.clone()
        changed[:, :, :, -8:] = 1 - changed[:, :, :, -8:]
        assert ((small_vlm.encode(video) - small_vlm.encode(changed)).abs().amax(-1) > 1e-6).all()


class TestFolder:
    def test_settings_nested_in_the_processors_config_come_first(self, small_vlm, tmp_path):
        small_vlm.save(tmp_path)
        nested = {"size": {"shortest_edge": 24 * 24, "longest_edge": 5 * 48 * 48}, "merge_size": 1}
        (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": nested}))
        adapter = VideoLlama3Adapter.from_pretrained(tmp_path, VideoSpec(5, 30, 30))
        assert adapter.token_shape == (5 * 4 * 4, 32)
        adapter.save(tmp_path / "again")
        assert VideoLlama3Adapter.token_shape_of(tmp_path / "again", VideoSpec(5, 30, 30)) == adapter.token_shape

    def test_geometry_is_checked_before_any_weight_is_read(self, small_vlm, tmp_path):
        small_vlm.save(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(TransporterError, match=r"multiples of 16 \(patch 8 x merge 2\)"):
            VideoLlama3Adapter.from_pretrained(tmp_path, VideoSpec(5, 32, 40))
        assert VideoLlama3Adapter.token_shape_of(tmp_path, VideoSpec(7, 48, 32)) == (7 * 3 * 2, 32)


def test_training_through_the_adapter_reaches_its_weights(spec, video):
    """The recipe trains the very prompt that inference uses."""
    model, tokenizer = new_video_llama3(
        ["a", "red", "ball"], vision_dim=16, vision_layers=1, text_dim=16, text_layers=1
    )
    adapter = VideoLlama3Adapter(model, tokenizer, spec)
    ids = tokenizer(["a red ball</s>", "a ball</s>"], padding=True, return_tensors="pt")["input_ids"]
    logits = adapter.answer_logits(adapter.encode(video), ids)[:, :-1]
    cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=tokenizer.pad_token_id).backward()
    assert logits.shape == (2, 4, len(tokenizer))
    silent = [name for name, weight in adapter.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not [name for name in silent if "k_proj.bias" not in name]  # a key's bias changes no softmax
