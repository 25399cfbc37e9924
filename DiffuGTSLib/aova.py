"""Anomaly-aware open-vocabulary attention: where, and how much, a scan looks like the abnormal prompt.

Follows the approach of DiffuGTS (Jiang et al., CVPR 2025), whose body was not available to us; formulas are as
in docs/method.md, where every choice of ours is named.

Notation (code → formula):
    features[l] → F_l, frozen encoder features of level l, C_l channels
    adapted[l]  → F'_l = α · Adapter_l(F) + (1 - α) · F_l
    queries     → Q_l = F'_l W_q,   keys → K_l = Reduce_l(T) W_k
    attention   → A_l = softmax over prompts of Q_l K_lᵀ / √d_l
    maps        → M_n = mean over levels of Resize(A_l[n])
    presence    → P = σ(Σ_l Resize(Q_l K°_lᵀ / √d_l) + b),  K°_l = Reduce_l(T'_normal) W_p; with `elsewhere`, M_n becomes
                  P M_n (ours)
    class_embedding → g_n = MLP(pool(M_n)),   score_logit → MLP(max_n g_n)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from DiffuGTSLib.backbones.interfaces import LatentAutoencoder
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.backbones.taps import DenoiserTap
from DiffuGTSLib.backbones.windows import OnWindow, aligned_overlap, over_windows
from DiffuGTSLib.config import MasksConfig
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.smoothing import smooth_within_edges
from DiffuGTSLib.storage import is_finite

NORMAL, ABNORMAL = 0, 1
"""Rows of the two prompts, everywhere."""
ELSEWHERE = 2
"""Row of what is neither: another organ, fat, air. Only heads with `elsewhere` have it."""


@dataclass(frozen=True)
class Attention:
    """What the head says of one window.

    Attributes:
        maps: Probability of each prompt at every voxel, and, from heads with `elsewhere`, of neither, (b, n, X, Y, Z);
            they sum to 1 over n.
        log_maps: Their logarithm, exact where a probability is as good as 0; losses need it.
        class_embeddings: One vector a prompt's map in the text's space, (b, 2, d).
        score_logits: The window's anomaly logit, (b,).
    """

    maps: Float[Tensor, "b n X Y Z"]
    log_maps: Float[Tensor, "b n X Y Z"]
    class_embeddings: Float[Tensor, "b m d"]
    score_logits: Float[Tensor, " b"]


def together(answers: Sequence[Attention]) -> Attention:
    """Return the answers of several batches as those of one."""
    parts = ("maps", "log_maps", "class_embeddings", "score_logits")
    return Attention(*(torch.cat([getattr(answer, part) for answer in answers]) for part in parts))


@dataclass(frozen=True)
class AovaMaps:
    """Attention on a whole scan.

    Attributes:
        abnormal: Share of the attention that the abnormal prompt wins, 0 to 1, (X, Y, Z) on the canonical grid.
        anomaly_score: 0 (normal) to 1, the highest of all windows: one suspicious window makes a suspicious scan.
            Paper not available to us: it scores a volume at once, we score windows since scans differ in size.
        latent: The scan's latent, blended over windows, (1, l, x, y, z); inpainting starts from it.
        organ: Where the prompted organ is more likely than not (P > 0.5), ill or healthy, (X, Y, Z); None from heads without
            `elsewhere`, which do not say.
    """

    abnormal: Float[Tensor, "X Y Z"]
    anomaly_score: float
    latent: Float[Tensor, "1 l x y z"]
    organ: Bool[Tensor, "X Y Z"] | None = None

    def smoothed(
        self,
        image: Float[np.ndarray, "X Y Z"],
        allowed: Bool[np.ndarray, "X Y Z"],
        spacing_mm: tuple[float, float, float],
        config: MasksConfig,
    ) -> "AovaMaps":
        """Return the maps as they are thresholded and shown, see `smooth_within_edges`."""
        raw = self.abnormal.float().cpu().numpy()
        smoothed = smooth_within_edges(raw, image, allowed, spacing_mm, config)
        return replace(self, abnormal=torch.from_numpy(smoothed).to(self.abnormal))


class MlpAdapter(nn.Module):
    """The paper's adapter as we know it: a two-layer perceptron on channels, each voxel for itself."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Sequential(nn.Conv3d(c, c, 1), nn.ReLU(), nn.Conv3d(c, c, 1)) for c in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return one adapted tensor a level, shapes unchanged."""
        return [level(feature) for level, feature in zip(self.levels, features, strict=True)]


