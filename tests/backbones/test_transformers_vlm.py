"""What every VLM of transformers owes, whatever its family; what only one does is in the file of its adapter."""

import itertools
import json
from contextlib import contextmanager
from importlib.metadata import entry_points

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_vlms import KINDS, needs_processor, processed, tiny_vlm
from torch.nn.functional import one_hot

from transporter_pl.adapters import vlms
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

PROMPT = "a red ball?"
PROMPTS = [PROMPT, "Describe the video.", "left " * 40]


def test_every_registered_one_is_held_to_all_of_this():
    ours = {e.name for e in entry_points(group=vlms.group) if e.value.startswith("transporter_pl.")}
    assert ours == {kind.split()[0] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_registered_name_is_the_adapter(kind):
    assert vlms.get(kind.split()[0]) is type(tiny_vlm(kind))


def answered(inputs, ids):
    """The processor's output with the beginning of an answer behind it."""
    blank = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    length = inputs["input_ids"].shape
    return {
        k: torch.cat([v, blank.get(k, torch.zeros_like(ids))], 1) if v.shape == length else v for k, v in inputs.items()
    }


def generated(vlm, inputs, ends=()):
    """What the model's own ``generate`` writes greedily; words among the ends, which are no special tokens, go too."""
    rows = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=12)[:, inputs["input_ids"].shape[1] :].tolist()
    return [spoken(vlm, itertools.takewhile(lambda token: token not in ends, row)) for row in rows]


def spoken(vlm, ids):
    return vlm.tokenizer.decode(list(ids), skip_special_tokens=True).strip()


