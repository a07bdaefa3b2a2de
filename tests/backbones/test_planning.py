"""Every kind of VLM, and two experts, can be planned: what their code asks of small tensors is there without data."""

from dataclasses import replace

import pytest
from measured_plan import SMALL, check
from tiny_vlms import SPEC, tiny_vlm

from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.loading import BackboneSpec
from transporter_pl.planning.steps import Batches

BATCHES = Batches(encode=2, coupling=2, concept=2, explain=2)


@pytest.mark.parametrize("kind", ["video_llama3", "gemma3", "phi4_multimodal", "qwen3_vl"])
def test_the_plan_of_a_vlm_is_what_it_takes(kind, tiny, tmp_path):
    tiny_vlm(kind).save(tmp_path)
    check(replace(tiny, vlm=BackboneSpec(kind, str(tmp_path)), video=SPEC), SMALL, BATCHES)


def test_the_plan_of_two_experts_is_what_they_take(pipelines, tiny, tmp_path):
    WanAdapter(pipelines["two_experts"], SPEC).save(tmp_path)
    check(replace(tiny, generator=BackboneSpec("wan", str(tmp_path)), video=SPEC), SMALL, BATCHES)
