"""Published checkpoints of DiffTumor: what is in them, and their conversion to folders that are safe to load.

A checkpoint is read by `checkpoint_reader`, a process of its own in which no name of the file leads anywhere, with limits
of memory and time. What comes back is a list of names and shapes, and for a conversion one group of tensors as
safetensors.

    kind          file                            becomes
    autoencoder   AutoencoderModel.ckpt           vqgan/, and critics/ for training on
    diffusion     DiffusionModel/*.pt             a painter's folder (`latent_painter`), from the averaged weights
    segmenter     SegmentationModel/*.pt          a segmenter's folder (`segmenter`)
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from DiffuGTSLib.backbones.weights import load_strictly, save_module, write_checksums
from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import InputError, StorageError, WeightsError
from DiffuGTSLib.storage import new_folder, read_json, sha256, write_json
from DiffuGTSLib.supervised.networks import SWIN_FEATURES, Segmenter, historical_keys, load_published
from DiffuGTSLib.supervised.prediction import TrainedSegmenter, save_segmenter
from DiffuGTSLib.synthesis.case import NOTICE
from DiffuGTSLib.synthesis.checkpoint_reader import NOT_WRITTEN, OUT_OF_MEMORY
from DiffuGTSLib.synthesis.latent_diffusion import TABLES, CosineDiffusion
from DiffuGTSLib.synthesis.latent_painter import PainterView, save_painter
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.synthesis.vqgan_critics import CRITIC_PREFIXES, VqganCritics, load_published_vqgan, published_tensors
from DiffuGTSLib.versions import versions

SOURCE_FILE = "source.json"
FORMAT = 1

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ReadingLimits:
    """What the reading process may use.

    Attributes:
        seconds: Of processor and of wall time.
        memory_mb: Of addresses (not on Windows and macOS, which know no such limit).
    """

    seconds: int = 300
    memory_mb: int = 2048


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint is, and whether its tensors are those of its kind.

    Attributes:
        name: Of the file.
        sha256: Of the file.
        kind: "autoencoder", "diffusion", "segmenter" or "unknown".
        group: Key of the dictionary whose tensors count.
        sizes: Of the network, as read off the shapes.
        timesteps: Of a diffusion, 0 elsewhere.
        tensors: How many.
        elements: Numbers in them.
        missing: Names that the kind has and the file has not.
        unexpected: Names that the file has and the kind has not.
        misshapen: Names with another shape, and both shapes.
        values: Plain values beside the tensors, such as step, epoch and best_acc.
        replaced: Names in the pickle that were answered by nothing; a Lightning file has omegaconf's, a hostile one others.
    """

    name: str
    sha256: str
    kind: str
    group: str
    sizes: dict[str, Any]
    timesteps: int
    tensors: int
    elements: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    values: dict[str, Any]
    replaced: tuple[str, ...]

    @property
    def faults(self) -> str:
        """What does not fit, in words; empty where all does."""
        found = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshapen}
        return "; ".join(
            f"{len(names)} tensors {word} ({', '.join(names[:5])})" for word, names in found.items() if names
        )


def inspect_checkpoint(path: Path, limits: ReadingLimits | None = None) -> CheckpointReport:
    """Say what a checkpoint is, without loading a number of it.

    Raises:
        InputError: If there is no such file (code "missing").
        WeightsError: If it is no checkpoint, cut off, or takes more time or memory than it may.
    """
    found = ask_reader(path, limits or ReadingLimits())
    groups: dict[str, Shapes] = {
        group: {name: tuple(shape) for name, (_, shape) in tensors.items()}
        for group, tensors in found["groups"].items()
    }
    kind, group = _recognize(groups)
    shapes = groups.get(group, {})
    elements, file_bytes = sum(prod(shape) for shape in shapes.values()), path.stat().st_size
    if elements > file_bytes:  # a tensor may show one number many times over; a network's do not
        raise WeightsError(
            f"{path.name} claims tensors of {elements} numbers and has {file_bytes} bytes.",
            hint="it was altered, or made to do harm: fetch it from its source again.",
            code="weights_corrupt",
        )
    sizes, timesteps, expected = _expected(kind, shapes)
    given = _bare(kind, shapes)
    misshapen = tuple(
        f"{name}: {given[name]} instead of {expected[name]}"
        for name in sorted(given.keys() & expected.keys())
        if given[name] != expected[name]
    )
    known = kind != "unknown"
    return CheckpointReport(
        name=path.name, sha256=sha256(path), kind=kind, group=group, sizes=sizes, timesteps=timesteps,
        tensors=len(shapes), elements=elements,
        missing=tuple(sorted(expected.keys() - given.keys())),
        unexpected=tuple(sorted(given.keys() - expected.keys())) if known else (),
        misshapen=misshapen, values=found["values"], replaced=tuple(found["replaced"]),
    )  # fmt: skip


