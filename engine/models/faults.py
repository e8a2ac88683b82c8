"""Device faults: errors after which a process can no longer compute on its device, so another process must take over."""

import re


class DeviceFault(RuntimeError):
    """The process can no longer use its device; its unfinished work must be repeated by another process."""

    def __init__(self, device: str, reason: str = ""):
        first_line = (reason.strip().splitlines() or [""])[0]
        super().__init__(
            f"the device {device} failed{f' ({first_line})' if first_line else ''}; a new process has to take over its work"
        )
        self.device = device
        """`cuda`, `cuda:1`, …"""
        self.reason = reason
        """Message of the library's error."""

    def __reduce__(self) -> "tuple[type[DeviceFault], tuple[str, str]]":
        return type(self), (self.device, self.reason)


_MARKS = re.compile(
    r"CUDA error|CUDA driver error|Triton Error \[CUDA\]|cudaError|device-side assert|CUBLAS_STATUS|CUDNN_STATUS|CUSOLVER_STATUS"
    r"|unspecified launch failure|illegal memory access|\bECC\b"
)


def is_device_fault(error: BaseException) -> bool:
    """Whether this error, or an error that it was raised from or during, leaves the process's device context unusable.

    Running out of memory (`torch.OutOfMemoryError`) does not; a `CUDA error` of any other class does.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if _is_fault(link):
            return True
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return False


def _is_fault(error: BaseException) -> bool:
    if isinstance(error, DeviceFault):
        return True
    if not isinstance(error, RuntimeError):
        return False
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return False
    accelerator_error = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    if accelerator_error is not None and isinstance(error, accelerator_error):
        return True
    return bool(_MARKS.search(str(error)))
