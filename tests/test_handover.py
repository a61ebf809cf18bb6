"""A handover never gives a result of other values than its input has, and makes the results of a pass once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.modules.handover import Handover

NAMES = ("q", "k", "v")


class Multiples:
    """x -> x, 2 x, 3 x; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        self.calls += 1
        return [(i + 1) * x for i in range(len(NAMES))]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_one_pass_is_made_once_in_any_order(order: tuple[int, ...]) -> None:
    handover, make = Handover(NAMES), Multiples()
    x = torch.ones(2)
    for passes in range(1, 4):
        for taker in order:
            assert torch.equal(handover.take(taker, x, make), x * (taker + 1))
        assert make.calls == passes
        assert handover._input is None
        assert not handover._waiting, "results are kept after the pass"


def test_the_same_storage_with_new_values_is_a_new_input() -> None:
    handover, make = Handover(NAMES), Multiples()
    x = torch.ones(2)
    handover.take(0, x, make)
    x.fill_(5)
    assert torch.equal(handover.take(1, x, make), torch.full((2,), 10.0))
    other = x.view(2)  # the same address, another tensor
    assert torch.equal(handover.take(1, other, make), torch.full((2,), 10.0))
    assert make.calls == 3


def test_twice_on_one_input_is_an_error_that_ends_the_pass() -> None:
    handover, make = Handover(NAMES), Multiples()
    x = torch.ones(2)
    handover.take(0, x, make)
    handover.take(2, x, make)
    with pytest.raises(RuntimeError, match="q was called twice on one input, on which k was not called yet"):
        handover.take(0, x, make)
    assert torch.equal(handover.take(0, x, make), x)


def test_work_that_fails_leaves_nothing() -> None:
    handover, make = Handover(NAMES), Multiples()
    x = torch.ones(2)

    def fails(x: torch.Tensor) -> Sequence[torch.Tensor]:
        raise MemoryError

    with pytest.raises(MemoryError):
        handover.take(1, x, fails)
    assert torch.equal(handover.take(1, x, make), 2 * x)
    with pytest.raises(ValueError, match="1 results for 3 takers: q, k, v"):
        handover.take(0, torch.ones(2), lambda x: [x])
    with pytest.raises(ValueError, match="at least two modules, not 1"):
        Handover(["q"])


def test_inference_mode_has_no_versions_but_passes() -> None:
    handover, make = Handover(NAMES), Multiples()
    with torch.inference_mode():
        x = torch.ones(2)
        for taker in (0, 1, 2, 0, 1, 2):
            assert torch.equal(handover.take(taker, x, make), x * (taker + 1))
    assert make.calls == 2


ACTIONS = st.tuples(st.sampled_from(["take", "write"]), st.integers(0, 2), st.integers(0, 1))


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=30))
def test_results_are_of_the_values_at_the_call(actions: list[tuple[str, int, int]]) -> None:
    """Against a list of what may still be taken: any order of calls, inputs and writes into them."""
    handover, make = Handover(NAMES), Multiples()
    inputs = [torch.tensor([1.0]), torch.tensor([100.0])]
    opened, left, passes = -1, set[int](), 0  # the input of the open pass, who has not taken
    for action, taker, which in actions:
        if action == "write":
            inputs[which] += 1
            if which == opened:
                opened, left = -1, set()
            continue
        if which == opened and left and taker not in left:
            with pytest.raises(RuntimeError):
                handover.take(taker, inputs[which], make)
            opened, left = -1, set()
            continue
        if which != opened or not left:
            opened, left, passes = which, {0, 1, 2}, passes + 1
        assert torch.equal(handover.take(taker, inputs[which], make), inputs[which] * (taker + 1))
        left.discard(taker)
    assert make.calls == passes
