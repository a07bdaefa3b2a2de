"""The tokenizer of bytes that random models get."""

import pytest
from tiny_vlms import tiny_vlm

from transporter_pl.backbones.stand_in import END, PAD, stand_in_tokenizer, tokenizer_of


def test_every_text_comes_back_and_special_tokens_are_one_each():
    tokenizer = stand_in_tokenizer({PAD: 0, END: 1, "<image>": 70}, 32)
    text = "a réd oval, 1.5s: ←"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("a<image><image>")["input_ids"][1:] == [70, 70]
    assert len(tokenizer("left")["input_ids"]) == 4
    assert not {0, 1, 70} & set(tokenizer("".join(map(chr, range(32, 127))))["input_ids"])
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.model_max_length) == (0, 1, 32)


def test_texts_begin_and_end_as_asked():
    tokenizer = stand_in_tokenizer({"<bos>": 2, END: 1, PAD: 0}, 8, append_end=True, begin="<bos>")
    ids = tokenizer(["ab", "c"], padding="max_length", max_length=6, truncation=True)["input_ids"]
    assert [row[0] for row in ids] == [2, 2]
    assert ids[0][3:] == [1, 0, 0]
    assert ids[1][2:] == [1, 0, 0, 0]


@pytest.mark.parametrize("kind", ["video_llama3", "gemma3", "phi4_multimodal", "qwen3_vl"])
def test_of_a_vlm_it_has_the_placeholder_at_the_configurations_id(kind):
    adapter = tiny_vlm(kind)
    tokenizer = tokenizer_of(adapter.model.config)
    assert tokenizer(tokenizer.convert_ids_to_tokens(adapter.placeholder))["input_ids"] == [adapter.placeholder]
    assert max(tokenizer("a red ball")["input_ids"]) < adapter.model.config.get_text_config().vocab_size + 256