class ContextAdapter(nn.Module):
    """A small convolutional pyramid over the frozen features, so that a voxel is judged in its surroundings.

    Differs from the paper: a small autoencoder's features describe a voxel's neighborhood, not its meaning; a
    per-voxel adapter cannot tell a nodule from a vessel. Two coarser levels (strides 8 and 16) see the whole window.

    Args:
        channels: Of the incoming features, fine to coarse.
        widths: Of the pyramid: one a feature level, then one each further halving.

    Raises:
        ConfigError: If a feature level has no width.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) < len(channels):
            raise ConfigError(
                f"AOVA head: expected a context width for each of {len(channels)} feature levels, got {len(widths)}."
            )
        self.stems = nn.ModuleList(nn.Conv3d(c, w, 1) for c, w in zip(channels, widths, strict=False))
        self.down = nn.ModuleList(nn.Conv3d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.enter = nn.ModuleList(ResidualBlock(w) for w in widths[1:])
        self.up = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        # Full resolution holds 512 times the voxels of stride 8: there, each voxel for itself.
        pointwise = nn.Sequential(nn.SiLU(), nn.Conv3d(widths[0], widths[0], 1), nn.SiLU())
        self.leave = nn.ModuleList([pointwise, *(ResidualBlock(w) for w in widths[1:-1])])
        self.heads = nn.ModuleList(nn.Conv3d(w, c, 1) for c, w in zip(channels, widths, strict=False))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return one adapted tensor a level, shapes unchanged."""
        path = [self.stems[0](features[0])]
        for level, (down, enter) in enumerate(zip(self.down, self.enter, strict=True), start=1):
            hidden = down(path[-1])
            if level < len(self.stems):
                hidden = hidden + self.stems[level](features[level])
            path.append(enter(hidden))
        hidden = path.pop()
        rising = [hidden]
        for up, leave in zip(reversed(self.up), reversed(self.leave), strict=True):
            skip = path.pop()
            hidden = leave(skip + functional.interpolate(up(hidden), size=skip.shape[2:], mode="trilinear"))
            rising.append(hidden)
        fine_to_coarse = rising[::-1]
        return [head(hidden) for head, hidden in zip(self.heads, fine_to_coarse, strict=False)]


class ResidualBlock(nn.Module):
    """Two normalized 3 × 3 × 3 convolutions around an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = 8 if width % 8 == 0 else 1
        self.body = nn.Sequential(
            nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv3d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv3d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the block's output, shape unchanged."""
        changed: Tensor = hidden + self.body(hidden)
        return changed