@needs_processor
class TestParity:
    """Against the model's own forward and generate, fed by its own processor."""

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_prompt_ids_equal_the_processors(self, routed, clips, prompt):
        inputs = processed(routed, clips, prompt)
        assert inputs["input_ids"].tolist() == [routed.prompt_ids(prompt)] * 2

    @pytest.mark.parametrize("prompt", PROMPTS)
    @torch.no_grad()
    def test_logits(self, routed, clips, video, prompt):
        theirs = routed.model(**processed(routed, clips, prompt)).logits[:, -1]
        torch.testing.assert_close(routed.logits(routed.encode(video), prompt), theirs, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_logits_within_an_answer(self, routed, clips, video):
        ids = torch.tensor([routed.token_ids("the blue ball"), routed.token_ids("the left ball")])
        last = ids.shape[1] + 1
        theirs = routed.model(**answered(processed(routed, clips, PROMPT), ids)).logits[:, -last:]
        tokens = routed.encode(video)
        torch.testing.assert_close(routed.answer_logits(tokens, ids, PROMPT), theirs, atol=1e-5, rtol=0)
        for answer, position in (("the blue ball", -1), ("", 0)):
            logits = routed.logits(tokens[:1], PROMPT, answer)
            torch.testing.assert_close(logits, theirs[:1, position], atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_in_bfloat16_the_same_operations_are_done(self, routed, clips, video, tmp_path):
        """On pixels as fine as the processor's: those of half precision would move the logits by 4e-3 and more."""
        routed.save(tmp_path)
        half = type(routed).from_pretrained(tmp_path, routed.video, torch.bfloat16)
        theirs = half.model(**processed(half, clips, PROMPT)).logits[:, -1]
        ours, full = half.logits(half.encode(video), PROMPT), routed.logits(routed.encode(video), PROMPT)
        assert ours.dtype == half.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
        assert (ours - full).abs().max() < 0.1 * full.std()

    @pytest.mark.parametrize("prompt", PROMPTS)
    @torch.no_grad()
    def test_captions_are_the_greedy_ones(self, routed, clips, video, prompt):
        theirs = generated(routed, processed(routed, clips, prompt))
        assert any(theirs)
        assert routed.caption(routed.encode(video), prompt, max_new_tokens=12) == theirs

    @torch.no_grad()
    def test_captions_end_at_any_of_several_ends(self, routed, clips, video, monkeypatch):
        inputs, tokens = processed(routed, clips, PROMPT), routed.encode(video)
        ends = [routed.tokenizer.eos_token_id, first_words(routed, tokens[0])[2]]
        monkeypatch.setattr(routed.model.generation_config, "eos_token_id", ends)
        assert routed.caption(tokens, PROMPT, max_new_tokens=12) == generated(routed, inputs, ends)

    @torch.no_grad()
    def test_a_checkpoints_sampling_settings_change_nothing(self, routed, clips, video, monkeypatch):
        theirs, own = generated(routed, processed(routed, clips, PROMPT)), routed.model.generation_config
        for name, value in {"do_sample": True, "temperature": 5.0, "repetition_penalty": 1.5, "num_beams": 3}.items():
            monkeypatch.setattr(own, name, value)
        assert routed.caption(routed.encode(video), PROMPT, max_new_tokens=12) == theirs


def first_words(vlm, tokens, count=6):
    """Ids of a greedy answer to one clip's tokens (N, D), every one from a forward over all before it."""
    ids = []
    for _ in range(count):
        answer = torch.tensor(ids, dtype=torch.long)
        ids.append(vlm.answer_logits(tokens[None], answer, PROMPT)[0, -1].argmax().item())
    return ids


class TestCaptions:
    @torch.no_grad()
    def test_with_and_without_a_cache_they_are_the_same(self, vlm, video, monkeypatch):
        tokens = vlm.encode(video)
        cached = [vlm.caption(tokens, prompt, max_new_tokens=8) for prompt in PROMPTS]
        monkeypatch.setattr(vlm, "new_cache", lambda prompt, answer: None)
        assert [vlm.caption(tokens, prompt, max_new_tokens=8) for prompt in PROMPTS] == cached

    @torch.no_grad()
    def test_every_word_is_the_likeliest_after_those_before_it(self, vlm, video, monkeypatch):
        monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [])
        tokens = vlm.encode(video)
        expected = [spoken(vlm, first_words(vlm, row)) for row in tokens]
        assert vlm.caption(tokens, PROMPT, max_new_tokens=6) == expected

    def test_of_one_batch_they_may_end_at_different_words(self, vlm, video, monkeypatch):
        """What is written behind an end, while other captions go on, is no part of a caption."""
        monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [5, 6])
        steps = [[7, 8], [5, 7], [9, 8], [9, 6]]
        with dictated(vlm, steps) as left:
            captions = vlm.caption(vlm.encode(video), PROMPT, max_new_tokens=9)
        assert captions == [spoken(vlm, [7]), spoken(vlm, [8, 7, 8])]
        assert not left  # and nothing was asked for after the last end

    def test_a_checkpoint_without_ends_has_its_tokenizers(self, vlm, video, monkeypatch):
        monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", None)
        end = vlm.tokenizer.eos_token_id
        with dictated(vlm, [[7, 8], [end, 7], [9, end]]):
            assert vlm.caption(vlm.encode(video)) == [spoken(vlm, [7]), spoken(vlm, [8, 7])]

    def test_one_that_does_not_end_is_cut(self, vlm, video):
        with dictated(vlm, [[9, 9]] * 3):
            assert vlm.caption(vlm.encode(video), max_new_tokens=3) == [spoken(vlm, [9, 9, 9])] * 2


@contextmanager
def dictated(vlm, steps):
    """The model's likeliest tokens are the given ones, step by step; those that are left are yielded."""
    left = [torch.tensor(step) for step in steps]
    hook = vlm.model.lm_head.register_forward_hook(lambda _, args, out: one_hot(left.pop(0), out.shape[-1]).float())
    try:
        yield left
    finally:
        hook.remove()


class TestGradients:
    def test_from_one_logit_to_every_token_and_every_row_of_pixels(self, vlm, video):
        video = video.clone().requires_grad_()
        tokens = vlm.encode(video)
        tokens.retain_grad()
        vlm.logits(tokens, PROMPT, "the").softmax(-1)[:, 9].sum().backward()
        assert tokens.grad.isfinite().all()
        assert (tokens.grad.abs().sum(-1) > 0).all()
        assert (video.grad.abs().amax((2, 4)) > 0).all()
        assert all(weight.grad is None for weight in vlm.parameters())

    def test_nothing_trains(self, vlm):
        assert not any(module.training for module in vlm.train().modules())
        assert not any(weight.requires_grad for weight in vlm.parameters())

    def test_only_the_answers_positions_reach_the_output_layer(self, vlm, video):
        seen, ids = [], vlm.token_ids("a red")
        hook = vlm.model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        vlm.logits(vlm.encode(video), answer="a red")
        hook.remove()
        assert seen == [len(ids) + 1]


