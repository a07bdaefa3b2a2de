"""A tokenizer of bytes, for models with random weights whose tokenizer files are not at hand."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

PAD, END = "<pad>", "</s>"


def stand_in_tokenizer(
    special: Mapping[str, int], length: int, *, append_end: bool = False, begin: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a byte, beside special tokens at the ids that a model's configuration has for them.

    Every text can be written and read; it is longer than in the model's own tokens.

    Args:
        special: Names and ids of the special tokens; ``<pad>`` and ``</s>`` among them are what their names say.
        length: ``model_max_length``.
        append_end: Whether ``</s>`` is appended to every text.
        begin: The special token with which every text begins.
    """
    taken, alphabet = set(special.values()), sorted(pre_tokenizers.ByteLevel.alphabet())
    free = (index for index in range(len(alphabet) + len(taken)) if index not in taken)
    tokenizer = Tokenizer(BPE({**dict(zip(alphabet, free, strict=False)), **special}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    around = [name for name in (begin, END if append_end else None) if name is not None]
    if around:
        text = " ".join([*([begin] if begin else []), "$A", *([END] if append_end else [])])
        tokenizer.post_processor = TemplateProcessing(single=text, special_tokens=[(n, special[n]) for n in around])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD if PAD in special else None,
        eos_token=END if END in special else None,
        bos_token=begin,
        extra_special_tokens=[name for name in special if name not in {PAD, END, begin}],
        model_max_length=length,
        padding_side="right",
    )


def tokenizer_of(config: PreTrainedConfig) -> PreTrainedTokenizerFast:
    """The stand-in of a VLM: a special token for every id that its configuration names.

    Args:
        config: The model's, with those of its parts: ``image_token_id``, ``eos_token_id``, …
    """
    found: dict[str, int] = {}
    for name, ids in _ids(config.to_dict()):
        first = ids[0] if isinstance(ids, list) else ids
        if isinstance(first, int) and first not in found.values():
            found[{"pad": PAD, "eos": END}.get(name, f"<|{name}|>")] = first
    return stand_in_tokenizer(found, config.get_text_config().max_position_embeddings)


def _ids(fields: Mapping[str, object]) -> list[tuple[str, object]]:
    """Names and ids of special tokens, ``eos`` first, as a model may use one token for several purposes."""
    found: list[tuple[str, object]] = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found += _ids(value)
        elif str(name).endswith(("_token_id", "_token_index")):  # labels of a part may be numbers
            found.append((name.rpartition("_token")[0], value))
    return sorted(found, key=lambda pair: pair[0] != "eos")
