import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from transporter_pl.backbones.scratch import END, UNKNOWN, VIDEO, new_vae, word_tokenizer

WORDS = ["a", "red", "ball", "time"]


def test_one_token_a_word_digit_or_mark():
    tokenizer = word_tokenizer(WORDS, 64, append_end=False)
    assert tokenizer.tokenize("a red ball, time: 12.5?") == [
        "a",
        "red",
        "ball",
        ",",
        "time",
        ":",
        "1",
        "2",
        ".",
        "5",
        "?",
    ]
    assert tokenizer.tokenize("a purple\n ball") == ["a", UNKNOWN, "ball"]
    assert tokenizer.tokenize(f"red:{VIDEO}{VIDEO},") == ["red", ":", VIDEO, VIDEO, ","]


def test_the_end_is_appended_where_asked_and_survives_truncation():
    tokenizer = word_tokenizer(WORDS, 4, append_end=True)
    end = tokenizer.eos_token_id
    assert tokenizer("a red ball")["input_ids"][-1] == end
    assert tokenizer("a red ball a red", truncation=True)["input_ids"][-1] == end
    assert tokenizer("")["input_ids"] == [end]
    assert end not in word_tokenizer(WORDS, 4, append_end=False)("a red ball")["input_ids"]


@given(st.lists(st.sampled_from([*WORDS, *"0123456789.:,?", VIDEO, END]), max_size=8))
def test_ids_do_not_depend_on_repeated_words(words):
    once, twice = word_tokenizer(WORDS, 64, append_end=False), word_tokenizer(WORDS * 2, 64, append_end=False)
    assert once(" ".join(words))["input_ids"] == twice(" ".join(words))["input_ids"]


def test_a_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = word_tokenizer(WORDS, 5, append_end=True)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = f"a blue ball 12 {VIDEO}."
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (again.model_max_length, again.padding_side) == (5, "right")
    assert (again.pad_token_id, again.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_the_posteriors_noise_starts_small():
    torch.manual_seed(0)
    vae = new_vae(8, 8, 2)
    posterior = vae.encode(torch.rand(1, 3, 5, 16, 16) * 2 - 1).latent_dist
    assert posterior.mode().shape == (1, 8, 2, 2, 2)
    assert posterior.std.max() < 0.2
