"""What docs/extending/ shows works as it stands there: as a user's script, and as a package of its own."""

import importlib
import inspect
import math
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from caches import write_cache
from transformers import InternVLConfig, InternVLForConditionalGeneration

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter, generators, vlms
from transporter_pl.backbones.scratch import word_tokenizer
from transporter_pl.cli import main
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.cache.key import CacheKey
from transporter_pl.errors import TransporterError
from transporter_pl.explain.sampler import draw_noise, sample
from transporter_pl.loading import BackboneSpec, load_generator, load_pair, load_vlm
from transporter_pl.samples import Encoded, VideoSpec
from transporter_pl.testing import check_generator, check_transport, check_vlm
from transporter_pl.transport import PlanTransport, Transport, new_transport, transports
from transporter_pl.transport.solvers import Solver

PAGES = Path(__file__).parents[1] / "docs" / "extending"
VLM, GENERATOR, TRANSPORT = PAGES / "add-a-vlm.md", PAGES / "add-a-generator.md", PAGES / "transport.md"
VIDEO = VideoSpec(frames=5, height=32, width=32)
WORDS = ["a", "red", "oval", "moves", "left", "right", "Describe", "the", "video", "Frame", "user", "assistant"]


def block(page, language, holding=""):
    """The first block of a page in a language, with a text in it."""
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return next(text for text in found if holding in text)


def module_of(page):
    """Name and source of a page's example; its first line names the file."""
    source = block(page, "python", holding="class ")
    return re.match(r'"""(\w+)\.py: ', source)[1], source


