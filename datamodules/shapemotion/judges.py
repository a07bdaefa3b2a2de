"""What judges videos of ShapeMotion where no weights of a hub are at hand: a shipped small VLM's visual tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from transporter_pl.adapters import VLMAdapter, vlms
from transporter_pl.datamodules.shapemotion.world import FACTORS, combinations, parse_caption, render, sample_scene
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec, load_vlm
from transporter_pl.metrics.encoders import ImageTextEncoder, VideoEncoder, check_videos
from transporter_pl.samples import VideoSpec

DEFAULT, OTHER = "gemma3:shapemotion-gemma3", "video_llama3:shapemotion-videollama3"
VIDEO = VideoSpec(frames=9, height=64, width=64, fps=8.0)  # what the shipped VLMs were trained on
ROUNDS = 3  # of all 384 word combinations, that are rendered to learn from
CLIPS = 8  # that are rendered for a caption
BATCH = 32
WAVES = 2  # coefficients over time: the mean, and the way from beginning to end
DIRECTIONS, PRODUCTS = 16, 40  # principal directions that are kept of videos, and of frames to be multiplied
RIDGE = 0.1


class ShapeMotionJudge(VideoEncoder, ImageTextEncoder):
    """Sees clips of ShapeMotion's geometry by the visual tokens z_Ω of a small VLM; ours, for lack of I3D and CLIP.

    A video's features f are the first two cosine coefficients over time of its frames' tokens. Two readings of them
    are learned from rendered clips of all word combinations, which takes a core of the CPU 15 s:

    - for Fréchet distances, f along its 16 principal directions, scaled so that the variance of the world's clips is
      100: distances are in per cent of it. So few directions have 87 % of it; of more, some dozens of videos don't tell
      the covariance;
    - for captions, a ridge regression of the 18 words, as one-hots of the same weight for every factor, on f and on
      the products of the frames' 40 principal coordinates, mean over frames (without them, shape is not to be seen). A
      caption's features are the mean over rendered clips of it, words that it does not name by chance; 0 if it names
      none.

    Nobody is judged by its own eyes, which an ascent may have deceived: `path_for` names another. Those of
    `datamodules/shapemotion/columns.py` are no VLM's at all.

    Args:
        vlm: The small VLM.
    """

    label = "ShapeMotion features (of shapemotion-gemma3, and of shapemotion-videollama3 where Gemma 3 is judged)"
    num_features = DIRECTIONS
    centre: Tensor
    directions: Tensor
    frame_centre: Tensor
    frame_directions: Tensor
    usual: Tensor
    reading: Tensor

    def __init__(self, vlm: VLMAdapter) -> None:
        super().__init__()
        self.vlm = vlm
        self._heard: dict[tuple[int, ...], Tensor] = {}
        words = combinations().repeat(ROUNDS, 1)
        with torch.no_grad():
            self._learn(torch.cat([self._frames(video) for video in _rendered(words, seed=0)]), words)
        self.freeze()

    @classmethod
    def from_pretrained(cls, path: str | None = None, device: torch.device | str = "cpu") -> Self:
        """Load a shipped VLM, ``name:path``; by default ``gemma3:shapemotion-gemma3``.

        Raises:
            TransporterError: If it can't be loaded for ShapeMotion's geometry.
        """
        return cls(load_vlm(BackboneSpec.parse(path or DEFAULT), VIDEO, device))

    @classmethod
    def path_for(cls, vlm: VLMAdapter) -> str:
        """Another VLM's weights."""
        own = vlms.get(BackboneSpec.parse(DEFAULT).name)
        return OTHER if isinstance(vlm, own) else DEFAULT

    def forward(self, video: Tensor) -> Tensor:
        """Video (B, 9, 3, 64, 64) in [0, 1] → (B, DIRECTIONS)."""
        return (_waves(self._frames(video)) - self.centre) @ self.directions

    def images(self, video: Tensor) -> Tensor:
        """Video (B, 9, 3, 64, 64) in [0, 1] → (B, 1, 18)."""
        return ((self._described(self._frames(video)) - self.usual) @ self.reading)[:, None]

    def texts(self, captions: list[str]) -> Tensor:
        """Captions → (B, 18)."""
        heard = [self._text(tuple(parse_caption(caption).values())) for caption in captions]
        return torch.stack(heard).to(self.device)

    def _text(self, named: tuple[int, ...]) -> Tensor:
        if named not in self._heard:
            words = sample_scene(CLIPS, torch.Generator().manual_seed(1), held_out=None).words
            given = torch.tensor(named)
            clips = next(_rendered(torch.where(given >= 0, given, words), seed=2))
            self._heard[named] = self.images(clips).mean((0, 1)) * float(max(named) >= 0)
        return self._heard[named]

    def _frames(self, video: Tensor) -> Tensor:
        """Tokens of every frame in a row, (B, T, N/T · D)."""
        check_videos(video=video)
        tokens = self.vlm.encode(video.to(self.vlm.device, self.vlm.dtype)).float()
        if tokens.shape[1] % VIDEO.frames:
            msg = f"encoder shapemotion: {tokens.shape[1]} tokens are not of {VIDEO.frames} frames; use {DEFAULT}"
            raise TransporterError(msg)
        return tokens.reshape(len(tokens), VIDEO.frames, -1)

    def _described(self, frames: Tensor) -> Tensor:
        """What the words are read from."""
        coordinates = (frames - self.frame_centre) @ self.frame_directions
        rows, columns = torch.triu_indices(PRODUCTS, PRODUCTS)
        products = coordinates.mT @ coordinates / frames.shape[1]
        return torch.cat([_waves(frames), products[:, rows, columns]], 1)

    def _learn(self, frames: Tensor, words: Tensor) -> None:
        waves = _waves(frames)
        self.register_buffer("centre", waves.mean(0))
        variance, directions = _principal(waves)
        self.register_buffer("directions", 10 * directions[:, -DIRECTIONS:] / variance.sum().sqrt())
        flat = frames.flatten(0, 1)
        self.register_buffer("frame_centre", flat.mean(0))
        variance, directions = _principal(flat)
        self.register_buffer("frame_directions", directions[:, -PRODUCTS:] / variance[-PRODUCTS:].sqrt())
        described = self._described(frames)
        self.register_buffer("usual", described.mean(0))
        self.register_buffer("reading", _ridge(described, _targets(words).to(described)))


