import importlib
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Phi4MultimodalVisionConfig

from transporter_pl.backbones.crops import CropGrid
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

try:
    importlib.import_module("torchvision")  # one that does not match torch is found, but can't be imported
    from transformers import Phi4MultimodalImageProcessor
except (ImportError, RuntimeError):
    Phi4MultimodalImageProcessor = None

needs_processor = pytest.mark.skipif(Phi4MultimodalImageProcessor is None, reason="the official processor needs it")
SIDES = st.sampled_from([(32, 8), (24, 8), (28, 14), (20, 4), (42, 14)])  # crop and patch: even and odd numbers a side


def fitted(height: int, width: int, side: int, patch: int, **processor: object) -> CropGrid:
    config = Phi4MultimodalVisionConfig(image_size=side, crop_size=side, patch_size=patch)
    return CropGrid.fit(config, processor, VideoSpec(1, height, width))


def official(clip: torch.Tensor, side: int, patch: int, **processor: object) -> dict[str, torch.Tensor]:
    """Frames (F, 3, H, W) in bytes as the official processor prepares them."""
    size = {"height": side, "width": side}
    prepare = Phi4MultimodalImageProcessor(size=size, patch_size=patch, **processor)
    return prepare(list(clip), input_data_format="channels_first", return_tensors="pt")


def bytes_of(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


@needs_processor
class TestParity:
    """Against the official image processor."""

    @pytest.mark.parametrize(
        ("height", "width"), [(32, 32), (64, 96), (32, 50), (50, 32), (96, 32)], ids=lambda value: str(value)
    )
    @pytest.mark.parametrize("patch", [4, 8, 32])
    def test_views_are_equal_where_no_frame_is_resized(self, height, width, patch):
        clip, grid = bytes_of(height, width), fitted(height, width, 32, patch)
        assert (grid.height, grid.width) == (height, width)
        theirs = official(clip, 32, patch)["image_pixel_values"]
        torch.testing.assert_close(grid.views(clip[:, None] / 255), theirs, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("settings", [{"image_mean": [0.4, 0.5, 0.6], "image_std": 0.25}, {"do_normalize": False}])
    def test_normalised_as_the_settings_say(self, settings):
        clip = bytes_of(40, 32)
        theirs = official(clip, 32, 8, **settings)["image_pixel_values"]
        views = fitted(40, 32, 32, 8, **settings).views(clip[:, None] / 255)
        torch.testing.assert_close(views, theirs, atol=1e-6, rtol=0)

    @settings(max_examples=150)
    @given(SIDES, st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 2, 3, 4, 6, 9, 12, 36]))
    def test_any_frame_and_any_limit_of_crops(self, sides, height, width, most):
        side, patch = sides
        clip = bytes_of(height, width)
        try:
            theirs = official(clip, side, patch, dynamic_hd=most)
        except ValueError:
            with pytest.raises(TransporterError, match="too narrow"):
                fitted(height, width, side, patch, dynamic_hd=most)
            return
        grid = fitted(height, width, side, patch, dynamic_hd=most)
        assert theirs["image_sizes"].tolist() == [[grid.rows * side, grid.columns * side]] * 2
        assert torch.equal(grid.seen.expand(2, -1, -1, -1), theirs["image_attention_mask"].bool())
        assert grid.seen.flatten(1).any(1).all()  # a view of padding alone would give nan
        # in grey levels: theirs are rounded to bytes, which the whole view's bicubic kernel enlarges up to 1.375² times
        levels = (grid.views(clip[:, None] / 255) - theirs["image_pixel_values"]).abs() * 127.5
        assert levels[:, 1:].max() < 1.01
        assert levels[:, 0].max() < 1.01 * 1.375**2
        assert levels.mean() < 0.5

    @settings(max_examples=30)
    @given(st.integers(200, 2000), st.integers(200, 2000))
    def test_the_published_model_cuts_at_448(self, height, width):
        clip = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        theirs = official(clip, 448, 14, dynamic_hd=4)
        grid = fitted(height, width, 448, 14, dynamic_hd=4)
        assert torch.equal(grid.seen[None], theirs["image_attention_mask"].bool())
        assert grid.tokens == theirs["num_img_tokens"][0]  # which takes 256 tokens a view for granted


