"""VideoLLaMA 3 (arXiv 2501.13106) through transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
)

from transporter_pl.adapters import VLMAdapter
from transporter_pl.backbones.folders import check_video, find_config, loading, read_config, saved_aside
from transporter_pl.backbones.patches import PatchGrid
from transporter_pl.backbones.shipped import resolve
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

MODEL_TYPE = "video_llama_3"
PROCESSOR = "video_preprocessor_config.json"


class VideoLlama3Adapter(VLMAdapter):
    """VideoLLaMA 3 with every frame encoded and token compression off, so that N is the same for every clip.

    Args:
        model: The model, on any device.
        tokenizer: Its tokenizer; a chat template in it is used.
        video: Geometry of the clips.
        source: Hub id or folder that it came from.
        processor: Settings of its video processor, as in ``video_preprocessor_config.json``; by default frames are not
            resized and two by two patches become one token.

    Raises:
        TransporterError: If the geometry does not suit the token grid.
    """

    def __init__(
        self,
        model: VideoLlama3ForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        video: VideoSpec,
        source: str | Path = "",
        processor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        patch = model.config.vision_config.patch_size
        self.processor = _default_processor(patch) if processor is None else processor
        self.grid = PatchGrid.fit(video, patch, self.processor)
        self.model, self.tokenizer, self.video, self.source = model, tokenizer, video, str(source)

    @classmethod
    def from_pretrained(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """Load from a hub id, a local folder or the name of a shipped checkpoint.

        Raises:
            TransporterError: Before any weight is loaded, if the folder is no native VideoLLaMA 3, can't be reached, or
                the geometry does not suit its token grid.
        """
        folder = resolve(path)
        config, processor = _read(folder)
        PatchGrid.fit(video, config.vision_config.patch_size, processor)
        with loading(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = VideoLlama3ForConditionalGeneration.from_pretrained(
                folder, config=config, dtype=dtype, use_safetensors=True
            )
        return cls(model, tokenizer, video, path, processor).freeze()

    @classmethod
    def token_shape_of(cls, path: str | Path, video: VideoSpec) -> tuple[int, int]:
        """(N, D) of one clip's tokens, from the folder's configuration alone.

        Raises:
            TransporterError: As ``from_pretrained``.
        """
        config, processor = _read(resolve(path))
        grid = PatchGrid.fit(video, config.vision_config.patch_size, processor)
        return video.frames * grid.tokens, config.text_config.hidden_size

    def save(self, path: str | Path) -> None:
        """Write model, tokenizer and processor settings as a hub folder."""
        with saved_aside(path) as aside:
            self.model.save_pretrained(aside)
            self.tokenizer.save_pretrained(aside)
            (aside / PROCESSOR).write_text(json.dumps(self.processor, indent=2) + "\n", encoding="utf-8")

    @property
    def token_shape(self) -> tuple[int, int]:
        """(N, D) of one clip's visual tokens."""
        return self.video.frames * self.grid.tokens, self.model.config.text_config.hidden_size

    @property
    def default_prompt(self) -> str:
        """The question that captions are asked with."""
        return "Describe the video."

    def encode(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → tokens z_Ω (B, N, D), differentiable down to the pixels.

        Raises:
            TransporterError: If the clips are not of the adapter's geometry.
        """
        check_video(video, self.video)
        rows = self.grid.rows(video.to(self.dtype))
        shape, merge = self.grid.shapes(len(video), self.video.frames, rows.device)
        return torch.stack(self.model.get_video_features(rows, shape, video_merge_sizes=merge).pooler_output)

    def prompt_ids(self, prompt: str | None = None) -> list[int]:
        """Ids of the whole prompt: time stamps, a placeholder for every visual token, the question.

        Raises:
            TransporterError: If the prompt, or the tokenizer's chat template, gives another number of placeholders.
        """
        name = self.tokenizer.convert_ids_to_tokens(self.model.config.video_token_id)
        question = self.default_prompt if prompt is None else prompt
        visual = ",".join(
            f"Time {frame / self.video.fps:.1f}s:" + name * self.grid.tokens for frame in range(self.video.frames)
        )
        text = f"{name}\n{question}"
        if self.tokenizer.chat_template:
            content = [{"type": "video"}, {"type": "text", "text": question}]
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        if text.count(name) != 1:
            msg = f"prompt: {question!r} leaves {text.count(name)} places for the video, not 1; remove {name!r} from it"
            raise TransporterError(msg)
        return list(self.tokenizer(text.replace(name, visual))["input_ids"])

    def embed_prompt(self, tokens: Tensor, prompt: str | None = None, answer_ids: Tensor | None = None) -> Tensor:
        """What enters the language model: prompt with z_Ω in its places, then the beginning of an answer.

        Args:
            tokens: z_Ω, (B, N, D).
            prompt: The question, ``default_prompt`` if none.
            answer_ids: Ids of the answers so far, (B, A) or (A,), padded on the right.

        Returns:
            (B, P + A, D), differentiable down to the tokens and to the weights.

        Raises:
            TransporterError: If the tokens are not (B, N, D).
        """
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != self.token_shape:
            msg = f"tokens: shape {tuple(tokens.shape)}, expected (B, {self.token_shape[0]}, {self.token_shape[1]})"
            raise TransporterError(msg)
        embed = self.model.get_input_embeddings()
        ids = torch.tensor(self.prompt_ids(prompt), device=tokens.device).expand(len(tokens), -1)
        places = (ids == self.model.config.video_token_id)[..., None]
        embedded: Tensor = embed(ids)
        embedded = embedded.masked_scatter(places, tokens.to(embedded.dtype))
        if answer_ids is None:
            return embedded
        # a placeholder in an answer is a token like any other: visual tokens have their places in the prompt
        return torch.cat([embedded, embed(answer_ids.to(tokens.device).expand(len(tokens), -1))], 1)

    def answer_logits(self, tokens: Tensor, answer_ids: Tensor, prompt: str | None = None) -> Tensor:
        """Logits before every token of an answer and after the last one: answer_ids (B, A) or (A,) → (B, A + 1, V).

        Only these positions go through the output layer; the model itself has no way to ask for them.
        """
        embedded = self.embed_prompt(tokens, prompt, answer_ids)
        hidden = self.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden[:, -answer_ids.shape[-1] - 1 :])
        return logits

    def logits(self, tokens: Tensor, prompt: str | None = None, answer: str = "") -> Tensor:
        """Next-token logits (B, V) after the prompt and the beginning of an answer."""
        ids = torch.tensor(self.token_ids(answer), dtype=torch.long)
        return self.answer_logits(tokens, ids, prompt)[:, -1]

    @torch.no_grad()
    def caption(self, tokens: Tensor, prompt: str | None = None, max_new_tokens: int = 64) -> list[str]:
        """Greedy caption of every clip; tokens (B, N, D)."""
        embedded = self.embed_prompt(tokens, prompt)
        everywhere = torch.ones(embedded.shape[:2], dtype=torch.long, device=embedded.device)
        own = self.model.generation_config
        # a checkpoint's own sampling settings would otherwise fill what is left open
        greedy = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=own.eos_token_id if own.eos_token_id is not None else self.tokenizer.eos_token_id,
            pad_token_id=own.pad_token_id if own.pad_token_id is not None else self.tokenizer.pad_token_id,
        )
        ids = self.model.generate(inputs_embeds=embedded, attention_mask=everywhere, generation_config=greedy)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def token_ids(self, text: str) -> list[int]:
        """Ids of a text as an answer has it, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: list[int]) -> str:
        """The inverse of ``token_ids``."""
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _default_processor(patch: int) -> dict[str, Any]:
    return {
        "video_processor_type": "VideoLlama3VideoProcessor",
        "do_resize": False,
        "patch_size": patch,
        "merge_size": 2,
        "use_token_compression": False,
    }


def _read(folder: str) -> tuple[VideoLlama3Config, dict[str, Any]]:
    """Configuration and video processor's settings of a folder."""
    config = read_config(folder, "config.json")
    if config.get("model_type") != MODEL_TYPE:
        msg = (
            f"path: {folder!r} holds a {config.get('model_type')!r}, not a native {MODEL_TYPE!r} of transformers; "
            "give a native conversion, such as 'lkhl/VideoLLaMA3-7B-Image-HF'"
        )
        raise TransporterError(msg)
    nested = (find_config(folder, "processor_config.json") or {}).get("video_processor")
    processor = nested or find_config(folder, PROCESSOR) or find_config(folder, "preprocessor_config.json") or {}
    return VideoLlama3Config.from_dict(config), processor