def convert_checkpoint(path: Path, folder: Path, limits: ReadingLimits | None = None) -> CheckpointReport:
    """Convert a checkpoint to a folder of safetensors, once: a folder that was made from this very file is left alone.

    Args:
        path: The checkpoint.
        folder: Absent, empty, or made from the file before.
        limits: Of the reading process.

    Raises:
        InputError: If there is no such file, or the folder holds something else (code "exists").
        WeightsError: If it is no checkpoint that we know, or tensors are missing, unexpected or of another shape.
        StorageError: If the folder cannot be written.
    """
    limits = limits or ReadingLimits()
    report = inspect_checkpoint(path, limits)
    if report.kind == "unknown":
        raise WeightsError(
            f"{path.name} is neither an autoencoder, a diffusion model nor a segmenter of DiffTumor.",
            hint="`diffugts checkpoint inspect` lists what is in it.",
            code="weights_kind",
        )
    if report.faults:
        raise WeightsError(
            f"{path.name} does not fit its kind, {report.kind}: {report.faults}.",
            hint="`diffugts checkpoint inspect` lists them all; was the file altered, or made by another version?",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if _made_from(folder) == report.sha256:
            return report
        raise InputError(f"{folder} already holds something else.", hint="choose a new folder.", code="exists")
    try:
        with new_folder(folder) as staging:
            raw = staging / "group.safetensors"
            ask_reader(path, limits, report.group, raw)
            _WRITERS[report.kind](report, load_file(raw), staging)
            raw.unlink()
            _write_source(report, staging)
    except StorageError:
        if _made_from(folder) != report.sha256:  # else another process was faster: all that torchrun starts do this
            raise
    return report


def ask_reader(path: Path, limits: ReadingLimits, *copy: str | Path) -> dict[str, Any]:
    """Run the reading process and return what it found; with (GROUP, OUTPUT) it copies a group to safetensors.

    Raises:
        InputError: If there is no such file (code "missing").
        WeightsError: If it is no checkpoint, cut off, or takes more time or memory than it may.
        OSError: If the copy cannot be written, as if it had been written here.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}.", hint="check the spelling.", code="missing")
    program = Path(__file__).with_name("checkpoint_reader.py")
    arguments = [path.absolute(), limits.memory_mb, limits.seconds, *copy]
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(program), *map(str, arguments)],
            capture_output=True, timeout=limits.seconds, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WeightsError(
            f"{path.name}: reading took longer than {limits.seconds} s and was stopped.",
            hint="a file that was made to do harm may do that; a very slow disk too: raise the limit.",
            code="weights_limit",
        ) from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        if done.returncode == OUT_OF_MEMORY or done.returncode < 0:
            raise WeightsError(
                f"{path.name}: reading took more than {limits.memory_mb} MB or {limits.seconds} s, and was stopped.",
                hint="a file that was made to do harm may do that; otherwise raise the limit.",
                code="weights_limit",
            ) from None
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise WeightsError(f"{path.name} cannot be read: {' '.join(said)}", code="weights_corrupt") from None
    if done.returncode == NOT_WRITTEN:
        raise OSError(answer["errno"], answer["strerror"], str(copy[-1]))
    if "error" in answer:
        raise WeightsError(
            f"{path.name} cannot be used: {answer['error']}.", hint=answer["hint"], code="weights_corrupt"
        )
    return answer


_MARKS = (
    ("diffusion", re.compile(r"denoise_fn\.")),
    ("autoencoder", re.compile(r"codebook\.embeddings|encoder\.conv_first\.")),
    ("segmenter", re.compile(r"swinViT\.|input_block\.conv1\.|model\.0\.conv\.unit0\.")),
)


def _recognize(groups: Mapping[str, Shapes]) -> tuple[str, str]:
    """Return the kind, and the group that counts: averaged weights before those of the last step."""
    for kind, mark in _MARKS:
        for group in sorted(groups, key=lambda name: (name != "ema", name != "state_dict", name)):
            bare = (name.removeprefix("module.").removeprefix("backbone.") for name in groups[group])
            if any(mark.match(name) for name in bare):
                return kind, group
    return "unknown", max(groups, key=lambda name: len(groups[name]), default="")


def _expected(kind: str, shapes: Shapes) -> tuple[dict[str, Any], int, Shapes]:
    """Return the sizes that the shapes speak of, the timesteps, and the shapes of a network of those sizes.

    Shapes that speak of no network are held against the published one.
    """
    try:
        return _network(kind, shapes)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError):
        return _network(kind, {})


def _network(kind: str, shapes: Shapes) -> tuple[dict[str, Any], int, Shapes]:
    if kind == "autoencoder":
        sizes = _plausible(_vqgan_sizes(shapes))
        return sizes, 0, _container_shapes(sizes, shapes)
    if kind == "diffusion":
        sizes, timesteps = _plausible(_unet_sizes(shapes)), shapes.get("betas", (0,))[0]
        vqgan = {name.removeprefix("vqgan."): shape for name, shape in shapes.items() if name.startswith("vqgan.")}
        with torch.device("meta"):
            unet: LatentUNet3D = LatentUNet3D(**sizes)
        length: tuple[int, ...] = (timesteps,)
        expected = dict.fromkeys(TABLES, length)
        expected |= {f"denoise_fn.{name}": shape for name, shape in _shapes(unet.state_dict()).items()}
        expected |= {
            f"vqgan.{n}": shape for n, shape in _container_shapes(_plausible(_vqgan_sizes(vqgan)), vqgan).items()
        }
        return sizes, timesteps, expected
    if kind == "segmenter":
        sizes = _plausible(_segmenter_sizes(_bare(kind, shapes)))
        device = "cpu" if sizes["model"] == "swin_unetr" else "meta"  # where MONAI's Swin cannot be built
        with torch.device(device):
            segmenter: Segmenter = Segmenter(**sizes)
        return sizes, 0, _shapes(segmenter.net.state_dict())
    return {}, 0, {}


_LARGEST, _MOST_CLASSES, _MOST_LEVELS = 2**17, 1000, 12
"""Beyond these nobody makes a network: a few shapes in a file must not have us build one."""


def _plausible(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of a network.

    Raises:
        ValueError: If they are those of none.
    """
    lists = [value if isinstance(value, tuple) else (value,) for value in sizes.values()]
    numbers = [number for values in lists for number in values if isinstance(number, int)]
    if max(numbers) > _LARGEST or max(map(len, lists)) > _MOST_LEVELS or sizes.get("classes", 0) > _MOST_CLASSES:
        raise ValueError(f"no network has the sizes {str(sizes)[:200]}")
    return sizes


def _bare(kind: str, shapes: Shapes) -> Shapes:
    """Return names as our networks call them."""
    if kind != "segmenter":
        return shapes
    return _shapes(historical_keys({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}))


def _container_shapes(sizes: dict[str, Any], shapes: Shapes) -> Shapes:
    """Return the shapes of a VQGAN, and of its critics unless the container has none of them."""
    with torch.device("meta"):
        vqgan: Vqgan3D = Vqgan3D(**sizes)
        if not any(name.startswith(CRITIC_PREFIXES) for name in shapes):
            return _shapes(vqgan.state_dict())
        return _shapes(published_tensors(vqgan, VqganCritics(_critic_channels(shapes))))


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _vqgan_sizes(shapes: Shapes) -> dict[str, Any]:
    """Return a VQGAN's sizes; the published ones where the tensors that tell them are missing."""
    hidden = shapes.get("encoder.conv_first.conv.weight", (16,))[0]
    codes, dim = shapes.get("codebook.embeddings", (16384, 8))
    levels = len({name.split(".")[2] for name in shapes if name.startswith("encoder.conv_blocks.")}) or 2
    return {
        "n_hiddens": hidden, "downsample": (2**levels,) * 3, "embedding_dim": dim, "n_codes": codes,
        "groups": min(32, 2 * hidden),
    }  # fmt: skip


def _critic_channels(shapes: Shapes) -> int:
    return shapes.get("image_discriminator.model0.0.weight", (64,))[0]


def _unet_sizes(shapes: Shapes) -> dict[str, Any]:
    dim, channels = shapes.get("denoise_fn.init_conv.weight", (24, 17))[:2]
    out = shapes.get("denoise_fn.final_conv.1.weight", (8,))[0]
    widths = _chain(shapes, lambda level: f"denoise_fn.downs.{level}.0.block1.proj.weight")
    return {
        "dim": dim, "channels": channels, "out_channels": out,
        "dim_mults": tuple(width // dim for width in widths) or (1, 2, 4, 8),
    }  # fmt: skip


def _segmenter_sizes(shapes: Shapes) -> dict[str, Any]:
    if any(name.startswith("swinViT.") for name in shapes):
        feature = shapes.get("swinViT.patch_embed.proj.weight", (48,))[0]
        swin_type = next((name for name, size in SWIN_FEATURES.items() if size == feature), "base")
        classes = shapes.get("out.conv.conv.weight", (3,))[0]
        return {"model": "swin_unetr", "classes": classes, "swin_type": swin_type, "merging": "historical"}
    if any(name.startswith("input_block.") for name in shapes):
        inner = _chain(shapes, lambda level: f"downsamples.{level}.conv1.conv.weight")
        ends = [shapes.get(f"{part}.conv1.conv.weight", (0,))[0] for part in ("input_block", "bottleneck")]
        classes = shapes.get("output_block.conv.conv.weight", (3,))[0]
        return {"model": "nnunet", "classes": classes, "channels": _whole([ends[0], *inner, ends[1]])}
    upper = _chain(shapes, lambda level: f"model.{'1.submodule.' * level}0.conv.unit0.conv.weight")
    bottom = shapes.get(f"model.{'1.submodule.' * len(upper)}conv.unit0.conv.weight", (0,))[0]
    classes = shapes.get("model.2.0.conv.weight", (0, 3))[1]
    return {"model": "unet", "classes": classes, "channels": _whole([*upper, bottom])}


def _chain(shapes: Shapes, name_of: Callable[[int], str]) -> list[int]:
    """Return the channels of levels 0, 1, 2, … as long as there are any."""
    channels: list[int] = []
    while len(channels) <= _MOST_LEVELS and name_of(len(channels)) in shapes:
        channels.append(shapes[name_of(len(channels))][0])
    return channels


def _whole(channels: list[int]) -> tuple[int, ...]:
    """Return the channels, or none (the published ones) where a level did not say."""
    return tuple(channels) if all(channels) and len(channels) > 2 else ()


def _write_autoencoder(report: CheckpointReport, tensors: dict[str, Tensor], folder: Path) -> None:
    vqgan, critics = _filled_vqgan(tensors, report.name)
    save_module(vqgan, folder / "vqgan")
    if critics is not None:
        save_module(critics, folder / "critics")


def _write_diffusion(report: CheckpointReport, tensors: dict[str, Tensor], folder: Path) -> None:
    parts: dict[str, dict[str, Tensor]] = {"vqgan": {}, "denoise_fn": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    diffusion = CosineDiffusion(report.timesteps)
    if not torch.allclose(diffusion.tables["alphas_cumprod"], tensors["alphas_cumprod"].float(), atol=1e-5):
        raise WeightsError(
            f"{report.name} was trained with another schedule than the cosine one.",
            hint="its painter would leave noise in the image; ask whoever made the file.",
        )
    denoiser: LatentUNet3D = LatentUNet3D(**report.sizes)
    load_strictly(denoiser, parts["denoise_fn"], report.name)
    vqgan, _ = _filled_vqgan(parts["vqgan"], report.name)
    view = PainterView(timesteps=report.timesteps, ddim_steps=diffusion.usual_ddim_steps)
    save_painter(folder, vqgan, denoiser, view, {"name": report.name, "sha256": report.sha256})


def _write_segmenter(report: CheckpointReport, tensors: dict[str, Tensor], folder: Path) -> None:
    segmenter: Segmenter = Segmenter(**report.sizes)
    load_published(segmenter, tensors, report.name)
    grid = CanonicalConfig(spacing_mm=1.0, side_multiple=32, minimum_side=96, ct_knots_hu=(-175.0, 250.0))
    save_segmenter(TrainedSegmenter(segmenter, grid, 96, ("CT",)), folder)


_WRITERS: dict[str, Callable[[CheckpointReport, dict[str, Tensor], Path], None]] = {
    "autoencoder": _write_autoencoder,
    "diffusion": _write_diffusion,
    "segmenter": _write_segmenter,
}


def _filled_vqgan(tensors: dict[str, Tensor], origin: str) -> tuple[Vqgan3D, VqganCritics | None]:
    shapes = _shapes(tensors)
    vqgan: Vqgan3D = Vqgan3D(**_vqgan_sizes(shapes))
    critics = None
    if any(name.startswith(CRITIC_PREFIXES) for name in tensors):
        critics = VqganCritics(_critic_channels(shapes))
    load_published_vqgan(vqgan, critics, tensors, origin)
    return vqgan, critics


def _write_source(report: CheckpointReport, folder: Path) -> None:
    write_checksums(folder)
    values = {"format": FORMAT, **asdict(report), "rights": NOTICE, "versions": versions()}
    write_json(folder / SOURCE_FILE, values)


def _made_from(folder: Path) -> str:
    """Return the SHA-256 of the file that a folder was made from; empty where it is none of ours."""
    try:
        return str(read_json(folder / SOURCE_FILE)["sha256"])
    except (InputError, KeyError):
        return ""
