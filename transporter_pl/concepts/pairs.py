"""Pairs of contrasting words, and where their captions part for a VLM."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transporter_pl.adapters import VLMAdapter
from transporter_pl.errors import TransporterError

SLOT = "{}"
TEMPLATE = re.compile(r"([^{}]*)\{([^{}|]*)\|([^{}|]*)\}([^{}]*)")


@dataclass(frozen=True)
class Pair:
    """Two words (or phrases) that contrast, and the captions in which they do.

    Attributes:
        negative: The word of ε−, where a dial of φ = 0 stands.
        positive: The word of ε+, φ = 1.
        contexts: Captions with one slot for the word: "a red oval moves {} on a dark background".

    Raises:
        TransporterError: If a word is empty, both are the same, or a context has no slot or several.
    """

    negative: str
    positive: str
    contexts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "contexts", tuple(self.contexts))
        if not self.negative.strip() or not self.positive.strip():
            msg = f"pair: {self.name!r} lacks a word; write it as left:right"
            raise TransporterError(msg)
        if self.negative == self.positive:
            msg = f"pair: {self.name!r} differs in nothing; give two different words"
            raise TransporterError(msg)
        for context in self.contexts:
            _check_slot(context)

    @classmethod
    def parse(cls, text: str, contexts: tuple[str, ...] = ()) -> Pair:
        """The pair of "left:right", or of a template with two words in its slot, "an oval moves {left|right}".

        Args:
            text: Either of the two; a template is a context too.
            contexts: Further contexts.

        Raises:
            TransporterError: If the text is neither two words with one colon between, nor one slot with two words.
        """
        if "{" in text or "}" in text:
            return _from_template(text, contexts)
        negative, colon, positive = text.partition(":")
        if not colon or ":" in positive:
            msg = f"pair: {text!r} is not two words with one colon between; write it as left:right"
            raise TransporterError(msg)
        return cls(negative.strip(), positive.strip(), contexts)

    @property
    def name(self) -> str:
        """The pair as ``parse`` reads it, "left:right"."""
        return f"{self.negative}:{self.positive}"

    def context(self, caption: str) -> str:
        """The caption with a slot where the negative word stands.

        Args:
            caption: A caption with the negative word, or one that has a slot already.

        Raises:
            TransporterError: If the caption has neither, or the word several times.
        """
        if SLOT in caption:
            _check_slot(caption)
            return caption
        return context_of(caption, self.negative)

    def captions(self, context: str) -> tuple[str, str]:
        """The context's two captions, ε− and ε+ in words."""
        return context.replace(SLOT, self.negative), context.replace(SLOT, self.positive)


def pairs_of(given: Sequence[Pair | str | Mapping[str, Any]]) -> list[Pair]:
    """Pairs from pairs, from what ``Pair.parse`` reads, or from their fields; equal pairs become one with all contexts.

    Raises:
        TransporterError: If one can't be read.
    """
    found: dict[tuple[str, str], Pair] = {}
    for pair in map(_pair_of, given):
        words = pair.negative, pair.positive
        contexts = [*found.get(words, pair).contexts, *pair.contexts]
        found[words] = replace(pair, contexts=tuple(dict.fromkeys(contexts)))
    return list(found.values())


def _pair_of(item: Pair | str | Mapping[str, Any]) -> Pair:
    if isinstance(item, Pair):
        return item
    if isinstance(item, str):
        return Pair.parse(item)
    try:
        return Pair(**item)
    except (TypeError, AttributeError) as error:
        msg = f"pairs: {item!r} is no pair; write left:right, a template such as an oval moves {{left|right}}, or "
        msg += "negative, positive and contexts"
        raise TransporterError(msg) from error


def _from_template(text: str, contexts: tuple[str, ...]) -> Pair:
    """The pair of "an oval moves {left|right}"; see ``Pair.parse``."""
    parts = TEMPLATE.fullmatch(text)
    if parts is None:
        msg = f"pair: {text!r} has not one slot with two words; write it as in: an oval moves {{left|right}}"
        raise TransporterError(msg)
    before, negative, positive, after = parts.groups()
    return Pair(negative.strip(), positive.strip(), (f"{before}{SLOT}{after}", *contexts))


def context_of(caption: str, word: str) -> str:
    """The caption with a slot in place of a whole word.

    Raises:
        TransporterError: If the caption does not hold the word exactly once.
    """
    context, count = re.subn(rf"(?<!\w){re.escape(word)}(?!\w)", SLOT, caption)
    if count != 1:
        found = f"holds {word!r} {count} times" if count else f"does not hold the word {word!r}"
        msg = f"caption: {caption!r} {found}; write the slot {SLOT} where the word belongs"
        raise TransporterError(msg)
    return context


@dataclass(frozen=True)
class Contrast:
    """Where two captions part for a VLM: the first sub-token in which their tokenisations differ.

    ϑ is read there: the probabilities that the VLM gives to the next token when its answer has begun with ``prefix``.
    Of a word of several sub-tokens, the first that differs stands for the whole word.

    Attributes:
        prefix: The answer up to the contrast, the same for both captions.
        negative: Token id of the negative caption at the contrast.
        positive: Token id of the positive caption there.
    """

    prefix: str
    negative: int
    positive: int

    @classmethod
    def of(cls, vlm: VLMAdapter, pair: Pair, context: str) -> Contrast:
        """The contrast of a pair in a context.

        Raises:
            TransporterError: If the VLM's tokenizer does not know a word, can't tell the two captions apart, one is
                the beginning of the other, or the shared beginning is not tokenised alike on its own.
        """
        for word in (pair.negative, pair.positive):
            if not _squash(word) or _squash(word) not in _squash(vlm.text(vlm.token_ids(word))):
                msg = f"pair: the VLM's tokenizer does not know {word!r}; choose a word of its vocabulary"
                raise TransporterError(msg)
        negative, positive = (vlm.token_ids(caption) for caption in pair.captions(context))
        apart = [n != p for n, p in zip(negative, positive, strict=False)]
        if True not in apart:
            msg = f"pair: the VLM's tokenizer sees no contrast between {pair.negative!r} and {pair.positive!r} in "
            msg += f"{context!r}; choose words that differ before one of the captions ends"
            raise TransporterError(msg)
        position = apart.index(True)
        prefix = vlm.text(negative[:position]) if position else ""
        if position and vlm.token_ids(prefix) != negative[:position]:
            msg = f"pair: {pair.name!r} parts inside a word that the VLM's tokenizer writes differently when it ends "
            msg += f"there ({prefix!r}); choose words that differ from their first letter on"
            raise TransporterError(msg)
        return cls(prefix, negative[position], positive[position])


def _check_slot(context: str) -> None:
    if context.count(SLOT) != 1:
        msg = f"contexts: {context!r} has {context.count(SLOT)} slots; write {SLOT} once, where the word belongs"
        raise TransporterError(msg)


def _squash(text: str) -> str:
    return re.sub(r"\s+", "", text).casefold()
