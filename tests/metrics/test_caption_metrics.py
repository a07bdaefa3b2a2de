"""Caption metrics against implementations of their own formulas."""

import math
import sys
from collections import Counter

import pytest
import torch
from toy_encoders import Colours

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.captions import BLEU4, METEOR, SPICE, CaptionCosine, CIDErD, plain
from transporter_pl.metrics.missing import MissingPart

WANTED = [
    "a small red oval moves left slowly",
    "a large blue oval moves right quickly on a dark background",
    "a cat sleeps on the mat",
]
SAID = ["a small red oval moves left quickly", "A large blue oval, moves right.", "the cat is on the mat"]


def grams(caption, n):
    words = caption.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(said, wanted):
    """Papineni et al. 2002, one reference each."""
    logs = []
    for n in range(1, 5):
        pairs = [(grams(s, n), grams(w, n)) for s, w in zip(said, wanted, strict=True)]
        logs.append(math.log(sum((s & w).total() for s, w in pairs) / sum(s.total() for s, _ in pairs)))
    lengths = [sum(len(caption.split()) for caption in captions) for captions in (said, wanted)]
    return math.exp(sum(logs) / 4 + min(0, 1 - lengths[1] / lengths[0]))


def cider(said, wanted, sigma=6.0):
    """Vedantam et al. 2015, the variant D, one reference each."""
    scores = []
    for s, w in zip(said, wanted, strict=True):
        penalty = math.exp(-((len(s.split()) - len(w.split())) ** 2) / (2 * sigma**2))
        similarities = []
        for n in range(1, 5):
            rarity = {
                gram: math.log(len(wanted) / max(1, sum(gram in grams(caption, n) for caption in wanted)))
                for gram in grams(s, n) | grams(w, n)
            }
            a, b = ({g: c * rarity[g] for g, c in grams(caption, n).items()} for caption in (s, w))
            norms = math.hypot(*a.values()) * math.hypot(*b.values())
            overlap = sum(min(value, b.get(gram, 0)) * b.get(gram, 0) for gram, value in a.items())
            similarities.append(penalty * (overlap / norms if norms else overlap))
        scores.append(10 * sum(similarities) / 4)
    return sum(scores) / len(scores)


def value(metric, said=SAID, wanted=WANTED):
    for pair in zip(said, wanted, strict=True):
        metric.update(*([caption] for caption in pair))
    return metric.compute().item()


def test_plain_words():
    assert plain("A dog's  tail, well-kept -- wags; twice.\n") == "a dog's tail well-kept wags twice"
    assert plain("Ein Öhr – é") == "ein öhr é"
    assert plain("...") == ""


def test_bleu_is_of_all_captions_together():
    assert value(BLEU4()) == pytest.approx(100 * bleu([plain(s) for s in SAID], WANTED), rel=1e-5)
    assert value(BLEU4(), WANTED) == pytest.approx(100)
    assert value(BLEU4(), ["no word of it is here"] * 3) == 0


def test_cider_is_the_formula_s():
    assert value(CIDErD()) == pytest.approx(100 * cider([plain(s) for s in SAID], WANTED), rel=1e-5)
    assert value(CIDErD(), WANTED) == pytest.approx(1000)


def test_what_all_captions_share_counts_for_nothing():
    assert value(CIDErD(), ["a b c d"] * 3, ["a b c d"] * 3) == 0


def test_cider_of_one_caption_is_refused():
    with pytest.raises(TransporterError, match="captions: 1 are too few for CIDErD; give at least 2"):
        value(CIDErD(), SAID[:1], WANTED[:1])


def test_empty_captions_and_the_order_of_many():
    """An empty caption keeps its place."""
    said = ["", *SAID, ""]
    wanted = ["a red oval", *WANTED, "a blue one"]
    assert value(CIDErD(), said, wanted) == pytest.approx(100 * cider([plain(s) for s in said], wanted), rel=1e-5)
    with pytest.raises(TransporterError, match="said: 2 captions, 1 were wanted"):
        CIDErD().update(["a", "b"], ["a"])


def test_cosine_of_captions():
    metric = CaptionCosine(Colours())
    metric.update(["red", "red green"], ["red", "red"])
    metric.update(["nothing"], ["blue"])
    assert metric.compute().item() == pytest.approx((1 + 0.5**0.5 + 0) / 3, abs=1e-6)


@pytest.mark.parametrize("metric", [CIDErD, METEOR, SPICE])
def test_a_missing_library_is_named(metric, monkeypatch):
    for name in [module for module in sys.modules if module.startswith("pycocoevalcap")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(MissingPart, match=r'get it by `pip install "transporter-pl\[metrics\]"`'):
        metric()


@pytest.mark.parametrize("metric", [METEOR, SPICE])
def test_missing_java_is_named(metric, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingPart, match="there is no `java`; get it by `apt install"):
        metric()


def test_spice_s_language_model_is_named(monkeypatch, tmp_path):
    module = sys.modules[SPICE._scorer(SPICE).__module__]
    monkeypatch.setattr(module, "__file__", str(tmp_path / "spice.py"))
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/java")
    with pytest.raises(MissingPart, match=r"stanford-corenlp-3.6.0-models.jar.*`python -m pycocoevalcap.spice.get_st"):
        SPICE()


def test_a_java_program_that_fails_is_told(monkeypatch, tmp_path):
    (tmp_path / "java").write_text("#!/bin/sh\nwhile read line; do echo; done\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(TransporterError, match="METEOR: its Java program failed"):
        value(METEOR())


@pytest.mark.slow
def test_meteor_runs():
    """Its data alone take a minute to read. Known of it: the same words in the same order are worth all."""
    try:
        metric = METEOR()
    except MissingPart as error:
        pytest.skip(str(error))
    assert value(metric, WANTED) == pytest.approx(100, abs=1)
    assert 20 < value(METEOR()) < 80


@pytest.mark.network
def test_spice_runs():
    from pycocoevalcap.spice.get_stanford_models import get_stanford_models

    get_stanford_models()
    assert value(SPICE(), WANTED) == pytest.approx(100)
    assert 10 < value(SPICE()) < 90


def test_all_of_them_are_numbers_of_single_precision():
    metric = CIDErD()
    metric.update(SAID, WANTED)
    assert metric.compute().dtype == torch.float32
