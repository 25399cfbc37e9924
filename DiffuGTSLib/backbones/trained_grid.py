"""What an anomaly head was trained on, beside its weights: grid, intensities, sentences.

A head answers on any other grid, too, only wrongly, and nothing else would say so.
"""

import json
from pathlib import Path
from typing import Any

from DiffuGTSLib.backbones.weights import read_model_json
from DiffuGTSLib.config import Config
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.storage import write_json

GRID_FILE = "grid.json"

_INTENSITIES = ("ct_knots_hu", "ct_knots_unit", "mr_percentiles", "mr_clip")
_FIT = ("fit_multiple", "fit_minimum_xy")


def write_trained_grid(folder: Path, config: Config) -> None:
    """Write into a head's folder what it was trained on.

    Raises:
        StorageError: If it cannot be written.
    """
    canonical = config.to_dict()["canonical"]
    values = {"preset": config.preset, "canonical": canonical, "text_encoder": config.text.encoder}
    write_json(folder / GRID_FILE, values)


def require_trained_grid(folder: Path, config: Config) -> None:
    """Refuse a configuration that shows a head another kind of picture, or tells it other words, than it was trained with.

    Windows and padding may differ, and, where the field of view is stretched onto a grid, its spacing: the plan of a scan
    gives them up where memory is short. A head without its file is taken as it is.

    Args:
        folder: Of the head.
        config: As it is to be used.

    Raises:
        WeightsError: Naming the first key that differs, and both values.
    """
    path = folder / GRID_FILE
    if not path.is_file():
        return
    then, now = read_model_json(path), config.to_dict()["canonical"]
    grid = then.get("canonical")
    if not isinstance(grid, dict):
        raise WeightsError(f"{path} does not describe a grid.", hint="copy the whole model folder again.")
    keys = (*_FIT, *_INTENSITIES, *(() if config.canonical.fit_multiple else ("spacing_mm",)))
    pairs: dict[str, tuple[Any, Any]] = {f"canonical.{key}": (grid.get(key, now[key]), now[key]) for key in keys}
    pairs["text.encoder"] = (then.get("text_encoder", config.text.encoder), config.text.encoder)
    for key, (trained, given) in pairs.items():
        if trained != given:
            raise WeightsError(
                f"The head in {folder} was trained with {key}={json.dumps(trained)}, not with {json.dumps(given)}.",
                hint=f"use the preset that it was trained with (--preset {then.get('preset', 'mini')}) and its keys: what it "
                "says otherwise means nothing.",
            )
