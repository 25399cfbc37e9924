"""What the networks compute on: which device, in which precision, and how weights lie there."""

from dataclasses import replace

import torch

from DiffuGTSLib.config import RuntimeConfig
from DiffuGTSLib.errors import ConfigError

_BFLOAT16_CAPABILITY = 8
"""NVIDIA's Ampere, of 2020."""
_OWN_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""x86's matrix unit, its vectors, and ARM's instructions, as torch names them."""


def find_device(config: RuntimeConfig) -> torch.device:
    """Return the device that was asked for, and turn TF32 off on a card, so that float32 is float32 there, too.

    Raises:
        ConfigError: If there is no such device, the compiler was asked for on a CPU, or half precision on a CPU or a card
            that has no instructions for it.
    """
    wish = config.device
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise ConfigError(f"Unknown device '{wish}'.", hint="use auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"Device '{wish}' is not supported.", hint="use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"Device '{wish}' was asked for, but torch sees {torch.cuda.device_count() or 'no'} CUDA GPU.",
            hint="use --device cpu, or see `diffugts doctor`.",
        )
    if config.precision != "float32" and not has_bfloat16(device):
        raise _no_bfloat16(device, config.precision)
    if device.type == "cpu" and config.compile:
        raise ConfigError(
            "runtime.compile was asked for on a CPU, where the compiled denoiser is up to ten times slower.",
            hint="leave runtime.compile at false, or use a CUDA GPU.",
        )
    if device.type == "cuda":
        # By default cuDNN rounds what it convolves to ten binary digits (TF32), also where float32 is asked for. Here,
        # since whatever runs on a card, training and painting too, asks for it here.
        torch.backends.cudnn.allow_tf32 = False
    return device


def _no_bfloat16(device: torch.device, precision: str) -> ConfigError:
    if device.type == "cpu":
        return ConfigError(
            f"Precision '{precision}' was asked for on a CPU without instructions for it, where it is up to a "
            "hundred times slower.",
            hint="use --set runtime.precision=float32, a CPU with AMX or AVX-512 BF16 (see `diffugts doctor`), or a CUDA GPU.",
        )
    major, minor = torch.cuda.get_device_capability(device)
    return ConfigError(
        f"Precision '{precision}' was asked for on {torch.cuda.get_device_name(device)}, which has no instructions for it "
        f"(expected compute capability {_BFLOAT16_CAPABILITY}.0 or more, got {major}.{minor}).",
        hint="use --set runtime.precision=float32, or a newer card.",
    )


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 itself; elsewhere it is emulated, and slower than float32."""
    if device.type == "cpu":
        return bool(native_bfloat16())
    # torch's own answer counts emulation, and is about the current card only.
    return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= _BFLOAT16_CAPABILITY


def native_bfloat16() -> str:
    """Return the processor's own instructions for bfloat16, as torch names them; empty where it has none.

    Without, or with a torch that makes no use of them, products in bfloat16 are emulated, and were a hundred times slower
    than in float32. Older versions of torch do not say what they know; with them there are none.
    """
    able: dict[str, object] = {}
    if torch.backends.mkldnn.is_available():
        able = getattr(torch.cpu, "get_capabilities", dict)()
    return next((name for name in _OWN_BFLOAT16 if able.get(name)), "")


def use_fastest_layout(network: torch.nn.Module, device: torch.device, precision: str) -> None:
    """Lay a network's weights out as its device computes fastest: by channels for a CPU's bfloat16, else as they are.

    In float32 the order made no difference there; on CUDA nobody has measured it.
    """
    if device.type == "cpu" and precision == "bfloat16":
        for weight in network.parameters():
            if weight.dim() == 5:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)


def continued_here(config: RuntimeConfig, made_on: str) -> RuntimeConfig:
    """Return how a run that was made elsewhere goes on here: without what only its device could do.

    Args:
        config: Of that run; its device is the one that is asked for here.
        made_on: The device that the run was made on: "cpu", "cuda:0". The memory of another kind of device says nothing here.

    Raises:
        ConfigError: If the device is not here.
    """
    plain = replace(config, precision="float32", compile=False, offload=False)
    device = find_device(plain)
    if made_on.partition(":")[0] != device.type:
        config, plain = replace(config, memory_gb=0.0), replace(plain, memory_gb=0.0)
    in_bfloat16 = config.precision == "bfloat16" and has_bfloat16(device)
    if device.type != "cpu":
        return config if in_bfloat16 else replace(config, precision="float32")
    return replace(plain, precision=config.precision) if in_bfloat16 else plain
