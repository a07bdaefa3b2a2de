"""What stops a training that has gone wrong, through the Trainer and the command line."""

import os
import re

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from test_coupling_stage import RandomEncodings, packaged, stage, trainer, write_cache

from transporter_pl.cli import main
from transporter_pl.coupling.losses import LossWeights
from transporter_pl.errors import TransporterError
from transporter_pl.stages import guard
from transporter_pl.stages.guard import last_good_checkpoint, shortened


def spoiled(clip=6, name="latents", value=torch.inf):
    """Data with one number that is none; batches are 0 to 3, 4 to 7 and 8 to 11."""
    data = RandomEncodings()
    data.tensors[name].flatten(1)[clip, 0] = value
    return data


def every_step(folder, **options):
    """Keeps a checkpoint of every optimiser step."""
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, **options)


def stopped(fit, model, data, **options):
    """The one line that it says."""
    with pytest.raises(TransporterError) as error:
        fit.fit(model, datamodule=data, **options)
    said = str(error.value)
    assert "\n" not in said
    return said


def test_a_clip_that_is_not_finite_is_named_before_it_spoils_the_weights(tmp_path):
    model = stage()
    said = stopped(trainer(tmp_path, callbacks=[every_step(tmp_path)], num_sanity_val_steps=0), model, spoiled())
    assert said == (
        "loss: nan, in optimiser step 2 at the clips 4, 5, 6, 7, of which 6 hold values that are not finite; the last "
        f"good checkpoint is {str(tmp_path / 'step=1.ckpt')!r}; encode those anew, or leave them out"
    )
    assert all(p.isfinite().all() for p in model.parameters())
    assert not (tmp_path / "coupling").exists()


def test_without_checkpoints_it_says_so(tmp_path):
    fit = trainer(tmp_path, enable_checkpointing=False, num_sanity_val_steps=0)
    assert "; there is no good checkpoint; " in stopped(fit, stage(), spoiled())


def test_of_accumulated_batches_the_one_at_fault_is_named(tmp_path):
    fit = trainer(tmp_path, accumulate_grad_batches=3, num_sanity_val_steps=0)
    assert "loss: nan, in optimiser step 1 at the clips 4, 5, 6, 7, of which 6 hold" in stopped(fit, stage(), spoiled())


@pytest.mark.parametrize("clip_value", [None, 1.0])
def test_gradients_that_are_not_finite_are_not_stepped_on(tmp_path, clip_value):
    model, calls = stage(), []

    def overflow(gradient):
        calls.append(0)
        return gradient * (torch.inf if len(calls) == 5 else 1)

    model.network.mixer.head[1].weight.register_hook(overflow)
    fit = trainer(tmp_path, max_steps=9, accumulate_grad_batches=3, gradient_clip_val=clip_value)
    said = stopped(fit, model, RandomEncodings())
    assert re.match(r"gradients: norm (inf|nan), in optimiser step 2 at the clips 4, 5, 6, 7; ", said)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("lr", [100.0, 1e6])
@pytest.mark.parametrize("good", [0, 3])
def test_a_learning_rate_that_is_far_too_high(tmp_path, lr, good):
    """After some good steps or none; the checkpoints that follow are of finite weights too, but no good."""
    model = stage()
    fit = trainer(tmp_path, max_steps=200, callbacks=[every_step(tmp_path)])

    def speed(batch, index):
        for group in fit.optimizers[0].param_groups:
            group["lr"] = lr if fit.global_step >= good else 1e-3

    model.on_train_batch_start = speed
    said = stopped(fit, model, RandomEncodings())
    assert re.match(r"(loss: .*, has risen from|loss: (nan|inf)|gradients: norm nan)", said)
    assert re.search(rf", in optimiser step {good + 2} at the clips (\d+, ){{3}}\d+; ", said)
    assert said.endswith("; use a lower lr, or see what is special about these clips")
    last = f"the last good checkpoint is {str(tmp_path / f'step={good}.ckpt')!r}" if good else "there is no good"
    assert last in said


