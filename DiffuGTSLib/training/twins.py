"""Training windows with their pseudo-healthy twins, made once by the frozen networks and kept as safetensors."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from DiffuGTSLib.components import Components, ScanContext
from DiffuGTSLib.config import Config
from DiffuGTSLib.masks import dilate_mm, find_candidates
from DiffuGTSLib.residual import RESIDUAL_FOLDER, Evidence
from DiffuGTSLib.storage import json_sha256, make_folder, whole_file
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.training.anomalies import Sample
from DiffuGTSLib.twins import attend_again, pasted, repaint_findings, repainted_latent
from DiffuGTSLib.volumes.boxes import bounding_box

MARGIN_CELLS = 2
"""Latent cells that are kept around a candidate."""
_PATIENCE = 20
_MADE = 6
"""Counts the ways in which twins were ever made, so that those of an earlier one are not taken for today's."""

Draw = Callable[[int, int, np.random.Generator], Sample]
"""Called with (number of the window, attempts before this one, source of randomness)."""


@dataclass(frozen=True, eq=False)
class TwinnedWindow:
    """One window's evidence around its candidate, and the truth.

    Attributes:
        evidence: A batch of one.
        coarse: What the head found, before it was grown; (1, 1, X, Y, Z).
        before: Abnormal attention on the reconstruction; zero where the window is only to learn from.
        after: Abnormal attention on the twin; zero in the same windows.
        truth: Tumor of the prompted organ.
        cut_off: Tumor voxels of the window that lie outside of what is kept.
        organ: The prompted organ.
        modality: "CT" or "MR".
    """

    evidence: Evidence
    coarse: Tensor
    before: Tensor
    after: Tensor
    truth: Tensor
    cut_off: int
    organ: str
    modality: str

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor in it, the truth included, by its name."""
        beside = {name: getattr(self, name) for name in _BESIDE}
        return {field.name: getattr(self.evidence, field.name) for field in fields(Evidence)} | beside

    def mapped(self, change: Callable[[str, Tensor], Tensor]) -> "TwinnedWindow":
        """Return it with every tensor changed; `change` is called with its name, too."""
        changed = {name: change(name, tensor) for name, tensor in self.tensors().items()}
        return _window(changed, self.cut_off, self.organ, self.modality)


_BESIDE = ("coarse", "before", "after", "truth")


def _window(tensors: Mapping[str, Tensor], cut_off: int, organ: str, modality: str) -> TwinnedWindow:
    evidence = Evidence(**{field.name: tensors[field.name] for field in fields(Evidence)})
    coarse, before, after, truth = (tensors[name] for name in _BESIDE)
    return TwinnedWindow(evidence, coarse, before, after, truth, cut_off, organ, modality)


@dataclass(frozen=True)
class CandidateDraw:
    """What is repainted in a training window.

    Attributes:
        wrong: Share of windows in which a blob of healthy tissue is a candidate too, as a head's false positives are.
        thresholds: The head's map is cut at a value between these two, so that candidates of a surer and of a less sure
            head are seen; None takes the configuration's.
        attend: Whether the head attends to the twins; the attention's drop is compared, and nothing is learned from it.
    """

    wrong: float = 0.15
    thresholds: tuple[float, float] | None = (0.2, 0.5)
    attend: bool = False


VALIDATION_CANDIDATES = CandidateDraw(0.0, None, attend=True)
"""Of validation samples: what the head finds, as it is cut, and the attention's drop."""


