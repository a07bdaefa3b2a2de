"""What the VLMs of transformers share: folders, configurations, and frames that become a fixed number of tokens."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from transporter_pl.backbones.folders import check_video, find_config, load_whole, loading, read_config, saved_aside
from transporter_pl.backbones.prompted_vlm import PromptedVLM
from transporter_pl.backbones.random_weights import random_weights
from transporter_pl.backbones.shipped import configuration, resolve
from transporter_pl.backbones.stand_in import tokenizer_of
from transporter_pl.errors import TransporterError
from transporter_pl.origin import split_revision
from transporter_pl.samples import VideoSpec


class Grid(Protocol):
    """How the frames of one geometry are cut."""

    @property
    def tokens(self) -> int:
        """Visual tokens of one frame."""


class TransformersVLM(PromptedVLM):
    """A VLM of transformers with a tokenizer; a subclass says how frames become tokens and where the prompt has them.

    Args:
        model: The model, on any device.
        tokenizer: Its tokenizer; a chat template in it is used.
        video: Geometry of the clips.
        source: Hub id or folder that it came from.
        processor: Settings of its image or video processor, as in the folder's JSON; by default frames aren't resized.

    Raises:
        TransporterError: If the geometry does not suit the token grid, or its tokens the context.
    """

    model_type: ClassVar[str]  # of config.json
    native: ClassVar[str]  # a hub id in transformers' own layout
    architecture: ClassVar[type[PreTrainedModel]]
    configuration: ClassVar[type[PreTrainedConfig]]
    processor_file: ClassVar[str]  # where ``save`` puts the processor's settings

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        video: VideoSpec,
        source: str | Path = "",
        processor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.processor = self.default_processor(model.config) if processor is None else processor
        self.grid = self.fitted(model.config, self.processor, video)
        self.model, self.tokenizer, self.video, self.source = model, tokenizer, video, str(source)

    @classmethod
    @abstractmethod
    def default_processor(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """Processor settings under which frames aren't resized."""

    @classmethod
    @abstractmethod
    def fit(cls, config: PreTrainedConfig, processor: Mapping[str, Any], video: VideoSpec) -> Grid:
        """How frames of a geometry are cut.

        Raises:
            TransporterError: If the geometry does not suit.
        """

    @abstractmethod
    def see(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in float32 or finer → tokens z_Ω (B, N, D); ``encode`` has checked its shape."""

    @classmethod
    def from_pretrained(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """Load from a hub id, a local folder or the name of a shipped checkpoint.

        Raises:
            TransporterError: Before any weight is loaded, if the folder holds another model, can't be reached, or the
                geometry does not suit.
        """
        folder = resolve(path)
        config, processor = cls.read(folder)
        cls.fitted(config, processor, video)
        repo, revision = split_revision(folder)
        with loading(folder):
            tokenizer = AutoTokenizer.from_pretrained(repo, revision=revision, trust_remote_code=False)
        model = load_whole(cls.architecture, folder, config=config, dtype=dtype)
        return cls(model, tokenizer, video, path, processor).freeze()

    @classmethod
    def from_config(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """The model of a hub id or local folder with random weights, and a stand-in where no tokenizer is on disk.

        Raises:
            TransporterError: As ``from_pretrained``.
        """
        folder = configuration(path)
        config, processor = cls.read(folder)
        cls.fitted(config, processor, video)
        with random_weights(dtype):
            model = cls.draw(config)
        own = (Path(folder) / "tokenizer.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(folder) if own else tokenizer_of(config)
        return cls(model, tokenizer, video, path, processor).freeze()

    @classmethod
    def draw(cls, config: PreTrainedConfig) -> PreTrainedModel:
        """A new model, as its architecture starts a training."""
        return cls.architecture(config)

    @classmethod
    def token_shape_of(cls, path: str | Path, video: VideoSpec) -> tuple[int, int]:
        """(N, D) of one clip's tokens, from the folder's configuration alone.

        Raises:
            TransporterError: As ``from_pretrained``.
        """
        config, processor = cls.read(configuration(path))
        return cls.shape(config, cls.fitted(config, processor, video), video)

    @classmethod
    def read(cls, folder: str) -> tuple[PreTrainedConfig, dict[str, Any]]:
        """Configuration and processor's settings of a folder.

        Raises:
            TransporterError: If it is not the folder of such a model.
        """
        config = read_config(folder, "config.json")
        if config.get("model_type") != cls.model_type:
            kind = "remote code," if "auto_map" in config else "a"
            msg = (
                f"path: {folder!r} holds {kind} {config.get('model_type')!r}, not a native {cls.model_type!r} of "
                f"transformers; give one, such as {cls.native!r}"
            )
            raise TransporterError(msg)
        return cls.configuration.from_dict(config), cls.read_processor(folder)

    @classmethod
    def read_processor(cls, folder: str) -> dict[str, Any]:
        """Settings of the image or video processor, wherever the folder has them."""
        nested = (find_config(folder, "processor_config.json") or {}).get(f"{cls.medium}_processor")
        files = cls.processor_file, "preprocessor_config.json"
        return nested or next(filter(None, (find_config(folder, name) for name in files)), {})

    @classmethod
    def fitted(cls, config: PreTrainedConfig, processor: Mapping[str, Any], video: VideoSpec) -> Grid:
        """The grid of ``fit``, whose tokens are known to suit the context.

        Raises:
            TransporterError: If the geometry does not suit, or has more tokens than the language model can read.
        """
        grid = cls.fit(config, processor, video)
        count, context = cls.shape(config, grid, video)[0], config.get_text_config().max_position_embeddings
        if count >= context:  # and with the question, ``prompt_ids`` counts exactly
            msg = f"video: {video} gives {count} visual tokens, too many for this VLM's context of {context}; "
            raise TransporterError(msg + "use fewer frames or a smaller size")
        return grid

    @classmethod
    def shape(cls, config: PreTrainedConfig, grid: Grid, video: VideoSpec) -> tuple[int, int]:
        """(N, D) of one clip's tokens."""
        return video.frames * grid.tokens, config.get_text_config().hidden_size

    def save(self, path: str | Path) -> None:
        """Write model, tokenizer and processor settings as a hub folder."""
        with saved_aside(path) as aside:
            self.model.save_pretrained(aside)
            self.tokenizer.save_pretrained(aside)
            (aside / self.processor_file).write_text(json.dumps(self.processor, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def check_access(cls, path: str | Path) -> None:
        """Read the hub's own configuration, whatever the package knows of the model.

        Raises:
            TransporterError: If it can't be read, or is that of another model.
        """
        cls.read(resolve(path))

    def checkpoint_activations(self) -> None:
        """Of every layer only the input is kept for the backward pass.

        Not by transformers' own switch, which does nothing in eval mode.
        """
        for layer in self.model.modules():
            if isinstance(layer, GradientCheckpointingLayer) and not isinstance(layer.forward, partial):
                # in eval mode nothing is drawn that would have to be drawn again
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)

    @property
    def token_shape(self) -> tuple[int, int]:
        """(N, D) of one clip's visual tokens."""
        return self.shape(self.model.config, self.grid, self.video)

    def encode(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → tokens z_Ω (B, N, D), differentiable down to the pixels.

        Raises:
            TransporterError: If the clips are not of the adapter's geometry.
        """
        check_video(video, self.video)
        # resized and normalised as finely as a processor does; half precision would be coarser than bytes
        return self.see(video.to(torch.promote_types(self.dtype, torch.float32)))

    @property
    def patch_size(self) -> tuple[float, float] | None:
        """(height, width) of a patch in pixels of the clip, which may be resized before it is cut; if the grid says."""
        share = getattr(self.grid, "patch_share", None)
        return None if share is None else (share[0] * self.video.height, share[1] * self.video.width)

    def encode_layers(self, video: Tensor) -> tuple[Tensor, ...]:
        """As ``encode``, with the output of every vision layer that z_Ω is made of, first to last: (B, n_l, D_l) each.

        Raises:
            TransporterError: If the clips are not of the adapter's geometry.
        """
        said: list[Tensor] = []
        hooks = [layer.register_forward_hook(lambda _, __, out: said.append(out)) for layer in self.vision_layers()]
        try:
            tokens = self.encode(video)
        finally:
            for hook in hooks:
                hook.remove()
        # images of all clips or one row of patches: either has the clips one after the other
        return (*(out.reshape(len(video), -1, out.shape[-1]) for out in said), tokens)

    def vision_layers(self) -> list[nn.Module]:
        """The layers whose output z_Ω is made of; those of the language model may be among them, ``see`` runs none."""
        return [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
