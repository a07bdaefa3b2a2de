"""An explanation as the explainer makes it, with clips that are rendered instead of generated."""

import pytest
import torch

from transporter_pl.concepts.pairs import Pair
from transporter_pl.datamodules.shapemotion.world import FACTORS, Scene, render, sample_scene
from transporter_pl.explain.explanation import Explanation, Reading
from transporter_pl.explain.looking import Seen

PHI = (0.0, 0.5, 1.0)


@pytest.fixture(scope="session")
def explanation():
    """Colour from red over yellow to green, all else equal."""
    scene = sample_scene(1, torch.Generator().manual_seed(3))
    values = scene.values.repeat(len(PHI), 1)
    values[:, list(FACTORS).index("colour")] = torch.tensor([0.0, 60.0, 120.0])
    rows = [Scene(scene.words, row[None]) for row in values]
    video = torch.cat([render(row, 9, 32, torch.Generator().manual_seed(1)) for row in rows])
    reading = Reading(
        captions=("a red oval", "a <yellow> oval & more", "a green oval"),
        negative=torch.tensor([0.9, 0.1, 0.05]),
        positive=torch.tensor([0.02, 0.4, 0.91]),
        divergence=torch.tensor([0.0, 0.45, 0.88]),
    )
    decoded = Reading(
        captions=("a crimson oval", "an amber oval", "an olive oval"),
        negative=torch.tensor([0.8, 0.2, 0.1]),
        positive=torch.tensor([0.031, 0.412, 0.873]),
        divergence=torch.tensor([0.0, 0.4, 0.8]),
    )
    context = "a scattered {} oval moves left"
    phi, other = torch.tensor(PHI), torch.tensor([0.0, 0.0012, 0.0034])
    return Explanation(
        *(Pair("red", "green"), context, 7, phi, video, reading, decoded, other),
        calibration=Seen(video, reading, decoded, other).calibration(phi),
        fps=8,
        made_with=(("generator", "shapemotion-wan"), ("VLM", "<vlm>"), ("also small:large", "φ = 0.5")),
        warnings=("φ = 1 goes beyond φ = 0.5, where red:green <saturated>",),
    )