class TestPrompts:
    def test_places_are_as_many_as_tokens(self, vlm):
        assert vlm.prompt_ids(PROMPT).count(vlm.placeholder) == vlm.token_shape[0]

    def test_no_prompt_is_the_default_prompt(self, vlm, video):
        tokens = vlm.encode(video)
        assert vlm.prompt_ids() == vlm.prompt_ids("Describe the video.")
        torch.testing.assert_close(vlm.logits(tokens), vlm.logits(tokens, vlm.default_prompt), atol=0, rtol=0)

    @torch.no_grad()
    def test_of_a_batch_each_clip_may_have_its_own(self, vlm, video):
        tokens = vlm.encode(torch.cat([video, video.flip(1)])).detach()
        prompts, answers = (
            ["a ball", "Describe the video .", "a ball", "a red ball"],
            ["the", "", "the", "the red"],
        )  # the first and third are read at once
        alone = [vlm.logits(row[None], *texts) for row, *texts in zip(tokens, prompts, answers, strict=True)]
        torch.testing.assert_close(vlm.logits(tokens, prompts, answers), torch.cat(alone), atol=1e-5, rtol=0)
        said = [vlm.caption(row[None], prompt, 6)[0] for row, prompt in zip(tokens, prompts, strict=True)]
        assert vlm.caption(tokens, prompts, 6) == said
        with pytest.raises(TransporterError, match="prompt: 2 texts for 4 clips; give one for all, or one each"):
            vlm.logits(tokens, prompts[:2])

    def test_what_stands_for_the_video_is_refused_in_a_question(self, vlm, video):
        tokens = vlm.encode(video)
        for special in {vlm.slot, vlm.tokenizer.convert_ids_to_tokens(vlm.placeholder)}:
            with pytest.raises(TransporterError, match=r"^prompt: 'what is .*' has '.*' in it, .*; remove it$"):
                vlm.logits(tokens, f"what is {special} ?")

    def test_a_template_without_a_place_for_the_video_is_refused(self, vlm, monkeypatch):
        monkeypatch.setattr(vlm.tokenizer, "chat_template", "{{ messages[0]['content'][-1]['text'] }}")
        with pytest.raises(TransporterError, match=r"^prompt: the chat template leaves 0 places for the video, not \d"):
            vlm.prompt_ids()

    def test_a_placeholder_in_an_answer_is_a_token_like_any_other(self, vlm, video):
        tokens, ids = vlm.encode(video), torch.tensor([9, vlm.placeholder, 8])
        together = vlm.answer_logits(tokens, ids)
        alone = torch.cat([vlm.answer_logits(row[None], ids) for row in tokens])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)

    def test_too_long_ones_are_one_clear_error(self, vlm, video):
        tokens = vlm.encode(video)
        with pytest.raises(TransporterError, match=r"^prompt: \d+ tokens with the video, but this VLM reads 1024; sho"):
            vlm.caption(tokens, "left " * 1100)

    def test_wrong_shapes_are_refused(self, vlm, video):
        count, width = vlm.token_shape
        for wrong in ((1, count + 1, width), (1, count, width + 1), (count, width)):
            with pytest.raises(TransporterError, match=rf"^tokens: shape .* expected \(B, {count}, {width}\)"):
                vlm.logits(torch.zeros(wrong))
        with pytest.raises(TransporterError, match=r"^video: shape"):
            vlm.encode(video[:, :-1])


class TestText:
    def test_no_special_tokens(self, vlm):
        assert vlm.token_ids("") == []
        assert not set(vlm.token_ids(vlm.default_prompt)) & set(vlm.tokenizer.all_special_ids)

    @settings(max_examples=20)
    @given(st.lists(st.sampled_from([*"7.,:?", "a", "the", "red", "blue", "ball"]), min_size=1, max_size=9))
    def test_round_trip(self, vlm, words):
        ids = vlm.token_ids(" ".join(words))
        assert vlm.text(ids) == " ".join(words)
        assert vlm.token_ids(vlm.text(ids)) == ids


