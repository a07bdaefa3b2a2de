"""What holds for every registered transport, the closed forms of the simple ones, and how a name becomes one."""

import pytest
import torch

from transporter_pl.errors import TransporterError
from transporter_pl.testing import check_transport
from transporter_pl.transport import PlanTransport, Transport, new_transport, transports

NAMES = ["first_only", "mean", "reencoded", "second_only", "sinkhorn", "sliced_gw", "zeta"]
WITH_PLAN = ["sinkhorn", "sliced_gw", "zeta"]
# the order of projections has no gradient
DOCUMENTED = {"sliced_gw": ["z̃ → second: no finite gradient"]}


def tokens(made, seed=0, count=6):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(2, count, made.width, generator=draws, dtype=torch.float64) for _ in made.reads]


def made_of(name, width=5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_transport(name, width, {}).double()


def test_ours_are_registered():
    assert transports.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_keeps_every_promise(name):
    assert [finding.message for finding in check_transport(name)] == DOCUMENTED.get(name, [])


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        *[(name, ("first", "second")) for name in ("mean", *WITH_PLAN)],
        *[("first_only", ("first",)), ("second_only", ("second",)), ("reencoded", ("reencoded",))],
    ],
)
def test_reads_no_more_than_it_needs(name, reads):
    made = made_of(name)
    assert made.reads == reads
    assert isinstance(made, Transport)
    assert isinstance(made, PlanTransport) == (name in WITH_PLAN)
    assert (made.plan(*tokens(made)) is None) == (name not in WITH_PLAN)


@pytest.mark.parametrize("name", ["first_only", "second_only", "reencoded"])
def test_one_alone_is_left_as_it_is(name):
    alone = torch.randn(2, 6, 4)
    assert new_transport(name, 4, {})(alone) is alone


def test_the_mean():
    first, second = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    torch.testing.assert_close(new_transport("mean", 4, {})(first, second), (first + second) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_only_a_learned_transport_has_weights(name):
    assert bool(list(new_transport(name, 4, {}).parameters())) == (name == "zeta")


@pytest.mark.parametrize("name", WITH_PLAN)
def test_a_plan_forgets_the_order_of_the_sources_and_keeps_that_of_the_targets(name):
    made = made_of(name)
    first, second = tokens(made)
    moved, plan = made(first, second), made.plan(first, second)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(first[:, order], second), moved)
    torch.testing.assert_close(made.plan(first[:, order], second), plan[:, order])
    torch.testing.assert_close(made(first, second[:, order]), moved[:, order])
    torch.testing.assert_close(made.plan(first, second[:, order]), plan[:, :, order])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITH_PLAN])
def test_without_a_plan_tokens_stay_in_their_place(name):
    made = made_of(name)
    read = tokens(made)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(*(x[:, order] for x in read)), made(*read)[:, order])


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    made = made_of(name, width=3)
    read = [x[:1].requires_grad_() for x in tokens(made, count=4)]
    if name in DOCUMENTED:
        read[1].requires_grad_(False)
    assert torch.autograd.gradcheck(made, read)


def test_class_path_and_options():
    made = new_transport("transporter_pl.transport.zeta.ZetaTransport", 4, {"projections": 3})
    assert made.first_projections.shape == (3, 4)


class Widthless(PlanTransport):
    def __init__(self, temperature=1.0):
        super().__init__(4)

    def plan(self, first, second):
        raise NotImplementedError


def test_whole_numbers_are_numbers_too():
    assert new_transport("sinkhorn", 4, {"regularisation": 1}).regularisation == 1


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("zeta", {"projection": 3}, r"no option 'projection'; it has: projections, regularisation"),
        ("mean", {"projections": 3}, r"'mean' has no option 'projections'; it has: none"),
        ("sinkhorn", {"regularisation": "low"}, r"_options.regularisation: 'low' is of the wrong .* type float"),
        ("sinkhorn", {"iterations": 1.5}, r"transport_options.iterations: 1.5 is of the wrong type; .* type int"),
        ("sliced_gw", {"seed": "x"}, r"transport_options.seed: 'x'"),
        ("zeta", {"projections": True}, r"transport_options.projections: True"),
        ("zeta", {"learn_regularisation": 1}, r"transport_options.learn_regularisation: 1 .* type bool"),
        ("zeta", {"solver": None}, r"transport_options.solver: None"),
        ("zeta", {"solver": "lineer"}, r"solver: unknown name 'lineer'. Did you mean 'linear'"),
        ("zetta", {}, "Did you mean 'zeta'"),
        ("transporter_pl.transport.mean", {}, "'transporter_pl.transport.mean' is no Transport; give a registered"),
        ("torch.nn.Identity", {}, "transport: 'torch.nn.Identity' is no Transport"),
        (f"{__name__}.Widthless", {}, "transport: the first argument of Widthless is not `width`"),
    ],
)
def test_what_a_user_can_get_wrong(name, options, says):
    with pytest.raises(TransporterError, match=says):
        new_transport(name, 4, options)