class AovaHead(ModelMixin, ConfigMixin):
    """The only part that is trained for anomalies: adapters, queries, keys and the anomaly score.

    Args:
        feature_channels: Of the frozen features, fine to coarse; read from the networks, never typed twice.
        text_dim: Of the sentence embeddings.
        adapter: "mlp" (the paper's form) or "context" (see `ContextAdapter`).
        alpha: Share of the adapter in the adapted features (0.1 in CLIP-Adapter's form; we use more with context).
        context_widths: Of the context pyramid; needs at least as many as there are features.
        query_channels: Smallest query width; a fine level with few channels cannot tell many organs apart.
        fuse: "probability" averages the levels' softmax (the paper's sum, divided by L), "logit" sums the logits
            before one softmax, so that a sure level can overrule the others.
        feature_scale: Frozen features are multiplied by it, so that they come in with a spread of about 1.
        pool: Side of the grid to which maps are pooled for the class embedding (paper not available; resolution-free).
        denoiser_timestep: Of the denoiser whose features the head also uses, see `DiffuGTSLib.backbones.taps`;
            0: it uses the encoder's alone.
        denoiser_scale: Those features are multiplied by it first.
        elsewhere: Whether a voxel may also belong to neither prompt, because the organ that is asked for is not there. Not
            in the paper as known to us, whose two maps share every voxel of the scan: asked for a lung nodule, our head
            called bright kidneys abnormal, for want of a third answer.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        feature_channels: tuple[int, ...],
        text_dim: int,
        adapter: str = "mlp",
        alpha: float = 0.1,
        context_widths: tuple[int, ...] = (16, 32, 48, 64, 96),
        query_channels: int = 32,
        fuse: str = "probability",
        feature_scale: float = 1.0,
        pool: int = 4,
        denoiser_timestep: float = 0.0,
        denoiser_scale: float = 1.0,
        elsewhere: bool = False,
    ) -> None:
        super().__init__()
        self.tap = DenoiserTap(denoiser_timestep, denoiser_scale) if denoiser_timestep else None
        if adapter not in ("mlp", "context") or fuse not in ("probability", "logit"):
            raise ConfigError(
                f"AOVA head: adapter is 'mlp' or 'context', fuse 'probability' or 'logit', got {adapter!r}, {fuse!r}."
            )
        scales_fit = all(is_finite(scale) and scale > 0 for scale in (feature_scale, denoiser_scale))
        if not (is_finite(alpha) and 0 <= alpha <= 1 and scales_fit):
            raise ConfigError(
                f"AOVA head: expected an alpha of 0 to 1 and finite scales above 0, got alpha {alpha!r}, "
                f"feature_scale {feature_scale!r}, denoiser_scale {denoiser_scale!r}."
            )
        self.adapters = (
            MlpAdapter(feature_channels) if adapter == "mlp" else ContextAdapter(feature_channels, context_widths)
        )
        widths = [max(c, query_channels) for c in feature_channels]
        self.to_queries = nn.ModuleList(
            nn.Conv3d(c, w, 1, bias=False) for c, w in zip(feature_channels, widths, strict=True)
        )
        self.reducers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * text_dim, text_dim // 2), nn.GELU(), nn.Linear(text_dim // 2, w), nn.LayerNorm(w)
            )
            for w in widths
        )
        self.to_keys = nn.ModuleList(nn.Linear(w, w, bias=False) for w in widths)
        if elsewhere:
            self.to_presence_keys = nn.ModuleList(nn.Linear(w, w, bias=False) for w in widths)
            for linear in self.to_presence_keys:
                nn.init.zeros_(linear.get_parameter("weight"))
            self.presence_bias = nn.Parameter(torch.tensor(INITIAL_PRESENCE_LOGIT))
        self.embed = nn.Sequential(nn.Linear(pool**3, 256), nn.GELU(), nn.Linear(256, text_dim))
        self.score = nn.Sequential(nn.Linear(text_dim, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, features: Sequence[Tensor], prompts: Float[Tensor, "b n d"]) -> Attention:
        """Attend from every voxel to the prompts.

        Args:
            features: Frozen features of a batch of windows, fine to coarse.
            prompts: Sentence embeddings for each window, row 0 normal and row 1 abnormal.
        """
        return self.answer(self.adapt(features), prompts)

    def adapt(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return F'_l of every level: all that an answer needs of a window, whatever is asked."""
        alpha, scale = self.config["alpha"], self.config["feature_scale"]
        features = [feature * scale for feature in features]
        return [
            alpha * adapted + (1 - alpha) * feature
            for adapted, feature in zip(self.adapters(features), features, strict=True)
        ]

    def answer(self, adapted: Sequence[Tensor], prompts: Float[Tensor, "b n d"]) -> Attention:
        """Attend from every voxel of adapted features to the prompts; those of one window may be asked many pairs of them."""
        logits, size = self.attention_logits(adapted, prompts), adapted[0].shape[2:]
        asked = prompts.shape[1]
        if self.config["fuse"] == "probability":
            log_maps = torch.stack([resized(level[:, :asked].float().softmax(1), size) for level in logits])
            log_maps = log_maps.mean(0).clamp_min(1e-8).log()
        else:
            log_maps = summed([level[:, :asked] for level in logits], size).log_softmax(1)
        if self.config["elsewhere"]:
            presence = summed([level[:, asked:] for level in logits], size) + self.presence_bias
            here, elsewhere = functional.logsigmoid(presence), functional.logsigmoid(-presence)
            log_maps = torch.cat([log_maps + here, elsewhere], dim=1)
        maps = log_maps.exp()
        pooled = functional.adaptive_avg_pool3d(maps[:, :asked], self.config["pool"]).flatten(2)
        class_embeddings = self.embed(pooled)
        return Attention(maps, log_maps, class_embeddings, self.score(class_embeddings.amax(1)).squeeze(-1))

    def attention_logits(self, adapted: Sequence[Tensor], prompts: Float[Tensor, "b n d"]) -> list[Tensor]:
        """Return Q_l K_lᵀ / √d_l of every level, each (b, n, X/s, Y/s, Z/s); with `elsewhere`, presence is the last row.

        Q_l K_lᵀ = F'_l (W_q K_lᵀ): keys are few and voxels are many, so that the queries are never written out.
        """
        sentences = with_difference(prompts)
        logits = []
        for level, feature in enumerate(adapted):
            weight = self.to_queries[level].get_parameter("weight").flatten(1)
            reduced = self.reducers[level](sentences.to(feature.dtype))
            key = self.to_keys[level](reduced)
            if self.config["elsewhere"]:
                key = torch.cat([key, self.to_presence_keys[level](reduced[:, NORMAL : NORMAL + 1])], dim=1)
            asked = torch.einsum("bnq,qc->bnc", key, weight) / weight.shape[0] ** 0.5
            logits.append(torch.einsum("bcxyz,bnc->bnxyz", feature, asked))
        return logits


