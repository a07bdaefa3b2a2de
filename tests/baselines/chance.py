"""Sources of chance for videos."""

import torch


def sources(count, seed=0):
    """One a video, each with a seed of its own."""
    return [torch.Generator().manual_seed(1000 * seed + row) for row in range(count)]