class TestGrid:
    @pytest.mark.parametrize(("height", "width", "tokens"), [(448, 448, 545), (480, 832, 900), (224, 224, 545)])
    def test_tokens_of_the_published_size(self, height, width, tokens):
        assert fitted(height, width, 448, 14).tokens == tokens

    def test_no_two_arrangements_of_as_many_crops_are_equally_near(self):
        """The official code sorts a set by the number of crops alone, so that a tie would depend on its order."""
        for most in range(1, 41):
            crops: dict[float, set[int]] = {}
            for columns in range(1, most + 1):
                for rows in range(1, most // columns + 1):
                    crops.setdefault(columns / rows, set()).add(columns * rows)
            ratios = sorted(crops)
            for below, above in pairwise(ratios):  # only neighbours can be equally near
                assert not crops[below] & crops[above]

    @pytest.mark.parametrize(("most", "shape"), [(36, (3, 5)), (15, (3, 5)), (14, (2, 3)), (6, (2, 3)), (1, (1, 1))])
    def test_as_many_crops_as_cover_the_frame_or_as_many_as_allowed(self, most, shape):
        grid = fitted(90, 140, 32, 8, dynamic_hd=most)
        assert (grid.rows, grid.columns) == shape

    def test_the_crop_size_is_the_models_own(self):
        """The published settings leave it out, and a model can't place crops of another size."""
        published = {"dynamic_hd": 36, "audio_compression_rate": 8, "image_processor_type": "Phi4MMImageProcessor"}
        assert fitted(64, 32, 32, 8, **published) == fitted(64, 32, 32, 8, size={"height": 448, "width": 448})
        assert fitted(64, 32, 32, 8, **published).side == 32

    def test_a_narrow_frame_is_refused(self):
        with pytest.raises(TransporterError, match=r"video: .* is too narrow for this VLM, which would see 448x4"):
            fitted(1000, 10, 448, 14, dynamic_hd=1)

    @pytest.mark.parametrize(("height", "width", "most"), [(32, 32, 36), (40, 60, 36), (100, 40, 2)])
    def test_gradients_reach_every_pixel(self, height, width, most):
        grid = fitted(height, width, 32, 8, dynamic_hd=most)
        video = torch.rand(1, 2, 3, height, width, dtype=torch.float64).requires_grad_()
        (gradient,) = torch.autograd.grad(grid.views(video).sum(), video)
        assert (gradient != 0).all()

    def test_gradcheck(self):
        grid = fitted(14, 22, 16, 4, dynamic_hd=1)
        video = torch.rand(1, 1, 3, 14, 22, dtype=torch.float64).requires_grad_()
        torch.autograd.gradcheck(grid.views, (video,))

    def test_crops_return_to_their_places(self):
        grid = fitted(50, 90, 32, 8)
        places = torch.arange(float(grid.rows * 4 * grid.columns * 4)).view(1, 1, grid.rows * 4, grid.columns * 4)
        cut = torch.cat(
            [torch.zeros(1, 1, 4, 4), places.view(grid.rows, 4, grid.columns, 4).transpose(1, 2).reshape(1, -1, 4, 4)],
            1,
        )
        # as if every patch gave a feature: two by two are pooled
        pooled = torch.nn.functional.avg_pool2d(cut, 2)
        detail = grid.detail(pooled.flatten(2)[..., None])
        height, width = grid.useful
        expected = torch.nn.functional.avg_pool2d(places, 2)[0, 0, :height, :width]
        assert (height, width) == (4, 6)
        torch.testing.assert_close(detail[0, ..., 0], expected)
