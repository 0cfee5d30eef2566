"""Autoencoder, prior and denoiser as one network, with what its weights were made for."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .availability import check_available
from .noise_scheduler import DIFFUSION_FACTS
from .prior import EncodedCase, PriorOutput
from .resshift import RESSHIFT_FACTS
from .text_knowledge import TextKnowledge
from .volume_regression import VolumeRegression

START = "start_timestep"


class TranslationNetwork(nn.Module):
    """Autoencoder, prior and denoiser under one roof, so that their weights are one file.

    Two buffers travel with the weights: ``scale_factor`` (one over the standard deviation of the
    training latents; the prior and the denoiser see scaled latents) and ``contract``, the facts
    without which the weights mean something else (modality order, normalisation, schedule, which
    latent is diffused). Loading weights whose contract differs from the configured one is refused.

    Args:
        autoencoder: Offers ``encode(volume)``, ``encode_continuous(volume)`` and
            ``decode(latent)``.
        prior: Called as ``prior(latents, available, target)``. One that reads volumes too offers
            ``encode_case(volumes, available)``, called once per case, and gets what that gave as
            its last argument.
        denoiser: Called as ``denoiser(x_t, timesteps, concat=..., modality=...)``; with ``text``
            and ``text_mask`` too where there is text.
        modalities: Names in one-hot order.
        quantized: Diffuse the quantised latent; else the continuous one.
        normalization: The preprocessing the weights expect (percentiles, spacing).
        shifts: Moves (voxels along each axis) of the volume against the autoencoder's blocks, over
            which a translation is averaged; none for a single pass.
        least_size: Voxels on each axis that the networks are shown at least, background around a
            smaller head; none if any size will do.
        schedule: What the denoiser is trained with, the ``facts`` of its scheduler:
            ``num_train_timesteps``, ``beta_start``, ``beta_end``, ``prediction_type`` and, where
            training visits no more, ``start_timestep``; or ResShift's ``num_train_timesteps``,
            ``kappa``, ``power``, ``min_noise_level``, ``etas_end`` and ``pixel_space``.
        text: Descriptions of the modalities in their order, for a denoiser that reads them. Its key
            joins the contract.
        regression: Called as ``regression(volume, source)``, gives all contrasts' volumes, of which
            its ``share`` goes into every translation (``VolumeRegression``). None for none; it is
            no part of ``forward``.

    Raises:
        ValueError: A modality is named twice, the schedule is neither, there is not one description
            a modality, or a regression, which answers from one source, stands beside a prior that
            takes several.
    """

    scale_factor: Tensor
    contract: Tensor

    def __init__(
        self,
        autoencoder: nn.Module,
        prior: nn.Module,
        denoiser: nn.Module,
        *,
        modalities: Sequence[str],
        quantized: bool,
        normalization: Mapping[str, Any],
        schedule: Mapping[str, Any],
        shifts: Sequence[Sequence[int]] = (),
        least_size: Sequence[int] = (),
        text: TextKnowledge | None = None,
        regression: VolumeRegression | None = None,
    ) -> None:
        super().__init__()
        if len(set(modalities)) != len(modalities):
            raise ValueError(f"modalities must differ, got {list(modalities)}")
        schedule = {name: value for name, value in schedule.items() if value is not None}
        if set(schedule) - {START} != set(DIFFUSION_FACTS) and set(schedule) != set(RESSHIFT_FACTS):
            raise ValueError(
                f"schedule must have exactly {DIFFUSION_FACTS}, with {START} or without, or "
                f"{RESSHIFT_FACTS}, got {tuple(schedule)}"
            )
        if text is not None and len(text.tokens) != len(modalities):
            raise ValueError(f"{len(text.tokens)} descriptions for {len(modalities)} modalities")
        if regression is not None and hasattr(prior, "encode_case"):
            raise ValueError("a regression answers from one source, this prior takes several")
        self.autoencoder, self.prior, self.denoiser = autoencoder, prior, denoiser
        self.text = text
        self.regression = regression
        self.modalities = list(modalities)
        self.quantized = quantized
        self.shifts = [list(shift) for shift in shifts]
        self.least_size = list(least_size)
        facts = {
            "modalities": list(modalities),
            "quantized": quantized,
            "normalization": dict(normalization),
            "schedule": dict(schedule),
        }
        if text is not None:
            facts["text"] = text.key
        self.register_buffer("scale_factor", torch.ones(()))
        self.register_buffer("contract", encode_contract(facts))

    def encode(self, volume: Tensor) -> Tensor:
        """Scaled latent (b, c, *size / f) of a volume (b, 1, *size) in [-1, 1]."""
        if self.quantized:
            return self.autoencoder.encode(volume).quantized * self.scale_factor  # type: ignore[operator]
        return self.autoencoder.encode_continuous(volume) * self.scale_factor  # type: ignore[operator]

    def decode(self, latent: Tensor) -> Tensor:
        """Volume (b, 1, *size) of a scaled latent (b, c, *size / f)."""
        return self.autoencoder.decode(latent / self.scale_factor)  # type: ignore[operator]

    def encode_given(self, volumes: Tensor, available: Tensor) -> Tensor:
        """Scaled latents (b, m, c, *size / f) of what is given of (b, m, *size), zeros elsewhere.

        One modality at a time, since whole volumes are large; slots that are not available, (b, m)
        bool, are not read.
        """
        check_available(available, volumes)
        slots = [slot for slot in range(volumes.shape[1]) if bool(available[:, slot].any())]
        found = [self.encode(volumes[available[:, slot], slot].unsqueeze(1)) for slot in slots]
        latents = found[0].new_zeros((*volumes.shape[:2], *found[0].shape[1:]))
        for slot, latent in zip(slots, found, strict=True):
            latents[available[:, slot], slot] = latent
        return latents

    def encode_case(self, volumes: Tensor, available: Tensor) -> EncodedCase:
        """Encode what is given of a case, once for any number of targets.

        Args:
            volumes: One slot for each modality in order, (b, m, *size) in [-1, 1]; slots that are
                not available may hold anything.
            available: (b, m) bool, at least one a sample.

        Returns:
            What ``ask_prior`` wants.
        """
        latents = self.encode_given(volumes, available)
        structure = None
        if hasattr(self.prior, "encode_case"):
            structure = self.prior.encode_case(volumes, available)  # type: ignore[operator]
        return EncodedCase(latents, available, structure)

    def ask_prior(self, case: EncodedCase, target: Tensor) -> PriorOutput:
        """What the prior says of each row's target (b,) int64."""
        if case.structure is None:
            return self.prior(case.latents, case.available, target)
        return self.prior(case.latents, case.available, target, case.structure)

    def text_of(self, target: Tensor) -> dict[str, Tensor]:
        """What the denoiser is told of targets (b,): ``text`` and ``text_mask``, or nothing."""
        if self.text is None:
            return {}
        tokens, mask = self.text(target)
        return {"text": tokens, "text_mask": mask}

    def forward(self, image: Tensor) -> Tensor:
        """Translate by the prior alone, without diffusion: one pass, no noise.

        This is ALDM's "MS-SPADE only" ablation (Table 3) and what exports to TorchScript.

        Args:
            image: (b, 1, *size) in [-1, 1], every size a multiple of the autoencoder's
                downsampling.

        Returns:
            (b, m, *size): the translation into each modality, in order.
        """
        latent = self.encode(image)
        count = len(self.modalities)
        batch = latent.shape[0]
        slots = torch.stack([latent] + [torch.zeros_like(latent)] * (count - 1), dim=1)
        available = torch.arange(count, device=image.device).eq(0).unsqueeze(0).repeat(batch, 1)
        structure = latent  # of a prior that reads latents alone: none
        if hasattr(self.prior, "encode_case"):
            volumes = torch.cat([image] + [torch.zeros_like(image)] * (count - 1), dim=1)
            structure = self.prior.encode_case(volumes, available)  # type: ignore[operator]
        translated = []
        for index in range(count):
            target = torch.full([batch], index, dtype=torch.int64, device=image.device)
            if hasattr(self.prior, "encode_case"):
                start = self.prior(slots, available, target, structure).start
            else:
                start = self.prior(slots, available, target).start
            translated.append(self.decode(start))
        return torch.cat(translated, dim=1)

    def facts(self) -> dict[str, Any]:
        """The contract as a dictionary."""
        return decode_contract(self.contract)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = state_dict.get(prefix + "contract")
        if found is not None and not torch.equal(found.cpu(), self.contract.cpu()):
            theirs, ours = decode_contract(found), self.facts()
            differ = "; ".join(
                f"{key}: weights {theirs.get(key)}, configuration {ours.get(key)}"
                for key in differing_facts(theirs, ours)
            )
            if differ:
                error_msgs.append(f"the weights were made for something else ({differ})")
            state_dict = {**state_dict, prefix + "contract": self.contract}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def encode_contract(facts: Mapping[str, Any]) -> Tensor:
    """JSON bytes as a uint8 tensor, so that any weight format carries them."""
    return torch.tensor(list(json.dumps(facts, sort_keys=True).encode()), dtype=torch.uint8)


def decode_contract(contract: Tensor) -> dict[str, Any]:
    """Read what ``encode_contract`` wrote."""
    return json.loads(bytes(contract.cpu().tolist()).decode())


def differing_facts(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What of a contract keeps its weights from serving a configuration, by name.

    Weights that were taught more timesteps than the configuration asks for do serve.
    """
    differ = [name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)]
    if "schedule" in differ:
        taught, asked = dict(theirs.get("schedule", {})), dict(ours.get("schedule", {}))
        most = taught.get("num_train_timesteps", 0) - 1
        enough = taught.pop(START, most) >= asked.pop(START, most)
        if enough and taught == asked:
            differ.remove("schedule")
    return sorted(differ)
