"""The hub's answers, real ones up to the wire: which files are read, and what a user is told when there are none."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import default_client_factory
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from transporter_pl.backbones.folders import find_config, loading, read_config
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.errors import TransporterError

# the client that this version of huggingface_hub is built on
http = importlib.import_module(HfHubHTTPError.__mro__[1].__module__.partition(".")[0])
COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, from which alone things are read."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(cache, monkeypatch):
    """A hub that answers as it is told: give it a function of the request."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its attempts
    yield lambda answer: set_client_factory(lambda: http.Client(transport=http.MockTransport(answer)))
    set_client_factory(default_client_factory)


def refusal(status, code):
    return lambda request: http.Response(status, headers={"X-Error-Code": code, "X-Repo-Commit": COMMIT})


def unreachable(request):
    msg = "no route to host"
    raise http.ConnectError(msg)


def store(cache, repo, revision, commit, folder):
    """Put a folder into the cache as a download of that revision."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    shutil.copytree(folder, home / "snapshots" / commit)


@pytest.fixture
def remote_code(tmp_path):
    """A folder of somebody's own code."""
    folder = tmp_path / "remote"
    folder.mkdir()
    config = {"model_type": "videollama3_qwen2", "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class TestRevision:
    def test_it_is_what_the_hub_is_asked_for(self, hub):
        asked = []

        def answer(request):
            asked.append(request.url.raw_path.decode())
            body = b'{"a": 1}'
            headers = {"ETag": '"x"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}
            return http.Response(200, headers=headers, content=b"" if request.method == "HEAD" else body)

        hub(answer)
        assert find_config("org/name@refs/pr/70", "config.json") == {"a": 1}
        assert any("/org/name/resolve/refs%2Fpr%2F70/config.json" in path for path in asked)
        assert not any("main" in path for path in asked)

    def test_whole_models_are_loaded_from_it(self, tiny, cache, remote_code):
        for name, spec in (("wan", tiny.generator), ("vlm", tiny.vlm)):
            store(cache, f"org/{name}", "main", "b" * 40, remote_code)
            store(cache, f"org/{name}", "refs/pr/70", COMMIT, spec.path)
        generator = WanAdapter.from_pretrained("org/wan@refs/pr/70", tiny.video)
        vlm = VideoLlama3Adapter.from_pretrained("org/vlm@refs/pr/70", tiny.video)
        assert (generator.source, vlm.source) == ("org/wan@refs/pr/70", "org/vlm@refs/pr/70")
        assert generator.guidance_scale == 3
        with pytest.raises(TransporterError, match=r"'org/wan' has no model_index\.json"):
            WanAdapter.from_pretrained("org/wan", tiny.video)
        with pytest.raises(TransporterError, match="'org/vlm' holds remote code, 'videollama3_qwen2', not a native"):
            VideoLlama3Adapter.from_pretrained("org/vlm", tiny.video)

    def test_a_local_folder_with_an_at_sign_is_a_folder(self, tiny, tmp_path):
        folder = shutil.copytree(tiny.vlm.path, tmp_path / "vlm@2")
        assert VideoLlama3Adapter.from_pretrained(folder, tiny.video).source == str(folder)

    def test_another_revision_in_the_cache_is_no_answer(self, tiny, cache):
        store(cache, "org/vlm", "main", COMMIT, tiny.vlm.path)
        assert find_config("org/vlm", "other.json") is None
        assert find_config(f"org/vlm@{COMMIT}", "other.json") is None
        with pytest.raises(TransporterError, match=r"can't load 'org/vlm@v2'.* not in the hub's cache"):
            find_config("org/vlm@v2", "other.json")


class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (
                refusal(403, "GatedRepo"),
                r"gated: accept its licence at https://huggingface\.co/org/it and .*hf auth login",
            ),
            (refusal(404, "RevisionNotFound"), "hub has 'org/it', but not its revision 'v9'; give a branch"),
            (refusal(401, "RepoNotFound"), "none of that name, or a private one: check the spelling, log in"),
            (unreachable, r"not in the hub's cache, and the hub does not give it \(no route to host\): download it"),
            (refusal(403, ""), r"not in the hub's cache, and the hub does not give it \(.*403"),
        ],
    )
    @pytest.mark.parametrize(
        "load", [WanAdapter.from_pretrained, WanAdapter.shapes_of, VideoLlama3Adapter.from_pretrained]
    )
    def test_one_line_that_names_the_fix(self, tiny, hub, load, answer, message):
        hub(answer)
        with pytest.raises(TransporterError, match=rf"^path: can't load 'org/it@v9'\. .*{message}") as caught:
            load("org/it@v9", tiny.video)
        assert "\n" not in str(caught.value)

    def test_offline_with_nothing_cached(self, tiny, cache):
        with pytest.raises(TransporterError, match=r"not in the hub's cache, .*offline mode is enabled"):
            WanAdapter.from_pretrained("org/it", tiny.video)

    def test_what_a_library_wraps_is_still_known(self, hub):
        """As transformers and diffusers do when a weight file is refused."""
        hub(refusal(403, "GatedRepo"))

        def load():
            with loading("org/it"):
                AutoTokenizer.from_pretrained("org/it")

        with pytest.raises(TransporterError, match="It is gated"):
            load()

    def test_a_file_that_the_hub_has_not_is_no_error_in_itself(self, hub):
        hub(refusal(404, "EntryNotFound"))
        assert find_config("org/it", "config.json") is None
        with pytest.raises(TransporterError, match=r"'org/it' has no config\.json"):
            read_config("org/it", "config.json")

    @pytest.mark.parametrize(("kind", "part"), [("vlm", "."), ("generator", "transformer"), ("generator", "vae")])
    def test_pickled_weights_are_refused_before_any_are_read(self, tiny, tmp_path, kind, part):
        spec, adapter = getattr(tiny, kind), {"vlm": VideoLlama3Adapter, "generator": WanAdapter}[kind]
        folder = shutil.copytree(spec.path, tmp_path / "model")
        for weights in (folder / part).glob("*.safetensors"):
            weights.rename(weights.with_name(f"{weights.stem.replace('model', 'pytorch_model')}.bin"))
        for weights in folder.rglob("*.safetensors"):
            weights.write_bytes(b"not weights")
        with pytest.raises(TransporterError, match=r"path: the weights in '.*\.bin' are pickled.* of safetensors"):
            adapter.from_pretrained(folder, tiny.video)

    def test_pickles_beside_safetensors_do_no_harm(self, tiny, tmp_path):
        folder = shutil.copytree(tiny.vlm.path, tmp_path / "model")
        (folder / "pytorch_model.bin").write_bytes(b"never read")
        VideoLlama3Adapter.from_pretrained(folder, tiny.video)


