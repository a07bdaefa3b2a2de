import shutil
from dataclasses import replace
from types import SimpleNamespace

import lightning as L  # noqa: N812
import pytest
import torch
from torch.utils.data import DataLoader

from transporter_pl.adapters import GeneratorAdapter
from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.objectives import velocity_objective
from transporter_pl.concepts.pairs import Pair
from transporter_pl.concepts.points import Points
from transporter_pl.errors import TransporterError
from transporter_pl.explain.explainer import Explainer
from transporter_pl.loading import load_generator
from transporter_pl.samples import Encoded, Origin, VideoSpec
from transporter_pl.stages.concept import ConceptStage

PAIRS = [
    Pair("left", "right", ("a red oval moves {} slowly", "a small blue oval moves {}")),
    Pair("red", "blue", ("a {} oval moves left",)),
]


@pytest.fixture
def arguments(tiny, tiny_coupling, tmp_path):
    return {
        "generator": tiny.generator,
        "vlm": tiny.vlm,
        "video": tiny.video,
        "coupling": tiny_coupling,
        "pairs": PAIRS,
        "export": str(tmp_path / "bank"),
        "sampling_steps": 4,
        "steps": 3,
        "batch_size": 4,
        "calibration_seeds": 0,
    }


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, max_epochs=-1, **{**quiet, **options})


class Clips(L.LightningDataModule):
    """Two encoded clips, over and over."""

    def __init__(self, latent_shape, origin):
        super().__init__()
        self.origin = origin
        latents = torch.randn(2, *latent_shape, generator=torch.Generator().manual_seed(0))
        captions = ("a red oval moves left", "a blue oval moves right")
        self.batch = Encoded(("0", "1"), captions, latents, latents, latents, latents)

    def train_dataloader(self):
        return DataLoader([self.batch], batch_size=None)


def test_training_explains_the_change_and_exports(arguments, tiny, tiny_coupling, tmp_path):
    L.seed_everything(0)
    stage = ConceptStage(**{**arguments, "steps": 120, "lr": 0.03, "init": "zeros", "batch_size": 8})
    trainer(tmp_path).fit(stage)
    assert stage.global_step == 120
    bank = ConceptBank.from_pretrained(tmp_path / "bank", tiny.generator.path, tiny.vlm.path)
    assert [c.pair for c in bank.entries] == PAIRS
    for concept in bank.entries:
        assert concept.vector.shape == (12, 16)
        assert concept.explained > 0.8
        assert 0 < concept.divergence <= 1
        assert concept.prompt == "Describe the video."
        assert (concept.steps, concept.objective) == (120, "velocity, φ uniform")
    Explainer.from_pretrained(tiny.generator, tiny.vlm, tiny_coupling, tmp_path / "bank", tiny.video)


@pytest.mark.parametrize(
    "options",
    [
        {"phi": "divergence", "divergence": "js", "init": "difference"},
        {"shape": "vector", "seeds": 2, "noise_seeds": 2, "guidance": 1.0},
        {"shape": "vector", "init": "difference", "lr": 1e-4, "lr_unit": "absolute", "prompt": "Describe"},
    ],
)
def test_options(arguments, tmp_path, options):
    stage = ConceptStage(**{**arguments, **options})
    trainer(tmp_path, enable_checkpointing=False).fit(stage)
    bank = ConceptBank.from_pretrained(tmp_path / "bank")
    expected = (16,) if options.get("shape") == "vector" else (12, 16)
    assert all(c.vector.shape == expected and c.vector.isfinite().all() for c in bank.entries)
    assert all(c.divergence > 0 for c in bank.entries)
    # both ends, every context: 4 times x 2 ends x seeds x noises
    assert [len(places) for places in stage.places] == [
        n * 8 * options.get("seeds", 1) * options.get("noise_seeds", 1) for n in (2, 1)
    ]


def test_difference_starts_at_the_minimum_of_one(arguments, tmp_path):
    stage = ConceptStage(**{**arguments, "init": "difference", "pairs": PAIRS[1:]})
    trainer(tmp_path, enable_checkpointing=False, limit_train_batches=0).fit(stage)
    assert not (tmp_path / "bank").exists()
    negative, positive = (stage.teacher.condition(torch.tensor([0]), end)[0] for end in (0, 1))
    torch.testing.assert_close(stage.vectors[0].detach(), positive - negative)