INITIAL_PRESENCE_LOGIT = 3.0
"""Before training, the organ is all but everywhere (0.95), so that a head without `elsewhere` can go on as one with it."""


def resized(level: Tensor, size: Sequence[int]) -> Tensor:
    """Return a level's rows on the window's grid, in float32."""
    return functional.interpolate(level.float(), size=tuple(size), mode="trilinear")


def summed(levels: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return the levels' rows on the window's grid, added up."""
    return torch.stack([resized(level, size) for level in levels]).sum(0)


def with_difference(prompts: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
    """Return each sentence beside its step away from the mean of all prompts, both with entries of about unit size.

    Normal and abnormal sentences of one organ are nearly parallel (cosine about 0.85), and phrasing moves them as much
    as illness does; the step from one to the other says what is asked. Ours: the paper was not available to us. Equal
    prompts have no step, so that nothing wins.
    """
    step = functional.normalize(prompts - prompts.mean(dim=1, keepdim=True), dim=-1)
    both: Tensor = torch.cat([functional.normalize(prompts, dim=-1), step], dim=-1) * float(prompts.shape[-1] ** 0.5)
    return both


def attend(
    image: Float[Tensor, "1 1 X Y Z"],
    autoencoder: LatentAutoencoder,
    head: AovaHead,
    prompts: Float[Tensor, "2 d"],
    window_voxels: int,
    overlap: float,
    on_window: OnWindow,
    mirror: bool = False,
    where: Bool[Tensor, "X Y Z"] | None = None,
    memory: WindowMemory | None = None,
) -> AovaMaps:
    """Return the attention on a whole scan, computed window by window, each encoded once.

    Features at full resolution would not fit into memory for a whole scan, so each window's features live only
    as long as the window; its map and its latent are blended with a Gaussian into the scan's.

    Args:
        image: Canonical image in [0, 1].
        autoencoder: Frozen; with the denoiser's features where the head wants them (`Components.feature_encoder`).
        head: Trained on these features.
        prompts: Embeddings of the normal and the abnormal sentence.
        window_voxels: Side of the window; shorter sides are seen whole.
        overlap: Least share that neighboring windows have in common.
        on_window: Called with (windows done, windows in all) after each; may raise `Cancelled`.
        mirror: Use each window's left-right mirror image too, and take the mean of maps and scores. Not in the
            paper as known to us. On validation sarcomas it changed little, on three windows with painted lung tumors
            Dice rose by 0.05, 0.08 and 0.15.
        where: Voxels whose attention is wanted; None for all. Elsewhere map and latent are of no use, and the score
            is that of the windows that were used.
        memory: Keeps the latent and the adapted features of each window: the same windows are answered for other prompts without
            encoding, with the same numbers bit for bit. None keeps nothing.
    """
    scores: list[float] = []
    prompts, tells_organ = prompts[None].to(image.device), bool(head.config["elsewhere"])

    def encode(window: Tensor) -> tuple[Tensor, ...]:
        """Return the latent and the adapted features."""
        encoding = autoencoder.encode(window)
        return encoding.latent.float(), *head.adapt(encoding.features)

    def query(window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the abnormal map, the score and the latent."""
        latent, *adapted = (
            encode(window) if memory is None else memory.remembered("window", window, lambda: encode(window))
        )
        answer = head.answer(adapted, prompts)
        maps = answer.maps[:, ABNORMAL : ABNORMAL + 1]
        if tells_organ:
            maps = torch.cat([maps, 1 - answer.maps[:, ELSEWHERE : ELSEWHERE + 1]], dim=1)
        return maps, answer.score_logits.sigmoid(), latent

    def attention(window: Tensor) -> tuple[Tensor, Tensor]:
        maps, score, latent = query(window)
        if mirror:
            mirrored, mirrored_score, _ = query(window.flip(2))
            maps, score = (maps + mirrored.flip(2)) / 2, (score + mirrored_score) / 2
        scores.append(float(score))
        return maps, latent.clone()  # blending weights it in place, and it may be remembered

    overlap = aligned_overlap(window_voxels, overlap, autoencoder.downsampling)
    maps, latent = over_windows(image, window_voxels, overlap, attention, on_window, where)
    organ = maps[0, 1] > 0.5 if tells_organ else None
    return AovaMaps(maps[0, 0].clamp(0, 1), max(scores), latent, organ)
