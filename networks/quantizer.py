"""Vector quantiser: chunked nearest-code search, straight-through gradient, dead codes revived."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    """What quantising gives: the codes a latent became, their indices, the loss to train them."""

    latent: Tensor
    indices: Tensor
    loss: Tensor


def nearest_code(tokens: Tensor, codebook: Tensor, chunk_entries: int = 2097152) -> Tensor:
    """Index of the nearest code (squared Euclidean distance) for every token.

    The distances are sums of element-wise products, never a matrix product, so that autocast cannot
    round them to bfloat16 (which changes 1.6 % of the indices).

    Args:
        tokens: (n, d), any floating dtype; compared in float32 (float64 stays float64).
        codebook: (k, d).
        chunk_entries: Distances held at once; the default (8 MB in float32) stays in cache.

    Returns:
        (n,) int64 indices into the codebook; of equal distances, the first.
    """
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    points, codes = tokens.detach().to(dtype), codebook.detach().to(dtype)
    center = codes.mean(0)  # a common offset would cost the distances their last digits
    points, codes = points - center, (codes - center).t().contiguous()
    half_norm = 0.5 * (codes * codes).sum(0)
    found = torch.empty([points.shape[0]], dtype=torch.int64, device=points.device)
    rows = max(1, chunk_entries // codebook.shape[0])
    for start in range(0, points.shape[0], rows):
        part = points[start : start + rows]
        # |z - e|^2 / 2 up to a term that is the same for every code
        distance = half_norm.unsqueeze(0).repeat(part.shape[0], 1)
        for axis in range(part.shape[1]):
            distance.addcmul_(part[:, axis : axis + 1], codes[axis : axis + 1], value=-1.0)
        found[start : start + rows] = distance.argmin(1)
    return found


class VectorQuantizer(nn.Module):
    """Replace each latent vector by its nearest code (van den Oord et al. 2017, eq. 1 to 3).

    loss = mean((z_q - sg(z))^2) + beta * mean((sg(z_q) - z)^2): beta is on the commitment term, as
    in the paper. ``legacy=True`` puts it on the codebook term instead, as taming-transformers and
    ALDM's code have it.

    A latent with more channels than ``code_dim`` is quantised in groups of ``code_dim`` channels
    from the one codebook.

    Args:
        num_codes: Codebook size (8192 in ALDM, Table A).
        code_dim: Length of a code (3 or 4 in ALDM).
        beta: Weight of the commitment (or, legacy, the codebook) term.
        legacy: Where beta stands, see above.
    """

    usage: Tensor

    def __init__(
        self, num_codes: int, code_dim: int, *, beta: float = 0.25, legacy: bool = False
    ) -> None:
        super().__init__()
        self.num_codes, self.code_dim = num_codes, code_dim
        self.beta, self.legacy = beta, legacy
        self.codebook = nn.Parameter(
            torch.empty(num_codes, code_dim).uniform_(-1 / num_codes, 1 / num_codes)
        )
        self.register_buffer("usage", torch.zeros(num_codes), persistent=False)

    def tokens(self, latent: Tensor) -> Tensor:
        """Channels last, one row a code: (b, g * d, *size) to (b * prod(size) * g, d)."""
        return latent.movedim(1, -1).reshape(-1, self.code_dim)

    def lookup(self, indices: Tensor) -> Tensor:
        """Latent (b, g * d, *size) of the codes with indices (b, *size, g)."""
        return F.embedding(indices, self.codebook).flatten(-2).movedim(-1, 1)

    def forward(self, latent: Tensor) -> Quantized:
        """Quantise a latent.

        Args:
            latent: (b, g * d, *size).

        Returns:
            The straight-through latent (same shape), indices (b, *size, g) and the scalar loss.
        """
        groups = latent.shape[1] // self.code_dim
        found = nearest_code(self.tokens(latent), self.codebook)
        indices = found.reshape([latent.shape[0]] + list(latent.shape[2:]) + [groups])
        continuous = latent.float() if latent.dtype != torch.float64 else latent
        codes = self.lookup(indices)
        to_codebook = (codes - continuous.detach()).square().mean()
        to_encoder = (codes.detach() - continuous).square().mean()
        if self.legacy:
            loss = to_encoder + self.beta * to_codebook
        else:
            loss = to_codebook + self.beta * to_encoder
        return Quantized(continuous + (codes - continuous).detach(), indices, loss)

    @torch.no_grad()
    def record_usage(self, indices: Tensor, *, decay: float = 0.99) -> None:
        """Update the running average of how often each code is chosen in a step."""
        counts = torch.bincount(indices.flatten(), minlength=self.num_codes).to(self.usage)
        self.usage.mul_(decay).add_(counts, alpha=1 - decay)

    @torch.no_grad()
    def revive_dead_codes(
        self, latent: Tensor, *, below: float = 1e-3, generator: torch.Generator
    ) -> int:
        """Move codes chosen less than ``below`` times a step onto latent vectors drawn at random.

        On a fresh codebook every code is dead: the first call is its initialisation from data.

        Args:
            latent: (b, g * d, *size), continuous.
            below: Running count under which a code is dead.
            generator: A CPU generator; the draw is part of the run's seed.

        Returns:
            How many codes were moved.
        """
        dead = (self.usage < below).nonzero().flatten()
        tokens = self.tokens(latent).to(self.codebook)
        pick = torch.randint(tokens.shape[0], (len(dead),), generator=generator)
        self.codebook[dead] = tokens[pick.to(tokens.device)]
        self.usage[dead] = 1.0
        return len(dead)

    def usage_report(self) -> dict[str, float]:
        """Share of codes in use and perplexity of the running counts; 0 before any are recorded."""
        total = self.usage.sum()
        if total == 0:
            return {"codes_used": 0.0, "perplexity": 0.0}
        share = self.usage / total
        entropy = -(share * (share + 1e-12).log()).sum()
        return {
            "codes_used": float((self.usage > 1e-3).float().mean()),
            "perplexity": float(entropy.exp()),
        }