def test_data_trajectories(arguments, tiny, tmp_path):
    origin = Origin("moved/to/wan", "another/vlm", tiny.video)  # the VLM has no part in the latents
    clips = Clips(load_generator(tiny.generator, tiny.video).latent_shape, origin)
    stage = ConceptStage(**{**arguments, "trajectory": "data", "pairs": [Pair("left", "right")], "noise_seeds": 2})
    trainer(tmp_path, enable_checkpointing=False).fit(stage, datamodule=clips)
    assert stage.global_step == 3
    (places,) = stage.places
    assert len(places) == 2 * 2 * 4
    assert (stage.teacher.trajectories.t < 0.3).any()
    assert (tmp_path / "bank/concepts.json").is_file()
    with pytest.raises(TransporterError, match="'data' needs clips"):
        trainer(tmp_path).fit(ConceptStage(**{**arguments, "trajectory": "data"}))


def test_latents_in_half_precision_are_not_rounded_again(arguments, tiny, tmp_path):
    origin, drawn = Origin("moved/to/wan", "another/vlm", tiny.video), []
    for convert in (torch.Tensor.bfloat16, lambda latents: latents.bfloat16().float()):
        clips = Clips(load_generator(tiny.generator, tiny.video).latent_shape, origin)
        clips.batch = replace(clips.batch, latents=convert(clips.batch.latents))
        stage = ConceptStage(**{**arguments, "trajectory": "data", "pairs": [Pair("left", "right")], "steps": 1})
        trainer(tmp_path, enable_checkpointing=False).fit(stage, datamodule=clips)
        drawn.append(stage.teacher.trajectories.latents)
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (Origin("Wan-AI/Wan2.1", "vlm", VideoSpec(5, 32, 32)), r"generator: .* made with Wan2\.1, not wan; use that"),
        (Origin("x/wan", "vlm", VideoSpec(5, 32, 32, 4)), "video: .* at 4 fps, not .* at 8 fps; use that, or encode"),
        (Origin("x/wan", "vlm", VideoSpec(9, 32, 32)), "video: .* with 9 frames .*, not 5 frames"),
        (None, "data: Clips does not say which generator"),
    ],
)
def test_latents_of_something_else_are_refused(arguments, tmp_path, origin, message):
    stage = ConceptStage(**{**arguments, "trajectory": "data", "pairs": [Pair("left", "right")]})
    with pytest.raises(TransporterError, match=message):
        trainer(tmp_path).fit(stage, datamodule=Clips((4, 2, 2, 2), origin))


def test_a_vlm_is_refused_before_the_generator_is_loaded(arguments, tiny, tmp_path):
    bare = shutil.copytree(tiny.generator.path, tmp_path / "wan", ignore=shutil.ignore_patterns("*.safetensors"))
    models = {"generator": replace(tiny.generator, path=str(bare)), "vlm": replace(tiny.vlm, path="/none")}
    with pytest.raises(TransporterError, match="/none"):
        trainer(tmp_path).fit(ConceptStage(**{**arguments, **models}))


def test_a_checkpoint_holds_the_vectors_alone(arguments, tmp_path):
    stage = ConceptStage(**arguments)
    fitted = trainer(tmp_path, enable_checkpointing=True)
    fitted.fit(stage)
    path = tmp_path / "stage.ckpt"
    fitted.save_checkpoint(path)
    assert list(torch.load(path, weights_only=True)["state_dict"]) == ["vectors"]
    assert path.stat().st_size < 50_000
    again = ConceptStage.load_from_checkpoint(path, weights_only=True)
    assert torch.equal(again.vectors, stage.vectors)
    assert again.pairs == PAIRS
    # and goes on where it stopped
    longer = ConceptStage(**{**arguments, "steps": 5})
    trainer(tmp_path).fit(longer, ckpt_path=path)
    assert longer.global_step == 5


