"""Recipe: train the AOVA head on the frozen encoder's features.

The features of the validation's windows are kept in memory, since the same windows come again each time. Those of
training windows are not, and there is no option for it: only a fixed pool of windows could be kept, which would give up
painting on the fly, and the pool would have to be small. A window of 64³ of `mini` is 1 MB, its features are 22 MB; a
window of 128³ of the published autoencoder is 8 MB, its features are 0.7 GB. (Sizes are computed; whether reading them would
be faster than encoding was not measured.)
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from DiffuGTSLib.aova import ABNORMAL, ELSEWHERE, AovaHead, together
from DiffuGTSLib.backbones.interfaces import LatentAutoencoder, TextEncoder
from DiffuGTSLib.evaluation.metrics import auroc, dice
from DiffuGTSLib.text.prompts import training_sentences
from DiffuGTSLib.training.anomalies import AnomalySampler, Sample
from DiffuGTSLib.training.losses import HeadLossWeights, head_losses


@runtime_checkable
class DrawnAhead(Protocol):
    """Batches of windows that were drawn before they are wanted."""

    def look_ahead(self, seeds: Iterable[list[int]]) -> None:
        """Be told the seeds of the batches to come, in order."""
        ...

    def take(self) -> tuple[list[Sample], np.random.Generator]:
        """Return the next batch, and its generator in the state after drawing it."""
        ...


class HeadRecipe:
    """Windows → frozen features → attention → losses; nothing flows back into encoder or text.

    Args:
        head: The head to train.
        feature_encoder: (spacing in mm, modality) → the frozen autoencoder that the head looks through.
        text_encoder: Frozen; every sentence a prompt may be drawn from is embedded once.
        sampler: Of training windows.
        validation: Fixed windows of patients that are not trained on.
        batch: Windows a step.
        weights: Of the losses.
        similarity_by_label: See `head_losses`.
        ahead: Draws the sampler's windows in other processes; None draws them here.
        cache_bytes: Memory for the validation's features; 0 encodes every window anew.
    """

    def __init__(
        self,
        head: AovaHead,
        feature_encoder: Callable[[tuple[float, float, float], str], LatentAutoencoder],
        text_encoder: TextEncoder,
        sampler: AnomalySampler,
        validation: Sequence[Sample],
        batch: int = 1,
        weights: HeadLossWeights | None = None,
        *,
        similarity_by_label: bool = False,
        ahead: DrawnAhead | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.trainable = head
        self._feature_encoder = feature_encoder
        self._sampler = sampler
        self._validation = validation
        self._batch = batch
        self._weights = weights or HeadLossWeights()
        self._similarity_by_label = similarity_by_label
        self._ahead = ahead
        self._room = cache_bytes
        self._cached: dict[int, tuple[Tensor, ...]] = {}
        self._sentences = {
            (organ, modality): tuple(text_encoder.encode(texts) for texts in training_sentences(organ, modality))
            for organ in {*sampler.organs, *(sample.organ for sample in validation)}
            for modality in ("CT", "MR")
        }

    def look_ahead(self, seeds: Iterable[list[int]]) -> None:
        """Hand the seeds of the batches to come to the processes that draw them."""
        if self._ahead is not None:
            self._ahead.look_ahead(seeds)

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw a batch and return its losses."""
        if self._ahead is not None:
            samples, rng = self._ahead.take()
        else:
            samples = [self._sampler.draw(rng) for _ in range(self._batch)]
        device = self._device
        questions = [question for sample in samples for question in sample.questions]
        shape = samples[0].mask.shape
        mask, organ = (_on_device([getattr(q, name) for q in questions], shape, device) for name in ("mask", "shown"))
        abnormal = torch.tensor([question.abnormal for question in questions], device=device)
        mask = mask * abnormal[:, None, None, None, None]
        asked = [
            torch.stack([self._prompts(each.organ, sample.modality, rng) for each in sample.questions]).to(device)
            for sample in samples
        ]
        with torch.no_grad():
            features = [
                torch.cat(level).contiguous(memory_format=torch.channels_last_3d)  # a quarter faster on CPUs
                for level in zip(*map(self._seen, samples), strict=True)
            ]
        windows = zip(*(level.split(1) for level in self.trainable.adapt(features)), strict=True)
        answers = [self.trainable.answer(window, prompts) for window, prompts in zip(windows, asked, strict=True)]
        attention, prompts = together(answers), torch.cat(asked)
        return head_losses(attention, prompts, abnormal, mask, self._weights, self._similarity_by_label, organ)

    def validate(self) -> dict[str, float]:
        """Return Dice at 0.5, by modality and organ and their mean, and the share of healthy voxels that are flagged.

        With normal and abnormal windows, the AUROC of the anomaly score comes with them; where organs are outlined and the
        head knows of an elsewhere, the Dice of where it finds them.
        """
        by_organ: dict[str, list[float]] = {}
        flagged, scores, organ_dice = [], [], []
        for number, sample in enumerate(self._validation):
            prompts = self._prompts(sample.organ, sample.modality, None)[None].to(self._device)
            attention = self.trainable(self._features(number), prompts)
            found = (attention.maps[0, ABNORMAL] > 0.5).cpu().numpy()
            if sample.abnormal:
                name = f"dice_{sample.modality}_{sample.organ.replace(' ', '_')}"
                by_organ.setdefault(name, []).append(dice(found, sample.mask))
            if sample.shown is not None and sample.shown.any() and attention.maps.shape[1] > ELSEWHERE:
                here = (attention.maps[0, ELSEWHERE] < 0.5).cpu().numpy()
                organ_dice.append(dice(here, sample.shown))
            flagged.append(float(found[~sample.mask].mean()))
            scores.append(float(attention.score_logits[0]))
        figures = {name: float(np.mean(values)) for name, values in by_organ.items()}
        if figures:
            figures["dice"] = float(np.mean(list(figures.values())))
        if organ_dice:
            figures["organ_dice"] = float(np.mean(organ_dice))
        score_auroc = auroc(scores, [sample.abnormal for sample in self._validation])
        return {**figures, "flagged": float(np.mean(flagged)), **_if_known("score_auroc", score_auroc)}

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.trainable.parameters()).device
        return device

    def _features(self, number: int) -> tuple[Tensor, ...]:
        """Return the features of a validation window, encoded once as long as there is room to keep them."""
        if number in self._cached:
            return tuple(feature.to(self._device) for feature in self._cached[number])
        features = self._seen(self._validation[number])
        size = sum(feature.nbytes for feature in features)
        if size <= self._room:
            self._room -= size
            self._cached[number] = tuple(feature.cpu() for feature in features)
        return features

    def _seen(self, sample: Sample) -> tuple[Tensor, ...]:
        """Return the frozen features of one window."""
        image = torch.from_numpy(sample.image)[None, None].to(self._device)
        return self._feature_encoder(sample.spacing_mm, sample.modality).encode(image).features

    def _prompts(self, organ: str, modality: str, rng: np.random.Generator | None) -> Tensor:
        """Return (2, d): a random phrasing of each sentence in training, the first in validation."""
        normals, abnormals = self._sentences[organ, modality]
        if rng is None:
            return torch.stack([normals[0], abnormals[0]])
        return torch.stack([normals[rng.integers(len(normals))], abnormals[rng.integers(len(abnormals))]])


def _on_device(
    answers: Sequence[NDArray[np.bool_] | None], shape: tuple[int, ...], device: torch.device
) -> Float[Tensor, "b 1 X Y Z"]:
    """Return masks as `head_losses` wants them, NaN where nobody knows."""
    unknown = np.full(shape, np.nan, dtype=np.float32)
    known = [unknown if answer is None else answer.astype(np.float32) for answer in answers]
    return torch.from_numpy(np.stack(known))[:, None].to(device)


def _if_known(name: str, value: float) -> dict[str, float]:
    return {} if np.isnan(value) else {name: value}
