"""The ShapeMotion world: an oval of six factors that moves over a plain background."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from transporter_pl.errors import TransporterError


@dataclass(frozen=True)
class Factor:
    """One attribute of a clip: its words, and the interval of the continuous value that each word names.

    Attributes:
        name: Field name, also the slot in the caption templates.
        words: The words, in the order of ``centres``.
        centres: Centre of each word's interval, in the factor's unit.
        half_width: Half the interval's width; 0 for a discrete factor.
        period: Length of the circle for a circular factor (hue), else ``None``.
    """

    name: str
    words: tuple[str, ...]
    centres: tuple[float, ...]
    half_width: float
    period: float | None = None

    def word_of(self, value: Tensor) -> Tensor:
        """Index of the word whose centre is nearest to each value, shape of ``value``."""
        distance = value[..., None] - torch.tensor(self.centres, dtype=value.dtype, device=value.device)
        if self.period is not None:
            distance = (distance + self.period / 2) % self.period - self.period / 2
        return distance.abs().argmin(-1)

    def draw(self, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Values for words: a triangular density over each word's interval, so that words touch but rarely meet."""
        centre = torch.tensor(self.centres)[index]
        spread = torch.rand(2, *index.shape, generator=generator).sum(0) - 1
        value = centre + self.half_width * spread
        return value % self.period if self.period is not None else value


# Lengths are fractions of the frame's side, so that one world serves every resolution.
FACTORS: dict[str, Factor] = {
    f.name: f
    for f in (
        Factor("size", ("small", "large"), (0.115, 0.155), 0.02),  # radius of the disc of equal area / side
        Factor("shape", ("tall", "wide"), (-0.4, 0.4), 0.4),  # ln(width / height)
        Factor("colour", ("red", "yellow", "green", "cyan", "blue", "purple"), (0, 60, 120, 180, 240, 300), 30, 360),
        Factor("direction", ("left", "right", "up", "down"), (180, 0, 90, 270), 0, 360),  # degrees, up is 90
        Factor("speed", ("slowly", "quickly"), (0.025, 0.045), 0.01),  # sides per frame
        Factor("background", ("dark", "bright"), (0.25, 0.65), 0.2),  # grey level
    )
}

TEMPLATES: tuple[str, ...] = (
    "a {size} {shape} {colour} oval moves {direction} {speed} on a {background} background",
    "a {colour} {size} {shape} oval is moving {direction} {speed} over a {background} background",
    "on a {background} background a {shape} {size} {colour} oval moves {direction} {speed}",
)

SATURATION, VALUE = 0.85, 0.95  # of the oval's colour (HSV)
ROOM = 0.5  # share of the places where a path fits that are used, round the frame's middle


@dataclass(frozen=True)
class Scene:
    """The factors of B clips: words as indices (B, 6) and continuous values (B, 6), columns in ``FACTORS``' order."""

    words: Tensor
    values: Tensor

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.words)

    def word(self, name: str) -> Tensor:
        """Word index of one factor, (B,)."""
        return self.words[:, list(FACTORS).index(name)]

    def value(self, name: str) -> Tensor:
        """Continuous value of one factor, (B,)."""
        return self.values[:, list(FACTORS).index(name)]

    def captions(self, template: Tensor | int = 0) -> list[str]:
        """Caption of each clip; ``template`` is one index or one a clip, (B,)."""
        choice = torch.as_tensor(template).expand(len(self)).tolist()
        return [
            TEMPLATES[t].format(**{f.name: f.words[i] for f, i in zip(FACTORS.values(), row, strict=True)})
            for t, row in zip(choice, self.words.tolist(), strict=True)
        ]


def combinations(held_out: bool | None = None) -> Tensor:
    """All word combinations (384, 6); ``held_out`` keeps only the tenth that training never sees, or only the rest."""
    every = torch.tensor(list(itertools.product(*(range(len(f.words)) for f in FACTORS.values()))))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(5))
    cut = len(every) // 10
    if held_out is None:
        return every
    return every[order[:cut]] if held_out else every[order[cut:]]


def sample_scene(
    count: int, generator: torch.Generator | None = None, held_out: bool | None = False, words: Tensor | None = None
) -> Scene:
    """Draw ``count`` scenes; ``words`` (count, 6) fixes the words and leaves the continuous values to chance."""
    if words is None:
        pool = combinations(held_out)
        words = pool[torch.randint(len(pool), (count,), generator=generator)]
    values = [f.draw(words[:, i], generator) for i, f in enumerate(FACTORS.values())]
    return Scene(words, torch.stack(values, 1))


