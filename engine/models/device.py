"""The device that an actor computes on."""

import os

VARIABLE = "IMAGEFOUNDRY_DEVICE"
"""Environment variable that, set to `cpu`, makes actors that hold logical GPUs compute on the CPU."""


def torch_device(num_gpus: float) -> str:
    """`cuda` for an actor that holds a GPU or a share of one, unless `IMAGEFOUNDRY_DEVICE` is `cpu`; else `cpu`.

    Raises:
        ValueError: the variable has another value.
    """
    forced = os.environ.get(VARIABLE, "")
    if forced not in ("", "cpu"):
        raise ValueError(f"{VARIABLE} is {forced!r}; set it to cpu, or unset it to compute on GPUs where there are any")
    return "cuda" if num_gpus > 0 and not forced else "cpu"


def device_name(device: str) -> str:
    """Name of the GPU, such as `NVIDIA H100 80GB HBM3`, or `cpu`."""
    if not device.startswith("cuda"):
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name(device))
