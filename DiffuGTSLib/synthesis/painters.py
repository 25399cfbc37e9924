"""The painters by name: two that need no weights, and trained ones by their folder."""

from __future__ import annotations

from pathlib import Path

from DiffuGTSLib.config import RuntimeConfig
from DiffuGTSLib.device import find_device
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.synthesis.handcrafted import HandcraftedPainter, RecipePainter
from DiffuGTSLib.synthesis.painter import Painter

BY_HAND: dict[str, type[Painter]] = {"handcrafted": HandcraftedPainter, "recipe": RecipePainter}
"""Name → painter without weights."""


def find_painter(name: str, device: str = "auto") -> tuple[Painter, dict[str, str]]:
    """Return a painter, and the SHA-256 of each of its weight files; painters by hand have none.

    Args:
        name: One of `BY_HAND`, or the folder of a trained latent painter.
        device: Of a trained painter: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        InputError: If it is neither a painter by hand nor a folder (code "painter").
        WeightsError: If the folder holds no painter, or a damaged one.
        ConfigError: Unknown device.
    """
    if name in BY_HAND:
        return BY_HAND[name](), {}
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"Unknown painter '{name}', and no such folder.",
            hint=f"choose {' or '.join(BY_HAND)}, or the folder of a trained latent painter.",
            code="painter",
        )
    from DiffuGTSLib.synthesis.latent_painter import load_painter  # torch: seconds

    painter = load_painter(folder, find_device(RuntimeConfig(device=device)))
    return painter, dict(painter.weights)