def keep_twins(
    draw: Draw,
    count: int,
    folder: Path,
    candidates: CandidateDraw,
    components: Components,
    config: Config,
    seed: int,
    on_window: Callable[[int, int], None],
    drawn_from: str = "",
) -> list[TwinnedWindow]:
    """Return windows with their twins, those that an earlier run kept among them.

    A window without a candidate is drawn again; after 20 of them a blob of healthy tissue is the candidate. Window n follows from (seed, n) alone.

    Args:
        draw: See `Draw`.
        count: How many.
        folder: Where they are kept.
        candidates: What is repainted.
        components: Frozen.
        config: Of masks, repainting and windows.
        seed: Of all draws.
        on_window: Called with (windows there, windows in all); may raise `Cancelled`.
        drawn_from: What `draw` follows from beside the seed, in words: windows that were kept of other words are made anew.
    """
    make_folder(folder)
    made_of = hashlib.sha256(f"{_fingerprint(components, config, candidates, seed)} {drawn_from}".encode()).hexdigest()
    windows = []
    for number in range(count):
        path = folder / f"{number:04d}.safetensors"
        window = _kept(path, made_of)
        if window is None:
            rng = np.random.default_rng([seed, number])
            drawn = _drawn(draw, number, candidates, components, config, rng)
            _keep(drawn, path, made_of)
            window = _kept(path, made_of) or drawn  # as a run that goes on finds it, in float16
        windows.append(window)
        on_window(number + 1, count)
    return windows


def validation_twins(sample: Sample, folder: Path, components: Components, config: Config) -> TwinnedWindow | None:
    """Return a validation sample with its twin, kept or made now; None where the head finds nothing in it."""
    make_folder(folder)
    asked = (sample.organ, sample.modality, sample.spacing_mm, sample.inside)
    digest = hashlib.sha256(repr((_fingerprint(components, config, VALIDATION_CANDIDATES, 0), asked)).encode())
    digest.update(np.ascontiguousarray(sample.image).data)
    digest.update(np.packbits(sample.mask).data)
    made_of = digest.hexdigest()
    path = folder / f"{made_of[:32]}.safetensors"
    window = _kept(path, made_of)
    if window is None:
        made = make_twins(sample, VALIDATION_CANDIDATES, components, config, np.random.default_rng(0))
        if made is not None:
            _keep(made, path, made_of)
            window = _kept(path, made_of)  # in the numbers that a later run will read
    return window


def _drawn(
    draw: Draw,
    number: int,
    candidates: CandidateDraw,
    components: Components,
    config: Config,
    rng: np.random.Generator,
) -> TwinnedWindow:
    for attempt in range(_PATIENCE):
        window = make_twins(draw(number, attempt, rng), candidates, components, config, rng)
        if window is not None:
            return window
    return _drawn(draw, number, replace(candidates, wrong=1.0), components, config, rng)


def make_twins(
    sample: Sample, candidates: CandidateDraw, components: Components, config: Config, rng: np.random.Generator
) -> TwinnedWindow | None:
    """Detect, repaint and attend again as `DiffuGTSLib.pipeline.segment` does; None where there is no candidate."""
    pair = organ_prompts(sample.organ, sample.modality)
    context = ScanContext.of(pair, sample.spacing_mm, sample.modality, components, config)
    image = _tensor(sample.image).to(components.device)
    with components.autocast(config):
        raw = context.attend(image)
        maps = raw.smoothed(sample.image, _inside(sample), sample.spacing_mm, config.masks)
        found = _candidate(maps.abnormal.cpu().numpy(), sample, candidates, config, rng)
        if not found.any():
            return None
        grown = dilate_mm(found, config.masks.dilation_mm, sample.spacing_mm) & _inside(sample)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        twins = repaint_findings(maps.latent, grown, context, generator, lambda share: None)
        nothing = torch.zeros_like(maps.abnormal)
        before, after = nothing, nothing
        if candidates.attend:
            pairs = attend_again(twins, context, lambda share: None)
            before, after = (pasted(twins, values, nothing) for values in zip(*pairs, strict=True))
    coarse, candidate, truth = (_tensor(mask).to(image) for mask in (found, grown, sample.mask))
    reconstruction = pasted(twins, [each.reconstruction for each in twins], image[0, 0])
    healthy = pasted(twins, [each.healthy for each in twins], image[0, 0])
    evidence = Evidence(
        reconstruction[None, None], healthy[None, None], maps.abnormal[None, None], candidate,
        maps.latent, repainted_latent(twins, maps.latent), context.embeddings[None].to(image),
    )  # fmt: skip
    whole = TwinnedWindow(
        evidence, coarse, before[None, None], after[None, None], truth, 0, sample.organ, sample.modality
    )
    return _around_candidate(whole, components.autoencoder.downsampling)


