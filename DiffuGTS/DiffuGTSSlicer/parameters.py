"""The parameter node, and the frozen parameters of one run or synthesis that are read from it."""

import functools
import re
from dataclasses import dataclass
from typing import Annotated, Any

from slicer import (
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from DiffuGTSLib.config import Config, load_config
from DiffuGTSLib.errors import DiffuGTSError, InputError, PromptError
from DiffuGTSLib.text.prompts import find_organ, free_prompts, organ_prompts, organs, sentence_key
from DiffuGTSLib.volumes.volume import SCAN_MODALITIES
from DiffuGTSLib.worker.protocol import JobSettings, JobSpec, SynthesisSpec

DEFAULT_PRESET = JobSettings.preset
DEFAULT_ORGAN = "lung"
PAINTERS = ("handcrafted", "recipe")
PAINTER_FOLDER = "folder"
"""Stands for a trained painter; its folder is in the application settings."""


@parameterNodeWrapper
class DiffuGTSParameterNode:
    """The parameter node, saved with the scene. A renamed parameter is lost from saved scenes.

    Interpreter and folders of models and painters are application settings instead: a scene from elsewhere must not
    choose which code or weights are used.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    modality: str = ""
    roi: vtkMRMLMarkupsROINode
    organSegmentation: vtkMRMLSegmentationNode
    organSegmentId: str = ""

    organ: str = ""
    normalPrompt: str = ""
    abnormalPrompt: str = ""

    preset: str = ""
    device: str = "auto"
    steps: Annotated[int, WithinRange(1, 1000)] = 10
    seed: Annotated[int, WithinRange(0, 999999)] = 0
    candidateThreshold: Annotated[float, WithinRange(0.01, 0.99)] = 0.5
    candidateFloor: Annotated[float, WithinRange(0, 0.99)] = 0.8  # the default preset's, for older scenes
    dilationMm: Annotated[float, WithinRange(0, 50)] = 4.0
    autoRefinement: bool = False
    refinementThreshold: Annotated[float, WithinRange(0.01, 0.99)] = 0.5
    keepFiles: bool = False

    segmentation: vtkMRMLSegmentationNode
    tumorSegmentId: str = ""
    candidate: vtkMRMLSegmentationNode
    candidateSegmentId: str = ""
    aova: vtkMRMLScalarVolumeNode
    pseudoHealthy: vtkMRMLScalarVolumeNode
    residual: vtkMRMLScalarVolumeNode
    resultVolume: vtkMRMLScalarVolumeNode
    outcome: str = ""

    overlay: str = "aova"
    opacity: Annotated[float, WithinRange(0, 1)] = 0.5
    overlayThreshold: Annotated[float, WithinRange(0, 1)] = 0.5
    legend: bool = True

    synthesisOrgan: str = ""
    synthesisSize: str = "mix"
    synthesisCount: Annotated[int, WithinRange(0, 20)] = 0
    synthesisRadiusMm: Annotated[float, WithinRange(0, 100)] = 0.0
    synthesisPlace: vtkMRMLMarkupsFiducialNode
    avoidVessels: bool = True
    massEffect: bool = False
    capsule: bool = False
    painter: str = "handcrafted"
    synthesisSeed: Annotated[int, WithinRange(0, 999999)] = 0
    painted: vtkMRMLScalarVolumeNode
    paintedSegmentation: vtkMRMLSegmentationNode
    paintedSegmentId: str = ""
    synthesisOutcome: str = ""
    keepPainted: bool = False


@dataclass(frozen=True)
class RunParameters(JobSettings):
    """Parameters of one run, for scripts too: `RunParameters(organ="liver")` is enough.

    Unlike in a job, organ and sentences may both be given: the sentences are used unless they are empty or the organ's
    own, and the organ names the result if they mention it, see `namedOrgan`. `overrides` are applied last.

    Attributes:
        modelFolder: Model folder to use; empty for that of the preset.
        device: "auto", "cpu", "cuda" or "cuda:1".
        steps: Number of repainting steps; None for that of the preset, as everywhere below.
        seed: Random seed.
        candidateThreshold: Abnormal attention above which a voxel is a candidate, by the preset's `masks.rule`.
        candidateFloor: Attention that the scan must reach somewhere to have candidates, if `masks.rule` is "relative". As
            long as it is the preset's, a run in a region uses the preset's lower one for regions.
        dilationMm: Margin by which candidates are grown before they are repainted.
        refinementThreshold: Of the residual: relative to its maximum if the preset's rule is "relative"; 0 for Otsu.
        roi: Search only inside this region of interest.
        organSegmentation: Search only inside a segment of this node.
        organSegmentId: That segment.
        segmentation: Segmentation node for the result; None for a new one, as for the maps below.
        tumorSegmentId: Its segment.
        candidate: Segmentation node of the candidate region; a refinement reads it.
        candidateSegmentId: Its segment; in a refinement, "" takes all visible segments together.
        aova: Volume node of the AOVA map.
        pseudoHealthy: Volume node of the pseudo-healthy image.
        residual: Volume node of the residual.
        keepFiles: Keep the job folder, for debugging.
        allowUntrained: Allow the untrained networks for tests.
    """

    modelFolder: str = ""
    device: str = "auto"
    steps: int | None = None
    seed: int = 0
    candidateThreshold: float | None = None
    candidateFloor: float | None = None
    dilationMm: float | None = None
    refinementThreshold: float | None = None
    roi: Any = None
    organSegmentation: Any = None
    organSegmentId: str = ""
    segmentation: Any = None
    tumorSegmentId: str = ""
    candidate: Any = None
    candidateSegmentId: str = ""
    aova: Any = None
    pseudoHealthy: Any = None
    residual: Any = None
    keepFiles: bool = False
    allowUntrained: bool = False

    @classmethod
    def fromNode(cls, node: Any, **more: Any) -> "RunParameters":
        """Read the parameter node; `more` overrides its values."""
        values = {name: getattr(node, name) for name in _SAME_NAMES}
        values.update(normal=node.normalPrompt, abnormal=node.abnormalPrompt)
        values["preset"] = node.preset or DEFAULT_PRESET
        values["refinementThreshold"] = 0.0 if node.autoRefinement else node.refinementThreshold
        return cls(**{**values, **more})

    def overrideTexts(self) -> list[str]:
        """Return the changes to the preset as KEY=VALUE texts."""
        preset = load_config(self.preset)
        moved = self.candidateFloor is not None and _rounded(self.candidateFloor) != _rounded(preset.masks.floor)
        pairs: list[tuple[str, Any]] = [
            ("runtime.device", self.device),
            ("runtime.seed", int(self.seed)),
            ("inpainting.steps", self.steps),
            ("masks.threshold", _rounded(self.candidateThreshold)),
            ("masks.floor", _rounded(self.candidateFloor)),
            ("masks.region_floor", _rounded(self.candidateFloor) if moved else None),
            ("masks.dilation_mm", _rounded(self.dilationMm)),
            ("backbone.folder", self.modelFolder or None),
        ]
        if self.refinementThreshold is not None and self.refinementThreshold > 0:
            own = preset.residual.rule
            pairs += [("residual.rule", "fixed" if own == "otsu" else own)]
            pairs += [("residual.threshold", _rounded(self.refinementThreshold))]
        elif self.refinementThreshold is not None:
            pairs += [("residual.rule", "otsu")]
        return [f"{key}={value}" for key, value in pairs if value is not None] + list(self.overrides)

    def config(self) -> Config:
        """Return the configuration: preset and changes.

        Raises:
            ConfigError: If preset, key or value is not valid.
        """
        return load_config(self.preset, overrides=self.overrideTexts())

    def overlayThreshold(self, highest: float) -> float:
        """Return the candidate threshold as an absolute attention value, given the highest attention in the candidates.

        Before there are candidates, the maximum of the map is the best guess; it may lie outside the region.
        """
        masks = self.config().masks
        return masks.threshold * (highest if masks.rule == "relative" else 1.0)

    def jobPrompts(self) -> dict[str, str]:
        """Return the organ, or the two sentences if they are not the organ's own.

        Raises:
            PromptError: If a sentence is empty, negated or too long, both are identical, or the organ is unknown.
        """
        found = _resolved(self.organ, self.modality, self.normal.strip(), self.abnormal.strip())
        if isinstance(found, PromptError):
            raise PromptError(found.message, hint=found.hint, code=found.code)
        return dict(found)

    @property
    def namedOrgan(self) -> str:
        """The organ for the name and terminology of a result; "" if the user's sentences do not mention it.

        The organ stays selected in the panel even if the sentences are changed to describe, for example, a leg.
        """
        try:
            sentences = self.jobPrompts()
        except PromptError:
            return ""
        words = _wordsFor(self.organ)
        isMeant = "organ" in sentences or any(
            re.search(rf"\b{re.escape(word)}", sentence, re.IGNORECASE)  # "lung" also in "lungs"
            for word in words
            for sentence in sentences.values()
        )
        return self.organ if isMeant else ""

    def job(self, **files: str) -> JobSpec:
        """Return the job of these parameters, validated.

        Args:
            **files: Names of the files region, coarse_mask and cache, if there are any.

        Raises:
            PromptError: As `jobPrompts`.
            ConfigError: As `config`.
        """
        self.config()
        return JobSpec(
            modality=self.modality,
            preset=self.preset,
            overrides=self.overrideTexts(),
            allow_untrained=self.allowUntrained,
            **self.jobPrompts(),
            **files,
        )

    def detectionKey(self) -> tuple[Any, ...]:
        """Return what a cached attention map depends on besides the scan: prompts, model, device, overrides and region."""
        prompts = tuple(sorted(self.jobPrompts().items()))
        region = (self.roi, self.organSegmentation, self.organSegmentId)
        return (prompts, self.modality, self.preset, self.modelFolder, self.device, self.overrides, region)


@dataclass(frozen=True)
class SynthesisParameters:
    """Parameters of one synthesis: `SynthesisParameters("liver", segmentationNode, segmentId)` is enough.

    Attributes:
        organ: Name with an organ file, as `DiffuGTSLib.resources.organ_names` lists them, or the path of one.
        organSegmentation: Segmentation with the healthy organ.
        organSegmentId: Its segment; may be omitted if there is only one.
        modality: "CT", "MR", or "" to guess it.
        size: "mix", "tiny", "small", "medium" or "large".
        count: Number of tumors; 0 for that of the organ file.
        radiusMm: Radius, which overrides the size; 0 to use the size.
        place: Markups node whose first point is the center of the only tumor; None for anywhere in the organ.
        avoidVessels: Whether small tumors avoid vessels.
        massEffect: Whether tumors displace the surrounding tissue.
        capsule: Whether tumors have a bright capsule.
        painter: One of `PAINTERS`, or the folder of a trained one.
        device: Device of a trained painter: "auto", "cpu", "cuda" or "cuda:1".
        seed: Random seed.
        painted: Volume node for the result; None for a new one, as for the segmentation.
        paintedSegmentation: Segmentation node for the painted tumors.
        paintedSegmentId: Its segment.
        keepFiles: Keep the job folder, for debugging.
    """

    organ: str
    organSegmentation: Any
    organSegmentId: str = ""
    modality: str = ""
    size: str = "mix"
    count: int = 0
    radiusMm: float = 0.0
    place: Any = None
    avoidVessels: bool = True
    massEffect: bool = False
    capsule: bool = False
    painter: str = "handcrafted"
    device: str = "auto"
    seed: int = 0
    painted: Any = None
    paintedSegmentation: Any = None
    paintedSegmentId: str = ""
    keepFiles: bool = False

    @classmethod
    def fromNode(cls, node: Any, **more: Any) -> "SynthesisParameters":
        """Read the parameter node; `more` overrides its values, such as `PAINTER_FOLDER` by a path."""
        values = {name: getattr(node, name) for name in _SAME_IN_SYNTHESIS}
        values.update(
            organ=node.synthesisOrgan or node.organ,
            size=node.synthesisSize,
            count=0 if node.synthesisPlace is not None else node.synthesisCount,
            radiusMm=node.synthesisRadiusMm,
            place=node.synthesisPlace,
            seed=node.synthesisSeed,
        )
        return cls(**{**values, **more})

    @property
    def namedOrgan(self) -> str:
        """The organ for the name and terminology of a result."""
        return self.organ

    def job(self, **more: Any) -> SynthesisSpec:
        """Return the job of these parameters.

        Args:
            **more: Values known only at export: center_ras_mm, in the scan's own frame.

        Raises:
            InputError: Without an organ (code "organ"), or without its segment (code "no_organ").
            WorkerError: Code "protocol": a value of another type.
        """
        if not self.organ:
            raise InputError(_("No organ was chosen."), hint=_("choose the organ to paint tumors into."), code="organ")
        if self.organSegmentation is None or not self.organSegmentation.GetSegmentation().GetNumberOfSegments():
            raise InputError(
                _("There is no segment of the organ."), hint=_("segment the organ in Segment Editor."), code="no_organ"
            )
        return SynthesisSpec(
            organ=self.organ, modality=self.modality, size=self.size, count=int(self.count),
            radius_mm=round(float(self.radiusMm), 4), avoid_vessels=self.avoidVessels, mass_effect=self.massEffect,
            capsule=self.capsule, painter=self.painter, device=self.device, seed=int(self.seed), **more,
        )  # fmt: skip

    def detectionKey(self) -> tuple[Any, ...]:
        """Return an empty key: a refinement cannot reuse anything of a synthesis."""
        return ()


_SAME_NAMES = (
    "organ", "modality", "device", "steps", "seed", "candidateThreshold", "candidateFloor", "dilationMm", "roi",
    "organSegmentation",
    "organSegmentId", "segmentation", "tumorSegmentId", "candidate", "candidateSegmentId", "aova", "pseudoHealthy",
    "residual", "keepFiles",
)  # fmt: skip
"""Names that parameter node and run parameters share."""
_SAME_IN_SYNTHESIS = (
    "organSegmentation", "organSegmentId", "modality", "avoidVessels", "massEffect", "capsule", "painter", "device",
    "painted", "paintedSegmentation", "paintedSegmentId", "keepFiles",
)  # fmt: skip
"""Names that parameter node and synthesis parameters share."""


def applyPreset(node: Any, preset: str) -> None:
    """Set a parameter node to a preset and its values.

    Raises:
        ConfigError: If there is no such preset.
    """
    config = load_config(preset)
    node.preset = preset
    node.steps = config.inpainting.steps
    node.seed = config.runtime.seed
    node.candidateThreshold = config.masks.threshold
    node.candidateFloor = config.masks.floor
    node.overlayThreshold = config.masks.threshold
    node.dilationMm = config.masks.dilation_mm
    node.autoRefinement = config.residual.rule == "otsu"
    node.refinementThreshold = config.residual.threshold


def applyOrgan(node: Any, organ: str) -> None:
    """Set a parameter node to a built-in organ and its two sentences; an empty name keeps the sentences."""
    node.organ = organ
    if organ:
        pair = organ_prompts(organ, node.modality or "CT")
        node.normalPrompt, node.abnormalPrompt = pair.normal, pair.abnormal


def promptFault(node: Any) -> DiffuGTSError | None:
    """Return the problem with the sentences, or None."""
    try:
        RunParameters.fromNode(node).jobPrompts()
    except DiffuGTSError as error:
        return error
    return None


@functools.lru_cache(maxsize=16)
def _resolved(organ: str, modality: str, normal: str, abnormal: str) -> dict[str, str] | PromptError:
    """Return a job's prompts, or the error; cached, since every update of the panel asks for them."""
    try:
        if not normal and not abnormal:
            if not organ:
                raise PromptError(
                    _("There is nothing to search for."),
                    hint=_("choose an organ, or write a sentence for the healthy organ and one for the tumor."),
                    code="choice",
                )
            return {"organ": organ_prompts(organ, modality or "CT").organ}
        if organ and _areBuiltIn(organ, modality, normal, abnormal):
            return {"organ": organ_prompts(organ, modality or "CT").organ}
        pair = free_prompts(normal, abnormal)
    except PromptError as error:
        return error
    return {"normal": pair.normal, "abnormal": pair.abnormal}


def _areBuiltIn(organ: str, modality: str, normal: str, abnormal: str) -> bool:
    given = (sentence_key(normal), sentence_key(abnormal))
    for each in [modality] if modality else SCAN_MODALITIES:
        try:
            pair = organ_prompts(organ, each)
        except PromptError:
            return False
        if given == (sentence_key(pair.normal), sentence_key(pair.abnormal)):
            return True
    return False


def _wordsFor(organ: str) -> tuple[str, ...]:
    """Return an organ's name and synonyms; for an organ that is not built in, only the name."""
    try:
        name = find_organ(organ)
    except PromptError:
        return (organ,) if organ else ()
    return (organ, name, *organs()[name])


def _rounded(value: float | None) -> float | None:
    """Round a slider's 0.30000000000000004 to 0.3."""
    return None if value is None else round(float(value), 4)