def new_internvl():
    visual = {"start_image_token": "<img>", "end_image_token": "</img>"}
    visual |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    tokenizer = word_tokenizer(WORDS, 512, visual=visual)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "model_type": "qwen2", "vocab_size": len(tokenizer), "num_key_value_heads": 1}
    text |= {"max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    config = InternVLConfig(
        text_config={**text, "bos_token_id": None},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        image_seq_length=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    return InternVLForConditionalGeneration(config), tokenizer


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """What a test registers and imports is gone after it."""
    for registry in (vlms, generators, transports):
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield
    forget()


def forget():
    examples = (vlms, VLM, "internvl"), (generators, GENERATOR, "toyflow"), (transports, TRANSPORT, "attention")
    for registry, page, name in examples:
        registry._registered.pop(name, None)
        sys.modules.pop(module_of(page)[0], None)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The pages' examples, imported from files."""
    monkeypatch.syspath_prepend(tmp_path)
    for page in (VLM, GENERATOR, TRANSPORT):
        name, source = module_of(page)
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    return [importlib.import_module(module_of(page)[0]) for page in (VLM, GENERATOR, TRANSPORT)]


@pytest.fixture
def adapters(modules):
    """Tiny models in them, with random weights."""
    internvl, toyflow, _ = modules
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokenizer = new_internvl()
        for weight in model.parameters():  # those of the usual size say nearly the same whatever they see
            weight.data.mul_(3 if weight.ndim > 1 else 1)
        return internvl.InternVLAdapter(model, tokenizer, VIDEO).freeze(), toyflow.ToyFlow(VIDEO).freeze()


@pytest.fixture
def folders(adapters, tmp_path):
    for adapter, name in zip(adapters, ("internvl", "toyflow"), strict=True):
        adapter.save(tmp_path / name)
    return tmp_path


def test_the_examples_keep_every_promise(adapters):
    vlm, generator = adapters
    assert check_vlm(vlm) == []
    assert check_generator(generator) == []


def test_the_examples_keep_them_in_half_precision(folders):
    specs = (BackboneSpec(name, str(folders / name), "bfloat16") for name in ("toyflow", "internvl"))
    generator, vlm = load_pair(*specs, VIDEO)
    assert check_generator(generator) == []
    assert check_vlm(vlm) == []


def test_the_examples_refuse_before_weights_are_read(folders):
    for file in ("toyflow/model.safetensors", "internvl/model.safetensors"):
        (folders / file).write_bytes(b"not weights")
    with pytest.raises(TransporterError, match="multiples of 8"):
        load_generator(BackboneSpec("toyflow", str(folders / "toyflow")), replace(VIDEO, width=36))
    with pytest.raises(TransporterError, match="too many for this VLM's context"):
        load_vlm(BackboneSpec("internvl", str(folders / "internvl")), replace(VIDEO, frames=200))
    with pytest.raises(TransporterError, match=r"has no config\.json"):
        load_generator(BackboneSpec("toyflow", str(folders)), VIDEO)


@torch.no_grad()
def test_the_generators_sampler_is_what_the_page_says(adapters):
    """Steps of one size along the velocity, from noise; nothing else."""
    generator = adapters[1]
    condition, noise = generator.encode_text(["a red oval"]), draw_noise(generator, [0])
    expected = noise
    for t in (1.0, 0.75, 0.5, 0.25):
        expected = expected - generator.velocity(expected, condition, torch.tensor([t])) / 4
    torch.testing.assert_close(sample(generator, condition, noise, 4), expected)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@torch.no_grad()
def test_the_vlm_sees_what_its_own_processor_shows_it(modules, adapters, size):
    pytest.importorskip("torchvision")
    from transformers import InternVLProcessor, InternVLVideoProcessor
    from transformers.models.got_ocr2 import GotOcr2ImageProcessor

    plain = adapters[0]
    vlm = modules[0].InternVLAdapter(plain.model, plain.tokenizer, replace(VIDEO, height=size[0], width=size[1]))
    clips = torch.randint(0, 256, (2, 5, 3, *size), generator=torch.Generator().manual_seed(1)).byte()
    videos = InternVLVideoProcessor(**vlm.processor)
    processor = InternVLProcessor(GotOcr2ImageProcessor(), vlm.tokenizer, videos, image_seq_length=4)
    inputs = processor(text=["<video>\na red oval"] * 2, videos=list(clips), return_tensors="pt")
    tokens = vlm.encode(clips / 255)
    assert inputs["input_ids"].tolist() == [vlm.prompt_ids("a red oval")] * 2
    seen = vlm.model.get_image_features(inputs["pixel_values"]).pooler_output
    gap = 1e-5 if size == (32, 32) else 0.05  # resized bytes are rounded
    torch.testing.assert_close(tokens, seen.reshape(tokens.shape), atol=gap, rtol=0)
    logits = vlm.model(**inputs).logits[:, -1]
    torch.testing.assert_close(vlm.logits(tokens, "a red oval"), logits, atol=gap, rtol=0)


def test_the_transport_keeps_every_promise(modules):
    assert check_transport("attention", {"temperature": 0.5}) == []
    with pytest.raises(TransporterError, match="temperature: τ = 0 is not positive and finite"):
        check_transport("attention", {"temperature": 0})


def test_the_transport_is_what_its_equation_says(modules):
    made, (first, second) = new_transport("attention", 4, {"temperature": 0.5}), torch.randn(2, 1, 3, 4)
    weights = [[math.exp(a @ b / (0.5 * math.sqrt(4))) for a in first[0]] for b in second[0]]
    expected = [sum(w * a for w, a in zip(row, first[0], strict=True)) / sum(row) for row in weights]
    torch.testing.assert_close(made(first, second)[0], torch.stack(expected))


FIT = """
from transporter_pl.cli import main

assert main(["fit", "--config", "fit.yaml"]) == 0
"""


def test_a_script_that_decorates_a_transport_trains_with_it(tmp_path, monkeypatch):
    shapes, video = {"latents": (2, 1, 2, 2), "condition": (3, 5), "tokens": (4, 6)}, VideoSpec(1, 8, 8)
    shapes["reencoded"] = shapes["tokens"]
    names, key = tuple("012345"), CacheKey(BackboneSpec("a", "a"), BackboneSpec("b", "b"), video, "clips")
    encoded = Encoded(names, names, **{name: torch.randn(6, *shape) for name, shape in shapes.items()})
    write_cache(tmp_path / "cache", key, encoded)
    config = configs(tmp_path)["fit-coupling"]
    network = yaml.safe_load(block(TRANSPORT, "yaml"))["model"]["init_args"]["network"]
    config["model"]["init_args"]["network"] |= {**network, "transport": "attention"}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "script.py").write_text(module_of(TRANSPORT)[1] + FIT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("script.py", run_name="__main__")
    phi = CouplingNetwork.from_pretrained("coupling")
    assert type(phi.transport).__module__ == "__main__"
    assert phi.transport.log_temperature.item() != pytest.approx(math.log(0.5))


TAIL = """
from pathlib import Path

from transporter_pl.cli import main
from transporter_pl.datamodules.shapemotion.files import write_clips
from transporter_pl.samples import VideoSpec

write_clips("clips", 3, VideoSpec(frames=5, height=32, width=32))
for command in ("encode", "fit-coupling", "fit-concept", "explain"):
    assert main([command.partition("-")[0], "--config", f"{command}.yaml"]) == 0
"""


def configs(folders):
    """Every step as small as it can be, in YAML, with both models by name."""
    video = {"frames": 5, "height": 32, "width": 32}
    models = {name: {"name": path, "path": path} for name, path in (("generator", "toyflow"), ("vlm", "internvl"))}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"default_root_dir": "runs", "enable_checkpointing": False}
    network = {"width": 16, "heads": 2, "mixer_layers": 1, "transformer_layers": 1}
    stages = "transporter_pl.stages"
    coupling = {"network": {**network, "transport_options": {"projections": 4}}, "warmup": 1, "export": "coupling"}
    concept = {**models, "video": video, "coupling": "coupling", "export": "concepts", "steps": 2, "sampling_steps": 2}
    concept |= {"pairs": [{"negative": "left", "positive": "right", "contexts": ["a red oval moves {}"]}]}
    clips = {"root": "clips", "annotations": "clips/annotations.json", "video": video}
    encode = {"data": {"class_path": "vatex", "init_args": clips}, **models, "out": "cache", "device": "cpu"}
    cache = {"class_path": "cache", "init_args": {"path": "cache", "batch_size": 2, "val_fraction": 0.34}}
    explain = {**models, "coupling": "coupling", "concepts": "concepts", "out": "page", "steps": 2}
    return {
        "encode": encode,
        "fit-coupling": {
            "trainer": {**quiet, "max_steps": 2},
            "model": {"class_path": f"{stages}.coupling.CouplingStage", "init_args": coupling},
            "data": cache,
        },
        "fit-concept": {
            "trainer": {**quiet, "max_epochs": -1},
            "model": {"class_path": f"{stages}.concept.ConceptStage", "init_args": concept},
        },
        "explain": {**explain, "pair": "left:right", "phi": [0, 1], "device": "cpu"},
    }


