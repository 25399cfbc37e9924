"""What this computer's processor is good at."""

import torch

_OWN_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""x86's matrix unit, its vectors, and ARM's instructions, as torch names them."""


def native_bfloat16() -> str:
    """Return the processor's own instructions for bfloat16, as torch names them; empty where it has none.

    Without, or with a torch that makes no use of them, products in bfloat16 are emulated, and were a hundred times slower
    than in float32. Older versions of torch do not say what they know; with them there are none.
    """
    able: dict[str, object] = {}
    if torch.backends.mkldnn.is_available():
        able = getattr(torch.cpu, "get_capabilities", dict)()
    return next((name for name in _OWN_BFLOAT16 if able.get(name)), "")
