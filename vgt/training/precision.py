"""Which devices multiply bf16 matrices themselves; on the others that is many times slower than in fp32."""

from __future__ import annotations

import torch

from vgt.core import env

AMPERE = (8, 0)  # compute capability of the first NVIDIA GPUs with bf16 tensor cores


def native_bf16(device: str | torch.device) -> bool:
    """Whether ``device`` has instructions for bf16 matrix products.  Kinds other than CPUs and CUDA GPUs are taken to
    have them."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    return device.type != "cpu" or env.cpu_multiplies_bf16()


def device_name(device: str | torch.device) -> str:
    """What the device is called by its maker."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else env.processor()
