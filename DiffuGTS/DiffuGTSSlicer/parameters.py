"""What the user wishes: kept in the scene as a parameter node, handed to a run as one frozen value."""

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
"""The painter of a scene that wants a trained one: which, is a setting of the computer."""


@parameterNodeWrapper
class DiffuGTSParameterNode:
    """The state of the panel, saved with the scene. Names are stored: renaming one loses it from saved scenes.

    The interpreter and the folders of models and painters are settings of the computer, not of the scene: a scene from
    elsewhere must not choose what runs here.
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
    candidateFloor: Annotated[float, WithinRange(0, 0.99)] = 0.8  # of the default preset: scenes of old have none
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
    """One run's wish, readable without a panel: `RunParameters(organ="liver")` is a whole one.

    Of a job's wish it differs in that organ and sentences may both be given: the sentences are looked for, unless they
    are the organ's own or empty, and the organ names the result where they speak of it, see `namedOrgan`. `overrides`
    come after all that is named below.

    Attributes:
        modelFolder: A model folder of your own; empty: the preset's.
        device: "auto", "cpu", "cuda" or "cuda:1".
        steps: Of repainting; None: the preset's, as everywhere below.
        seed: Of every random draw.
        candidateThreshold: Abnormal attention above which a voxel is a candidate, by the preset's `masks.rule`.
        candidateFloor: Attention that has to be reached somewhere for any candidate, if the preset's `masks.rule` is "relative".
        dilationMm: How far candidates grow before they are repainted.
        refinementThreshold: Of the residual, as the preset means its own: a share of the highest under "relative"; 0: by Otsu.
        roi: Look only inside this box.
        organSegmentation: Look only inside a segment of this node.
        organSegmentId: That segment.
        segmentation: Result node to write into; None: a new one, as for the maps below.
        tumorSegmentId: Its segment.
        candidate: Segmentation of the candidate region; read by a refinement.
        candidateSegmentId: Its segment; of a refinement, "" takes all that are shown, together.
        aova: Map of abnormal attention.
        pseudoHealthy: The scan repainted.
        residual: What that changed.
        keepFiles: Keep the job folder, for a look at what the worker wrote.
        allowUntrained: Let the untrained test networks run.
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
        """Take up what the panel shows."""
        values = {name: getattr(node, name) for name in _SAME_NAMES}
        values.update(normal=node.normalPrompt, abnormal=node.abnormalPrompt)
        values["preset"] = node.preset or DEFAULT_PRESET
        values["refinementThreshold"] = 0.0 if node.autoRefinement else node.refinementThreshold
        return cls(**{**values, **more})

    def overrideTexts(self) -> list[str]:
        """Return the configuration's changes as the worker reads them."""
        pairs: list[tuple[str, Any]] = [
            ("runtime.device", self.device),
            ("runtime.seed", int(self.seed)),
            ("inpainting.steps", self.steps),
            ("masks.threshold", _rounded(self.candidateThreshold)),
            ("masks.floor", _rounded(self.candidateFloor)),
            ("masks.dilation_mm", _rounded(self.dilationMm)),
            ("backbone.folder", self.modelFolder or None),
        ]
        if self.refinementThreshold is not None and self.refinementThreshold > 0:
            own = load_config(self.preset).residual.rule
            pairs += [("residual.rule", "fixed" if own == "otsu" else own)]
            pairs += [("residual.threshold", _rounded(self.refinementThreshold))]
        elif self.refinementThreshold is not None:
            pairs += [("residual.rule", "otsu")]
        return [f"{key}={value}" for key, value in pairs if value is not None] + list(self.overrides)

    def config(self) -> Config:
        """Resolve preset and changes.

        Raises:
            ConfigError: Whatever the library refuses, before anything is started.
        """
        return load_config(self.preset, overrides=self.overrideTexts())

    def overlayThreshold(self, highest: float) -> float:
        """Return the attention above which the run took candidates, if that is the highest value in one of them.

        Before there are candidates, the map's highest value is the best guess; a region may leave it out.
        """
        masks = self.config().masks
        return masks.threshold * (highest if masks.rule == "relative" else 1.0)

    def jobPrompts(self) -> dict[str, str]:
        """Return the organ, or the user's two sentences where they are not the organ's own.

        Raises:
            PromptError: As the library: empty, negated, too long or identical sentences, an unknown organ.
        """
        found = _resolved(self.organ, self.modality, self.normal.strip(), self.abnormal.strip())
        if isinstance(found, PromptError):
            raise PromptError(found.message, hint=found.hint, code=found.code)
        return dict(found)

    @property
    def namedOrgan(self) -> str:
        """The organ that gives a result its name and its place; "" where the user's sentences do not speak of it.

        The panel's organ stays chosen when the sentences are changed to those of a leg, say.
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
        """Return the job of these parameters, checked.

        Args:
            **files: region, coarse_mask and cache, as far as there are such files.

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
        """Return what a cached detection depends on beside the scan: prompts, model, grid, device and region."""
        prompts = tuple(sorted(self.jobPrompts().items()))
        region = (self.roi, self.organSegmentation, self.organSegmentId)
        return (prompts, self.modality, self.preset, self.modelFolder, self.device, self.overrides, region)