class TestWhole:
    """Both libraries draw what is missing at random, with no more than a warning."""

    @pytest.mark.parametrize(("kind", "part"), [("vlm", ""), *[("generator", p) for p in ("transformer", "vae")]])
    def test_missing_weights_are_refused(self, tiny, tmp_path, kind, part):
        spec = getattr(tiny, kind)
        folder = shutil.copytree(spec.path, tmp_path / kind)
        (file,) = (Path(spec.path) / part).glob("*.safetensors")
        weights = load_file(file)
        name = next(n for n, w in weights.items() if w.ndim > 1)
        save_file({n: w for n, w in weights.items() if n != name}, folder / part / file.name, {"format": "pt"})
        with pytest.raises(TransporterError, match=r"path: '.*' lacks 1 of its weights, such as .*; download"):
            {"vlm": VideoLlama3Adapter, "generator": WanAdapter}[kind].from_pretrained(folder, tiny.video)

    def test_damaged_weights_are_one_clear_error(self, tiny, tmp_path):
        folder = shutil.copytree(tiny.vlm.path, tmp_path / "vlm")
        file, whole = folder / "model.safetensors", Path(tiny.vlm.path) / "model.safetensors"
        file.write_bytes(whole.read_bytes()[:1000])
        with pytest.raises(TransporterError, match="The folder is not whole"):
            VideoLlama3Adapter.from_pretrained(folder, tiny.video)
        weights = load_file(whole)
        name = next(n for n in weights if n.endswith("q_proj.weight"))
        save_file({**weights, name: weights[name][:3].clone()}, file, {"format": "pt"})
        with pytest.raises(TransporterError, match="have other shapes than its config"):
            VideoLlama3Adapter.from_pretrained(folder, tiny.video)