def _rendered(words: Tensor, seed: int) -> Iterator[Tensor]:
    """Clips of word combinations (C, 6), some at a time, (B, 9, 3, 64, 64)."""
    draws = torch.Generator().manual_seed(seed)
    for part in torch.split(words, BATCH):
        yield render(sample_scene(len(part), draws, words=part), VIDEO.frames, VIDEO.height, draws)


def _waves(frames: Tensor) -> Tensor:
    """First cosine coefficients (DCT-II) over time, (B, T, F) → (B, WAVES · F)."""
    count = frames.shape[1]
    times = math.pi / count * (torch.arange(count, device=frames.device) + 0.5)
    waves = torch.cos(torch.arange(WAVES, device=frames.device)[:, None] * times)
    return (normalize(waves, dim=1) @ frames).flatten(1)


def _principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (F,) of rows (R, F) along their principal directions, ascending, and these, one a column (F, F)."""
    centred = (rows - rows.mean(0)).double()
    variances, directions = torch.linalg.eigh(centred.mT @ centred / len(rows))
    return variances.clamp_min(0).to(rows), directions.to(rows)


def _targets(words: Tensor) -> Tensor:
    """One-hot words of every factor, centred and scaled to the same weight, (B, 18)."""
    columns = []
    for index, factor in enumerate(FACTORS.values()):
        hot = one_hot(words[:, index], len(factor.words)).double()
        centred = hot - hot.mean(0)
        columns.append(centred / centred.square().sum(1).mean().sqrt())
    return torch.cat(columns, 1)


def _ridge(features: Tensor, targets: Tensor) -> Tensor:
    """Weights of the ridge regression of centred targets on features, whose penalty is of standardised features."""
    centred = (features - features.mean(0)).double()
    scale = centred.square().mean(0).sqrt().clamp_min(1e-6)
    scaled = centred / scale
    gram = scaled.mT @ scaled + RIDGE * len(scaled) * torch.eye(scaled.shape[1]).to(scaled)
    weights: Tensor = torch.linalg.solve(gram, scaled.mT @ targets.double()) / scale[:, None]
    return weights.to(features)
