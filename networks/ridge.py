"""A translation of latents in closed form: ridge regression on random Fourier features."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW, WIDE = 3, 7  #: sides of the neighbourhoods whose means are features, in latent voxels
WIDE_CHANNELS = 8
BACKGROUND = 0.05  #: magnitude of a scaled latent up to which it is background
CHUNK = 16384  #: voxels whose features are held at once
LIKENESS = 0.1  #: distance of profiles at which an expert counts exp(-1/2)


class RidgePath(nn.Module):
    """Predict the target's latent from the source's, voxel by voxel, without gradient descent.

    z_t = W[s, t]^T phi(z_s), phi = (u, cos(A u + b), 1), where u holds the latent at a voxel, its
    mean over 3 voxels a side and that of the leading channels over 7, each channel in units of its
    spread; A and b are drawn once (random Fourier features: Rahimi and Recht 2007). W minimises the
    weighted squared error plus a ridge penalty, one regression for every pair of source and target.

    Scanners and protocols differ, and no one regression fits them all. With several ``experts``,
    each has regressions of its own, and a latent is translated by their mean, weighted by how like
    the latent is to what the expert was fitted to: exp(-d^2 / (2 LIKENESS^2)), where d is the root
    mean square difference of profiles, the logarithms of the channels' spreads inside the head.
    They tell of resolution and contrast, not of anatomy.

    Where the source latent is background (near 0 in all channels), so is the answer, and such
    places are left out of the fit.

    It is our addition to ALDM: MS-SPADE then learns what such a regression misses. A new path
    returns the source.

    Everything is computed in float64, which autocast leaves alone.

    Args:
        latent_channels: Channels of the latent; the leading ones should carry most energy.
        num_modalities: Number of sources and targets.
        features: Number of cosines.
        bandwidth: Scale of A: larger follows finer differences in intensity.
        experts: Number of regressions for every pair.
        spatial_dims: 2 or 3.
        seed: Of A and b.
    """

    spread: Tensor
    frequencies: Tensor
    phases: Tensor
    weights: Tensor
    profiles: Tensor
    fitted: Tensor

    def __init__(
        self,
        latent_channels: int,
        num_modalities: int,
        *,
        features: int = 512,
        bandwidth: float = 0.3,
        experts: int = 1,
        spatial_dims: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.num_modalities = spatial_dims, num_modalities
        self.narrow, self.wide, self.chunk = NARROW, WIDE, CHUNK
        self.background, self.likeness, self.experts = BACKGROUND, LIKENESS, experts
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
        pairs = experts, num_modalities, num_modalities
        weights = torch.zeros(*pairs, total, latent_channels)
        weights[..., :latent_channels, :] = torch.eye(latent_channels)
        self.register_buffer("spread", torch.ones(latent_channels))
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", phases)
        self.register_buffer("weights", weights)
        self.register_buffer("profiles", torch.zeros(experts, num_modalities, latent_channels))
        self.register_buffer("fitted", torch.zeros(pairs))

    def inputs(self, latent: Tensor) -> Tensor:
        """The inputs u of one latent (c, *size): (voxels, 2 c + wide channels), float64."""
        scaled = latent.double() / self.spread.double().view([-1] + [1] * self.spatial_dims)
        near = self.mean(scaled, self.narrow)
        far = self.mean(scaled[: self.wide_channels], self.wide)
        return torch.cat([scaled, near, far]).flatten(1).t()

    def inside(self, latent: Tensor) -> Tensor:
        """Where one latent (c, *size) is not background: (*size) bool."""
        return latent.abs().amax(0) > self.background

    def profile(self, latent: Tensor) -> Tensor:
        """Logarithms of the channels' spreads inside one latent (c, *size): (c,), float64."""
        tokens = latent.double().flatten(1)[:, self.inside(latent).flatten()]
        if tokens.shape[1] < 2:
            return torch.zeros_like(self.spread, dtype=torch.float64)
        return tokens.std(1).clamp(min=1e-6).log()

    def likely(self, latent: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """How much each expert counts for one latent (c, *size) and its pair: (e,), sum 1.

        All count alike while none is fitted to the pair.
        """
        differences = self.profile(latent) - self.profiles[:, source].double()
        distances = differences.square().mean(1)
        scores = -distances / (2 * self.likeness**2)
        known = self.fitted[:, source, target] > 0
        if bool(known.any()):
            scores = scores.masked_fill(~known, -1e9)
        return scores.softmax(0)

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
            inputs = self.inputs(latent[row])
            likely = self.likely(latent[row], source[row], target[row])
            own = self.weights[:, source[row], target[row]].double()
            weights = (likely.view(-1, 1, 1) * own).sum(0)
            parts: list[Tensor] = []
            for start in range(0, inputs.shape[0], self.chunk):
                parts.append(self.features(inputs[start : start + self.chunk]) @ weights)
            inside = self.inside(latent[row]).flatten().unsqueeze(1)
            found = (torch.cat(parts) * inside).t()
            translated.append(found.reshape(latent[row].shape))
        return torch.stack(translated).to(latent.dtype)

    @torch.no_grad()
    def fit(
        self,
        cases: Iterable[tuple[Mapping[int, Tensor], float | Sequence[float]]],
        *,
        ridge: float = 1e-2,
    ) -> None:
        """Regress every target on every source; a pair that no case has keeps its weights.

        Args:
            cases: Each a mapping from modality index to latent (c, *size), and how much the case
                counts: for the one expert, or for each.
            ridge: Penalty in units of the features' mean square.

        Raises:
            ValueError: There is no case, or its weights are not one for each expert.
        """
        counted = [
            (latents, torch.as_tensor(weight, dtype=torch.float64).reshape(-1))
            for latents, weight in cases
        ]
        if not counted:
            raise ValueError("no cases to fit the ridge path to")
        for _, counts in counted:
            if len(counts) != self.experts:
                raise ValueError(f"a case needs {self.experts} weights, got {counts.tolist()}")
        every = [latent for latents, _ in counted for latent in latents.values()]
        tokens = [z.double().flatten(1)[:, self.inside(z).flatten()] for z in every]
        self.spread.copy_(torch.cat(tokens, dim=1).std(1).clamp(min=1e-6))
        for source in range(self.num_modalities):
            self._fit_source(source, [case for case in counted if source in case[0]], ridge)

    def _fit_source(
        self, source: int, cases: Sequence[tuple[Mapping[int, Tensor], Tensor]], ridge: float
    ) -> None:
        """Regress on one source; ``cases`` have it, and weights (e,)."""
        rows, columns = self.weights.shape[3:]
        pairs = self.experts, self.num_modalities
        moments = torch.zeros(*pairs, rows, rows, dtype=torch.float64)
        products = torch.zeros(*pairs, rows, columns, dtype=torch.float64)
        total = torch.zeros(self.experts, dtype=torch.float64)
        profiles = torch.zeros(self.experts, columns, dtype=torch.float64)
        for latents, counts in cases:
            total += counts
            profiles += counts[:, None] * self.profile(latents[source]).cpu()
            moment, found = self._sums(latents, source)
            for target, product in found.items():
                moments[:, target] += counts[:, None, None] * moment
                products[:, target] += counts[:, None, None] * product
        if len(cases):
            self.profiles[:, source] = (profiles / total.clamp(min=1e-12)[:, None]).to(
                self.profiles
            )
        for expert in range(self.experts):
            for target in range(self.num_modalities):
                moment = moments[expert, target]
                if moment.any():
                    penalty = ridge * moment.diagonal().mean() * torch.eye(rows).double()
                    solved = torch.linalg.solve(moment + penalty, products[expert, target])
                    self.weights[expert, source, target] = solved.to(self.weights)
                    self.fitted[expert, source, target] = 1

    def _sums(self, latents: Mapping[int, Tensor], source: int) -> tuple[Tensor, dict[int, Tensor]]:
        """phi^T phi inside a case's head, and phi^T z for each of its targets z."""
        inside = self.inside(latents[source]).flatten()
        inputs = self.inputs(latents[source])[inside]
        rows, columns = self.weights.shape[3:]
        moment = torch.zeros(rows, rows, dtype=torch.float64)
        products = {
            index: torch.zeros(rows, columns, dtype=torch.float64)
            for index in latents
            if index != source
        }
        for start in range(0, len(inputs), self.chunk):
            chunk = slice(start, start + self.chunk)
            phi = self.features(inputs[chunk])
            moment += (phi.t() @ phi).cpu()
            for index, total in products.items():
                wanted = latents[index].double().flatten(1)[:, inside].t()[chunk]
                total += (phi.t() @ wanted).cpu()
        return moment, products