class TestFolder:
    def test_round_trip(self, vlm, video, tmp_path):
        vlm.save(tmp_path / "folder")
        again = type(vlm).from_pretrained(tmp_path / "folder", vlm.video)
        tokens = again.encode(video)
        assert vlm.token_shape_of(tmp_path / "folder", vlm.video) == again.token_shape == tokens.shape[1:]
        assert (again.prompt_ids(), again.processor) == (vlm.prompt_ids(), vlm.processor)
        torch.testing.assert_close(tokens, vlm.encode(video), atol=0, rtol=0)
        torch.testing.assert_close(again.logits(tokens), vlm.logits(tokens), atol=0, rtol=0)
        assert again.caption(tokens, max_new_tokens=8) == vlm.caption(tokens, max_new_tokens=8)

    def test_round_trip_in_bfloat16(self, vlm, video, tmp_path):
        vlm.save(tmp_path / "full")
        half = type(vlm).from_pretrained(tmp_path / "full", vlm.video, torch.bfloat16)
        half.save(tmp_path / "half")
        assert {w.dtype for w in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
        again = type(vlm).from_pretrained(tmp_path / "half", vlm.video, torch.bfloat16)
        tokens = again.encode(video)
        assert tokens.dtype == again.logits(tokens).dtype == again.dtype == torch.bfloat16
        torch.testing.assert_close(tokens, half.encode(video), atol=0, rtol=0)
        assert (tokens - vlm.encode(video)).abs().max() < 0.05 * vlm.encode(video).abs().max()

    @pytest.mark.parametrize("frames", [4, 7])
    def test_shapes_are_foretold_of_other_clips(self, vlm, frames, tmp_path):
        vlm.save(tmp_path)
        spec = VideoSpec(frames, 32, 32, 8)
        again = type(vlm).from_pretrained(tmp_path, spec)
        (tmp_path / "model.safetensors").unlink()
        tokens = again.encode(torch.rand(1, frames, 3, 32, 32))
        assert type(vlm).token_shape_of(tmp_path, spec) == tokens.shape[1:]
        assert again.prompt_ids().count(again.placeholder) == len(tokens[0])

    def test_a_clip_beyond_the_context_is_refused_before_any_weight_is_read(self, vlm, tmp_path):
        vlm.save(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"not weights")
        long = VideoSpec(800, 32, 32, 8)
        for ask in (type(vlm).from_pretrained, type(vlm).token_shape_of):
            with pytest.raises(TransporterError, match=r"^video: .* gives \d+ visual tokens, .* context of 1024; use"):
                ask(tmp_path, long)

    def test_a_model_of_another_kind_is_refused(self, vlm, tmp_path):
        vlm.save(tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "other"}')
        with pytest.raises(TransporterError, match=rf"holds a 'other', not a native '{vlm.model_type}' .*{vlm.native}"):
            type(vlm).from_pretrained(tmp_path, vlm.video)

    def test_a_broken_config_is_one_clear_error(self, vlm, tmp_path):
        vlm.save(tmp_path)
        (tmp_path / "config.json").write_text("[")
        with pytest.raises(TransporterError, match=r"config\.json .* is no JSON object"):
            type(vlm).from_pretrained(tmp_path, vlm.video)

    @pytest.mark.parametrize("path", ["./no/such/folder", "nobody/no-such-model", "no such name"])
    def test_what_is_not_there_is_one_clear_error(self, vlm, path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(TransporterError, match=f"path: .*{path}"):
            type(vlm).from_pretrained(path, vlm.video)

    def test_settings_are_read_where_a_processor_keeps_them(self, vlm, tmp_path):
        """Nested in one file of the whole processor, which comes first, or in a file of their own."""
        adapter, name = type(vlm), f"{vlm.medium}_processor"
        assert adapter.read_processor(str(tmp_path)) == {}
        for file, saved in (
            ("preprocessor_config.json", {"image_mean": 0.1}),
            (adapter.processor_file, {"image_mean": 0.2}),
            ("processor_config.json", {"processor_class": "Processor", name: {"image_mean": 0.3}}),
        ):
            (tmp_path / file).write_text(json.dumps(saved))
            assert adapter.read_processor(str(tmp_path)) == saved.get(name, saved)
        (tmp_path / "processor_config.json").write_text('{"processor_class": "Processor"}')
        assert adapter.read_processor(str(tmp_path)) == {"image_mean": 0.2}
