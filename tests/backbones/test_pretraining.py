"""The recipes, from the command line over their shipped configs, at their smallest."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan

from transporter_pl.adapters import vlms
from transporter_pl.backbones.pretraining.anchor import BlockPCA
from transporter_pl.backbones.pretraining.generator import GeneratorPretraining
from transporter_pl.backbones.pretraining.schedule import warm_hold_decay
from transporter_pl.backbones.pretraining.small_vlms import PATCHES
from transporter_pl.backbones.pretraining.vae import VAEPretraining
from transporter_pl.backbones.pretraining.vlm import VLMPretraining
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.cli import main
from transporter_pl.commands.arguments import PACKAGED, packaged_configs
from transporter_pl.datamodules.shapemotion.world import render, sample_scene
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec
from transporter_pl.testing import check_generator, check_vlm

VIDEO = VideoSpec(frames=9, height=64, width=64, fps=8)
BRIEF = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.batch_size", "2"]


SMALL = ["--model.layers", "1", "--model.head_dim", "24", "--model.batch", "2", "--model.buffer", "8"]
SHIPPED = Path("runs", "shapemotion")  # where the configs put everything


def fit(recipe, *options):
    """Train for two steps with the shipped config; its paths lie under the working directory."""
    small = [*BRIEF, *QUIET, *small_callbacks(recipe)]
    return main(["fit", "--config", f"shapemotion/pretrain_{recipe}.yaml", *small, *options])


def small_callbacks(recipe):
    """The config's own, but that checkpoints come every step and two clips are read."""
    config = yaml.safe_load((PACKAGED / "shapemotion" / f"pretrain_{recipe}.yaml").read_text())
    callbacks = config["trainer"]["callbacks"]
    for callback in callbacks:
        options = callback.setdefault("init_args", {})
        if "every_n_train_steps" in options:
            options["every_n_train_steps"] = 1
        if ".shapemotion." in callback["class_path"]:
            options["clips"] = 2
    return ["--trainer.callbacks", json.dumps(callbacks)]


def checkpoint(folder):
    """The training checkpoint of a run."""
    (found,) = folder.rglob("last.ckpt")
    return found