def test_the_same_seed_gives_the_same_vectors(arguments, tmp_path):
    vectors = []
    for _ in range(2):
        stage = ConceptStage(**arguments)
        trainer(tmp_path, enable_checkpointing=False).fit(stage)
        vectors.append(stage.vectors.detach())
    assert torch.equal(*vectors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": []}, "pairs: none"),
        ({"steps": 1, "batch_size": 1}, "steps: 1 points in all for 2 pairs; raise steps"),
        ({"objective": "velociti"}, "Did you mean 'velocity'"),
        ({"objective": "transporter_pl.concepts.pairs.Pair"}, "is no Objective"),
        ({"objective_options": {"pull": 1.0}}, "objective_options: 'velocity' has no option 'pull'; it has: none"),
        ({"steps": 0}, "steps: 0 is too small"),
        ({"guidance": 0.5}, "guidance: 0.5 is too small"),
        ({"shape": "matrix"}, "shape: unknown choice 'matrix'; choose sequence or vector"),
        ({"divergence": "helinger"}, "Did you mean 'hellinger'"),
    ],
)
def test_bad_options(arguments, change, message):
    with pytest.raises(TransporterError, match=message):
        ConceptStage(**{**arguments, **change})


@pytest.mark.parametrize(
    ("pair", "message"),
    [(Pair("left", "right"), "'left:right' has none"), (Pair("left", "zebra", ("moves {}",)), "does not know 'zebra'")],
)
def test_bad_pairs_are_refused_before_training(arguments, tmp_path, pair, message):
    with pytest.raises(TransporterError, match=message):
        trainer(tmp_path).fit(ConceptStage(**{**arguments, "pairs": [pair]}))


def test_command_line(arguments, tmp_path):
    from transporter_pl.cli import main

    overlay = tmp_path / "tiny.yaml"
    generator, vlm, video = (vars(arguments[name]) for name in ("generator", "vlm", "video"))
    lines = [
        "trainer: {accelerator: cpu, logger: false, enable_progress_bar: false}",
        "model:",
        "  class_path: transporter_pl.stages.concept.ConceptStage",
        "  init_args:",
        *(f"    {name}: {value}" for name, value in (("generator", generator), ("vlm", vlm), ("video", video))),
        f"    coupling: {arguments['coupling']}",
        "    pairs: [{negative: left, positive: right, contexts: ['a red oval moves {} slowly']}]",
        f"    export: {arguments['export']}",
        "    steps: 2",
    ]
    overlay.write_text("\n".join(lines))
    options = [f"--trainer.default_root_dir={tmp_path}", "--model.sampling_steps=2"]
    assert main(["fit", "--config", "configs/concept/base.yaml", "--config", str(overlay), *options]) == 0
    assert ConceptBank.from_pretrained(arguments["export"])["left:right"].steps == 2
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    again = ConceptStage.load_from_checkpoint(checkpoint, weights_only=True)
    assert again.pairs == [Pair("left", "right", ("a red oval moves {} slowly",))]


class Linear(GeneratorAdapter):
    """v = A z + t B ε: Δv is the same everywhere, so q = ε+ − ε− is the exact minimiser for every φ."""

    latent_shape, condition_shape, guidance_scale = (2, 1, 1, 1), (3, 2), 1.0
    from_pretrained = shapes_of = save = encode = decode = encode_text = schedule = None

    def __init__(self):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.a, self.b = torch.randn(2, 2, generator=draws), torch.randn(2, 6, generator=draws)

    def velocity(self, latents, condition, t):
        moved = latents.flatten(1) @ self.a.T + t[:, None] * (condition.flatten(1) @ self.b.T)
        return moved.view_as(latents)


