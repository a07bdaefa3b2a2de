"""The recipes, from the command line over their shipped configs, at their smallest."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from transporter_pl.backbones.pretraining.anchor import BlockPCA
from transporter_pl.backbones.pretraining.schedule import warm_hold_decay
from transporter_pl.backbones.pretraining.vae import VAEPretraining
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.cli import main
from transporter_pl.datamodules.shapemotion.world import render, sample_scene
from transporter_pl.samples import VideoSpec
from transporter_pl.testing import check_generator, check_vlm

VIDEO = VideoSpec(frames=9, height=64, width=64, fps=8)
BRIEF = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.batch_size", "2"]


def fit(recipe, folder, *options):
    root = ["--trainer.default_root_dir", str(folder / recipe)]
    assert main(["fit", "--config", f"shapemotion/pretrain_{recipe}.yaml", *BRIEF, *QUIET, *root, *options]) == 0


def small_callbacks(name):
    path = f"transporter_pl.datamodules.shapemotion.callbacks.{name}"
    return ["--trainer.callbacks", f'[{{"class_path": "{path}", "init_args": {{"clips": 2}}}}]']


def test_vae_and_generator_recipes_make_a_pipeline_folder(tmp_path):
    vae, wan = str(tmp_path / "vae"), str(tmp_path / "wan")
    fit("vae", tmp_path, "--model.export", vae, "--model.base_dim", "8", *small_callbacks("ReadReconstructions"))
    small = ["--model.layers", "1", "--model.head_dim", "24", "--model.batch", "2"]
    fit("generator", tmp_path, "--model.vae", vae, "--model.export", wan, *small, *small_callbacks("ReadGenerations"))
    adapter = WanAdapter.from_pretrained(wan, VIDEO)
    assert adapter.guidance_scale == 3
    assert check_generator(adapter) == []
    # the exported VAE's statistics are those of its own latents
    clips = render(sample_scene(32, torch.Generator().manual_seed(0)), 9, 64, torch.Generator().manual_seed(1))
    latents = adapter.encode(clips)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(24), atol=0.3, rtol=0)


def test_decoder_recipe_leaves_latents_as_they_are(tmp_path):
    vae, sharp = str(tmp_path / "vae"), str(tmp_path / "sharp")
    callbacks = small_callbacks("ReadReconstructions")
    fit("vae", tmp_path, "--model.export", vae, "--model.base_dim", "8", *callbacks)
    fit("decoder", tmp_path, "--model.init", vae, "--model.export", sharp, *callbacks)
    before, after = (AutoencoderKLWan.from_pretrained(folder) for folder in (vae, sharp))
    assert before.config.latents_std == after.config.latents_std
    changed = {
        name for name, weight in before.state_dict().items() if not torch.equal(weight, after.state_dict()[name])
    }
    assert {name.partition(".")[0] for name in changed} == {"decoder", "post_quant_conv"}


def test_objects_and_their_rim_weigh_alike():
    """Otherwise too large an object costs less than too small a one."""
    recipe = VAEPretraining("unused", base_dim=8)
    video = torch.full((1, 3, 5, 64, 64), -0.5)
    video[..., 20:30, 20:30] = 1
    weight = recipe._weight(video)[0, 0]
    assert (weight[:, 17:33, 17:33] == 5).all()
    assert weight.sum() == 5 * (64 * 64 + 4 * 16 * 16)


def test_vlm_recipe_makes_a_model_folder(tmp_path):
    vlm = str(tmp_path / "vlm")
    small = ["--model.text_layers", "1", "--model.text_dim", "32", "--model.vision_dim", "32"]
    fit("vlm", tmp_path, "--model.export", vlm, *small, *small_callbacks("ReadCaptions"))
    adapter = VideoLlama3Adapter.from_pretrained(vlm, VIDEO)
    assert adapter.token_shape == (9 * 4, 32)
    assert check_vlm(adapter) == []


def test_a_callback_in_another_recipes_config_is_refused(tmp_path, capsys):
    options = ["--model.export", str(tmp_path / "vae"), "--model.base_dim", "8", *small_callbacks("ReadCaptions")]
    arguments = ["fit", "--config", "shapemotion/pretrain_vae.yaml", *BRIEF, *QUIET, *options]
    assert main([*arguments, "--trainer.default_root_dir", str(tmp_path)]) == 2
    assert "VAEPretraining has no VLMAdapter" in capsys.readouterr().err


def test_anchor_is_the_least_squares_codec_of_its_blocks():
    video = torch.rand(8, 3, 5, 16, 16, dtype=torch.float64)
    anchor = BlockPCA(4, 8).double().fit(video)
    latents = anchor.encode(video)
    assert latents.shape == (8, 4, 2, 2, 2)
    rows = anchor._blocks(video)[1].flatten(0, -2)
    exact = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:4]
    # the same subspace, whatever the signs
    torch.testing.assert_close(anchor.basis_rest.T.matmul(exact.T).matmul(exact), anchor.basis_rest.T, atol=0.2, rtol=0)


def test_anchor_gives_a_still_clip_alike_latents_in_every_frame():
    scene = sample_scene(64, torch.Generator().manual_seed(0))
    video = render(scene, 9, 32, torch.Generator().manual_seed(1)).transpose(1, 2) * 2 - 1
    anchor = BlockPCA(6, 16).fit(video)
    latents = anchor.encode(video[:, :, :1].expand(-1, -1, 9, -1, -1))
    likeness = torch.nn.functional.cosine_similarity(latents[:, 0, 0].flatten(), latents[:, 0, 1].flatten(), dim=0)
    assert likeness > 0.9


@pytest.mark.parametrize(("step", "factor"), [(0, 0.01), (99, 1.0), (500, 1.0), (750, 0.5), (1000, 0.02)])
def test_schedule_warms_up_holds_and_decays(step, factor):
    assert warm_hold_decay(1000, warmup=100, hold=0.5)(step) == pytest.approx(factor)
