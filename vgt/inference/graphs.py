"""A function of tensors as CUDA graphs, one for each set of shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UPS = 2  # calls before a capture: libraries set up their handles and workspaces


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Graphed:
    """Calls ``function(*tensors)``, whose work is captured once for each set of shapes and then replayed.

    What the function writes besides its outputs must be the same when it is called again with the same inputs, because
    it is called to warm up; what it reads besides its inputs must stay where it is.  Outputs are overwritten by the
    next call of the same shapes.  Where a capture fails, the function is called as it is, from then on, and ``refusal``
    says why."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]):
        self.function = function
        self.refusal: str | None = None
        self._captured: dict[tuple, _Captured] = {}
        self._pool = None

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self.refusal is not None:
            return self.function(*tensors)
        key = tuple((t.shape, t.dtype) for t in tensors)
        if key not in self._captured:
            try:
                self._captured[key] = self._capture(tensors)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.refusal = f"no CUDA graph: {str(error).splitlines()[0]}"
                return self.function(*tensors)
        found = self._captured[key]
        for static, given in zip(found.inputs, tensors, strict=True):
            static.copy_(given, non_blocking=True)
        found.graph.replay()
        return found.outputs

    def _capture(self, tensors: tuple[Tensor, ...]) -> _Captured:
        with torch.cuda.device(tensors[0].device):
            inputs = tuple(t.clone() for t in tensors)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self.function(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = self.function(*inputs)
        self._pool = self._pool or graph.pool()
        return _Captured(graph, inputs, outputs)