@dataclass(frozen=True)
class SynthesisParameters:
    """One wish to have tumors painted: `SynthesisParameters("liver", segmentationNode, segmentId)` is a whole one.

    Attributes:
        organ: Name with an organ file, as `DiffuGTSLib.resources.organ_names` lists them, or the path of one.
        organSegmentation: Segmentation with the healthy organ.
        organSegmentId: Its segment; may be left away where there is just one.
        modality: "CT", "MR", or "" to have it guessed.
        size: "mix", "tiny", "small", "medium" or "large".
        count: How many; 0 for as many as the organ file says.
        radiusMm: Instead of a size; 0 for the size.
        place: Markups node whose first point is the middle of the one tumor; None for anywhere in the organ.
        avoidVessels: Whether small tumors keep clear of vessels.
        massEffect: Whether tumors push the tissue around them outwards.
        capsule: Whether tumors wear a bright capsule.
        painter: One of `PAINTERS`, or the folder of a trained one.
        device: Of a trained painter: "auto", "cpu", "cuda" or "cuda:1".
        seed: Every random draw follows from it.
        painted: Volume to write into; None: a new one, as for the segmentation.
        paintedSegmentation: Of the painted tumors.
        paintedSegmentId: Its segment.
        keepFiles: Keep the job folder, for a look at what the worker wrote.
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
        """Take up what the panel shows; which folder `PAINTER_FOLDER` stands for comes in `more`."""
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
        """The organ that gives a result its name and its place."""
        return self.organ

    def job(self, **more: Any) -> SynthesisSpec:
        """Return the job of these parameters.

        Args:
            **more: What only the export knows: center_ras_mm, in the scan's own frame.

        Raises:
            InputError: Without an organ (code "organ"), or without its segment (code "no_organ").
            WorkerError: Code "protocol": a value of another type.
        """
        if not self.organ:
            raise InputError(
                _("No organ was chosen."), hint=_("choose the organ that the tumors are painted into."), code="organ"
            )
        if self.organSegmentation is None or not self.organSegmentation.GetSegmentation().GetNumberOfSegments():
            raise InputError(
                _("There is no segment of the organ."), hint=_("outline the organ in Segment Editor."), code="no_organ"
            )
        return SynthesisSpec(
            organ=self.organ, modality=self.modality, size=self.size, count=int(self.count),
            radius_mm=round(float(self.radiusMm), 4), avoid_vessels=self.avoidVessels, mass_effect=self.massEffect,
            capsule=self.capsule, painter=self.painter, device=self.device, seed=int(self.seed), **more,
        )  # fmt: skip

    def detectionKey(self) -> tuple[Any, ...]:
        """Return that nothing of a synthesis can be re-used by a refinement."""
        return ()


_SAME_NAMES = (
    "organ", "modality", "device", "steps", "seed", "candidateThreshold", "candidateFloor", "dilationMm", "roi",
    "organSegmentation",
    "organSegmentId", "segmentation", "tumorSegmentId", "candidate", "candidateSegmentId", "aova", "pseudoHealthy",
    "residual", "keepFiles",
)  # fmt: skip
"""What parameter node and run parameters call alike."""
_SAME_IN_SYNTHESIS = (
    "organSegmentation", "organSegmentId", "modality", "avoidVessels", "massEffect", "capsule", "painter", "device",
    "painted", "paintedSegmentation", "paintedSegmentId", "keepFiles",
)  # fmt: skip
"""The same of synthesis parameters."""


def applyPreset(node: Any, preset: str) -> None:
    """Set a parameter node to a preset and the values that it stands for.

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
    """Set a parameter node to a built-in organ and its two sentences; an empty name leaves the sentences alone."""
    node.organ = organ
    if organ:
        pair = organ_prompts(organ, node.modality or "CT")
        node.normalPrompt, node.abnormalPrompt = pair.normal, pair.abnormal


def promptFault(node: Any) -> DiffuGTSError | None:
    """Return what is wrong with the sentences as they stand, or None."""
    try:
        RunParameters.fromNode(node).jobPrompts()
    except DiffuGTSError as error:
        return error
    return None


@functools.lru_cache(maxsize=16)
def _resolved(organ: str, modality: str, normal: str, abnormal: str) -> dict[str, str] | PromptError:
    """Return a job's prompts, or what is wrong; the panel asks for the same ones again and again."""
    try:
        if not normal and not abnormal:
            if not organ:
                raise PromptError(
                    _("There is nothing to look for."),
                    hint=_("choose an organ, or write the healthy sentence and the one with a tumor."),
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
    """Return an organ's names and synonyms; of one that is not built in, its name alone."""
    try:
        name = find_organ(organ)
    except PromptError:
        return (organ,) if organ else ()
    return (organ, name, *organs()[name])


def _rounded(value: float | None) -> float | None:
    """A slider's 0.30000000000000004 is 0.3."""
    return None if value is None else round(float(value), 4)