def parse_caption(caption: str) -> dict[str, int]:
    """Word index of every factor that a caption names; -1 for a factor it does not name."""
    said = caption.split()
    return {f.name: next((f.words.index(w) for w in said if w in f.words), -1) for f in FACTORS.values()}


def exchanged(caption: str, words: tuple[str, str]) -> str:
    """The caption as one would write it who takes each of two words for the other."""
    other = dict(zip(words, reversed(words), strict=True))
    return " ".join(other.get(word, word) for word in caption.split())


def factor_of(pair: str) -> tuple[str, int, int]:
    """Factor and word indices of a pair such as "left:right".

    Raises:
        TransporterError: If it is not two words of one factor.
    """
    negative, _, positive = pair.partition(":")
    for f in FACTORS.values():
        if negative != positive and negative in f.words and positive in f.words:
            return f.name, f.words.index(negative), f.words.index(positive)
    msg = f"pair: {pair!r} names no two words of one factor; words: " + "; ".join(
        ", ".join(f.words) for f in FACTORS.values()
    )
    raise TransporterError(msg)


def pixel_grid(side: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Pixel centres (y, x) of a square frame, each (side, side), in pixels."""
    line = torch.arange(side, device=device) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y, x


def oval_mask(centre: Tensor, radius: Tensor, log_aspect: Tensor, side: int) -> Tensor:
    """Antialiased coverage of ovals, in [0, 1].

    Args:
        centre: (..., 2) as (x, y) in pixels.
        radius: (...) radius of the disc of equal area, pixels.
        log_aspect: (...) ln(width / height).
        side: Frame side in pixels.

    Returns:
        (..., side, side).
    """
    y, x = pixel_grid(side, centre.device)
    stretch = torch.exp(log_aspect / 2)[..., None, None]
    half_x, half_y = radius[..., None, None] * stretch, radius[..., None, None] / stretch
    dx, dy = x - centre[..., 0, None, None], y - centre[..., 1, None, None]
    norm = torch.sqrt((dx / half_x) ** 2 + (dy / half_y) ** 2 + 1e-8)
    # first-order signed distance to the ellipse: (norm - 1) / |gradient of norm|
    slope = torch.sqrt((dx / half_x**2) ** 2 + (dy / half_y**2) ** 2 + 1e-8) / norm
    return (0.5 - (norm - 1) / slope).clamp(0, 1)


def hue_to_rgb(hue: Tensor) -> Tensor:
    """RGB (..., 3) of a hue in degrees at the world's saturation and value."""
    sector = (hue[..., None] / 60 + torch.tensor([5.0, 3.0, 1.0], device=hue.device)) % 6
    ramp = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return VALUE - VALUE * SATURATION * ramp


def render(scene: Scene, frames: int = 9, side: int = 32, generator: torch.Generator | None = None) -> Tensor:
    """Render scenes as video.

    Returns:
        (B, frames, 3, side, side) in [0, 1]. The start is random in the middle of those that keep the oval inside.
    """
    radius, speed = scene.value("size") * side, scene.value("speed") * side
    stretch = torch.exp(scene.value("shape") / 2)
    angle = torch.deg2rad(scene.value("direction"))
    velocity = speed[:, None] * torch.stack([torch.cos(angle), -torch.sin(angle)], 1)
    margin = radius[:, None] * torch.stack([stretch, 1 / stretch], 1) + 1
    travel = velocity * (frames - 1)
    low = margin - travel.clamp(max=0)
    high = side - margin - travel.clamp(min=0)
    low, high = torch.minimum(low, (low + high) / 2), torch.maximum(high, (low + high) / 2)
    place = 0.5 + ROOM * (torch.rand(len(scene), 2, generator=generator) - 0.5)
    start = low + (high - low) * place
    centre = start[:, None] + velocity[:, None] * torch.arange(frames)[None, :, None]
    expand = (len(scene), frames)
    mask = oval_mask(centre, radius[:, None].expand(expand), scene.value("shape")[:, None].expand(expand), side)
    paint = hue_to_rgb(scene.value("colour"))[:, None, :, None, None]
    ground = scene.value("background")[:, None, None, None, None]
    return mask[:, :, None] * paint + (1 - mask[:, :, None]) * ground


def vocabulary() -> list[str]:
    """Every word of every caption, sorted."""
    slots = {f.name: " ".join(f.words) for f in FACTORS.values()}
    return sorted({word for template in TEMPLATES for word in template.format(**slots).split()})
