"""A tiny VLM of every kind, and what a user of transformers would give to some of them."""

import functools

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from transporter_pl.backbones.gemma3 import Gemma3Adapter
from transporter_pl.backbones.phi4_multimodal import Phi4MultimodalAdapter
from transporter_pl.backbones.qwen3_vl import Qwen3VLAdapter
from transporter_pl.backbones.scratch import new_gemma3, new_phi4_multimodal, new_qwen3_vl, new_video_llama3
from transporter_pl.backbones.stand_in import stand_in_tokenizer
from transporter_pl.backbones.transformers_vlm import TransformersVLM
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.samples import VideoSpec

try:
    import torchvision  # noqa: F401
    from transformers import VideoLlama3VideoProcessor
    from transformers.models.gemma3 import Gemma3ImageProcessor, Gemma3Processor
    from transformers.models.video_llama_3 import VideoLlama3ImageProcessor, VideoLlama3Processor
except (ImportError, RuntimeError) as error:  # one that does not match torch raises the latter
    broken = str(error)
else:
    broken = ""
needs_processor = pytest.mark.skipif(bool(broken), reason=f"official processors need torchvision: {broken}")

SPEC = VideoSpec(5, 32, 32, 8)
SMALL = {"vision_dim": 32, "vision_layers": 2, "text_dim": 32, "text_layers": 2}
WORDS = [
    *["a", "the", "red", "blue", "large", "square", "ball", "that", "moves", "to", "left", "right"],
    *["Describe", "video", "Time", "s", "user", "assistant", "<|im_start|>", "<|im_end|>"],
]
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{% if c['type'] == 'video' %}<|video_pad|>\n{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def loud(model):
    """Random weights of the usual size say nearly the same whatever they see."""
    for weight in model.parameters():
        weight.data.mul_(3 if weight.ndim > 1 else 1)
    return model


def video_llama3(*, chat: bool = False) -> TransformersVLM:
    model, tokenizer = new_video_llama3(WORDS, **SMALL)
    if chat:
        tokenizer.chat_template = QWEN_CHAT
    return VideoLlama3Adapter(loud(model), tokenizer, SPEC, source="tiny")


def gemma3(*, chat: bool = False) -> TransformersVLM:
    """Prompts are longer than the sliding window; with the template, tokens are bytes, so that none gets lost."""
    words = [*WORDS, *(f"word{i}" for i in range(300))] if chat else WORDS
    model, tokenizer = new_gemma3(words, patch=4, tokens=16, **SMALL)
    if chat:
        tokenizer = bytes_of(tokenizer)
        tokenizer.chat_template = GEMMA_CHAT
    loud(model.model.language_model)  # the tokens of a new model are as large as words already
    return Gemma3Adapter(model, tokenizer, SPEC, source="tiny")


def bytes_of(words: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with the special tokens of another, which begins every text, as Gemma's does."""
    special = words.convert_ids_to_tokens(range(len(words.all_special_tokens)))  # they come first
    names = [*special, "<bos>", "<start_of_turn>", "<end_of_turn>"]
    own = stand_in_tokenizer({name: index for index, name in enumerate(names)}, 1024, begin="<bos>")
    visual = {name: getattr(words, name) for name in ("boi_token", "eoi_token", "image_token")}
    common = {"bos_token": "<bos>", "eos_token": words.eos_token, "pad_token": words.pad_token}
    return PreTrainedTokenizerFast(tokenizer_object=own.backend_tokenizer, extra_special_tokens=visual, **common)


def phi4_multimodal() -> TransformersVLM:
    model, tokenizer = new_phi4_multimodal(WORDS, **SMALL)
    return Phi4MultimodalAdapter(loud(model), tokenizer, SPEC, source="tiny")


def qwen3_vl() -> TransformersVLM:
    model, tokenizer = new_qwen3_vl(WORDS, **SMALL)
    return Qwen3VLAdapter(loud(model), tokenizer, SPEC, source="tiny")


KINDS = {
    "video_llama3": video_llama3,
    "video_llama3 with a template": functools.partial(video_llama3, chat=True),
    "gemma3": gemma3,
    "gemma3 with a template": functools.partial(gemma3, chat=True),
    "phi4_multimodal": phi4_multimodal,
    "qwen3_vl": qwen3_vl,
}
ROUTED = [kind for kind in KINDS if kind.startswith(("video_llama3", "gemma3"))]  # those that ``processed`` serves


@functools.cache
def tiny_vlm(kind: str) -> TransformersVLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return KINDS[kind]().freeze()


def processed(adapter: TransformersVLM, clips: torch.Tensor, prompt: str, **changes):
    """What a user of transformers would give the model: its own processor's output, with the adapter's settings."""
    route = {"gemma3": gemma3_processed, "video_llama_3": video_llama3_processed}[adapter.model_type]
    inputs = route(adapter, clips, prompt, **changes)
    return {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}


def video_llama3_processed(adapter, clips, prompt, **changes):
    images = VideoLlama3ImageProcessor(patch_size=8, merge_size=1, size={"shortest_edge": 256, "longest_edge": 4096})
    videos = VideoLlama3VideoProcessor(**{**adapter.processor, **changes})
    processor = VideoLlama3Processor(images, adapter.tokenizer, videos)
    text, spec = f"<|video_pad|>\n{prompt}", adapter.video
    if adapter.tokenizer.chat_template:
        message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": prompt}]}
        text = adapter.tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    meta = {"total_num_frames": spec.frames, "fps": spec.fps, "frames_indices": list(range(spec.frames))}
    texts, metas = [text] * len(clips), [meta] * len(clips)
    return processor(text=texts, videos=list(clips), video_metadata=metas, return_tensors="pt")


def gemma3_processed(adapter, clips, prompt, **changes):
    images = Gemma3ImageProcessor(**{**adapter.processor, **changes})
    processor = Gemma3Processor(
        images, adapter.tokenizer, adapter.tokenizer.chat_template, image_seq_length=adapter.grid.tokens
    )
    if not processor.chat_template:
        text = "<start_of_image>" * adapter.video.frames + f"\n{prompt}"
        return processor(text=[text] * len(clips), images=[list(clip) for clip in clips], return_tensors="pt")
    seen = [[{"type": "image", "image": frame} for frame in clip] for clip in clips]
    messages = [[{"role": "user", "content": [*frames, {"type": "text", "text": prompt}]}] for frames in seen]
    return processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
