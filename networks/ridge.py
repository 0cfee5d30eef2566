"""A translation of latents in closed form: ridge regression on random Fourier features."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW, WIDE = 3, 7  #: sides of the neighbourhoods whose means are features, in latent voxels
WIDE_CHANNELS = 8
AROUND, FAR = 5, 15  #: the same of what an earlier round answered
AROUND_CHANNELS, FAR_CHANNELS = 8, 4
BACKGROUND = 0.05
CHUNK = 16384  #: voxels whose features are held at once


class Sample(NamedTuple):
    """One case as a regression sees it.

    ``inputs`` (n, inputs) are u at the source's voxels that are not background, ``wanted`` the
    latents (n, c) of other modalities there, by index, both float64; ``weight`` is the case's.
    """

    inputs: Tensor
    wanted: Mapping[int, Tensor]
    weight: float


class RidgeRound(nn.Module):
    """One regression of a ``RidgePath``: phi(u) = (u, cos(A u + b), 1), and its weights.

    Args:
        importance: Of each input; A's columns are in proportion to it.
        latent_channels: Of an answer; the leading inputs are the source's latent.
        num_modalities: Number of sources and targets.
        features: Number of cosines.
        seed: Of A and b.
    """

    frequencies: Tensor
    phases: Tensor
    weights: Tensor

    def __init__(
        self,
        importance: Tensor,
        latent_channels: int,
        num_modalities: int,
        *,
        features: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.chunk = CHUNK
        inputs = len(importance)
        generator = torch.Generator().manual_seed(seed)
        frequencies = torch.randn(features, inputs, generator=generator) * importance
        phases = 2 * torch.pi * torch.rand(features, generator=generator)
        weights = torch.zeros(
            num_modalities, num_modalities, inputs + features + 1, latent_channels
        )
        weights[:, :, :latent_channels] = torch.eye(latent_channels)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", phases)
        self.register_buffer("weights", weights)

    def features(self, inputs: Tensor) -> Tensor:
        """The features phi of rows of u, float64: (n, inputs) to (n, inputs + features + 1)."""
        angles = inputs @ self.frequencies.double().t() + self.phases.double()
        return torch.cat([inputs, angles.cos(), torch.ones_like(inputs[:, :1])], dim=1)

    def answers(self, inputs: Tensor, source: int) -> Tensor:
        """Every target's latent at rows of u: (n, inputs) to (n, m, c), float64."""
        weights = self.weights[source].double()
        flat = weights.transpose(0, 1).flatten(1)
        parts: list[Tensor] = [inputs.new_zeros([0, flat.shape[1]])]
        for start in range(0, inputs.shape[0], self.chunk):
            parts.append(self.features(inputs[start : start + self.chunk]) @ flat)
        return torch.cat(parts).unflatten(1, [weights.shape[0], weights.shape[2]])

    def fit(self, source: int, samples: Iterable[Sample], ridge: float) -> Tensor:
        """Regress every target on one source; returns what is missed (m,), see ``RidgePath.fit``.

        Args:
            source: Index of a modality.
            samples: Of the cases.
            ridge: Penalty in units of the features' mean square.
        """
        modalities, size, channels = self.weights.shape[1:]
        moments, products = new_sums(modalities, size, size), new_sums(modalities, size, channels)
        energies = new_sums(modalities)
        for inputs, wanted, weight in samples:
            moment, product = new_sums(size, size), new_sums(modalities, size, channels)
            for start in range(0, len(inputs), self.chunk):
                rows = slice(start, start + self.chunk)
                phi = self.features(inputs[rows])
                moment += (phi.t() @ phi).cpu()
                for index, latent in wanted.items():
                    product[index] += (phi.t() @ latent[rows]).cpu()
                    energies[index] += weight * latent[rows].square().sum().cpu()
            for index in wanted:
                moments[index] += weight * moment
                products[index] += weight * product[index]
        missed = torch.full([modalities], float("inf"), dtype=torch.float64)
        for target in range(modalities):
            if moments[target].any():
                strength = ridge * moments[target].diagonal().mean()
                penalty = strength * torch.eye(size, dtype=torch.float64)
                solved = torch.linalg.solve(moments[target] + penalty, products[target])
                self.weights[source, target] = solved.to(self.weights)
                explained = 2 * products[target] - moments[target] @ solved
                rest = energies[target] - (solved * explained).sum()
                missed[target] = rest / (moments[target][-1, -1] * channels)  # phi ends with a one
        return missed


