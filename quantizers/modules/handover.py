r"""Work done once for several modules that are called one after the other on the same input.

The first module that is called makes the results of all; the others take theirs, each once, and then nothing is kept.

    take(i, x) makes the results of all where none of x wait, and hands out result i;   a pass is open <=> results wait

What waits belongs to one tensor object, which is held until the pass ends: not to an address, that other values may
come to, and not to values that were overwritten since (the version of the tensor). A pass that an exception cut off
is dropped by the next input. Nothing here depends on the order of the modules; all state is plain attributes, which
torch.compile traces and a CUDA graph does not see. Like the cache of a decoder it is for one thread at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Make = Callable[[torch.Tensor], Sequence[torch.Tensor]]


class Handover:
    """`takers`: the modules by name, at least two; they are numbered in this order.

    A tensor of inference mode has no version, and a graph of torch.compile does not read it: there an input must not be
    overwritten between the calls of one pass."""

    def __init__(self, takers: Sequence[str]) -> None:
        if len(takers) < 2:
            raise ValueError(f"a handover is between at least two modules, not {len(takers)}")
        self.takers = tuple(takers)
        self._input: torch.Tensor | None = None
        self._version = 0
        self._waiting: list[torch.Tensor | None] = []

    def take(self, taker: int, x: torch.Tensor, make: Make) -> torch.Tensor:
        """The result of `taker` on x. make: x -> one result a taker, called where none of x wait.

        RuntimeError where it was taken already and others still wait: the module was called twice on one input."""
        if self._input is not x or self._version != version(x):
            self.drop()  # before the work, so that what an abandoned pass left takes no memory beside it
            results = list(make(x))
            if len(results) != len(self.takers):
                raise ValueError(f"{len(results)} results for {len(self.takers)} takers: {', '.join(self.takers)}")
            self._input, self._version, self._waiting = x, version(x), [*results]
        result = self._waiting[taker]
        if result is None:
            late = [name for name, other in zip(self.takers, self._waiting, strict=True) if other is not None]
            self.drop()
            raise RuntimeError(
                f"{self.takers[taker]} was called twice on one input, on which {', '.join(late)} was not called yet"
            )
        self._waiting[taker] = None
        if all(other is None for other in self._waiting):
            self.drop()
        return result

    def drop(self) -> None:
        """End the pass: forget the input and the results that wait."""
        self._input, self._version, self._waiting = None, 0, []


def version(x: torch.Tensor) -> int:
    """How often x was written into; 0 where that is not known."""
    return 0 if torch.compiler.is_compiling() or x.is_inference() else x._version
