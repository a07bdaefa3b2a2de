"""``weights: random``: in the type and on the device asked for, the same every time, and through both stages."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from test_bfloat16 import PAIR, SMALL, trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.backbones.wan_random import random_pipeline
from transporter_pl.cli import main
from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.datamodules.encode import encode_videos
from transporter_pl.datamodules.shapemotion.files import write_clips
from transporter_pl.datamodules.vatex import VatexClips
from transporter_pl.errors import TransporterError
from transporter_pl.explain.explainer import Explainer
from transporter_pl.loading import BackboneSpec, load_generator, load_pair, load_vlm
from transporter_pl.origin import weights_fingerprint
from transporter_pl.stages.concept import ConceptStage
from transporter_pl.stages.coupling import CouplingStage


@pytest.fixture(scope="module")
def drawn(tiny):
    specs = (replace(spec, weights="random", dtype="bfloat16") for spec in (tiny.generator, tiny.vlm))
    return replace(tiny, **dict(zip(("generator", "vlm"), specs, strict=True)))


class Largest(TorchDispatchMode):
    """The largest float32 tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.dtype == torch.float32]
        self.numel = max([self.numel, *(t.numel() for t in made)])
        return result


def test_weights_are_those_of_the_loaded_model_in_type_and_shape(drawn, tiny):
    loaded = load_pair(*(replace(spec, dtype="bfloat16") for spec in (tiny.generator, tiny.vlm)), tiny.video)
    for random, real in zip(load_pair(drawn.generator, drawn.vlm, drawn.video), loaded, strict=True):
        mine, own = ({n: (p.shape, p.dtype) for n, p in m.named_parameters()} for m in (random, real))
        assert mine == own
        assert all(p.isfinite().all() and not p.requires_grad for p in random.parameters())
        assert not any(module.training for module in random.modules())


def test_they_are_the_same_every_time_and_leave_the_users_draws_alone(drawn):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (load_generator(drawn.generator, drawn.video) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_default_dtype() == torch.float32
    assert weights_fingerprint(first) == weights_fingerprint(second)


def test_no_copy_in_another_type_is_made_on_the_way(drawn):
    with Largest() as seen:
        load_vlm(drawn.vlm, drawn.video)
    assert seen.numel < 4096  # rotary frequencies, not matrices


def test_they_are_drawn_on_the_device_asked_for(drawn):
    assert load_vlm(drawn.vlm, drawn.video, "meta").device.type == "meta"


def test_a_pipeline_without_a_tokenizer_reads_bytes(drawn, tmp_path):
    folder = shutil.copytree(drawn.generator.path, tmp_path / "wan", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "tokenizer" / "tokenizer.json").unlink()
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 300}))  # as many as there are bytes
    condition = load_generator(replace(drawn.generator, path=str(folder)), drawn.video).encode_text(["a ball", "b"])
    assert condition.shape == (2, 12, 16)
    assert condition[1, 2:].eq(0).all()  # "b", the end, and nothing
    assert random_pipeline(str(folder), torch.float32).tokenizer("b")["input_ids"][-1] == 1


def test_both_stages_and_explain_run(drawn, tmp_path):
    write_clips(tmp_path / "clips", 4, drawn.video)
    clips = VatexClips(tmp_path / "clips", tmp_path / "clips" / "annotations.json", drawn.video, "first")
    encode_videos(clips, drawn.generator, drawn.vlm, tmp_path / "cache", device="cpu")
    data = CacheDataModule(str(tmp_path / "cache"), batch_size=2, val_fraction=0.5)
    fitted = trainer(tmp_path, max_steps=2, precision="bf16-mixed")
    fitted.fit(CouplingStage(data.shapes, network=SMALL), datamodule=data)
    assert fitted.callback_metrics["val/total"].isfinite()
    models = drawn.generator, drawn.vlm, drawn.video, str(tmp_path / "coupling")
    counts = {"sampling_steps": 2, "steps": 2, "batch_size": 2}
    trainer(tmp_path, max_epochs=-1).fit(ConceptStage(*models, [PAIR], **counts))
    assert ConceptBank.from_pretrained(tmp_path / "concepts")["left:right"].vector.isfinite().all()
    parts = drawn.generator, drawn.vlm, tmp_path / "coupling", tmp_path / "concepts", drawn.video
    found = Explainer.from_pretrained(*parts).explain("a red oval moves left slowly", "left:right", (0.0, 1.0), steps=2)
    assert found.video.isfinite().all()
    assert found.coupled.divergence.isfinite().all()


def test_the_command_line_takes_it(drawn, tmp_path, capsys):
    write_clips(tmp_path / "clips", 2, drawn.video)
    specs = {"generator": drawn.generator, "vlm": drawn.vlm}
    given = [f"--{kind}.{name}={value}" for kind, spec in specs.items() for name, value in vars(spec).items()]
    data = ["--data", "vatex", "--data.root", str(tmp_path / "clips")]
    data += ["--data.annotations", str(tmp_path / "clips" / "annotations.json")]
    data += [f"--data.video.{name}={value}" for name, value in vars(drawn.video).items()]
    assert main(["encode", *data, *given, "--out", str(tmp_path / "cache"), "--device", "cpu"]) == 0
    assert "random" in (tmp_path / "cache" / "cache.json").read_text()


def test_other_weights_and_adapters_without_them_are_refused(drawn):
    with pytest.raises(TransporterError, match="weights: 'new' is unknown; use pretrained or random"):
        BackboneSpec("wan", "x", weights="new")
    for port in (GeneratorAdapter, VLMAdapter):
        with pytest.raises(TransporterError, match=f"weights: {port.__name__} draws no random ones"):
            port.from_config("x", drawn.video)
