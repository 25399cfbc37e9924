"""What may be chosen when the anomaly head is trained: which windows it learns from, by which losses, in which form."""

from __future__ import annotations

from dataclasses import dataclass

from DiffuGTSLib.errors import ConfigError, did_you_mean
from DiffuGTSLib.training.anomalies import Mixture
from DiffuGTSLib.training.losses import HeadLossWeights

BY_MODE = -1.0
"""Value of an option that leaves the choice to the mode."""

MODES = {
    "mixture": "real outlined tumors, painted ones, and healthy windows",
    "seen": "real outlined tumors and healthy windows; no tumor is painted",
    "label-free": "painted tumors in scans without an outlined one; no outline is looked at",
    "image-labels": "the windows of mixture, with the word whether a tumor is there instead of its outline",
}
SEEN_REAL_SHARE = 0.5
"""Share of windows around a tumor where none is painted; with the share of a mixture most windows would be healthy."""


@dataclass(frozen=True)
class HeadOptions:
    """The head's own choices: `--set mode=label-free`.

    In our first run, with all losses weighing 1 and a learning rate of 1.5e-3, the maps were all-normal after 150
    iterations and stayed so: the gradient of the two image-level terms reaches every voxel at once. We lowered their
    weights and the learning rate together and did not separate the causes.

    Attributes:
        mode: A key of `MODES`.
        anomaly: Weight of the loss of the anomaly score; 0 turns it off.
        similarity: Weight of the similarity loss; 0 turns it off.
        dice: Weight of the Dice loss; 0 turns it off; -1: 1, but 0 with image labels.
        voxel: Weight of the voxel-wise loss; 0 turns it off; -1: 1, but 0 with image labels.
        organ: Weight of the loss that says where the organ is, for heads with `elsewhere`; -1: 0.5, but 0 with image labels.
        elsewhere: Whether the head may answer that the prompted organ is not there, see `AovaHead`; never with image labels,
            which do not say where an organ is.
        similarity_form: "symmetric" (each map with its own prompt) or "label" (the image with its label's prompt).
        adapter: "mlp" or "context", see `AovaHead`.
        alpha: Share of the adapter in the adapted features.
        fuse: "probability" or "logit", see `AovaHead`.
        context_widths: Of the context pyramid, one a level.
        feature_scale: The frozen features are multiplied by it; 0: measured, so that their spread is 1.
        denoiser_timestep: Of the frozen denoiser whose features the head also looks at, up to 999; 0: it does not. Each of
            its coarser levels needs another context width.
        start: Folder of a trained head, or of the model that it belongs to, from whose weights training begins.
        real: Share of windows around an outlined tumor; -1: as `Mixture`, seen 0.5, label-free 0.
        healthy: Share of the other windows that no tumor is painted into; -1: as `Mixture`, seen 1.
        further: How many other organs a window is asked about as well, of its scan where they are outlined.
        window_voxels: Side of the larger windows; 0: the preset's.
        learning_rate: Peak, halved for the larger windows.
        average: Decay of the running average of the weights, which is the result; 0: the last weights are.
        validate_every: Iterations between validations and checkpoints.
        patience: So many validations without a better figure end a phase, and its best weights are kept; 0: never,
            and the last are.
        workers: Processes that draw and paint windows ahead; 0: none, every window is drawn when it is wanted.
        cache_gb: Memory for the frozen features of the validation's windows; those that do not fit are encoded anew.
    """

    mode: str = "mixture"
    anomaly: float = 0.2
    similarity: float = 0.05
    dice: float = BY_MODE
    voxel: float = BY_MODE
    organ: float = BY_MODE
    elsewhere: bool = True
    similarity_form: str = "symmetric"
    adapter: str = "context"
    alpha: float = 0.5
    fuse: str = "logit"
    context_widths: str = "16,32,48,64,96"
    feature_scale: float = 0.0
    denoiser_timestep: float = 0.0
    start: str = ""
    real: float = BY_MODE
    healthy: float = BY_MODE
    further: int = 1
    window_voxels: int = 0
    learning_rate: float = 1e-3
    average: float = 0.999
    validate_every: int = 500
    patience: int = 0
    workers: int = 0
    cache_gb: float = 2.0

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", MODES),
            ("similarity_form", ("symmetric", "label")),
            ("adapter", ("mlp", "context")),
            ("fuse", ("probability", "logit")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name}: unknown choice '{getattr(self, name)}'.", hint=did_you_mean(getattr(self, name), known)
                )
        self._require_ranges()
        self._require_what_the_mode_means()
        if self.adapter == "context" and min(self.widths) < 1:
            raise ConfigError(f"context_widths: expected whole numbers of 1 or more, got '{self.context_widths}'.")
        _ = self.weights  # refused now, where all are off

    @property
    def mixture(self) -> Mixture:
        """How often which kind of window is drawn."""
        real = {"seen": SEEN_REAL_SHARE, "label-free": 0.0}.get(self.mode, Mixture.real)
        healthy = 1.0 if self.mode == "seen" else Mixture.healthy
        return Mixture(
            real=real if self.real == BY_MODE else self.real,
            healthy=healthy if self.healthy == BY_MODE else self.healthy,
            further=self.further,
        )

    @property
    def three_answers(self) -> bool:
        """Whether the head knows of an elsewhere."""
        return self.elsewhere and self.mode != "image-labels"

    @property
    def weights(self) -> HeadLossWeights:
        """The losses' weights."""
        outlined = 0.0 if self.mode == "image-labels" else 1.0
        dice, voxel = (outlined if weight == BY_MODE else weight for weight in (self.dice, self.voxel))
        organ = HeadLossWeights.organ * outlined if self.organ == BY_MODE else self.organ
        return HeadLossWeights(self.anomaly, self.similarity, dice, voxel, organ if self.three_answers else 0.0)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the context pyramid.

        Raises:
            ConfigError: If they are no whole numbers.
        """
        try:
            return tuple(int(word) for word in self.context_widths.split(","))
        except ValueError:
            raise ConfigError(
                f"context_widths: expected whole numbers as in 16,32,48,64,96, got '{self.context_widths}'."
            ) from None

    @property
    def watch(self) -> str:
        """The validation's figure that the best weights are chosen by; outlines choose only where they may be seen."""
        if not self.patience:
            return ""
        return "score_auroc" if self.mode == "image-labels" else "dice"

    def _require_ranges(self) -> None:
        shares, weights = (
            ("real", "healthy"),
            ("anomaly", "similarity", "dice", "voxel", "organ"),
        )
        left_to_mode = {"real", "healthy", "dice", "voxel", "organ"}
        ranges = {
            **dict.fromkeys(shares, (0.0, 1.0)),
            **dict.fromkeys(weights, (0.0, 1000000.0)),
            "alpha": (0.0, 1.0), "feature_scale": (0.0, 1e6), "denoiser_timestep": (0.0, 999.0),
            "learning_rate": (1e-9, 1.0), "average": (0.0, 0.999999),
            "further": (0, 20), "validate_every": (1, 10**9), "patience": (0, 10**9), "workers": (0, 256), "cache_gb": (0.0, 1e6),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high and not (name in left_to_mode and value == BY_MODE):
                raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {value:g}.")
        if self.window_voxels and (self.window_voxels < 32 or self.window_voxels % 16):
            raise ConfigError(f"window_voxels: expected 0, or a multiple of 16 from 32, got {self.window_voxels}.")

    def _require_what_the_mode_means(self) -> None:
        contradictions = {
            "seen": (
                ("real", self.real == 0, "it learns from real tumors"),
                ("healthy", self.healthy not in (BY_MODE, 1.0), "it paints no tumors, so that all others are healthy"),
            ),
            "label-free": (("real", self.real > 0, "it never looks at a real tumor"),),
            "image-labels": (
                ("dice", self.dice > 0, "it never looks at an outline"),
                ("voxel", self.voxel > 0, "it never looks at an outline"),
                ("organ", self.organ > 0, "it never looks at an outline"),
            ),
        }
        for name, contradicts, why in contradictions.get(self.mode, ()):
            if contradicts:
                raise ConfigError(
                    f"mode={self.mode} and {name}={getattr(self, name):g} contradict each other: {why}.",
                    hint=f"omit {name}, or choose another mode: {', '.join(MODES)}.",
                )
        if self.organ > 0 and not self.elsewhere:
            raise ConfigError(
                f"elsewhere=no and organ={self.organ:g} contradict each other: a head of two answers is not taught where an "
                "organ is.",
                hint="omit one of them.",
            )
