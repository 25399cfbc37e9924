"""A table of latent vectors that learns by moving averages: the quantizer of the VQGAN.

Follows DiffTumor (Chen et al., CVPR 2024), its first step, the VQGAN. What we changed: the table starts itself from the
first batch wherever it is still empty, seen by `N`, so that no flag has to travel with the weights; and random vectors
come from a generator that is passed on.
"""

from typing import NamedTuple

import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from DiffuGTSLib.errors import ConfigError

_DISTANCES_AT_ONCE = 2**24
"""So many distances are held at a time (64 MB); all of a 96³ patch to 16384 codes would be 0.9 GB."""


class Quantized(NamedTuple):
    """Latents snapped to the table.

    Attributes:
        latent: (b, e, z, x, y); its gradient goes to what was snapped, as if nothing had been (straight-through).
        commitment: 0.25 times the mean squared way to the codes; pulls the encoder to the table.
        perplexity: How many codes the batch used, were all of them used alike: 1 to the number of codes.
        indices: (b, z, x, y), the code of each position.
    """

    latent: Float[Tensor, "b e z x y"]
    commitment: Float[Tensor, ""]
    perplexity: Float[Tensor, ""]
    indices: Int[Tensor, "b z x y"]


class Codebook(nn.Module):
    """Codes, how often each is used, and the sum of what was snapped to it, the latter two as moving averages.

    Args:
        n_codes: Codes in the table.
        embedding_dim: Numbers in a code.
        decay: Of the moving averages, a training step.
        restart_below: A code with a lower average use a batch is replaced by a random latent of the batch.
    """

    embeddings: Tensor
    N: Tensor
    z_avg: Tensor

    def __init__(
        self, n_codes: int = 16384, embedding_dim: int = 8, decay: float = 0.99, restart_below: float = 1.0
    ) -> None:
        super().__init__()
        self.n_codes, self.embedding_dim = n_codes, embedding_dim
        self.decay, self.restart_below = decay, restart_below
        self.register_buffer("embeddings", torch.zeros(n_codes, embedding_dim))
        self.register_buffer("N", torch.zeros(n_codes))
        self.register_buffer("z_avg", torch.zeros(n_codes, embedding_dim))

    @property
    def started(self) -> bool:
        """Whether there are codes yet: a table that never saw a batch counts no use."""
        return bool(self.N.any())

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest number in the table."""
        return float(self.embeddings.min()), float(self.embeddings.max())

    def forward(self, latent: Float[Tensor, "b e z x y"], generator: torch.Generator | None = None) -> Quantized:
        """Snap latents to their nearest codes; in training mode the table then learns from them.

        Args:
            latent: Of the encoder, as it comes.
            generator: On the CPU; draws the vectors of new codes. Needed in training mode only.

        Raises:
            ConfigError: In training mode without a generator.
        """
        vectors = latent.movedim(1, -1).reshape(-1, self.embedding_dim)
        if self.training:
            if generator is None:
                raise ConfigError("A codebook in training mode draws new codes: it needs a torch.Generator.")
            if not self.started:
                self._start(vectors.detach(), generator)
        indices = self.nearest(vectors.detach())
        grid = (latent.shape[0], *latent.shape[2:])
        codes = self.lookup(indices.view(grid))
        if self.training and generator is not None:
            self._learn(vectors.detach(), indices, generator)
        share = torch.bincount(indices, minlength=self.n_codes).to(latent.dtype) / len(indices)
        perplexity = torch.exp(-(share * torch.log(share + 1e-10)).sum())
        commitment = 0.25 * functional.mse_loss(latent, codes)
        return Quantized(latent + (codes - latent).detach(), commitment, perplexity, indices.view(grid))

    def nearest(self, vectors: Float[Tensor, "n e"]) -> Int[Tensor, " n"]:
        """Return the index of each vector's nearest code."""
        square = self.embeddings.square().sum(dim=1)
        rows = max(1, _DISTANCES_AT_ONCE // self.n_codes)
        # |z - e|² = |z|² - 2 z·e + |e|², of which |z|² is the same for every code.
        nearest = [torch.addmm(square, part, self.embeddings.t(), alpha=-2).argmin(1) for part in vectors.split(rows)]
        return torch.cat(nearest)

    def lookup(self, indices: Int[Tensor, "b z x y"]) -> Float[Tensor, "b e z x y"]:
        """Return the codes of a grid of indices."""
        return functional.embedding(indices, self.embeddings).movedim(-1, 1)

    @torch.no_grad()
    def _start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Take the first codes from a batch."""
        codes = self._drawn(vectors, generator)
        self.embeddings.copy_(codes)
        self.z_avg.copy_(codes)
        self.N.fill_(1.0)

    @torch.no_grad()
    def _learn(self, vectors: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        """Move counts and sums towards this batch's, codes to their quotient, and replace codes that lie idle.

        N ← 0.99 N + 0.01 count, z_avg ← 0.99 z_avg + 0.01 sum; code = z_avg / weight, where
        weight = (N + 1e-7) / (ΣN + K · 1e-7) · ΣN keeps a code without use from dividing by 0.
        """
        counts = torch.bincount(indices, minlength=self.n_codes).to(vectors.dtype)
        sums = torch.zeros_like(self.z_avg).index_add_(0, indices, vectors.to(self.z_avg.dtype))
        _sum_over_processes(counts)
        _sum_over_processes(sums)
        self.N.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.z_avg.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = self.N.sum()
        weight = (self.N + 1e-7) / (total + self.n_codes * 1e-7) * total
        codes = self.z_avg / weight[:, None]
        idle = self.N.lt(self.restart_below)[:, None]
        self.embeddings.copy_(torch.where(idle, self._drawn(vectors, generator), codes))

    def _drawn(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random vector a code; where there are fewer vectors than codes, they repeat with a little noise."""
        count = len(vectors)
        if count < self.n_codes:
            repeated = vectors.repeat(-(-self.n_codes // count), 1)
            noise = torch.randn(repeated.shape, generator=generator).to(vectors)
            vectors = repeated + noise * (0.01 / self.embedding_dim**0.5)
        order = torch.randperm(len(vectors), generator=generator)[: self.n_codes]
        drawn = vectors[order.to(vectors.device)].to(self.embeddings.dtype).contiguous()
        if _several_processes():
            torch.distributed.broadcast(drawn, 0)  # every process holds the same table
        return drawn


def _several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _sum_over_processes(values: Tensor) -> None:
    if _several_processes():
        torch.distributed.all_reduce(values)
