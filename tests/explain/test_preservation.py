"""The distance outside the change, on clips whose change is known."""

import pytest
import torch

from transporter_pl.explain.preservation import change_region, elsewhere
from transporter_pl.loading import load_vlm


@pytest.fixture(scope="module")
def vlm(tiny):
    return load_vlm(tiny.vlm, tiny.video)


@pytest.fixture(scope="module")
def reference(tiny):
    shape = tiny.video.frames, 3, tiny.video.height, tiny.video.width
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) / 2


@pytest.fixture(scope="module")
def patched(reference):
    """A clip in which an oval of another colour has soft edges, as after a codec."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    oval = torch.exp(-((rows - 12) ** 2 + (columns - 18) ** 2) / 8)
    return reference + 0.4 * oval


def blurred(video, amount=0.02):
    """The clip with a little noise all over."""
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(1))
    return (video + amount * noise).clamp(0, 1)


def test_the_same_clip_has_none(vlm, reference):
    assert elsewhere(vlm, reference, reference.expand(3, -1, -1, -1, -1)).tolist() == [0, 0, 0]


def test_the_same_clip_has_none_though_rows_of_a_batch_may_differ(vlm, reference, monkeypatch):
    encode = vlm.encode
    monkeypatch.setattr(
        vlm, "encode", lambda video: encode(video) * (1 + 1e-6 * torch.randn(len(video), 1, vlm.token_shape[1]))
    )
    assert elsewhere(vlm, reference, reference.expand(3, -1, -1, -1, -1)).tolist() == [0, 0, 0]


def test_a_change_of_a_patch_has_next_to_none(vlm, reference, patched):
    hard = reference.clone()
    hard[:, :, 8:16, 8:16] = 1
    found = elsewhere(vlm, reference, torch.stack([hard, patched]))
    assert found[0] == 0
    assert 0 <= found[1] < 1e-4


def test_a_change_outside_the_patch_counts(vlm, reference, patched):
    clips = torch.stack([patched, blurred(patched, 0.005), blurred(patched, 0.02)])
    none, little, more = elsewhere(vlm, reference, clips).tolist()
    assert none < little < more
    assert more > 10 * none


def test_by_its_definition(vlm, reference, patched):
    clip = blurred(patched)
    region = change_region(reference, clip[None])[0]
    composite = clip * ~region[:, None] + reference * region[:, None]
    with torch.no_grad():
        moved, still = vlm.encode(torch.stack([composite, reference])).double()
    expected = (1 - torch.cosine_similarity(moved, still, dim=-1)).mean()
    torch.testing.assert_close(elsewhere(vlm, reference, clip[None])[0].double(), expected, rtol=1e-3, atol=1e-7)


def test_a_clip_has_its_own_distance_in_any_batch(vlm, reference, patched):
    clips = torch.stack([blurred(patched), reference, blurred(patched, 0.01)])
    together = elsewhere(vlm, reference, clips)
    assert torch.equal(together, elsewhere(vlm, reference, clips))
    torch.testing.assert_close(together, elsewhere(vlm, reference, clips, batch_size=1), rtol=1e-3, atol=1e-7)
    assert together.shape == (3,)
    assert not together.requires_grad


def test_the_region_is_what_changed_at_least_half_as_much_as_the_most():
    """Two patches of 1 and of 0.6, a larger one of 0.4, and 0.1 all over; then a margin of four pixels."""
    reference, video = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.1)
    video[0, :, 20:22, 20:22], video[0, :, 50:52, 50:52], video[0, :, 40:60, 4:24] = 1, 0.6, 0.4
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[16:26, 16:26], expected[46:56, 46:56] = True, True
    assert torch.equal(change_region(reference, video[None])[0, 0], expected)


@pytest.mark.parametrize("shift", [0.03, 0.1])
def test_a_background_that_changed_is_no_part_of_the_region(vlm, reference, patched, shift):
    """Though in sum it changed more than the patch did."""
    none, found = elsewhere(vlm, reference, torch.stack([patched, patched + shift]))
    assert found > 5 * none
    assert not change_region(reference, (patched + shift)[None])[0, :, 28:].any()


def test_the_region_of_a_clip_that_did_not_change_is_empty():
    video = torch.rand(2, 3, 16, 16)
    assert not change_region(video, video[None]).any()


def test_frames_have_regions_of_their_own():
    reference = torch.zeros(2, 3, 32, 32)
    video = reference.clone()
    video[0, :, 4:8, 4:8], video[1, :, 20:24, 20:24] = 1, 1
    region = change_region(reference, video[None])[0]
    assert region[0, 5, 5]
    assert region[1, 21, 21]
    assert not region[0, 21, 21]
    assert not region[1, 5, 5]


def test_a_clip_that_changed_everywhere_alike_has_no_elsewhere(vlm, reference):
    assert elsewhere(vlm, reference, (reference + 0.2)[None]).item() == 0


def test_half_precision(vlm, reference, patched):
    clips = torch.stack([reference, blurred(patched)]).bfloat16()
    found = elsewhere(vlm, reference.bfloat16(), clips)
    assert found.dtype == torch.float32
    assert found[0] == 0
    assert found[1] > 0
