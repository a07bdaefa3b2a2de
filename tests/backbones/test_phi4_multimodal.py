"""Phi-4-multimodal beside the model's own image embedding, forward and generate, and its official processors."""

import contextlib
import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_vlms import SMALL, WORDS, needs_processor
from tokenizers import AddedToken
from transformers import DynamicCache, Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from transporter_pl.backbones.phi4_multimodal import Phi4MultimodalAdapter
from transporter_pl.backbones.scratch import new_phi4_multimodal
from transporter_pl.errors import TransporterError
from transporter_pl.samples import TokenStatistics, VideoSpec

with contextlib.suppress(ImportError, RuntimeError):  # ``needs_processor`` says why
    from transformers import Phi4MultimodalFeatureExtractor, Phi4MultimodalImageProcessor, Phi4MultimodalProcessor

PROMPT = "a red ball?"
# whole frames; rows of crops with padding; crops beside and below each other, of an enlarged frame
SPECS = [VideoSpec(3, 32, 32), VideoSpec(2, 32, 50), VideoSpec(2, 70, 32), VideoSpec(2, 40, 60)]
ROLES = ["<|user|>", "<|end|>", "<|assistant|>"]
STRINGS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PRINTED = STRINGS.replace("m['content'] + '<|end|>'", "'' }}{{ m['content'] }}{{ '<|end|>'")
CONTENTS = STRINGS.replace(
    "m['content'] + '<|end|>'",
    "'' }}{% for c in m['content'] %}{% if c['type'] == 'image' %}<|image|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{{ '<|end|>'",
)


def made(template=None, image=32, patch=8, **sizes):
    """A tiny model in which everything matters, and its tokenizer.

    A new one has separators of zero, a decoder that hardly listens, and a vision encoder so loud that the order of sums
    decides.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {**SMALL, "vision_layers": 3, **sizes}
        model, tokenizer = new_phi4_multimodal([*WORDS, *ROLES], image=image, patch=patch, **sizes)
        for name, weight in model.named_parameters():
            if "img_feature_extensor" in name:
                torch.nn.init.normal_(weight)
            elif "image_embed" in name and weight.ndim > 1:
                torch.nn.init.xavier_normal_(weight)
            elif name.startswith("model.layers") and weight.ndim > 1:
                weight.data.mul_(5)
    tokenizer.add_tokens([AddedToken(role, special=True) for role in ROLES])
    tokenizer.chat_template = template
    return model.eval(), tokenizer


def adapter_of(spec, **settings):
    return Phi4MultimodalAdapter(*made(**settings), spec, source="tiny").freeze()


def attending(model, kind):
    """The same model as transformers makes it, with one of its implementations of attention."""
    own = Phi4MultimodalForCausalLM._from_config(copy.deepcopy(model.config), attn_implementation=kind)
    assert own.config.vision_config._attn_implementation == kind
    own.load_state_dict(model.state_dict())
    own.generation_config = model.generation_config
    return own.eval()


def clips_of(spec):
    generator = torch.Generator().manual_seed(7)
    shape = (2, spec.frames, 3, spec.height, spec.width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def images_of(adapter, clips):
    """What the official image processor makes of all frames."""
    names = ("size", "patch_size", "dynamic_hd")
    prepare = Phi4MultimodalImageProcessor(**{k: v for k, v in adapter.processor.items() if k in names})
    prepared = prepare(list(clips.flatten(0, 1)), input_data_format="channels_first", return_tensors="pt")
    return {k: v for k, v in prepared.items() if k != "num_img_tokens"}  # which takes 256 tokens a view for granted


def embedded(model, inputs, count, length):
    """Tokens that the model's own image embedding puts in the places of its placeholders."""
    ids = torch.full((count, length), model.config.vision_config.image_token_id)
    blank = torch.zeros(count, length, model.config.hidden_size)
    return model.model.embed_tokens_extend.image_embed(ids, blank, **inputs)