def weights(folder):
    return AutoencoderKLWan.from_pretrained(folder).state_dict()


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Folder in which the three recipes of shapemotion-wan ran one after the other, with the paths of their configs."""
    folder = tmp_path_factory.mktemp("chain")
    with chdir(folder):
        assert fit("vae", "--model.base_dim", "8") == 0
        assert fit("generator", *SMALL) == 0
        shutil.copytree(SHIPPED / "shapemotion-wan" / "vae", "before")
        assert fit("decoder") == 0
    return folder


@pytest.fixture
def here(chain, monkeypatch):
    monkeypatch.chdir(chain)


@pytest.mark.usefixtures("here")
class TestChain:
    """VAE, generator, decoder."""

    def test_makes_a_pipeline_folder(self):
        adapter = WanAdapter.from_pretrained(SHIPPED / "shapemotion-wan", VIDEO)
        assert adapter.guidance_scale == 2
        assert check_generator(adapter) == []
        # the exported VAE's statistics are those of its own latents
        clips = render(sample_scene(32, torch.Generator().manual_seed(0)), 9, 64, torch.Generator().manual_seed(1))
        latents = adapter.encode(clips)
        torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(24), atol=0.3, rtol=0)

    def test_generator_recipe_leaves_the_vae_as_it_is(self):
        own, given = weights("before"), weights(SHIPPED / "vae")
        assert all(torch.equal(weight, own[name]) for name, weight in given.items())

    def test_decoder_recipe_sharpens_the_pipelines_decoder_and_nothing_else(self):
        before, after = weights("before"), weights(SHIPPED / "shapemotion-wan" / "vae")
        changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
        assert {name.partition(".")[0] for name in changed} == {"decoder", "post_quant_conv"}
        assert Path("before/config.json").read_text() == (SHIPPED / "shapemotion-wan/vae/config.json").read_text()

    def test_no_config_names_a_folder_of_this_machine(self, chain):
        texts = [path.read_text() for path in (SHIPPED / "shapemotion-wan").rglob("*.json")]
        assert not [text for text in texts if str(chain) in text or str(SHIPPED) in text]

    def test_a_vaes_folder_holds_a_vae_alone(self):
        names = {path.name for path in (SHIPPED / "vae").iterdir()}
        assert names == {"config.json", "diffusion_pytorch_model.safetensors"}
        assert not list(SHIPPED.rglob(".*"))

    @pytest.mark.parametrize(
        ("recipe", "trained"),
        [
            ("vae", {"vae.encoder", "vae.quant_conv", "vae.post_quant_conv", "vae.decoder", "anchor"}),
            ("generator", {"adapter.transformer", "adapter.text_encoder"}),
            ("decoder", {"vae.post_quant_conv", "vae.decoder"}),
        ],
    )
    def test_checkpoints_hold_what_trains_and_nothing_else(self, recipe, trained):
        held = torch.load(checkpoint(SHIPPED / f"pretrain_{recipe}"), weights_only=True)
        states = [held[name] for name in ("state_dict", "current_model_state") if name in held]
        assert len(states) == (2 if recipe == "generator" else 1)
        for state in states:
            parts = {".".join(name.split(".")[: 1 if name.startswith("anchor") else 2]) for name in state}
            assert parts == trained

    def test_a_checkpoint_loads_beside_its_vae(self):
        path = checkpoint(SHIPPED / "pretrain_generator")
        again = GeneratorPretraining.load_from_checkpoint(path, video=VIDEO, weights_only=True)
        found, held = again.state_dict(), torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.equal(found[name], weight) for name, weight in held.items())
        codec = {f"adapter.vae.{name}": weight for name, weight in weights(SHIPPED / "vae").items()}
        assert found.keys() == held.keys() | codec.keys()
        assert all(torch.equal(found[name], weight) for name, weight in codec.items())

    @pytest.mark.parametrize(("recipe", "options"), [("generator", SMALL), ("decoder", [])])
    def test_a_resumed_run_goes_on(self, recipe, options, tmp_path):
        begun = checkpoint(SHIPPED / f"pretrain_{recipe}")
        paths = ["--model.export", str(tmp_path / "out"), "--trainer.default_root_dir", str(tmp_path)]
        more = ["--trainer.max_steps", "3", "--trainer.val_check_interval", "1", "--ckpt_path", str(begun)]
        assert fit(recipe, *options, *paths, *more) == 0
        first, second = (torch.load(path, weights_only=True) for path in (begun, checkpoint(tmp_path)))
        assert (first["global_step"], second["global_step"]) == (2, 3)
        assert first["state_dict"].keys() == second["state_dict"].keys()
        # one more step, not a new start
        name = next(name for name in first["state_dict"] if name.endswith("weight"))
        assert 0 < (first["state_dict"][name] - second["state_dict"][name]).abs().max() < 0.01


@pytest.mark.parametrize(("recipe", "field"), [("generator", "vae"), ("decoder", "init")])
def test_a_missing_vae_is_one_clear_error(recipe, field, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fit(recipe) == 2
    folder = "runs/shapemotion/vae" if recipe == "generator" else "runs/shapemotion/shapemotion-wan/vae"
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {field}: no VAE in {folder!r}; `transporter fit --config shapemotion/pretrain_vae.")


def test_an_export_that_fails_leaves_the_vae_as_it_was(tmp_path, monkeypatch):
    vae = tmp_path / "wan" / "vae"
    vae.mkdir(parents=True)
    old = {"config.json": "old", "diffusion_pytorch_model.safetensors": "old"}
    for name, text in old.items():
        (vae / name).write_text(text)

    def full(*_, **__):
        msg = "no space left on device"
        raise OSError(msg)

    recipe = VAEPretraining(str(vae), base_dim=8, decoder_only=True)
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        recipe.on_fit_end()
    assert {path.name: path.read_text() for path in (tmp_path / "wan").rglob("*") if path.is_file()} == old


def test_objects_and_their_rim_weigh_alike():
    """Otherwise too large an object costs less than too small a one."""
    recipe = VAEPretraining("unused", base_dim=8)
    video = torch.full((1, 3, 5, 64, 64), -0.5)
    video[..., 20:30, 20:30] = 1
    weight = recipe._weight(video)[0, 0]
    assert (weight[:, 17:33, 17:33] == 5).all()
    assert weight.sum() == 5 * (64 * 64 + 4 * 16 * 16)


NARROW = ["--model.text_layers", "1", "--model.text_dim", "32", "--model.vision_dim", "32"]


def test_vlm_recipes_make_a_model_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit("vlm", *NARROW) == 0
    assert fit("vlm_fine", *NARROW) == 0
    adapter = VideoLlama3Adapter.from_pretrained(SHIPPED / "shapemotion-videollama3", VIDEO)
    assert adapter.token_shape == (9 * 4, 32)
    assert check_vlm(adapter) == []


def test_a_vlm_with_a_planted_error_goes_on_from_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit("vlm_exchanged") == 0
    adapter = VideoLlama3Adapter.from_pretrained(SHIPPED / "shapemotion-videollama3-exchanged", VIDEO)
    shipped = VideoLlama3Adapter.from_pretrained("shapemotion-videollama3", VIDEO)
    assert adapter.token_shape == shipped.token_shape
    assert adapter.token_ids("left right") == shipped.token_ids("left right")


@pytest.mark.parametrize(("name", "registered", "tokens"), [("gemma3", "gemma3", 4), ("phi4mm", "phi4_multimodal", 13)])
def test_other_vlms_begin_with_a_trained_vision_encoder(name, registered, tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in (name, f"{name}_fine"):
        if f"shapemotion/pretrain_{part}.yaml" in packaged_configs():
            assert fit(part, "--model.text_layers", "1", "--model.text_dim", "32") == 0
    adapter = vlms.get(registered).from_pretrained(SHIPPED / f"shapemotion-{name}", VIDEO)
    assert adapter.token_shape == (9 * tokens, 32)
    assert check_vlm(adapter) == []


@pytest.mark.parametrize("kind", ["gemma3", "phi4_multimodal"])
def test_a_vision_encoder_is_taken_whole(kind):
    model = VLMPretraining("unused", VIDEO, kind, vision="shapemotion-videollama3").adapter.model
    theirs = VideoLlama3Adapter.from_pretrained("shapemotion-videollama3", VIDEO).model.model.vision_model.state_dict()
    ours = model.state_dict()
    for name, weight in theirs.items():
        (found,) = [w for n, w in ours.items() if n.endswith(f".{name}") and ("vision" in n or "img_processor" in n)]
        torch.testing.assert_close(found, weight, atol=0, rtol=0)


def test_a_vision_encoder_of_another_width_is_refused():
    with pytest.raises(TransporterError, match=r"vision: 'shapemotion-videollama3' has .* of shape .*, this model"):
        VLMPretraining("unused", VIDEO, "gemma3", vision_dim=32, vision="shapemotion-videollama3")


def test_a_vision_encoder_of_fewer_layers_is_refused():
    with pytest.raises(TransporterError, match=r"vision: .* has encoder\.layers\.3\..* of shape none, this model"):
        VLMPretraining("unused", VIDEO, "gemma3", vision_layers=4, vision="shapemotion-videollama3")


@pytest.mark.parametrize("kind", ["gemma3", "phi4_multimodal"])
def test_other_vlms_go_on_from_themselves(kind, tmp_path):
    sizes = {"vision_dim": 32, "text_dim": 32, "text_layers": 1, "vision_layers": 1}
    first = VLMPretraining("unused", VIDEO, kind, **sizes)
    first.adapter.save(tmp_path)
    again = VLMPretraining("unused", VIDEO, kind, init=str(tmp_path), **sizes)
    for name, weight in first.adapter.model.state_dict().items():
        torch.testing.assert_close(again.adapter.model.state_dict()[name], weight)
    with pytest.raises(TransporterError, match=r"init: .* this model"):
        VLMPretraining("unused", VIDEO, kind, init=str(tmp_path), **{**sizes, "text_dim": 64})


def test_a_fine_vlm_without_the_coarse_one_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fit("vlm_fine", *NARROW) == 2
    assert capsys.readouterr().err.startswith("error: path: can't load 'runs/shapemotion/coarse_vlm'")


def test_finer_patches_answer_alike_to_an_even_frame(tmp_path):
    """All of the coarse model is kept; a patch of one colour looks the same at either side."""
    sizes = {"vision_dim": 32, "text_dim": 32, "text_layers": 1}
    coarse = VLMPretraining("unused", VIDEO, patch=32, merge=1, **sizes)
    coarse.adapter.save(tmp_path)
    fine = VLMPretraining("unused", VIDEO, patch=16, merge=1, init=str(tmp_path), **sizes)
    for name, weight in coarse.adapter.model.state_dict().items():
        if not name.endswith(PATCHES):
            torch.testing.assert_close(fine.adapter.model.state_dict()[name], weight)
    embed = [m.adapter.model.model.vision_model.embeddings.patch_embedding for m in (coarse, fine)]
    colour = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None]
    answers = [layer(colour.expand(1, 3, *layer.kernel_size)) for layer in embed]
    torch.testing.assert_close(*answers, atol=1e-4, rtol=1e-4)


def test_a_callback_in_another_recipes_config_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fit("vae", "--model.base_dim", "8", *small_callbacks("vlm")) == 2
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
