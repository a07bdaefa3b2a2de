"""A VLM that is asked in words: visual tokens take the places of a placeholder in the embedded prompt."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from transporter_pl.adapters import Texts, VLMAdapter
from transporter_pl.errors import TransporterError


class PromptedVLM(VLMAdapter):
    """Questions and answers of a language model of transformers; a subclass says where the prompt has the video."""

    medium: ClassVar[str]  # what the chat template calls the visual part of a message
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def slot(self) -> str:
        """What stands for the video, or for each frame of it, in the chat template: the placeholder, in most models."""
        return self._placeholder

    @abstractmethod
    def fillings(self) -> list[str]:
        """What is put in the place of each slot: a placeholder for every visual token, and what stands between them."""

    @property
    @abstractmethod
    def placeholder(self) -> int:
        """Id of the token in whose places the visual tokens are put."""

    @property
    def _placeholder(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.placeholder))

    @property
    def default_prompt(self) -> str:
        """The question that captions are asked with."""
        return "Describe the video."

    def prompt_ids(self, prompt: str | None = None) -> list[int]:
        """Ids of the whole prompt: a placeholder for every visual token, what stands between them, the question.

        Raises:
            TransporterError: If the prompt has a slot or placeholder in it, the chat template leaves another number of
                slots, or the whole is longer than the context.
        """
        filled = self._filled(self.default_prompt if prompt is None else prompt)
        # a chat template writes the beginning of the sequence itself
        begun = bool(self.tokenizer.bos_token) and filled.startswith(self.tokenizer.bos_token)
        ids = list(self.tokenizer(filled, add_special_tokens=not begun)["input_ids"])
        context = self.model.config.get_text_config().max_position_embeddings
        if len(ids) >= context:
            msg = f"prompt: {len(ids)} tokens with the video, but this VLM reads {context}; shorten it"
            raise TransporterError(msg)
        return ids

    def _filled(self, question: str) -> str:
        fillings = self.fillings()
        for special in (self.slot, self._placeholder):
            if special in question:
                msg = f"prompt: {question!r} has {special!r} in it, which stands for the video; remove it"
                raise TransporterError(msg)
        first, *others = self._message(question, len(fillings)).split(self.slot)
        if len(others) != len(fillings):
            msg = f"prompt: the chat template leaves {len(others)} places for the video, not {len(fillings)}; give a "
            raise TransporterError(msg + f"tokenizer whose template writes {self.slot!r} for each {self.medium}")
        return first + "".join(filling + other for filling, other in zip(fillings, others, strict=True))

    def _message(self, question: str, slots: int) -> str:
        if not self.tokenizer.chat_template:
            return f"{self.slot * slots}\n{question}"
        content = [*[{"type": self.medium}] * slots, {"type": "text", "text": question}]
        message = [{"role": "user", "content": content}]
        return str(self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))

    def embed(self, ids: list[int], tokens: Tensor, answer_ids: Tensor | None = None) -> Tensor:
        """What enters the language model: the prompt with z_Ω in its places, then the beginning of an answer.

        Args:
            ids: Of the prompt, as ``prompt_ids`` gives them.
            tokens: z_Ω, (B, N, D).
            answer_ids: Ids of the answers so far, (B, A) or (A,), padded on the right.

        Returns:
            (B, P + A, D), differentiable down to the tokens and to the weights.

        Raises:
            TransporterError: If the tokens are not (B, N, D).
        """
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != self.token_shape:
            msg = f"tokens: shape {tuple(tokens.shape)}, expected (B, {self.token_shape[0]}, {self.token_shape[1]})"
            raise TransporterError(msg)
        words = self.model.get_input_embeddings()
        prompt = torch.tensor(ids, device=tokens.device).expand(len(tokens), -1)
        embedded: Tensor = words(prompt)
        places = (prompt == self.placeholder)[..., None]
        embedded = embedded.masked_scatter(places, self.enter(tokens).to(embedded.dtype))
        if answer_ids is None:
            return embedded
        # a placeholder in an answer is a token like any other: visual tokens have their places in the prompt
        return torch.cat([embedded, words(answer_ids.to(tokens.device).expand(len(tokens), -1))], 1)

    def enter(self, tokens: Tensor) -> Tensor:
        """The part of the tokens (B, N, D) that stands in the embedded prompt: all of it, in most models."""
        return tokens

    def hidden(self, embedded: Tensor, ids: list[int], tokens: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Last hidden states (B, S, D) of the language model.

        Args:
            embedded: What enters, (B, S, D): prompt and answer, or with a filled cache only what comes after it.
            ids: Of the prompt.
            tokens: z_Ω, (B, N, D), for models that read it in deeper layers too.
            cache: Keys and values of what has been read; it is extended.
        """
        read = self.model.model(
            inputs_embeds=embedded, **cached(self.model, cache), **self.context(embedded, ids, cache)
        )
        hidden: Tensor = read.last_hidden_state
        return hidden

    def context(self, embedded: Tensor, ids: list[int], cache: DynamicCache | None) -> dict[str, Any]:
        """What the language model wants to know beside the embeddings."""
        return {}

    def answer_logits(self, tokens: Tensor, answer_ids: Tensor, prompt: str | None = None) -> Tensor:
        """Logits before every token of an answer and after the last one: answer_ids (B, A) or (A,) → (B, A + 1, V).

        Only these positions go through the output layer.
        """
        ids = self.prompt_ids(prompt)
        hidden = self.hidden(self.embed(ids, tokens, answer_ids), ids, tokens)
        logits: Tensor = self.model.lm_head(hidden[:, -answer_ids.shape[-1] - 1 :])
        return logits

    def logits(self, tokens: Tensor, prompt: Texts | None = None, answer: Texts = "") -> Tensor:
        """Next-token logits (B, V) after the prompt and the beginning of an answer, one for all clips or one each."""
        alike = _alike(len(tokens), prompt, answer)
        parts = [self._next(tokens if len(alike) == 1 else tokens[rows], *asked) for asked, rows in alike.items()]
        order = torch.tensor([row for rows in alike.values() for row in rows], device=tokens.device).argsort()
        return parts[0] if len(alike) == 1 else torch.cat(parts)[order]

    def _next(self, tokens: Tensor, prompt: str | None, answer: str) -> Tensor:
        ids = torch.tensor(self.token_ids(answer), dtype=torch.long)
        return self.answer_logits(tokens, ids, prompt)[:, -1]

    @torch.no_grad()
    def caption(self, tokens: Tensor, prompt: Texts | None = None, max_new_tokens: int = 64) -> list[str]:
        """Greedy caption of every clip; tokens (B, N, D); one prompt for all clips or one each."""
        said: dict[int, str] = {}
        for (question, _), group in _alike(len(tokens), prompt, "").items():
            said.update(zip(group, self._captions(tokens[group], question, max_new_tokens), strict=True))
        return [said[row] for row in range(len(tokens))]

    def _captions(self, tokens: Tensor, prompt: str | None, max_new_tokens: int) -> list[str]:
        # a loop of our own: some models' ``generate`` takes no embeddings, and all bring sampling settings along
        ids, ends = self.prompt_ids(prompt), torch.tensor(self._ends(), device=tokens.device)
        embedded, cache = self.embed(ids, tokens), self.new_cache(len(ids), max_new_tokens)
        said = torch.empty(len(tokens), 0, dtype=torch.long, device=tokens.device)
        for _ in range(max_new_tokens):
            chosen = self.model.lm_head(self.hidden(embedded, ids, tokens, cache)[:, -1]).argmax(-1)
            said = torch.cat([said, chosen[:, None]], 1)
            if torch.isin(said, ends).any(1).all():
                break
            embedded = (
                self.embed(ids, tokens, said) if cache is None else self.model.get_input_embeddings()(said[:, -1:])
            )
        return [self._until_the_end(row.tolist(), ends.tolist()) for row in said]

    def new_cache(self, prompt: int, answer: int) -> DynamicCache | None:
        """Where keys and values are kept while an answer is written; the lengths are in tokens. None reads all anew."""
        return DynamicCache(config=self.model.config.get_text_config())

    def _ends(self) -> list[int]:
        own = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if own is None else own
        return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]

    def _until_the_end(self, ids: list[int], ends: list[int]) -> str:
        length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        return str(self.tokenizer.decode(ids[:length], skip_special_tokens=True)).strip()

    def token_ids(self, text: str) -> list[int]:
        """Ids of a text as an answer has it, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: list[int]) -> str:
        """The inverse of ``token_ids``."""
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _alike(count: int, prompt: Texts | None, answer: Texts) -> dict[tuple[str | None, str], list[int]]:
    """Rows of a batch by prompt and answer: rows that are asked alike are read at once, without padding."""
    prompts = [None] * count if prompt is None else _each("prompt", count, prompt)
    groups: dict[tuple[str | None, str], list[int]] = {}
    for row, asked in enumerate(zip(prompts, _each("answer", count, answer), strict=True)):
        groups.setdefault(asked, []).append(row)
    return groups


def _each(name: str, count: int, texts: Texts) -> Sequence[str]:
    if isinstance(texts, str):
        return [texts] * count
    if len(texts) != count:
        msg = f"{name}: {len(texts)} texts for {count} clips; give one for all, or one each"
        raise TransporterError(msg)
    return texts


def cached(model: PreTrainedModel, cache: DynamicCache | None) -> dict[str, Any]:
    """The arguments that give a model a cache, under the name that its version of transformers has for it."""
    if cache is None:
        return {"use_cache": False}
    name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    return {"use_cache": True, name: cache}