@pytest.mark.parametrize(
    ("factors", "stops"),
    [
        ([1, 1, 1, 60, 60, 60, 60, 60], None),
        ([1, 1, 1, 1, 1, 1, 5000, 1], 7),
        ([1, 1, 1, 1e-6, 1e-6, 1e-6, 0.1, 0.1], None),  # a leap, but still better than at first
        ([1, 1, 1, 1e-6, 1e-6, 1e-6, 5, 5], 7),
    ],
)
def test_a_rise_to_a_hundred_times_the_lowest_and_above_the_first_stops(tmp_path, monkeypatch, factors, stops):
    monkeypatch.setattr(guard, "WINDOW", 2)
    model, fit = stage(lr=0.0), trainer(tmp_path, max_steps=8, num_sanity_val_steps=0)
    weigh(model, factors)
    if stops:
        assert f"in optimiser step {stops} at the clips 0, 1, 2, 3;" in stopped(fit, model, RandomEncodings())
    else:
        fit.fit(model, datamodule=RandomEncodings())
        assert fit.global_step == 8


def test_checkpoints_of_a_loss_on_the_rise_are_not_good(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "WINDOW", 2)
    model, fit = stage(lr=0.0), trainer(tmp_path, max_steps=8, callbacks=[every_step(tmp_path)])
    weigh(model, [1, 1, 1, 40, 60, 5000, 1, 1])
    said = stopped(fit, model, RandomEncodings())
    assert (tmp_path / "step=5.ckpt").is_file()
    assert (
        f"in optimiser step 6 at the clips 8, 9, 10, 11; the last good checkpoint is {str(tmp_path / 'step=2.ckpt')!r}"
        in said
    )


def weigh(model, factors):
    """The loss of every step at will, by its weights."""

    def on_train_batch_start(batch, index):
        model.weights = LossWeights(*[factors[model.global_step]] * 3)

    model.on_train_batch_start = on_train_batch_start


def test_a_gradient_scaler_deals_with_overflow_itself(tmp_path):
    """Its scale doubles at every step until gradients overflow; the loss counts as the stage gave it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=1)
    fit = trainer(tmp_path, max_steps=24, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], limit_val_batches=0)
    fit.fit(stage(), datamodule=RandomEncodings())
    assert 1000 < scaler.get_scale() < 2.0**24  # some steps were skipped
    model = stage()
    assert "loss: nan, in" in stopped(trainer(tmp_path, plugins=[MixedPrecision("16-mixed", "cpu")]), model, spoiled())


def test_a_checkpoint_whose_weights_are_not_finite_is_passed_over(tmp_path):
    callback = every_step(tmp_path)
    fit = trainer(tmp_path, callbacks=[callback])
    fit.fit(stage(), datamodule=RandomEncodings())
    first, second, third = (tmp_path / f"step={step}.ckpt" for step in (1, 2, 3))
    assert last_good_checkpoint(fit, 0, good=3) == third
    assert last_good_checkpoint(fit, 0, good=2) == second
    state = torch.load(second, weights_only=True)
    state["state_dict"]["network.token_mean"][0] = torch.nan
    torch.save(state, second)
    third.write_bytes(third.read_bytes()[:1000])  # cut short
    assert last_good_checkpoint(fit, 0, good=3) == first
    os.utime(first, (1, 1))
    assert last_good_checkpoint(fit, 2, good=3) is None  # an older run's


def test_the_checkpoint_that_it_was_resumed_from_is_good(tmp_path):
    trainer(tmp_path / "a", max_steps=1, callbacks=[every_step(tmp_path / "a")]).fit(
        stage(), datamodule=RandomEncodings()
    )
    fit = trainer(tmp_path / "b", max_steps=9)
    said = stopped(fit, stage(), spoiled(), ckpt_path=tmp_path / "a" / "step=1.ckpt")
    assert " at the clips 4, 5, 6, 7, of which 6 hold " in said
    assert f"last good checkpoint is {str(tmp_path / 'a' / 'step=1.ckpt')!r};" in said


def test_many_clips_are_shortened():
    assert shortened(["a", "b"]) == "a, b"
    assert shortened([str(i) for i in range(64)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 56 more"


def test_the_command_line_says_it_in_one_line_and_exits_with_2(tmp_path, capsys):
    batch = spoiled(slice(None)).batch(list(range(12)))
    cache = write_cache(tmp_path / "cache", batch=batch)
    assert main(["fit", *packaged(cache, tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: loss: nan, in optimiser step 1 at the clips \d+, \d+, of which \d+, \d+ hold values", said)
    assert said.endswith("; there is no good checkpoint; encode those anew, or leave them out")
