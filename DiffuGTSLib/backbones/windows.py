"""A scan in windows: encoded and decoded piece by piece, blended with a Gaussian, so that cost follows the scan's size."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from DiffuGTSLib.backbones.interfaces import LatentAutoencoder

OnWindow = Callable[[int, int], None]
"""Called with (windows done, windows in all); may raise `Cancelled`."""


def over_windows(
    volume: Float[Tensor, "1 c X Y Z"],
    side: int,
    overlap: float,
    look: Callable[[Tensor], tuple[Tensor, ...]],
    on_window: OnWindow,
    where: Bool[Tensor, "X Y Z"] | None = None,
) -> tuple[Tensor, ...]:
    """Apply a function to every window and blend each of its outputs, which may be coarser than the window.

    Args:
        volume: Image or latent.
        side: Window side in its voxels; shorter sides are seen whole.
        overlap: Share that neighbors have in common.
        look: Window → outputs, each at a whole-number fraction of (or multiple of) the window's size, finer ones
            first: MONAI carries the weights of one output on to the next. They are weighted in place.
        on_window: See `OnWindow`.
        where: Voxels of the volume whose outputs are wanted; None for all. A window without any is not looked at:
            the wanted outputs are the same numbers, the others are of no use.
    """
    sides = tuple(min(side, length) for length in volume.shape[2:])
    total, done = window_count(volume.shape[2:], sides, overlap), 0
    channels = volume.shape[1]
    if where is not None:  # the wish travels with its window
        volume = torch.cat([volume, where[None, None].to(volume)], dim=1)
    shapes: list[torch.Size] = []

    def counted(window: Tensor) -> tuple[Tensor, ...]:
        nonlocal done
        wanted = where is None or not shapes or bool(window[:, channels:].any())
        outputs = look(window[:, :channels]) if wanted else tuple(window.new_zeros(shape) for shape in shapes)
        shapes[:] = [output.shape for output in outputs]
        done += 1
        on_window(done, total)
        return outputs

    with torch.inference_mode():
        blended = sliding_window_inference(
            volume, sides, sw_batch_size=1, predictor=counted, overlap=overlap, mode="gaussian"
        )
    return (blended,) if isinstance(blended, Tensor) else tuple(blended)


def encode_scan(
    image: Float[Tensor, "1 1 X Y Z"], autoencoder: LatentAutoencoder, side: int, overlap: float, on_window: OnWindow
) -> Float[Tensor, "1 l x y z"]:
    """Return the latent of a whole scan."""
    overlap = aligned_overlap(side, overlap, autoencoder.downsampling)
    return over_windows(image, side, overlap, lambda window: (autoencoder.encode(window).latent,), on_window)[0]


def decode_scan(
    latent: Float[Tensor, "1 l x y z"],
    autoencoder: LatentAutoencoder,
    side: int,
    overlap: float,
    on_window: OnWindow,
    where: Bool[Tensor, "x y z"] | None = None,
) -> Float[Tensor, "1 1 X Y Z"]:
    """Return the image of a latent; `side` is in image voxels, `where` names the cells whose image is wanted."""
    cells = max(1, side // autoencoder.downsampling)
    return over_windows(latent, cells, overlap, lambda window: (autoencoder.decode(window).float(),), on_window, where)[
        0
    ]


def aligned_overlap(side: int, overlap: float, multiple: int) -> float:
    """Return an overlap, at least the given one, at which every window begins on a whole cell of its coarser outputs.

    MONAI would round each beginning down instead and blend outputs up to a cell away from where they belong.

    Args:
        side: Window side in voxels.
        overlap: Share that neighbors have in common.
        multiple: Voxels a cell.
    """
    stride = int(side * (1 - overlap))
    aligned = max(multiple, stride - stride % multiple)
    # Half a voxel more, so that MONAI's int(side * (1 - overlap)) cannot fall short by rounding.
    return overlap if aligned == stride else max(0.0, 1 - (aligned + 0.5) / side)


def window_count(shape: Sequence[int], sides: Sequence[int], overlap: float) -> int:
    """Return how many windows MONAI's sliding inference visits."""
    count = 1
    for length, side in zip(shape, sides, strict=True):
        interval = side if side == length else max(1, int(side * (1 - overlap)))
        count *= -(-(length - side) // interval) + 1
    return count