def test_a_script_that_decorates_both_runs_from_clips_to_an_explanation(folders, monkeypatch):
    for name, config in configs(folders).items():
        (folders / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    script = folders / "script.py"
    script.write_text("\n".join([module_of(VLM)[1], module_of(GENERATOR)[1], TAIL]), encoding="utf-8")
    forget()  # the imported files
    monkeypatch.chdir(folders)
    runpy.run_path(str(script), run_name="__main__")
    assert vlms.get("internvl").__module__ == "__main__"
    assert (folders / "page" / "index.html").stat().st_size


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that all packages are installed to, built from what the pages show."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("site")
    for page in (VLM, GENERATOR, TRANSPORT):
        name, source = module_of(page)
        (sources / name).mkdir()
        (sources / name / f"{name}.py").write_text(source, encoding="utf-8")
        (sources / name / "pyproject.toml").write_text(block(page, "toml"), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet"]
    command += ["--disable-pip-version-check", "--target", str(target), *map(str, sorted(sources.iterdir()))]
    subprocess.run(command, check=True, capture_output=True)
    return target


def test_packages_are_found_by_their_entry_points(installed, folders, monkeypatch, capsys):
    forget()  # the imported files
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "transporter_internvl.InternVLAdapter" in listed
    assert "transporter_toyflow.ToyFlow" in listed
    assert "transporter_attention.AttentionTransport" in listed
    assert "transporter_internvl" not in sys.modules  # listing imports nothing
    assert Path(inspect.getfile(type(new_transport("attention", 8, {})))).parent == installed
    specs = (BackboneSpec(name, str(folders / name)) for name in ("toyflow", "internvl"))
    generator, vlm = load_pair(*specs, VIDEO)
    assert all(Path(sys.modules[type(a).__module__].__file__).parent == installed for a in (generator, vlm))
    latents = sample(generator, generator.encode_text(["a red oval moves left"]), draw_noise(generator, [0]), 2)
    assert len(vlm.caption(vlm.encode(generator.decode(latents)), max_new_tokens=4)) == 1


def test_the_class_paths_of_the_pages_resolve(modules):
    for page, module, registry, field in ((VLM, 0, vlms, "vlm"), (GENERATOR, 1, generators, "generator")):
        named = yaml.safe_load(block(page, "yaml"))[field]
        assert BackboneSpec(**named).name == registry.class_path(named["name"])
        assert registry.get(named["name"]).__module__ == modules[module].__name__
    network = yaml.safe_load(block(TRANSPORT, "yaml"))["model"]["init_args"]["network"]
    made = new_transport(network["transport"], 8, network["transport_options"])
    assert isinstance(made, modules[2].AttentionTransport)


PORTS = [(VLM, VLMAdapter), (GENERATOR, GeneratorAdapter), (TRANSPORT, Transport), (TRANSPORT, PlanTransport)]


@pytest.mark.parametrize(("page", "port"), PORTS)
def test_the_pages_name_every_method_of_the_port(page, port):
    text = page.read_text(encoding="utf-8")
    missing = [name for name in port.__abstractmethods__ if not re.search(rf"`{name}\b", text)]
    assert missing == []


def test_the_page_has_a_row_for_every_transport_and_solver():
    transported, solved = TRANSPORT.read_text(encoding="utf-8").split("## Ours")[1].split("## ζ-OT's solvers")
    rows = [re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) for text in (transported, solved)]
    assert sorted(rows[0]) == transports.names()
    assert {*rows[1][1:], "auto"} == set(get_args(Solver))  # the first is the head