def new_sums(*shape: int) -> Tensor:
    """Zeros in float64, to be added to."""
    return torch.zeros(shape, dtype=torch.float64)


class RidgePath(nn.Module):
    """Predict the target's latent from the source's, voxel by voxel, without gradient descent.

    z_t = W[s, t]^T phi(z_s), phi = (u, cos(A u + b), 1), where u holds the latent at a voxel, its
    mean over 3 voxels a side and that of the leading channels over 7, each channel in units of its
    spread; A and b are drawn once (random Fourier features: Rahimi and Recht 2007). W minimises the
    weighted squared error plus a ridge penalty, one regression for every pair of source and target.

    In a further round u also holds what the round before answered of all other modalities, at the
    voxel and in means over 5 and 15 (auto-context: Tu and Bai 2010). So it sees farther: the same
    grey is one thing in a ventricle and another beside it.

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
        rounds: Regressions, one after another.
        seed: Of A and b.
        background: Magnitude of a scaled latent up to which it is background. A trained encoder in
            bfloat16 may need more: at 0.05, that of ``brain_mri_translation`` has none.
    """

    spread: Tensor

    def __init__(
        self,
        latent_channels: int,
        num_modalities: int,
        *,
        features: int = 512,
        bandwidth: float = 0.3,
        spatial_dims: int = 3,
        rounds: int = 1,
        seed: int = 0,
        background: float = BACKGROUND,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.num_modalities = spatial_dims, num_modalities
        self.narrow, self.wide, self.around, self.far = NARROW, WIDE, AROUND, FAR
        self.background = background
        self.wide_channels = min(WIDE_CHANNELS, latent_channels)
        self.around_channels = min(AROUND_CHANNELS, latent_channels)
        self.far_channels = min(FAR_CHANNELS, latent_channels)
        importance = torch.full([2 * latent_channels + self.wide_channels], 0.35)
        importance[:4] = 1.0
        importance[latent_channels : latent_channels + 4] = 1.0
        importance[2 * latent_channels :] = 0.7
        context = (num_modalities - 1) * (2 * self.around_channels + self.far_channels)
        wider = torch.cat([importance, torch.full([context], 0.7)])
        self.rounds = nn.ModuleList(
            RidgeRound(
                bandwidth * (wider if index else importance),
                latent_channels,
                num_modalities,
                features=features,
                seed=seed + index,
            )
            for index in range(rounds)
        )
        self.register_buffer("spread", torch.ones(latent_channels))

    def scaled(self, latent: Tensor) -> Tensor:
        """Latents (*, c, *size) in units of the spread, float64."""
        return latent.double() / self.spread.double().view([-1] + [1] * self.spatial_dims)

    def inputs(self, latent: Tensor) -> Tensor:
        """The inputs u of one latent (c, *size): (voxels, 2 c + wide channels), float64."""
        scaled = self.scaled(latent)
        near = self.mean(scaled, self.narrow)
        far = self.mean(scaled[: self.wide_channels], self.wide)
        return torch.cat([scaled, near, far]).flatten(1).t()

    def context(self, answers: Tensor, source: int) -> Tensor:
        """What all other answers (m, c, *size) add to u: (voxels, a number for each m - 1)."""
        parts: list[Tensor] = []
        for index in range(answers.shape[0]):
            if index != source:
                scaled = self.scaled(answers[index])
                parts.append(scaled[: self.around_channels])
                parts.append(self.mean(scaled[: self.around_channels], self.around))
                parts.append(self.mean(scaled[: self.far_channels], self.far))
        return torch.cat(parts).flatten(1).t()

    def inside(self, latent: Tensor) -> Tensor:
        """Where one latent (c, *size) is not background: (*size) bool."""
        return latent.abs().amax(0) > self.background

    def mean(self, x: Tensor, side: int) -> Tensor:
        """Mean over a neighbourhood, axis by axis, zeros (background) outside."""
        x = x.unsqueeze(0)
        for axis in range(self.spatial_dims):
            kernel = [1] * self.spatial_dims
            kernel[self.spatial_dims - 1 - axis] = side
            x = F.pad(x, [0] * (2 * axis) + [side // 2] * 2)
            if self.spatial_dims == 3:
                x = F.avg_pool3d(x, kernel, stride=1)
            else:
                x = F.avg_pool2d(x, kernel, stride=1)
        return x.squeeze(0)

    def answers(self, latent: Tensor, source: int, rounds: int) -> Tensor:
        """Every target's latent of one source's (c, *size): (m, c, *size), float64."""
        inside = self.inside(latent).flatten()
        inputs = self.inputs(latent)[inside]
        found = inputs.new_zeros([self.num_modalities, latent.shape[0], inside.shape[0]])
        for index, regression in enumerate(self.rounds):
            if index < rounds:
                seen = inputs
                if index > 0:
                    context = self.context(found.view([-1] + list(latent.shape)), source)
                    seen = torch.cat([inputs, context[inside]], dim=1)
                answers = regression.answers(seen, source)  # type: ignore[operator]
                found[:, :, inside] = answers.permute(1, 2, 0)
        return found.view([-1] + list(latent.shape))

    def forward(self, latent: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Latent (b, c, *size), source and target (b,) int64, to the target's latent.

        Rows of one latent after another, as of a case's targets, are answered together.
        """
        answers = latent.new_zeros([0])
        translated: list[Tensor] = []
        for row in range(latent.shape[0]):
            again = row > 0 and bool(source[row] == source[row - 1])
            if not again or not torch.equal(latent[row], latent[row - 1]):
                answers = self.answers(latent[row], int(source[row]), len(self.rounds))
            translated.append(answers[target[row]])
        return torch.stack(translated).to(latent.dtype)

    @torch.no_grad()
    def fit(
        self, cases: Iterable[tuple[Mapping[int, Tensor], float]], *, ridge: float = 1e-2
    ) -> Tensor:
        """Regress every target on every source; a pair that no case has keeps its weights.

        Args:
            cases: Each a mapping from modality index to latent (c, *size), and the weight of the
                case. They are gone through once for the spread and once for each round.
            ridge: Penalty in units of the features' mean square.

        Returns:
            (sources, targets) float64: the weighted mean square of what the last round misses of
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
        missed = []
        for source in range(self.num_modalities):
            having = [(latents, weight) for latents, weight in cases if source in latents]
            for index, regression in enumerate(self.rounds):
                samples = (self.sample(*case, source, rounds=index) for case in having)
                found = regression.fit(source, samples, ridge)  # type: ignore[operator]
            missed.append(found)
        return torch.stack(missed)

    def sample(
        self, latents: Mapping[int, Tensor], weight: float, source: int, *, rounds: int
    ) -> Sample:
        """A case for the regression that comes after so many rounds."""
        inside = self.inside(latents[source]).flatten()
        inputs = self.inputs(latents[source])
        if rounds:
            answers = self.answers(latents[source], source, rounds)
            inputs = torch.cat([inputs, self.context(answers, source)], dim=1)
        wanted = {
            index: latent.double().flatten(1).t()[inside]
            for index, latent in latents.items()
            if index != source
        }
        return Sample(inputs[inside], wanted, weight)
