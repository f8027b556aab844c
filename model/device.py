"""Where to compute, and in what precision."""

import torch

from bjepa.preproc.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device by name; "auto" is CUDA, else Apple's MPS, else the CPU. InputError if it is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there.get(name, False):
        usable = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise InputError(f"--device {name} is not available here; usable: auto, {usable}.")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """ "fp32" or "bf16"; "auto" is bf16 where CUDA has it."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
