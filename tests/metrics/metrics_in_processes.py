"""What the second of two processes measures: ``metrics_in_processes.py FOLDER``, see ``test_reduction``."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from toy_encoders import Channels, Colours, videos

from transporter_pl.metrics.captions import BLEU4, CaptionCosine, CIDErD
from transporter_pl.metrics.clip import CLIPGain, VideoCLIPScore
from transporter_pl.metrics.frechet import FrechetVideoDistance
from transporter_pl.metrics.similarity import EmbeddingSimilarity
from transporter_pl.metrics.token_gain import TokenGain

COUNT = 12
CAPTIONS = [f"a {colour} oval moves {way} {'very ' * (i % 4)}fast" for i in range(2) for colour in ("red", "green")
            for way in ("left", "right", "up")]  # fmt: skip


def measured(mine):
    """Every metric on some of the videos, two at a time; unequal shares are the rule."""
    video, real, said = videos(COUNT), videos(COUNT, seed=1).square(), CAPTIONS[3:] + CAPTIONS[:3]
    fvd, clip, gain = FrechetVideoDistance(Channels()), VideoCLIPScore(Colours()), CLIPGain(Colours())
    tokens, token = EmbeddingSimilarity(), TokenGain()
    captions = {"bleu": BLEU4(), "cider": CIDErD(), "cosine": CaptionCosine(Colours())}
    for first in range(0, len(mine), 2):
        part = mine[first : first + 2]
        texts, heard = ([captions_[i] for i in part.tolist()] for captions_ in (CAPTIONS, said))
        fvd.update(video[part], real=False)
        fvd.update(real[part], real=True)
        clip.update(video[part], texts)
        gain.update(video[part], real[part], texts)
        tokens.update(video[part].flatten(3).mean(2), real[part].flatten(3).mean(2))
        token.update(video[part].mean((1, 2, 3, 4)), real[part].mean((1, 2, 3, 4)))
        for metric in captions.values():
            metric.update(heard, texts)
    found = {"fvd": fvd, "clip": clip, "gain": gain, "token": token, **captions}
    figures = {name: metric.compute().item() for name, metric in found.items()}
    return figures | {name: figure.item() for name, figure in tokens.compute().items()}


def of_rank(rank, folder):
    """What one of two processes finds, with two ways of sharing the videos."""
    store, patience = f"file://{folder}/store", timedelta(minutes=5)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=patience)
    try:
        shares = {"unequal": (torch.arange(COUNT)[:7], torch.arange(COUNT)[7:])}
        shares["all or nothing"] = torch.arange(COUNT), torch.arange(0)
        return {name: measured(share[rank]) for name, share in shares.items()}
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    (folder / "second.json").write_text(json.dumps(of_rank(1, folder)))
