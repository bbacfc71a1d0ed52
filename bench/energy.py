"""Energy of an NVIDIA GPU from the counter of its driver (nvidia-ml), where there is one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

LIBRARY = "libnvidia-ml.so.1"
_ERRORS = {3: "this GPU does not report it", 4: "no permission", 9: "the driver is not loaded", 999: "unknown error"}


def counter(device: str) -> tuple[Callable[[], float] | None, str]:
    """A function that reads the joules which a device has used since its driver was loaded, or None; and how, or why
    not.  The counter moves some ten times a second: measure over a second or more."""
    if not device.startswith("cuda"):
        return None, "no energy counter: not an NVIDIA GPU"
    import torch

    try:
        lib = ctypes.CDLL(LIBRARY)
        _check(lib.nvmlInit_v2())
        handle = ctypes.c_void_p()
        mark = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        _check(lib.nvmlDeviceGetHandleByUUID(mark.encode(), ctypes.byref(handle)))

        def read() -> float:
            found = ctypes.c_ulonglong()
            _check(lib.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(found)))
            return found.value / 1000

        read()
    except (OSError, AttributeError) as error:
        return None, f"no energy counter: {error}"
    return read, "nvmlDeviceGetTotalEnergyConsumption"


def _check(status: int) -> None:
    if status:
        raise OSError(f"nvidia-ml: {_ERRORS.get(status, f'error {status}')}")