def _tensor(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


def _inside(sample: Sample) -> Bool[np.ndarray, "X Y Z"]:
    inside = np.zeros(sample.mask.shape, dtype=bool)
    inside[sample.inside] = True
    return inside


def _candidate(
    attention: np.ndarray, sample: Sample, candidates: CandidateDraw, config: Config, rng: np.random.Generator
) -> Bool[np.ndarray, "X Y Z"]:
    masks = config.masks
    if candidates.thresholds is not None:
        masks = replace(masks, rule="fixed", threshold=float(rng.uniform(*candidates.thresholds)), peak=0.0)
    found = find_candidates(attention, _inside(sample), sample.spacing_mm, masks)
    if rng.random() < candidates.wrong:
        tissue = np.argwhere((sample.image > 0.1) & ~sample.mask)
        tissue = tissue if len(tissue) else np.argwhere(np.ones(attention.shape, dtype=bool))
        radii = rng.uniform(2.0, 8.0, 3)
        steps = (np.indices(attention.shape).T - tissue[rng.integers(len(tissue))]) / radii
        found = found | ((steps**2).sum(-1).T <= 1)
    return found


def _around_candidate(window: TwinnedWindow, factor: int) -> TwinnedWindow:
    """Cut what lies around the candidate, in whole latent cells: the rest says nothing of it and costs time and disk."""
    candidate = window.evidence.candidate
    box = bounding_box((candidate[0, 0] > 0).cpu().numpy())
    cells = [
        slice(max(0, part.start // factor - MARGIN_CELLS), min(side // factor, -(-part.stop // factor) + MARGIN_CELLS))
        for part, side in zip(box, candidate.shape[2:], strict=True)
    ]
    voxels = [slice(part.start * factor, part.stop * factor) for part in cells]

    def cut(name: str, tensor: Tensor) -> Tensor:
        if name == "prompts":
            return tensor
        x, y, z = cells if "latent" in name else voxels
        return tensor[..., x, y, z].clone()

    kept = window.mapped(cut)
    return replace(kept, cut_off=window.cut_off + int(window.truth.sum() - kept.truth.sum()))


def _fingerprint(components: Components, config: Config, candidates: CandidateDraw, seed: int) -> str:
    """Return a word that changes with all that a kept window is made of, but for the scans."""
    weights = components.weights.items()
    frozen = {name: digest for name, digest in weights if not name.startswith(RESIDUAL_FOLDER)}  # is made from twins
    how = config.to_dict()
    how.pop("preset")
    how.pop("residual")
    how["backbone"].pop("folder")
    how["runtime"] = how["runtime"]["precision"]
    made_of = [_MADE, frozen, how, repr(candidates), seed]
    return json_sha256(made_of)


def _keep(window: TwinnedWindow, path: Path, made_of: str) -> None:
    words = {"made_of": made_of, "organ": window.organ, "modality": window.modality, "cut_off": str(window.cut_off)}
    half = {name: tensor.detach().cpu().to(torch.float16).contiguous() for name, tensor in window.tensors().items()}
    with whole_file(path) as temporary:
        save_file(half, temporary, metadata=words)


def _kept(path: Path, made_of: str) -> TwinnedWindow | None:
    """Return a window that was kept; None where there is none, or one that was made of something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            words = file.metadata()
            if words.get("made_of") != made_of:
                return None
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    return _window(tensors, int(words["cut_off"]), words["organ"], words["modality"])
