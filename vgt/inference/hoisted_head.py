"""The flow head, made ready to sample: what does not depend on the noisy token leaves the loop (docs/decode.md).

* All modulations of a run of evaluations come from one matrix product, so their weights are read once for them.
* The affine part of a block's input norm is folded into the modulation's weights: with n the bare norm,
  (n g + b) (1 + scale) + shift = n (g + g scale) + (b + b scale + shift).
* Times are embedded once for ever, conditions once a token.

The velocities are those of ``FlowHead`` to rounding.  Shapes: N tokens, R = N or 2 N rows, d latent channels, W width,
K evaluations, J modulation vectors of a row (three a block, two at the end).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vgt.equations.solvers import Scheme
from vgt.methods.flow_head import FlowHead

# Rows of one modulation product; above, reading the weights again costs less than the memory (docs/decode.md).
ROWS = 800


class HoistedHead:
    """Samples as ``FlowHead.sample`` does.  Keeps a packed copy of the modulation weights, 60 % of the head's."""

    def __init__(self, head: FlowHead):
        self.head = head
        self.width = head.input_proj.out_features
        weights, biases = [], []
        for block in head.res_blocks:
            linear, norm = block.adaLN_modulation[1], block.in_ln
            shift, scale, gate = linear.weight.float().chunk(3)
            shift_b, scale_b, gate_b = linear.bias.float().chunk(3)
            g, b = norm.weight.float(), norm.bias.float()
            weights += [shift + b[:, None] * scale, g[:, None] * scale, gate]
            biases += [shift_b + b * (1 + scale_b), g * (1 + scale_b), gate_b]
        linear = head.final_layer.adaLN_modulation[1]
        shift_b, scale_b = linear.bias.float().chunk(2)
        like = head.input_proj.weight
        self.weight = torch.cat([*weights, linear.weight.float()]).to(like)  # [J W, W]
        self.bias = torch.cat([*biases, shift_b, 1 + scale_b]).to(like)
        self._times: dict[tuple[float, ...], Tensor] = {}

    def times(self, table: Scheme) -> Tensor:
        """Embedded times of a solver's evaluations [K, W]."""
        if table.times not in self._times:
            t = torch.tensor(table.times, device=self.weight.device)
            self._times[table.times] = self.head.time_embed(t)
        return self._times[table.times]

    def modulations(self, times: Tensor, condition: Tensor) -> Tensor:
        """Shift, scale and gate of every block, shift and scale of the end, for evaluations at ``times`` [k, W] and
        rows of ``condition`` [R, W]: [k, R, J, W], norms' affine parts and the 1 of the scale included."""
        y = F.silu(times[:, None] + condition)
        return F.linear(y, self.weight, self.bias).unflatten(2, (-1, self.width))

    def velocity(self, x: Tensor, modulation: tuple[Tensor, ...], copies: int) -> Tensor:
        """x [N, d] and J modulations of [R, W] -> velocities [R, d]; the ``copies`` of a token share their input."""
        head, bare = self.head, self.head.final_layer.norm  # without an affine part
        x = head.input_proj(x.to(self.weight.dtype))
        if copies > 1:
            x = x.repeat(copies, 1)
        for k, block in enumerate(head.res_blocks):
            shift, scale, gate = modulation[3 * k : 3 * k + 3]
            h = torch.addcmul(shift, bare(x), scale)
            h = block.mlp[2](F.silu(block.mlp[0](h), inplace=True))
            x = torch.addcmul(x, gate, h)
        shift, scale = modulation[-2:]
        return head.final_layer.linear(torch.addcmul(shift, bare(x), scale)).float()

    def sample(self, c: Tensor, guidance: float | Tensor, noise: Tensor, table: Scheme) -> Tensor:
        """As ``FlowHead.sample``; ``guidance`` may be a tensor of one number, so that a captured graph can be told
        another."""
        n = len(noise)
        copies, condition, times = len(c) // n, self.head.cond_embed(c), self.times(table)
        run = max(1, ROWS // len(c))
        x, before, back = noise[:, 0].float(), None, None
        for k in range(len(table.times)):
            if k % run == 0:
                modulations = self.modulations(times[k : k + run], condition)
            v = self.velocity(x, modulations[k % run].unbind(1), copies)
            if copies > 1:
                v = torch.lerp(v[n:], v[:n], guidance)  # guide: v_u + w (v_c - v_u)
            x, before, back = table.advance(k, x, v, before, back, noise), x, v
        return x
