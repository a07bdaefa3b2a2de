"""A baseline as a training: its budget, what it writes, that it can be killed and watched."""

import json
import signal
from pathlib import Path

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from resumable_data import SHAPES, OrderedEncodings
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_coupling_stage import SMALL

from transporter_pl.baselines.references import References
from transporter_pl.cli import main
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_vlm
from transporter_pl.report.video import write_video
from transporter_pl.stages.baseline import BaselineStage
from transporter_pl.stages.coupling import CouplingStage
from transporter_pl.stages.frames import WatchFrames

TEMPLATE = "a red oval moves {left|right} slowly"


def stage(tiny, **options):
    options = {"pairs": [TEMPLATE], "baseline": "plain_pixels.PlainPixels", "forwards": 12, **options}
    return BaselineStage(tiny.vlm, tiny.video, **options)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=folder, **{**quiet, **options})


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"forwards": 12, "restarts": 2}, 5),
        ({"forwards": 13, "restarts": 2}, 5),
        ({"forwards": 12, "restarts": 1}, 11),
        ({"forwards": 12, "restarts": 2, "objective": "moved"}, 4),
        ({"forwards": 14, "restarts": 2, "baseline": "plain_pixels.Primed"}, 5),
    ],
)
def test_budgets_count_every_forward_pass_a_video(tiny, tmp_path, options, steps):
    drawing = stage(tiny, **options)
    vlm, shape = load_vlm(tiny.vlm, tiny.video), (1, tiny.video.frames, 3, tiny.video.height, tiny.video.width)
    seen = []
    logits = vlm.logits

    def counting(tokens, *rest):
        seen.append(len(tokens))
        return logits(tokens, *rest)

    vlm.logits = counting
    drawing.ask(vlm, References(torch.rand(shape), torch.rand(shape)))
    trainer(tmp_path, enable_checkpointing=False).fit(drawing)
    assert drawing.steps == drawing.global_step == steps
    looked_at = 2 * drawing.hparams["baseline"].endswith("Primed")  # at a stimulus for each restart, without a question
    assert sum(seen) + looked_at == drawing.forwards
    assert options["forwards"] - drawing.hparams["restarts"] < drawing.forwards <= options["forwards"]


def test_it_draws_what_the_vlm_calls_by_the_second_word(tiny, tmp_path):
    drawing = stage(tiny, forwards=60, options={"lr": 0.3}, export=str(tmp_path / "out"))
    drawing.ask(load_vlm(tiny.vlm, tiny.video), References())
    fit = trainer(tmp_path, enable_checkpointing=False)
    fit.fit(drawing)
    begun = stage(tiny)
    begun.ask(load_vlm(tiny.vlm, tiny.video), References())
    trainer(tmp_path, enable_checkpointing=False, fast_dev_run=True).fit(begun)
    assert drawing.reached.objective > begun.climbing().reached().objective + 0.05
    said = json.loads((tmp_path / "out" / "drawn.json").read_text())
    assert said["captions"] == ["a red oval moves right slowly"]
    assert said["probability"] == pytest.approx(drawing.reached.probability.tolist())
    written = load_file(tmp_path / "out" / "drawn.safetensors")["video"]
    assert ((written / 255.0) - drawing.reached.video).abs().max() <= 0.5 / 255 + 1e-6
    assert {"0.mp4", "filmstrip.png"} < {file.name for file in (tmp_path / "out").iterdir()}


def test_killed_and_resumed_it_ends_with_the_same_pixels(tiny, tmp_path):
    whole = stage(tiny)
    torch.manual_seed(0)
    trainer(tmp_path / "whole", enable_checkpointing=False).fit(whole)
    saving = ModelCheckpoint(filename="{step}", every_n_train_steps=1, save_top_k=-1)
    torch.manual_seed(0)
    trainer(tmp_path / "killed", callbacks=[saving]).fit(stage(tiny))
    torch.manual_seed(1)
    (file,) = (tmp_path / "killed").rglob("step=3.ckpt")
    resumed = stage(tiny)
    trainer(tmp_path / "resumed", enable_checkpointing=False).fit(resumed, ckpt_path=file, weights_only=True)
    assert torch.equal(resumed.reached.video, whole.reached.video)
    assert set(torch.load(file, weights_only=True)["state_dict"]) == {"baseline.raw"}  # the videos alone


def test_restarts_and_seeds_differ_and_videos_do_not_know_of_each_other(tiny, tmp_path):
    drawing, other = stage(tiny, restarts=3, seed=0), stage(tiny, restarts=3, seed=1)
    for one in (drawing, other):
        trainer(tmp_path, enable_checkpointing=False, fast_dev_run=True).fit(one)
    starts = torch.cat([one.baseline.canvas.noise() for one in (drawing, other)])
    assert len({tuple(start.flatten()[:3].tolist()) for start in starts}) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forwards": 3, "restarts": 2}, r"forwards: 3 leave no step for 2 restart\(s\); give at least 4"),
        ({"pairs": ["left:right"]}, "pairs: none that has a context"),
        ({"objective": "most"}, "objective: unknown choice 'most'; choose positive or moved"),
        ({"restarts": 0}, "restarts: 0 is too small"),
        ({"options": {"rate": 1}}, "has no option 'rate'"),
    ],
)
def test_what_is_wrong_is_refused_at_once(tiny, options, message):
    with pytest.raises(TransporterError, match=message):
        stage(tiny, **options)


def test_frames_are_shown_in_tensorboard(tiny, tmp_path):
    board = TensorBoardLogger(tmp_path)
    watch = WatchFrames(every_n_steps=2)
    trainer(tmp_path, logger=board, callbacks=[watch], enable_checkpointing=False, log_every_n_steps=1).fit(stage(tiny))
    shown = EventAccumulator(board.log_dir).Reload()
    assert [event.step for event in shown.Images("frames")] == [2, 4]
    assert {"objective", "probability", "penalties/grey"} <= set(shown.Tags()["scalars"])


def test_frames_belong_to_a_baseline(tmp_path):
    with pytest.raises(TransporterError, match="WatchFrames watches a BaselineStage, not CouplingStage; leave it out"):
        trainer(tmp_path, callbacks=[WatchFrames()], enable_checkpointing=False).fit(
            CouplingStage(SHAPES, network=SMALL), datamodule=OrderedEncodings()
        )


def test_the_command_draws_with_every_baseline(tiny, tmp_path):
    """As a user calls it, with clips from files."""
    clip = torch.rand(tiny.video.frames, 3, tiny.video.height, tiny.video.width)
    for name in ("left", "right"):
        write_video(tmp_path / f"{name}.mp4", clip, tiny.video.fps)
    ends = {f"a red oval moves {word} slowly": str(tmp_path / f"{word}.mp4") for word in ("left", "right")}
    arguments = [
        *(
            "fit",
            "--config",
            "baseline/base.yaml",
            "--model.vlm.name",
            tiny.vlm.name,
            "--model.vlm.path",
            tiny.vlm.path,
        ),
        *(f"--model.video.{name}={value}" for name, value in vars(tiny.video).items()),
        *("--model.pairs", json.dumps([TEMPLATE]), "--model.clips", json.dumps(ends), "--model.natural", str(tmp_path)),
        *("--model.forwards=16", "--model.objective=moved", "--trainer.accelerator=cpu", "--trainer.logger=false"),
    ]
    for name in ("am", "gradvit", "maco", "leaps"):
        run = tmp_path / name
        assert main([*arguments, "--model.baseline", name, f"--trainer.default_root_dir={run}"]) == 0
        assert (Path(run) / "drawn" / "drawn.json").is_file()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
