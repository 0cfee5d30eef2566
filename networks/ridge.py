"""A translation of latents in closed form: ridge regression on random Fourier features."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW, WIDE = 3, 7  #: sides of the neighbourhoods whose means are features, in latent voxels
WIDE_CHANNELS = 8
BACKGROUND = 0.05
CHUNK = 16384  #: voxels whose features are held at once


class RidgePath(nn.Module):
    """Predict the target's latent from the source's, voxel by voxel, without gradient descent.

    z_t = W[s, t]^T phi(z_s), phi = (u, cos(A u + b), 1), where u holds the latent at a voxel, its
    mean over 3 voxels a side and that of the leading channels over 7, each channel in units of its
    spread; A and b are drawn once (random Fourier features: Rahimi and Recht 2007). W minimises the
    weighted squared error plus a ridge penalty, one regression for every pair of source and target.

    Where the source latent is background (near 0 in all channels), so is the answer, and such
    places are left out of the fit and of the work.

    It is our addition to ALDM: MS-SPADE then learns what such a regression misses. A new path
    returns the source.

    Everything is computed in float64, which autocast leaves alone.

    Args:
        latent_channels: Channels of the latent; the leading ones should carry most energy.
        num_modalities: Number of sources and targets.
        features: Number of cosines.
        bandwidth: Scale of A: larger follows finer differences in intensity.
        spatial_dims: 2 or 3.
        seed: Of A and b.
        background: Magnitude of a scaled latent up to which it is background. A trained encoder in
            bfloat16 may need more: at 0.05, that of ``brain_mri_translation`` has none.
    """

    spread: Tensor
    frequencies: Tensor
    phases: Tensor
    weights: Tensor

    def __init__(
        self,
        latent_channels: int,
        num_modalities: int,
        *,
        features: int = 512,
        bandwidth: float = 0.3,
        spatial_dims: int = 3,
        seed: int = 0,
        background: float = BACKGROUND,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.num_modalities = spatial_dims, num_modalities
        self.narrow, self.wide, self.chunk = NARROW, WIDE, CHUNK
        self.background = background
        self.wide_channels = min(WIDE_CHANNELS, latent_channels)
        inputs = 2 * latent_channels + self.wide_channels
        importance = torch.full([inputs], 0.35)
        importance[:4] = 1.0
        importance[latent_channels : latent_channels + 4] = 1.0
        importance[2 * latent_channels :] = 0.7
        generator = torch.Generator().manual_seed(seed)
        frequencies = torch.randn(features, inputs, generator=generator) * importance * bandwidth
        phases = 2 * torch.pi * torch.rand(features, generator=generator)
        total = inputs + features + 1
        weights = torch.zeros(num_modalities, num_modalities, total, latent_channels)
        weights[:, :, :latent_channels] = torch.eye(latent_channels)
        self.register_buffer("spread", torch.ones(latent_channels))
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", phases)
        self.register_buffer("weights", weights)

    def inputs(self, latent: Tensor) -> Tensor:
        """The inputs u of one latent (c, *size): (voxels, 2 c + wide channels), float64."""
        scaled = latent.double() / self.spread.double().view([-1] + [1] * self.spatial_dims)
        near = self.mean(scaled, self.narrow)
        far = self.mean(scaled[: self.wide_channels], self.wide)
        return torch.cat([scaled, near, far]).flatten(1).t()

    def inside(self, latent: Tensor) -> Tensor:
        """Where one latent (c, *size) is not background: (*size) bool."""
        return latent.abs().amax(0) > self.background

    def mean(self, x: Tensor, side: int) -> Tensor:
        """Mean over a neighbourhood, zeros (background) outside."""
        padded = F.pad(x, [side // 2] * (2 * self.spatial_dims)).unsqueeze(0)
        if self.spatial_dims == 3:
            return F.avg_pool3d(padded, side, stride=1).squeeze(0)
        return F.avg_pool2d(padded, side, stride=1).squeeze(0)

    def features(self, inputs: Tensor) -> Tensor:
        """The features phi of rows of u: (n, inputs) to (n, inputs + features + 1)."""
        angles = inputs @ self.frequencies.double().t() + self.phases.double()
        return torch.cat([inputs, angles.cos(), torch.ones_like(inputs[:, :1])], dim=1)

    def forward(self, latent: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Latent (b, c, *size), source and target (b,) int64, to the target's latent."""
        translated: list[Tensor] = []
        for row in range(latent.shape[0]):
            inside = self.inside(latent[row]).flatten()
            inputs = self.inputs(latent[row])[inside]
            weights = self.weights[source[row], target[row]].double()
            parts: list[Tensor] = [inputs[:0, : latent.shape[1]]]
            for start in range(0, inputs.shape[0], self.chunk):
                parts.append(self.features(inputs[start : start + self.chunk]) @ weights)
            found = inputs.new_zeros([inside.shape[0], latent.shape[1]])
            found[inside] = torch.cat(parts)
            translated.append(found.t().reshape(latent[row].shape))
        return torch.stack(translated).to(latent.dtype)

    def zeros(self, columns: int) -> list[Tensor]:
        """A float64 sum over features for every target, to be added up."""
        rows = self.weights.shape[2]
        return [torch.zeros(rows, columns, dtype=torch.float64) for _ in range(self.num_modalities)]

    @torch.no_grad()
    def fit(
        self, cases: Iterable[tuple[Mapping[int, Tensor], float]], *, ridge: float = 1e-2
    ) -> Tensor:
        """Regress every target on every source; a pair that no case has keeps its weights.

        Args:
            cases: Each a mapping from modality index to latent (c, *size), and the weight of the
                case. They are gone through twice.
            ridge: Penalty in units of the features' mean square.

        Returns:
            (sources, targets) float64: the weighted mean square of what each regression misses of
            the cases it was fitted to, infinite for a pair that no case has.

        Raises:
            ValueError: There is no case.
        """
        cases = list(cases)
        if not cases:
            raise ValueError("no cases to fit the ridge path to")
        every = [latent for latents, _ in cases for latent in latents.values()]
        tokens = [z.double().flatten(1)[:, self.inside(z).flatten()] for z in every]
        self.spread.copy_(torch.cat(tokens, dim=1).std(1).clamp(min=1e-6))
        size = self.weights.shape[2]
        missed = torch.full(self.weights.shape[:2], float("inf"), dtype=torch.float64)
        for source in range(self.num_modalities):
            having = [(latents, weight) for latents, weight in cases if source in latents]
            moments = self.zeros(size)
            products = self.zeros(len(self.spread))
            energies = torch.zeros(self.num_modalities, dtype=torch.float64)
            for latents, weight in having:
                inside = self.inside(latents[source]).flatten()
                inputs = self.inputs(latents[source])[inside]
                moment = torch.zeros_like(moments[0])
                product = {i: torch.zeros_like(products[0]) for i in latents if i != source}
                for start in range(0, len(inputs), self.chunk):
                    rows = slice(start, start + self.chunk)
                    phi = self.features(inputs[rows])
                    moment += (phi.t() @ phi).cpu()
                    for index, total in product.items():
                        wanted = latents[index].double().flatten(1)[:, inside].t()[rows]
                        total += (phi.t() @ wanted).cpu()
                        energies[index] += weight * wanted.square().sum().cpu()
                for index, total in product.items():
                    moments[index] += weight * moment
                    products[index] += weight * total
            for target in range(self.num_modalities):
                if moments[target].any():
                    strength = ridge * moments[target].diagonal().mean()
                    penalty = strength * torch.eye(size, dtype=torch.float64)
                    solved = torch.linalg.solve(moments[target] + penalty, products[target])
                    self.weights[source, target] = solved.to(self.weights)
                    explained = 2 * products[target] - moments[target] @ solved
                    rest = energies[target] - (solved * explained).sum()
                    count = moments[target][-1, -1] * len(self.spread)  # phi ends with a one
                    missed[source, target] = rest / count
        return missed
