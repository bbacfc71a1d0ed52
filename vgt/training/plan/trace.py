"""One training step on tensors without memory: what it keeps, at its highest, and what it computes.

Parameters and images are fake tensors (shape and type, no storage), so a model of any size takes its step on any
machine, through the real modules, autocast and backward pass.  Fakes live on the CPU; for a step on a GPU the rules in
which CUDA's autocast and attention differ are put in their place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

Rules = Literal["cpu", "cuda"]
# What CUDA's autocast computes in fp32 and the CPU's does not, of the functions that this project's models call.
FP32_ON_CUDA = (F.layer_norm, F.group_norm, F.interpolate)


@dataclass(frozen=True)
class Traced:
    """One forward and backward pass.  ``activations``: bytes alive between the two, less the copies of weights;
    ``autocast``: bytes of these copies; ``peak``: the highest number of bytes alive, gradients made so far among them,
    weights not; ``forward``, ``backward``: floating-point operations of matrix products, convolutions and attention,
    two per multiply-add (what checkpointing computes once more counts as backward)."""

    activations: int = 0
    autocast: int = 0
    peak: int = 0
    forward: int = 0
    backward: int = 0

    def then(self, other: Traced) -> Traced:
        """Both passes one after the other: the higher memory, the sum of the work."""
        high = self if self.peak >= other.peak else other
        return Traced(
            high.activations, high.autocast, high.peak, self.forward + other.forward, self.backward + other.backward
        )

    def extended(self, two: Traced, rows: int) -> Traced:
        """This of one row and ``two`` of two rows, extended to ``rows``: exact for what is linear in them.  The peak of
        few rows may be that of whole gradients; that of many is not below what lives between the passes."""
        own, other = dataclasses.astuple(self), dataclasses.astuple(two)
        found = Traced(*(a + (b - a) * (rows - 1) for a, b in zip(own, other, strict=True)))
        buffers = two.peak - two.activations - two.autocast
        return dataclasses.replace(found, peak=max(found.peak, found.activations + found.autocast + buffers))


class Fakes:
    """A family of fake tensors; modules and tensors of one step belong to one family."""

    def __init__(self):
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)  # token ids and window tables are real and small

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A fake CPU tensor."""
        with self._mode:
            return torch.empty(shape, dtype=dtype, device="cpu")

    def batch(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch whose images and latents are fake; ids and masks, small ones that modules look at, stay."""
        return {k: self.tensor(*v.shape, dtype=v.dtype) if v.is_floating_point() else v for k, v in batch.items()}

    def imitate(self, module: nn.Module) -> nn.Module:
        """Put fakes in the places of the parameters and buffers of ``module``; ties are kept.  Returns the module."""
        made: dict[int, Tensor] = {}
        for part in module.modules():
            for name, tensor in list(part.named_parameters(recurse=False)):
                if id(tensor) not in made:
                    made[id(tensor)] = nn.Parameter(
                        self.tensor(*tensor.shape, dtype=tensor.dtype), tensor.requires_grad
                    )
                setattr(part, name, made[id(tensor)])
            for name, tensor in list(part.named_buffers(recurse=False)):
                setattr(part, name, self.tensor(*tensor.shape, dtype=tensor.dtype))
        return module


def step(loss: Callable[[], Tensor], parameters: Iterable[Tensor], bf16: bool, rules: Rules) -> Traced:
    """Trace ``loss()`` under autocast and its backward pass; gradients of ``parameters`` are dropped afterwards."""
    meter, work = _Meter(), _counter()
    with work, meter, _Replacements(rules):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
            between, copies, forward = meter.now, meter.copies, work.get_total_flops()
        value.backward()
    for parameter in parameters:
        parameter.grad = None
    return Traced(between - copies, copies, meter.peak, forward, work.get_total_flops() - forward)


def recomputed(rules: Rules) -> dict:
    """Arguments of ``torch.utils.checkpoint.checkpoint`` for a traced step: what is computed once more, deep in the
    backward pass, follows the same rules."""
    contexts = lambda: (contextlib.nullcontext(), _Replacements(rules))  # noqa: E731 - forward, recomputation
    return {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}


@torch.no_grad()
def inference(run: Callable[[], Tensor], bf16: bool, rules: Rules) -> Traced:
    """Trace a pass of a frozen network: nothing is kept, the work is all forward."""
    meter, work = _Meter(), _counter()
    with work, meter, _Replacements(rules), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        run()
    return Traced(peak=meter.peak, forward=work.get_total_flops())


class _Meter(TorchDispatchMode):
    """Counts bytes alive.  A storage counts once, whatever views share it, until it is freed.  (torch's own MemTracker
    does not tell autocast's copies of weights from activations.)"""

    def __init__(self):
        super().__init__()
        self.now = self.peak = self.copies = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                fresh = self._count(tensor)
                if fresh and func._overloadpacket is torch.ops.aten._to_copy and _is_trained(args[0]):
                    self.copies += fresh  # autocast keeps a copy of each trained weight until the step's end
        return made

    def _count(self, tensor: Tensor) -> int:
        """Bytes of the tensor's storage if it is new."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._alive:
            return 0
        size = storage.nbytes()
        self._alive.add(storage._cdata)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata, size)
        return size

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _is_trained(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.requires_grad


class _NoModules:
    """In the place of the flop counter's record of modules, whose hooks keep tensors until garbage is collected."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error) -> None:
        pass


def _counter() -> FlopCounterMode:
    work = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})
    work.mod_tracker = _NoModules()
    return work


def _convolution_backward(
    grad, x, weight, bias, stride, padding, dilation, transposed, out_padding, groups, wanted, out_shape=None
) -> int:
    """Operations of the gradients of input and weight, each as many as the forward pass.  (torch's own count takes
    the weight's gradient of a grouped convolution for that of a dense one.)"""
    return sum(wanted[:2]) * conv_flop_count(x, weight, grad, transposed)


class _Replacements(TorchFunctionMode):
    """Stand-ins for what fake tensors cannot do, and CUDA's rules where they are asked for."""

    def __init__(self, rules: Rules):
        super().__init__()
        self.cuda = rules == "cuda"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.__getitem__ and _is_real_mask(args[1]):
            return args[0][args[1].nonzero(as_tuple=True)]  # a fake has no values that a mask could pick by
        if self.cuda and func is F.scaled_dot_product_attention:
            return _efficient_attention(*args, **kwargs)
        if self.cuda and func in FP32_ON_CUDA and torch.is_autocast_enabled("cpu"):
            return func(args[0].float(), *args[1:], **kwargs)
        return func(*args, **kwargs)


def _is_real_mask(index) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)


def _efficient_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> Tensor:
    """The kernel that a GPU takes where a mask is given: it keeps queries, keys, values, mask and output.  (The flash
    kernel, taken where there is none, keeps the same.)"""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[1] // key.shape[1], 1) for t in (key, value))
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        attn_mask = attn_mask.to(dtype) if attn_mask is not None else None
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    made = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )
    return made[0]
