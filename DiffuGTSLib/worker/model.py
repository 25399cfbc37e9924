"""The loaded networks and what they said, kept from one run to the next."""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.components import Components, load_components
from DiffuGTSLib.config import Config
from DiffuGTSLib.device import find_device
from DiffuGTSLib.errors import WorkerError
from DiffuGTSLib.planning.plan import Plan
from DiffuGTSLib.planning.running import give_memory_back, left_over_mb


class WarmModel:
    """Holds one set of networks, those of the last run, and what they said of the last scans."""

    def __init__(self) -> None:
        self._key = ""
        self._files: list[tuple[str, int, int]] = []
        self._components: Components | None = None
        self._memory = WindowMemory(0)

    def components(self, config: Config, allow_untrained: bool) -> Components:
        """Return the networks that a configuration names: those at hand, or else those loaded in their place.

        A model that was trained on, or replaced, in its folder is another one.

        Raises:
            WorkerError: Code "cuda_arch": torch has no kernels for that graphics card.
            ConfigError, WeightsError: As `load_components`.
        """
        key = model_key(config, allow_untrained)
        if self._components is not None and (key, self._files) != (self._key, files_of(config, self._components)):
            self.release()  # first: two sets may not fit
        if self._components is None:
            require_kernels(find_device(config.runtime))
            self._components = load_components(config, allow_untrained=allow_untrained)
            self._key, self._files = key, files_of(config, self._components)
        return self._components

    def memory(self, plan: Plan) -> WindowMemory:
        """Return what is remembered from run to run, within the budget that is named and what the plan leaves."""
        self._memory.limit(min(plan.config.runtime.remember_mb, left_over_mb(plan)))
        return self._memory

    def release(self) -> None:
        """Forget the networks and what they said, and give their memory back."""
        self._components = None
        self._memory.forget()
        give_memory_back()


def model_key(config: Config, allow_untrained: bool) -> str:
    """Return all that decides which networks are loaded, and where to."""
    runtime = (config.runtime.device, config.runtime.precision, config.runtime.compile)
    parts = [asdict(config.backbone), asdict(config.text), runtime, config.residual.feature, allow_untrained]
    return json.dumps(parts, sort_keys=True)


def files_of(config: Config, components: Components) -> list[tuple[str, int, int]]:
    """Return path, size in bytes and time in ns of every file that networks and text model were read from."""
    folders = [Path(folder) for folder in (components.folder, config.text.folder) if folder]
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def require_kernels(device: torch.device) -> None:
    """Refuse a graphics card that the installed torch was not built for, by the smallest computation there is.

    Raises:
        WorkerError: Code "cuda_arch".
    """
    if device.type != "cuda":
        return
    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        if "no kernel image" not in str(error):
            raise
        major, minor = torch.cuda.get_device_capability(device)
        raise WorkerError(
            f"PyTorch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} (sm_{major}{minor}); "
            f"it was built for {', '.join(torch.cuda.get_arch_list())}.",
            hint="install a PyTorch for this card (in Slicer: the PyTorch module), or choose the processor.",
            code="cuda_arch",
        ) from error
