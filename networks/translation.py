"""Autoencoder, prior and denoiser as one network, with what its weights were made for."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .noise_scheduler import DIFFUSION_FACTS
from .resshift import RESSHIFT_FACTS
from .text_knowledge import TextKnowledge

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
        prior: Called as ``prior(latents, available, target)``.
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

    Raises:
        ValueError: A modality is named twice, the schedule is neither, or there is not one
            description a modality.
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
        self.autoencoder, self.prior, self.denoiser = autoencoder, prior, denoiser
        self.text = text
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
        translated = []
        for index in range(count):
            target = torch.full([batch], index, dtype=torch.int64, device=image.device)
            translated.append(self.decode(self.prior(slots, available, target).start))
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
