import hashlib

import torch

from transporter_pl.chance import draws_of


def test_a_name_stands_for_its_numbers():
    first, again, other = (torch.rand(4, generator=draws_of(name)) for name in ("0-0-1", "0-0-1", "0-0-2"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    digest = hashlib.sha256(b"0-0-1").digest()
    assert draws_of("0-0-1").initial_seed() == int.from_bytes(digest[:8], "big") // 2