@needs_processor
class TestParity:
    @pytest.mark.parametrize("side", [(32, 8), (24, 8), (30, 6)], ids=["4 patches", "3 patches", "5 patches"])
    @pytest.mark.parametrize("spec", SPECS, ids=str)
    @torch.no_grad()
    def test_tokens_are_those_of_the_models_image_embedding(self, spec, side):
        adapter = adapter_of(spec, image=side[0], patch=side[1])
        clips, grid = clips_of(spec), adapter.grid
        inputs, tokens = images_of(adapter, clips), adapter.encode(clips / 255)
        if (grid.height, grid.width) != (spec.height, spec.width):
            inputs["image_pixel_values"] = grid.views(clips / 255)  # no byte's rounding in between
        theirs = embedded(attending(adapter.model, "eager"), inputs, 2, tokens.shape[1])
        assert tokens.shape[1:] == adapter.token_shape
        torch.testing.assert_close(tokens, theirs, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("prompt", [PROMPT, "Describe the video.", "left " * 30])
    @pytest.mark.parametrize("spec", SPECS[:2], ids=str)
    @torch.no_grad()
    def test_logits_are_those_of_the_models_forward(self, spec, prompt):
        adapter, clips = adapter_of(spec), clips_of(spec)
        own, inputs = attending(adapter.model, "eager"), images_of(adapter, clips)
        answer = torch.tensor([adapter.token_ids("the blue ball"), adapter.token_ids("the left ball")])
        ids = torch.tensor([adapter.prompt_ids(prompt)] * 2)
        theirs = own(input_ids=torch.cat([ids, answer], 1), **inputs).logits[:, -4:]
        tokens = adapter.encode(clips / 255)
        torch.testing.assert_close(adapter.answer_logits(tokens, answer, prompt), theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(adapter.logits(tokens, prompt), theirs[:, 0], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("template", [None, STRINGS])
    @pytest.mark.parametrize("spec", SPECS[:2], ids=str)
    @torch.no_grad()
    def test_captions_are_those_of_generate(self, spec, template):
        adapter, clips = adapter_of(spec, template=template), clips_of(spec)
        ids = torch.tensor([adapter.prompt_ids(PROMPT)] * 2)
        own, inputs = attending(adapter.model, "eager"), images_of(adapter, clips)
        rows = own.generate(input_ids=ids, **inputs, do_sample=False, max_new_tokens=12)[:, ids.shape[1] :]
        theirs = [text.strip() for text in adapter.tokenizer.batch_decode(rows, skip_special_tokens=True)]
        assert any(theirs)
        assert adapter.caption(adapter.encode(clips / 255), PROMPT, max_new_tokens=12) == theirs

    @pytest.mark.parametrize(
        ("spec", "tokens"), [(VideoSpec(1, 448, 448), 545), (VideoSpec(1, 448, 600), 641)], ids=str
    )
    @torch.no_grad()
    def test_the_whole_route_at_the_published_size_of_crops(self, spec, tokens):
        """There the processor's 256 tokens a view are right: bytes in, ids and caption out."""
        adapter = adapter_of(spec, template=STRINGS, image=448, patch=14, vision_dim=16, vision_layers=2)
        images = Phi4MultimodalImageProcessor(size={"height": 448, "width": 448}, patch_size=14)
        processor = Phi4MultimodalProcessor(images, Phi4MultimodalFeatureExtractor(), adapter.tokenizer)
        clip = clips_of(spec)[0]
        text = f"<|user|>{'<|image|>' * spec.frames}{PROMPT}<|end|><|assistant|>"
        inputs = processor(text=text, images=list(clip), return_tensors="pt")
        assert inputs["input_ids"].tolist() == [adapter.prompt_ids(PROMPT)]
        assert adapter.token_shape == (spec.frames * tokens, 32)
        own = attending(adapter.model, "eager")
        rows = own.generate(**inputs, do_sample=False, max_new_tokens=4)[:, inputs["input_ids"].shape[1] :]
        z = adapter.encode(clip[None] / 255)
        torch.testing.assert_close(adapter.logits(z, PROMPT), own(**inputs).logits[:, -1], atol=1e-5, rtol=0)
        theirs = adapter.tokenizer.decode(rows[0], skip_special_tokens=True).strip()
        assert adapter.caption(z, PROMPT, max_new_tokens=4) == [theirs]

    @torch.no_grad()
    def test_in_bfloat16_the_same_operations_are_done(self, tmp_path):
        adapter, clips = adapter_of(SPECS[1]), clips_of(SPECS[1])
        adapter.save(tmp_path)
        half = Phi4MultimodalAdapter.from_pretrained(tmp_path, SPECS[1], torch.bfloat16)
        own, ids = attending(half.model, "eager").bfloat16(), torch.tensor([half.prompt_ids(PROMPT)] * 2)
        theirs = own(input_ids=ids, **images_of(half, clips)).logits[:, -1]
        ours, full = (a.logits(a.encode(clips / 255), PROMPT) for a in (half, adapter))
        assert ours.dtype == half.dtype == torch.bfloat16
        assert (ours - theirs).abs().max() < 0.05 * full.std()
        assert (ours - full).abs().max() < 0.1 * full.std()

    def test_its_processor_reads_the_saved_settings(self, tmp_path):
        adapter_of(SPECS[0]).save(tmp_path)
        processor = Phi4MultimodalImageProcessor.from_pretrained(tmp_path)
        assert (processor.size["height"], processor.patch_size, processor.dynamic_hd) == (32, 8, 36)


class TestVision:
    # of a frame: two rows of features and a separator, one between, and the same of the whole view
    SEPARATORS = torch.tensor([0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1], dtype=torch.bool)

    @pytest.mark.parametrize("kind", ["sdpa", "eager"])
    @torch.no_grad()
    def test_every_patch_of_a_view_sees_the_whole_of_it(self, kind):
        """The source calls its vision attention causal, which SDPA obeys where no patch is masked."""
        spec = VideoSpec(2, 32, 32)
        model, tokenizer = made()
        adapter = Phi4MultimodalAdapter(attending(model, kind), tokenizer, spec).freeze()
        video = clips_of(spec) / 255
        changed = video.clone()
        changed[:, 1, :, -8:] = 1 - changed[:, 1, :, -8:]
        moved = (adapter.encode(video) - adapter.encode(changed)).abs().amax(-1) > 1e-6
        assert moved.view(2, 2, 13).tolist() == [[[False] * 13, (~self.SEPARATORS).tolist()]] * 2

    @pytest.mark.parametrize("spec", SPECS, ids=str)
    @torch.no_grad()
    def test_attention_is_the_same_however_it_is_implemented(self, spec):
        model, tokenizer = made()
        video = clips_of(spec) / 255
        sdpa, eager = (
            Phi4MultimodalAdapter(attending(model, kind), tokenizer, spec).freeze() for kind in ("sdpa", "eager")
        )
        torch.testing.assert_close(sdpa.encode(video), eager.encode(video), atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_separators_are_projected_and_part_of_the_tokens(self):
        adapter = adapter_of(VideoSpec(2, 32, 32))
        parts = adapter.model.model.embed_tokens_extend.image_embed
        row, between = (
            parts.img_projection_down(torch.nn.functional.gelu(parts.img_projection_up(s.flatten())))
            for s in (parts.sub_img_feature_extensor, parts.global_img_feature_extensor)
        )
        frames = adapter.encode(clips_of(adapter.video) / 255).view(2, 2, 13, -1)
        expected = torch.stack([row, row, between, row, row]).expand(2, 2, -1, -1)
        torch.testing.assert_close(frames[:, :, self.SEPARATORS], expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize(
        ("spec", "tokens"), [(VideoSpec(8, 448, 448), 8 * 545), (VideoSpec(5, 480, 832), 5 * 900)], ids=str
    )
    def test_shapes_of_the_published_model_come_from_its_configuration(self, spec, tokens):
        config = Phi4MultimodalConfig()
        grid = Phi4MultimodalAdapter.fit(config, {"dynamic_hd": 36}, spec)
        assert Phi4MultimodalAdapter.shape(config, grid, spec) == (tokens, 3072)

    def test_settings_of_the_remote_code_are_no_obstacle(self, tmp_path):
        """They leave out what does not differ from the defaults, the size of a crop too."""
        adapter_of(SPECS[1]).save(tmp_path)
        settings = {"image_processor_type": "Phi4MMImageProcessor", "dynamic_hd": 1, "audio_feat_stride": 1}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        adapter = Phi4MultimodalAdapter.from_pretrained(tmp_path, SPECS[1])
        assert (adapter.grid.side, adapter.grid.rows, adapter.grid.columns) == (32, 1, 1)
        assert adapter.grid.mean == adapter.grid.std == (0.5, 0.5, 0.5)

    def test_all_frames_go_through_the_encoder_at_once(self):
        adapter, seen = adapter_of(VideoSpec(4, 32, 50)), []
        encoder = adapter.model.model.embed_tokens_extend.image_embed.img_processor
        hook = encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        adapter.encode(clips_of(adapter.video) / 255)
        hook.remove()
        assert seen == [2 * 4 * 3]

    def test_the_audio_tower_is_saved_with_the_rest(self, tmp_path):
        """The architecture can't do without it."""
        adapter_of(SPECS[0]).save(tmp_path)
        loaded = Phi4MultimodalForCausalLM.from_pretrained(tmp_path, output_loading_info=True)[1]
        assert not any(loaded.values())
        assert any("audio_embed" in name for name in load_file(tmp_path / "model.safetensors"))


def long(original):
    """A model whose rotary frequencies switch beyond a number of tokens, the last of which go on for ever."""
    model, tokenizer = made(vision_layers=1)
    fields = copy.deepcopy(model.config).to_dict()
    fields["original_max_position_embeddings"] = original
    fields["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 3.0, 9.0, 20.0],
    }
    switching = Phi4MultimodalForCausalLM(Phi4MultimodalConfig.from_dict(fields)).eval()
    switching.load_state_dict(model.state_dict())
    switching.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    return Phi4MultimodalAdapter(switching, tokenizer, VideoSpec(2, 32, 32)).freeze()


@needs_processor
class TestLongPrompts:
    """The prompt has 30 tokens, and the longest answer 12."""

    @pytest.mark.parametrize("original", [20, 29, 30, 31, 35, 41, 42, 100])
    @torch.no_grad()
    def test_captions_on_both_sides_of_the_switch_and_across_it(self, original):
        """The model's own ``generate`` loses its images at the switch; a forward over all words so far does not."""
        adapter = long(original)
        clips, ids = clips_of(adapter.video), torch.tensor([adapter.prompt_ids(PROMPT)] * 2)
        assert ids.shape[1] == 30
        inputs, written = images_of(adapter, clips), ids
        for _ in range(12):
            chosen = adapter.model(input_ids=written, **inputs, use_cache=False).logits[:, -1].argmax(-1)
            written = torch.cat([written, chosen[:, None]], 1)
        theirs = [t.strip() for t in adapter.tokenizer.batch_decode(written[:, 30:], skip_special_tokens=True)]
        assert adapter.caption(adapter.encode(clips / 255), PROMPT, max_new_tokens=12) == theirs

    @pytest.mark.parametrize("original", [29, 30, 31, 32, 33, 34])
    @torch.no_grad()
    def test_logits_on_both_sides_of_the_switch(self, original):
        adapter = long(original)
        clips, ids = clips_of(adapter.video), torch.tensor([adapter.prompt_ids(PROMPT)] * 2)
        answer = torch.tensor([adapter.token_ids("the blue ball")] * 2)
        inputs, tokens = images_of(adapter, clips), adapter.encode(clips / 255)
        for count in range(4):
            said = torch.cat([ids, answer[:, :count]], 1)
            theirs = adapter.model(input_ids=said, **inputs, use_cache=False).logits[:, -1]
            ours = adapter.answer_logits(tokens, answer[:, :count], PROMPT)[:, -1]
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


class TestCache:
    @torch.no_grad()
    def test_keys_of_before_the_switch_are_wrong_behind_it(self):
        """Which is why an answer that crosses it is read anew at every word."""
        adapter = long(34)
        tokens = adapter.encode(clips_of(adapter.video) / 255)
        right = adapter.caption(tokens, PROMPT, max_new_tokens=12)
        adapter.new_cache = lambda prompt, answer: DynamicCache(config=adapter.model.config)
        assert adapter.caption(tokens, PROMPT, max_new_tokens=12) != right

    @pytest.mark.parametrize(("prompt", "kept"), [(20, True), (87, True), (95, False), (100, False), (101, True)])
    def test_kept_unless_the_answer_may_cross_the_switch(self, prompt, kept):
        assert (long(100).new_cache(prompt, 12) is not None) == kept

    def test_kept_where_nothing_switches(self):
        assert adapter_of(SPECS[0]).new_cache(1020, 12) is not None


class TestChat:
    @pytest.mark.parametrize("template", [STRINGS, PRINTED, CONTENTS], ids=["joined", "printed", "contents"])
    def test_a_template_may_take_strings_or_a_list_of_contents(self, template):
        adapter = adapter_of(SPECS[0], template=template)
        shown = adapter.tokenizer.decode([i for i in adapter.prompt_ids(PROMPT) if i != adapter.placeholder])
        assert shown.replace(" ", "") == "<|user|>aredball?<|end|><|assistant|>"
        ids = adapter.prompt_ids(PROMPT)
        assert [i == adapter.placeholder for i in ids] == [False, *[True] * adapter.token_shape[0], *[False] * 6]

    def test_without_a_template_images_come_first(self):
        adapter = adapter_of(SPECS[0])
        expected = [adapter.placeholder] * adapter.token_shape[0] + adapter.token_ids(PROMPT)
        assert adapter.prompt_ids(PROMPT) == expected


@torch.no_grad()
def test_its_separators_are_the_tokens_that_never_change():
    """A Φ keeps those: see ``CouplingNetwork``."""
    adapter, spec = adapter_of(SPECS[0]), SPECS[0]
    shape = 6, spec.frames, 3, spec.height, spec.width
    tokens = adapter.encode(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    parts = adapter.model.model.embed_tokens_extend.image_embed
    ends = torch.cat([parts.sub_img_feature_extensor[:, 0], parts.global_img_feature_extensor], 1)
    separators = parts.img_projection_down(torch.nn.functional.gelu(parts.img_projection_up(ends)))[0]
    expected = torch.isclose(tokens[0, :, None], separators.flatten(0, -2), atol=1e-5).all(-1).any(-1)
    assert 0 < expected.sum() < len(expected)
    assert TokenStatistics.of(tokens).fixed.equal(expected)


def test_the_remote_code_of_the_main_branch_is_refused_with_the_revision_that_serves(tmp_path):
    config = {"model_type": "phi4mm", "auto_map": {"AutoModelForCausalLM": "modeling_phi4mm.Phi4MMForCausalLM"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for ask in (Phi4MultimodalAdapter.from_pretrained, Phi4MultimodalAdapter.token_shape_of):
        with pytest.raises(TransporterError, match=r"'phi4mm'.*microsoft/Phi-4-multimodal-instruct@refs/pr/70"):
            ask(tmp_path, SPECS[0])


def test_geometry_is_checked_before_any_weight_is_read(tmp_path):
    adapter_of(SPECS[0]).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(TransporterError, match="too narrow"):
        Phi4MultimodalAdapter.from_pretrained(tmp_path, VideoSpec(2, 2000, 10))
    assert Phi4MultimodalAdapter.token_shape_of(tmp_path, VideoSpec(4, 32, 64)) == (4 * 17, 32)
