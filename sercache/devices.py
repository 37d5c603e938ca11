"""Which device work runs on."""

from sercache.errors import SercacheError


def resolve_device(name: str) -> str:
    """Return a device as torch names it; ``auto`` is a GPU if there is one, else the CPU.

    Raises:
        SercacheError: no such device here.
    """
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SercacheError(
            f"no device '{name}' here ({str(error).splitlines()[0]}); sercache doctor lists the devices"
        ) from None
    return name
