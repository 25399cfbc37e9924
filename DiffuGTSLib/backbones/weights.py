"""Model folders in the diffusers layout: strict, checksummed, safetensors only.

    model_index.json             which class each subfolder holds
    checksums.json               SHA-256 of every weight file and of what describes it
    autoencoder/  denoiser/  aova/    config.json + diffusion_pytorch_model.safetensors; aova/ also grid.json
    scheduler/                   scheduler_config.json

diffusers' own `from_pretrained` fills missing tensors at random and only warns; ours refuses.
"""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from DiffuGTSLib import storage
from DiffuGTSLib.errors import WeightsError, says_out_of_memory
from DiffuGTSLib.storage import make_folder, sha256, whole_file, write_json

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CHECKSUMS_FILE = "checksums.json"
_WEIGHTS = "*.safetensors"
_DESCRIPTIONS = ("config.json", "scheduler_config.json", "model_index.json")
"""Sizes, the latents' scale, noise levels: a number altered there makes another result as one among the weights does."""

Module = TypeVar("Module", bound=ModelMixin)


def load_module(kind: type[Module], folder: Path) -> Module:
    """Build a module from its `config.json` and fill it with exactly its weights, as float32, frozen.

    Raises:
        WeightsError: If a file is missing or unreadable, the configuration is another class's, or a tensor is
            missing, unexpected, of another shape, or holds infinite values or NaN.
    """
    with torch.random.fork_rng(devices=[]):  # what it draws is overwritten
        module = from_config(kind, folder)
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise WeightsError(
            f"Weights are missing: {path}.", hint="fetch or copy the whole model folder.", code="weights_missing"
        ) from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.", code="weights_corrupt") from error
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a complete safetensors file: {error}.",
            hint="copy it again; it was cut off or altered.",
            code="weights_corrupt",
        ) from error
    require_numbers(tensors, f"{path} holds", "train it again with a smaller learning rate, or copy it again.")
    load_strictly(module, tensors, str(path))
    return freeze(module)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Let what begins without a generator of its own draw by a seed, and leave torch's generators as they were.

    Args:
        seed: Of every draw within.
        device: Where else than in main memory is drawn, too.
    """
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def draw_where_zero(network: nn.Module) -> None:
    """Draw the weights that MONAI starts at zero.

    They are the last convolution of a denoiser and of each of its blocks: untrained, it would predict exactly nothing,
    whatever its conditions.
    """
    for weight in network.parameters():
        if weight.dim() > 1 and not weight.is_meta and not weight.any():
            nn.init.normal_(weight, std=0.05)


def require_numbers(tensors: dict[str, torch.Tensor], whose: str, hint: str) -> None:
    """Refuse weights that came apart: every map that they make is NaN.

    Args:
        tensors: By name.
        whose: Begins the message, as "denoiser.safetensors holds".
        hint: What to do.

    Raises:
        WeightsError: In that case (code "weights_corrupt").
    """
    apart = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if apart:
        raise WeightsError(
            f"{whose} {len(apart)} tensors with infinite values or NaN ({', '.join(apart[:5])}).",
            hint=hint,
            code="weights_corrupt",
        )


def from_config(kind: type[Module], folder: Path) -> Module:
    """Build a module as its `config.json` says, without its weights.

    Raises:
        WeightsError: If the file is missing or unreadable, another class's, or describes no such module.
    """
    config = read_model_json(folder / "config.json")
    if config.get("_class_name") != kind.__name__:
        raise WeightsError(f"{folder} holds a {config.get('_class_name')}; expected a {kind.__name__}.")
    # JSON has no tuples, and diffusers only warns of a key that it does not know.
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if not key.startswith("_")}
    unknown = sorted(values.keys() - inspect.signature(kind).parameters.keys())
    if unknown:
        raise WeightsError(
            f"{folder / 'config.json'} names what {kind.__name__} does not know: {', '.join(unknown)}.",
            hint="the model was made with another version of DiffuGTS.",
        )
    try:
        module: Module = kind(**values)
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        if says_out_of_memory(error):
            raise
        raise WeightsError(f"{folder / 'config.json'} describes no {kind.__name__}: {error}.") from error
    return module


def load_strictly(module: nn.Module, tensors: dict[str, torch.Tensor], origin: str) -> None:
    """Load tensors, as float32; every one that is missing, unexpected or misshapen is an error.

    Raises:
        WeightsError: Naming the first five of each and how many there are.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name}: {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if tensors[name].shape != own[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    words = [f"{len(names)} tensors {word} ({', '.join(names[:5])})" for word, names in faults.items() if names]
    if words:
        raise WeightsError(
            f"{origin} does not fit {type(module).__name__}: {'; '.join(words)}.",
            hint="the weights belong to another network or configuration.",
        )
    module.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    )


def save_module(module: ModelMixin, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write `config.json` and the weights; half precision halves the file and is widened again on loading.

    Tensors that the class names in diffusers' `_keep_in_fp32_modules` stay in float32.

    Raises:
        WeightsError: If a tensor holds infinite values or NaN, or would in that precision; what lies there stays.
        StorageError: If the folder cannot be made or written to.
    """
    kept, tensors = module._keep_in_fp32_modules or (), {}  # noqa: SLF001 - so diffusers calls it
    for name, tensor in module.state_dict().items():
        kind_of_number = dtype if tensor.is_floating_point() and name not in kept else tensor.dtype
        tensors[name] = tensor.detach().cpu().to(kind_of_number).contiguous()
    kind = type(module).__name__
    require_numbers(tensors, f"The {kind} for {folder} has in {dtype}", "train it with a smaller learning rate.")
    make_folder(folder)
    config = json.loads(module.to_json_string())
    config.pop("_name_or_path", None)  # diffusers notes the folder it was read from: a path of this machine
    with whole_file(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    with whole_file(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def write_checksums(model_folder: Path) -> None:
    """Write the SHA-256 of every weight file below a model folder, and of the files that describe them."""
    listed = [path for pattern in (_WEIGHTS, *_DESCRIPTIONS) for path in model_folder.rglob(pattern)]
    listed += model_folder.glob("*/grid.json")  # of a head; a segmenter's own lies at the top, and may be mended
    sums = {path.relative_to(model_folder).as_posix(): sha256(path) for path in sorted(listed)}
    write_json(model_folder / CHECKSUMS_FILE, sums)


def require_model_folder(model_folder: Path) -> None:
    """Refuse a model folder that is not there.

    Raises:
        WeightsError: If there is no such folder (code "weights_missing").
    """
    if not model_folder.is_dir():
        raise WeightsError(
            f"There is no model folder {model_folder}.", hint="see `diffugts doctor`.", code="weights_missing"
        )


def verify_checksums(model_folder: Path) -> dict[str, str]:
    """Return weight file → SHA-256 of a model folder after comparing every listed file with `checksums.json`.

    Weights have to be listed.

    Raises:
        WeightsError: If the folder or a file is missing, or a file is not the one that the checksums name, or not listed.
    """
    require_model_folder(model_folder)
    expected = read_model_json(model_folder / CHECKSUMS_FILE)
    unlisted = sorted(
        {path.relative_to(model_folder).as_posix() for path in model_folder.rglob(_WEIGHTS)} - expected.keys()
    )
    if unlisted:
        raise WeightsError(
            f"{model_folder / CHECKSUMS_FILE} does not list {', '.join(unlisted[:5])}.",
            hint="copy the whole model folder again.",
            code="weights_hash",
        )
    for name, digest in expected.items():
        path = model_folder / name
        if not path.is_file():
            raise WeightsError(
                f"Weights are missing: {path}.", hint="fetch or copy the whole model folder.", code="weights_missing"
            )
        given = sha256(path)
        if given != digest:
            raise WeightsError(
                f"{path} is not the file that {CHECKSUMS_FILE} names: SHA-256 expected {str(digest)[:12]}…, "
                f"got {given[:12]}….",
                hint="copy it again; it was cut off or altered.",
                code="weights_hash",
            )
    return {name: str(digest) for name, digest in expected.items() if Path(name).match(_WEIGHTS)}


def read_model_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        WeightsError: If it is missing (code "weights_missing") or not a JSON object.
    """
    try:
        return storage.read_json(path, WeightsError, hint="copy the whole model folder again.", code="weights_corrupt")
    except WeightsError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            error.hint = "fetch or copy the whole model folder; in a run's, train the part that is missing."
            error.code = "weights_missing"
        raise


def freeze(module: Module) -> Module:
    """Return the module in evaluation mode, its parameters without gradient."""
    module.eval()
    module.requires_grad_(False)
    return module