def test_objective_in_closed_form():
    generator, phi, t = Linear(), torch.rand(7), torch.rand(7)
    latents = torch.randn(7, 2, 1, 1, 1)
    negative, positive, q = torch.randn(3, 7, 3, 2)
    v, w = (generator.velocity(latents, e, t) for e in (negative, positive))
    rows = torch.zeros(7, dtype=torch.long)
    points = Points(latents, t, rows, rows, v, w - v)
    loss, start = velocity_objective(generator, points, negative, positive - negative, phi)
    assert loss.max() < 1e-10
    loss, _ = velocity_objective(generator, points, negative, q, phi)
    gap = (phi * t)[:, None] * ((positive - negative - q).flatten(1) @ generator.b.T)
    torch.testing.assert_close(loss, gap.square().mean(1), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(start, (phi[:, None] * (w - v).flatten(1)).square().mean(1))


def test_what_the_concepts_do_is_measured_after_the_training(arguments, tmp_path, capsys):
    stage = ConceptStage(**{**arguments, "calibration_seeds": 2})
    trainer(tmp_path, enable_checkpointing=False).fit(stage)
    bank = ConceptBank.from_pretrained(tmp_path / "bank")
    explainer, said = Explainer(stage.teacher.bridge, bank), " ".join(capsys.readouterr().out.split())
    for concept in bank.entries:
        assert concept.calibration.sentence(concept.pair) in said
        again = explainer.calibrate(concept.pair, 2, steps=4)
        assert concept.calibration.coupled == pytest.approx(again.coupled, abs=1e-3)
        assert concept.calibration.phi == again.phi


def test_pairs_as_templates_and_more_pairs_than_points(arguments, tmp_path):
    pairs = [
        "a red oval moves {left|right}",
        "a {red|blue} oval",
        "a blue oval moves {left|right}",
        "a {small|large} oval",
    ]
    stage = ConceptStage(**{**arguments, "pairs": pairs, "batch_size": 1, "steps": 7})
    assert [pair.name for pair in stage.pairs] == ["left:right", "red:blue", "small:large"]
    assert len(stage.pairs[0].contexts) == 2
    trainer(tmp_path, enable_checkpointing=False).fit(stage)
    bank = ConceptBank.from_pretrained(tmp_path / "bank")
    for concept, start in zip(bank.entries, stage.teacher.difference(), strict=True):  # each had its turns
        assert concept.loss > 0
        assert not torch.allclose(concept.vector, start, atol=1e-4)


def test_a_guided_training_goes_on_where_it_stopped(arguments, tmp_path):
    guided = {**arguments, "objective": "vlm_guided", "objective_options": {"lr": 0.5}}
    stage, fitted = ConceptStage(**guided), trainer(tmp_path, enable_checkpointing=True)
    fitted.fit(stage)
    theta = stage.objective.theta.detach()
    fitted.save_checkpoint(tmp_path / "stage.ckpt")
    kept = torch.load(tmp_path / "stage.ckpt", weights_only=True)["state_dict"]
    assert set(kept) == {"vectors", "objective.theta"}
    story = ConceptBank.from_pretrained(tmp_path / "bank")["left:right"].objective
    assert story.startswith("vlm_guided, φ uniform, ")
    assert stage.objective.words[0][0] in story
    bare = ConceptStage.load_from_checkpoint(tmp_path / "stage.ckpt", weights_only=True)  # no backbone is loaded
    assert torch.equal(bare.vectors, stage.vectors)
    longer = ConceptStage(**{**guided, "steps": 4, "objective_options": {"lr": 0.0}})
    trainer(tmp_path).fit(longer, ckpt_path=tmp_path / "stage.ckpt")
    assert longer.global_step == 4
    known = theta.isfinite()
    torch.testing.assert_close(longer.objective.theta.detach()[known], theta[known], atol=0.6, rtol=0)


@pytest.mark.parametrize("objective", ["velocity", "vlm_guided"])
def test_a_resumed_training_is_the_uninterrupted_one(arguments, tmp_path, objective):
    learned = {"words": 3} if objective == "vlm_guided" else {}
    options = {**arguments, "objective": objective, "objective_options": learned, "steps": 5, "batch_size": 2}
    whole = ConceptStage(**options)
    trainer(tmp_path, enable_checkpointing=False).fit(whole)
    first, stopped = ConceptStage(**options), trainer(tmp_path, max_steps=3)
    stopped.fit(first)
    stopped.save_checkpoint(tmp_path / "stage.ckpt")
    rest = ConceptStage(**options)
    trainer(tmp_path).fit(rest, ckpt_path=tmp_path / "stage.ckpt")
    assert rest.global_step == 5
    assert torch.equal(rest.concepts(), whole.concepts())
    assert not torch.allclose(first.concepts(), whole.concepts(), atol=1e-4)
    assert all(c.loss > 0 for c in ConceptBank.from_pretrained(tmp_path / "bank").entries)


def test_trajectories_beyond_the_memory_are_refused(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(TransporterError, match=r"memory: the trajectories take .* GiB, .* give fewer contexts, seeds"):
        trainer(tmp_path).fit(ConceptStage(**arguments))


def test_a_rate_below_0_is_refused(arguments):
    with pytest.raises(TransporterError, match=r"lr: -0\.1 is no finite number from 0 on"):
        ConceptStage(**{**arguments, "lr": -0.1})


def test_another_stages_checkpoint_is_told(arguments):
    with pytest.raises(TransporterError, match="ckpt_path: no checkpoint of a training of concepts"):
        ConceptStage(**arguments).on_load_checkpoint({"state_dict": {"network.mixer": torch.zeros(1)}})
