"""The concept bank Q: one learned vector a pair, and what it was learned with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError
from transporter_pl.files import replace_file
from transporter_pl.origin import check_weights, checkpoint_name
from transporter_pl.samples import Origin

VECTORS, DESCRIPTION = "concepts.safetensors", "concepts.json"


@dataclass(frozen=True)
class Concept:
    """One learned concept.

    Attributes:
        pair: The words and the contexts it was learned in.
        vector: q, (L, D_c) for a sequence, (D_c,) for a vector that every row shares.
        divergence: Δϑ between ε− and ε+, mean over seeds, contexts and times, as ``token_divergence`` measures it.
        steps: Optimiser steps.
        loss: The velocity objective after the training, mean over some places and φ from 0 to 1.
        explained: 1 − loss / loss at q = 0 there.
        prompt: The question under which Δϑ was measured.
        objective: What was minimised, and how φ was chosen: "velocity, φ uniform".
        calibration: What sweeps of φ with it did to the VLM's answer; ``None`` where that was not measured.
    """

    pair: Pair
    vector: Tensor
    divergence: float
    steps: int
    loss: float
    explained: float
    prompt: str
    objective: str
    calibration: Calibration | None = None


@dataclass(frozen=True)
class ConceptBank:
    """Concept vectors and the models that they belong to.

    Attributes:
        generator: Source of the generator: hub id or folder.
        vlm: Source of the VLM.
        coupling: Folder of Φ, through which Δϑ was measured; a note, as the vectors belong to the generator.
        entries: The concepts.
        generator_weights: Fingerprint of the generator's weights; empty where it is not known.
        vlm_weights: The same of the VLM's.
    """

    generator: str
    vlm: str
    coupling: str
    entries: tuple[Concept, ...]
    generator_weights: str = ""
    vlm_weights: str = ""

    def __getitem__(self, pair: str | Pair) -> Concept:
        """The concept of a pair, given as such or as "left:right".

        Raises:
            TransporterError: If the bank does not hold it (lists those that it holds).
        """
        name = pair.name if isinstance(pair, Pair) else pair
        found = {c.pair.name: c for c in self.entries}
        if name not in found:
            msg = f"pair: the bank holds no {name!r}; it holds {', '.join(found) or 'nothing'}; train it, or choose one"
            raise TransporterError(msg)
        return found[name]

    def select(self, pairs: Iterable[str | Pair]) -> ConceptBank:
        """The bank with these pairs alone, in this order.

        Raises:
            TransporterError: If it does not hold one (lists those that it holds).
        """
        names = dict.fromkeys(self[pair].pair.name for pair in pairs)
        return replace(self, entries=tuple(self[name] for name in names))

    @classmethod
    def merge(cls, banks: Sequence[ConceptBank]) -> ConceptBank:
        """One bank with the concepts of several, in their order.

        Raises:
            TransporterError: If there is no bank, they were made with different backbones or weights (names both), or
                two hold the same pair (names it).
        """
        if not banks:
            msg = "merge: no bank; give at least one"
            raise TransporterError(msg)
        entries = tuple(concept for bank in banks for concept in bank.entries)
        for name, count in Counter(c.pair.name for c in entries).items():
            if count > 1:
                msg = (
                    f"merge: {count} banks hold {name!r}; leave it out of all but one: merge those alone, with --pairs"
                )
                raise TransporterError(msg)
        weights = {f"{kind}_weights": _same_backbone(kind, banks) for kind in ("generator", "vlm")}
        couplings = ", ".join(dict.fromkeys(bank.coupling for bank in banks))
        return replace(banks[0], coupling=couplings, entries=entries, **weights)

    def save(self, folder: str | Path) -> None:
        """Write ``concepts.safetensors`` and ``concepts.json``; each file appears, or changes, only as a whole."""
        folder = Path(folder)
        vectors = {c.pair.name: c.vector.detach().cpu().contiguous() for c in self.entries}
        made_with = {name: value for name, value in vars(self).items() if name != "entries"}
        concepts = [_described(c) for c in self.entries]
        text = json.dumps({**made_with, "concepts": concepts}, indent=1, ensure_ascii=False)
        replace_file(folder / VECTORS, lambda aside: save_file(vectors, aside))
        replace_file(folder / DESCRIPTION, lambda aside: aside.write_text(text, encoding="utf-8"))

    @classmethod
    def from_pretrained(cls, folder: str | Path, generator: str | None = None, vlm: str | None = None) -> ConceptBank:
        """Read a folder that ``save`` wrote.

        Args:
            folder: The folder.
            generator: Source of the generator that it shall serve; ``None`` leaves it unchecked.
            vlm: Source of the VLM that it shall serve; ``None`` leaves it unchecked.

        Raises:
            TransporterError: If the folder is no bank, or was made with other backbones (names both).
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            vectors = load_file(folder / VECTORS)
            entries = tuple(_restored(c, vectors) for c in description.pop("concepts"))
            bank = cls(entries=entries, **description)
        except (OSError, KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
            msg = f"concepts: {str(folder)!r} is no concept bank ({error}); give one that a concept training wrote"
            raise TransporterError(msg) from error
        for kind, made, asked in (("generator", bank.generator, generator), ("vlm", bank.vlm, vlm)):
            if asked is not None and checkpoint_name(asked) != checkpoint_name(made):
                msg = f"concepts: {str(folder)!r} was made with the {kind} {made!r}, not {asked!r}; load that one, or "
                msg += "train the bank anew"
                raise TransporterError(msg)
        return bank

    def check_weights(self, origin: Origin) -> None:
        """Compare the loaded backbones' weights with those that the vectors were learned with.

        Raises:
            TransporterError: If the weights of one differ (names it).
        """
        check_weights("concept bank", (self.generator_weights, self.vlm_weights), origin)


def _same_backbone(kind: str, banks: Sequence[ConceptBank]) -> str:
    """The fingerprint that the banks' generator or VLM has, empty where none is known.

    Raises:
        TransporterError: If they have different ones, or different weights.
    """
    sources = {checkpoint_name(source): source for source in (getattr(bank, kind) for bank in banks)}
    if len(sources) > 1:
        shown = " and ".join(map(repr, sources.values()))
        msg = f"merge: the banks were made with the {kind}s {shown}; merge those of one {kind}"
        raise TransporterError(msg)
    weights = dict.fromkeys(w for w in (getattr(bank, f"{kind}_weights") for bank in banks) if w)
    if len(weights) > 1:
        msg = f"merge: the banks were made with different weights of the {kind} {getattr(banks[0], kind)!r} "
        msg += f"(fingerprints {' and '.join(weights)}); merge those of the same weights"
        raise TransporterError(msg)
    return next(iter(weights), "")


def _described(concept: Concept) -> dict[str, Any]:
    fields = {name: value for name, value in vars(concept).items() if name != "vector"}
    calibration = None if concept.calibration is None else concept.calibration.as_dict()
    return {**fields, "pair": asdict(concept.pair), "calibration": calibration}


def _restored(fields: dict[str, Any], vectors: dict[str, Tensor]) -> Concept:
    pair, calibration = Pair(**fields.pop("pair")), fields.pop("calibration", None)
    made = None if calibration is None else Calibration.from_dict(calibration)
    return Concept(pair=pair, vector=vectors[pair.name], calibration=made, **fields)
