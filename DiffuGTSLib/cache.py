"""What a second look at the same scan re-uses, and by what it is known to be of that scan and that question."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.storage import json_sha256
from DiffuGTSLib.text.prompts import PromptPair
from DiffuGTSLib.volumes import Volume
from DiffuGTSLib.volumes.digest import voxels_sha256


@dataclass(frozen=True, eq=False)
class Cache:
    """What a second look at the same scan re-uses.

    Attributes:
        latent: Of the whole scan, (l, x, y, z).
        aova: Abnormal map on the canonical grid, (X, Y, Z), before it is smoothed.
        anomaly_score: Of the scan.
        made_of: What it belongs to, from `key_of`.
    """

    latent: np.ndarray
    aova: np.ndarray
    anomaly_score: float
    made_of: Mapping[str, str]

    def require_key(self, key: Mapping[str, str]) -> None:
        """Refuse to be used with another scan, question or model.

        Args:
            key: The one that is wanted, from `key_of`.

        Raises:
            InputError: Naming what was another then (code "cache").
        """
        other = [name for name, digest in key.items() if self.made_of.get(name) != digest]
        if other:
            raise InputError(
                f"The cache was made with another {', another '.join(other)}.",
                hint="leave the cache away, and the scan is looked at.",
                code="cache",
            )


def key_of(
    volume: Volume, prompts: PromptPair, modality: str, components: Components, config: Config
) -> dict[str, str]:
    """Return what the attention maps of a scan depend on: in words → its digest.

    Of the scan the voxels, which stay the same in whatever file they lie; of the networks the files of their weights.
    Windows, precision and device are left out: the same scan is seen a little differently, as when memory has run out.
    """
    return {
        "scan": voxels_sha256(volume),
        "modality": modality,
        "grid or intensity window": json_sha256(asdict(config.canonical)),
        "pair of sentences": json_sha256([asdict(prompts), config.text.encoder, config.text.ensemble]),
        "model": json_sha256(components.weights),
    }
