"""What another run on the same scan re-uses, the key that says of which scan and question it is, and its file."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config
from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.storage import for_json, json_sha256
from DiffuGTSLib.text.prompts import PromptPair
from DiffuGTSLib.volumes import Geometry, Volume
from DiffuGTSLib.volumes.digest import voxels_sha256

RUN_AGAIN = "run diffugts segment again."


@dataclass(frozen=True, eq=False)
class Cache:
    """What another run on the same scan re-uses.

    Attributes:
        latent: Of the whole scan, (l, x, y, z).
        aova: Abnormal map on the canonical grid, (X, Y, Z), before it is smoothed.
        anomaly_score: Of the scan.
        made_of: What it belongs to, from `key_of`.
        organ: Where the organ is, as `AovaMaps.organ`.
    """

    latent: np.ndarray
    aova: np.ndarray
    anomaly_score: float
    made_of: Mapping[str, str]
    organ: np.ndarray | None = None

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
                hint="omit the cache, and the attention is computed anew.",
                code="cache",
            )


def key_of(
    volume: Volume, prompts: PromptPair, modality: str, components: Components, config: Config
) -> dict[str, str]:
    """Return what the attention maps of a scan depend on: in words → its digest.

    Of the scan the voxels, which stay the same in whatever file they lie; of the networks the files of their weights.
    Windows, precision and device are left out: they change the maps only a little, as when memory has run out.
    """
    return {
        "scan": voxels_sha256(volume),
        "modality": modality,
        "grid or intensity window": json_sha256(asdict(config.canonical)),
        "pair of sentences": json_sha256([asdict(prompts), config.text.encoder, config.text.ensemble]),
        "model": json_sha256(components.weights),
    }


def cache_bytes(cache: Cache, region: Volume | None, owner_sha256: str) -> bytes:
    """Return a cache as the content of its file.

    Args:
        cache: From a `Segmentation`.
        region: Where anomalies were allowed; kept with it.
        owner_sha256: Of what the file belongs to: of the scan's file in a result folder, of the key and more in a job folder.
            In the file it is "scan_sha256" either way.
    """
    tensors = {"latent": np.ascontiguousarray(cache.latent), "aova": np.ascontiguousarray(cache.aova)}
    if cache.organ is not None:
        tensors["organ"] = np.ascontiguousarray(cache.organ)
    if region is not None:
        tensors["region_bits"] = np.packbits(region.array > 0)
    about = {
        "scan_sha256": owner_sha256,
        "anomaly_score": for_json(cache.anomaly_score),
        "made_of": dict(cache.made_of),
    }
    return safetensors.numpy.save(tensors, metadata={"cache": json.dumps(about)})


def read_cache(path: Path, geometry: Geometry, owner_sha256: str) -> tuple[Cache | None, Volume | None]:
    """Return the cache and the region; neither where the file is gone.

    Raises:
        InputError: If the file is damaged (code "cache"), or belongs to something else (code "cache_other").
        GeometryError: If the region has another number of voxels than the scan.
    """
    if not path.exists():
        return None, None
    try:
        with safetensors.safe_open(str(path), framework="np") as file:
            about = json.loads((file.metadata() or {})["cache"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        score, made_of = about["anomaly_score"], dict(about["made_of"])
        score = math.nan if score is None else float(score)
        cache = Cache(tensors["latent"], tensors["aova"], score, made_of, tensors.get("organ"))
        fits = about["scan_sha256"] == owner_sha256
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is damaged: {error!r}.", hint=RUN_AGAIN, code="cache") from error
    if not fits:
        raise InputError(
            f"{path} belongs to another scan than record.json beside it.", hint=RUN_AGAIN, code="cache_other"
        )
    if "region_bits" not in tensors:
        return cache, None
    voxels = math.prod(geometry.shape)
    bits = tensors["region_bits"]
    if bits.size != (voxels + 7) // 8:
        raise GeometryError(
            f"{path}: the region has room for {bits.size * 8} voxels, the scan has {voxels}.", hint=RUN_AGAIN
        )
    return cache, Volume(np.unpackbits(bits, count=voxels).reshape(geometry.shape), geometry)
