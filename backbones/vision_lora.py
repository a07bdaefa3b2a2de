"""The LoRA that Phi-4-multimodal's published folder has for image input, beside the weights that all inputs share."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from safetensors.torch import load_file
from transformers import PreTrainedModel

from transporter_pl.backbones.folders import find_config, find_file
from transporter_pl.errors import TransporterError

FOLDER = "vision-lora"
SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# adapters differ in what they put before a decoder layer's name; of another beginning, PEFT would load nothing
BEGINNING = re.compile(r"^(base_model\.model\.)?(model\.)?(?=layers\.)")


def find_vision_lora(folder: str) -> Path | None:
    """Where the vision LoRA of a local folder or hub repository is on disk, ``None`` if it has none.

    Raises:
        TransporterError: If it has one, and peft is not installed or its weights are not in safetensors.
    """
    if find_config(folder, f"{FOLDER}/{SETTINGS}") is None:
        return None
    if importlib.util.find_spec("peft") is None:
        msg = f"path: {folder!r} has a {FOLDER}, and peft, which reads it, is not installed; run "
        raise TransporterError(msg + '`pip install "transporter-pl[phi4]"`')
    weights = find_file(folder, f"{FOLDER}/{WEIGHTS}")
    if weights is None:
        msg = f"path: {FOLDER} in {folder!r} has no {WEIGHTS}; download the model again, or remove the {FOLDER}"
        raise TransporterError(msg)
    return weights.parent


def merge_vision_lora(model: PreTrainedModel, lora: Path) -> None:
    """Add a LoRA to the weights of the decoder's layers, in place.

    Args:
        model: A Phi4MultimodalForCausalLM.
        lora: Folder of the LoRA, as ``find_vision_lora`` gives it.

    Raises:
        TransporterError: If it is not one of this model's decoder.
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    settings = PeftConfig.from_pretrained(str(lora))
    settings.exclude_modules = r".*embed_tokens_extend\..*"  # the audio tower has layers of the same names
    weights = {BEGINNING.sub("base_model.model.model.", k): w for k, w in load_file(lora / WEIGHTS).items()}
    try:
        adapted = get_peft_model(model, settings, low_cpu_mem_usage=True)
        loaded = set_peft_model_state_dict(adapted, weights, low_cpu_mem_usage=True)
    except (ValueError, RuntimeError) as error:
        raise _misfit(lora, " ".join(str(error).split())) from error
    strange = [*loaded.unexpected_keys, *(name for name in loaded.missing_keys if ".lora_" in name)]
    if strange:
        raise _misfit(lora, f"{len(strange)} weights too many or too few, such as {strange[0]}")
    adapted.merge_and_unload()


def _misfit(lora: Path, why: str) -> TransporterError:
    return TransporterError(f"path: {str(lora)!r} is no LoRA of the model beside it ({why}); download both again")
