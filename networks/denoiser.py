"""The denoiser: a latent U-Net that sees time, target modality and concatenated latents (ALDM)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .band_attention import band_options
from .blocks import check_modality, check_text, conv, crop_like, group_norm, pad_to_multiple, zero
from .frequency_balance import FrequencyBalance
from .haar import haar_merge, haar_split
from .knowledge_guidance import KnowledgeGuidance
from .resnet import Downsample, Upsample, timestep_embedding
from .unet_layers import DownLevel, LayerFactory, UNetLayer, UpLevel

CONDITIONING = ("embedding", "cross_attention", "spatial_transformer")


class Denoiser(nn.Module):
    """Predict the noise, velocity or clean latent in a noisy one (which: the scheduler's choice).

    The U-Net of latent diffusion, block for block as ALDM's code has it: input convolution; on each
    level ``num_res_blocks`` residual blocks (with self-attention where asked) and a stride-2
    convolution; residual block, self-attention and residual block in the middle; on the way up one
    residual block more a level, each after the skip is concatenated, then nearest upsampling and a
    convolution; norm, SiLU and a convolution that starts at zero.

    A latent of any size goes in: its last voxels are repeated up to the next multiple of
    ``multiple`` and the result is cropped.

    Args:
        spatial_dims: 2 or 3.
        latent_channels: Channels of x_t and of the prediction.
        concat_channels: Channels of ``concat``; 0 for none.
        num_modalities: Number of target modalities; 0 for a denoiser without.
        channels: Width of each level. The first is also the length of the timestep's sinusoids.
        num_res_blocks: Residual blocks a level on the way down.
        attention_levels: Which levels have attention; the middle always has.
        num_head_channels: Channels of an attention head, one for all levels or each its own.
        modality_conditioning: ``"embedding"``, a learned vector added to the timestep's (ALDM's
            code), ``"cross_attention"`` to a one-hot token after each self-attention (its paper,
            eq. 3), or ``"spatial_transformer"``, latent diffusion's transformer block with that
            token in place of each self-attention (ALDM's older code).
        noisy_first: Concatenate as (x_t, concat), as ALDM's code does now; else (concat, x_t), as
            it did before.
        stem_levels: Haar levels that split x_t and concat before the first convolution and merge
            the prediction after the last: each halves the size the U-Net works at.
        norm_groups: Most groups of the group norms. Keep it well below the channels unless the
            embeddings scale and shift: with one channel a group, the norm takes out what an added
            embedding put in, and the network sees neither time nor modality.
        dropout: In the residual blocks.
        use_scale_shift_norm: Embeddings scale and shift after the norm instead of being added
            before it.
        use_checkpoint: Recompute each layer in the backward pass to save memory.
        swin: Window attention in place of self-attention, as ResShift's backbone has it: after the
            first residual block of each level of ``attention_levels``, and in the middle. The
            arguments of ``SwinLayer``; heads and norm groups are the denoiser's unless given. None
            for attention to the whole map.
        frequency_balance: Blocks on the decoder's features before each skip joins them: their
            ``levels``, as ``attention_levels`` has them, and the fields of ``BandOptions``. An
            attention takes in every second voxel along each axis at once: choose levels for which
            that is not too much. None for no blocks. See ``FrequencyBalance``.
        knowledge_guidance: A block in the middle that reads text: ``text_channels``, the width of a
            token, and the fields of ``BandOptions``. None for none. See ``KnowledgeGuidance``.
        refine_concat: Add the last latent of ``concat``, the prior's answer, to the output. For the
            prediction type "sample" an untrained denoiser then gives the prior's answer.
        refine_scale: Factor on what is added to the prior's answer; 1 in training. Below 1 it
            shrinks the changes of a denoiser that is not yet sure of them.

    Raises:
        ValueError: ``refine_concat`` without a latent in ``concat``, ``channels`` and another list
            of levels differ in length, ``modality_conditioning`` or an option of a block is unknown
            or missing, or (call, outside TorchScript) an argument does not fit the denoiser.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        latent_channels: int = 4,
        concat_channels: int = 8,
        *,
        num_modalities: int = 4,
        channels: Sequence[int] = (128, 128, 256),
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] = (False, True, True),
        num_head_channels: int | Sequence[int] = 32,
        modality_conditioning: str = "embedding",
        noisy_first: bool = True,
        stem_levels: int = 0,
        norm_groups: int = 32,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = False,
        use_checkpoint: bool = False,
        swin: Mapping[str, Any] | None = None,
        frequency_balance: Mapping[str, Any] | None = None,
        knowledge_guidance: Mapping[str, Any] | None = None,
        refine_concat: bool = False,
        refine_scale: float = 1.0,
    ) -> None:
        super().__init__()
        heads = (
            [num_head_channels] * len(channels)
            if isinstance(num_head_channels, int)
            else num_head_channels
        )
        if not len(channels) == len(attention_levels) == len(heads):
            raise ValueError(
                f"channels {channels}, attention_levels {attention_levels} and num_head_channels "
                f"{num_head_channels} differ in length"
            )
        if modality_conditioning not in CONDITIONING:
            raise ValueError(
                f"modality_conditioning must be in {CONDITIONING}, got {modality_conditioning!r}"
            )
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        self.latent_channels, self.concat_channels = latent_channels, concat_channels
        if refine_concat and concat_channels < latent_channels:
            raise ValueError(
                f"refine_concat needs concat_channels of at least {latent_channels}, "
                f"got {concat_channels}"
            )
        self.num_modalities, self.noisy_first = num_modalities, noisy_first
        self.refine_concat, self.refine_scale = refine_concat, refine_scale
        self.time_channels = channels[0]
        self.multiple = 2 ** (len(channels) - 1 + stem_levels)
        conditioning = modality_conditioning if num_modalities > 0 else "none"
        embedding_channels = 4 * channels[0]
        bands = 2 ** (spatial_dims * stem_levels)

        factory = LayerFactory(
            spatial_dims,
            embedding_channels,
            num_modalities,
            conditioning,
            use_scale_shift_norm,
            norm_groups,
            dropout,
            use_checkpoint,
            swin,
        )

        guidance = dict(knowledge_guidance or {})
        self.text_channels = int(guidance.pop("text_channels", 0))
        if knowledge_guidance is not None and self.text_channels < 1:
            raise ValueError(f"knowledge_guidance needs text_channels, got {knowledge_guidance}")
        balance = dict(frequency_balance or {})
        balance_levels = balance.pop("levels", [False] * len(channels))
        if len(balance_levels) != len(channels):
            raise ValueError(
                f"channels {channels} and the levels of frequency_balance {balance_levels} differ "
                "in length"
            )
        if frequency_balance is not None and not any(balance_levels):
            raise ValueError(f"frequency_balance names no level, got {frequency_balance}")

        def layer(width_in: int, level: int, attention: bool) -> UNetLayer:
            return factory.build(width_in, channels[level], heads[level], attention)

        def attends(level: int, turn: int) -> bool:
            return attention_levels[level] and (swin is None or turn == 0)

        self.time_mlp = nn.Sequential(
            nn.Linear(self.time_channels, embedding_channels),
            nn.SiLU(),
            nn.Linear(embedding_channels, embedding_channels),
        )
        self.modality_embedding = (
            nn.Embedding(num_modalities, embedding_channels)
            if conditioning == "embedding"
            else None
        )
        width = channels[0]
        self.conv_in = conv(spatial_dims, (latent_channels + concat_channels) * bands, width, 3)
        skips = [width]
        self.down = nn.ModuleList()
        for index, out in enumerate(channels):
            layers = []
            for turn in range(num_res_blocks):
                layers.append(layer(width, index, attends(index, turn)))
                width = out
                skips.append(width)
            last = index == len(channels) - 1
            if not last:
                skips.append(width)
            self.down.append(DownLevel(layers, None if last else Downsample(spatial_dims, width)))
        self.middle = nn.ModuleList([layer(width, index, True), layer(width, index, False)])
        self.guidance = (
            KnowledgeGuidance(
                width,
                self.text_channels,
                band_options(guidance),
                spatial_dims=spatial_dims,
                norm_groups=norm_groups,
            )
            if self.text_channels > 0
            else None
        )
        self.up = nn.ModuleList()
        depth = 0
        for index in reversed(range(len(channels))):
            layers = []
            balances: list[FrequencyBalance | nn.Identity] = []
            for turn in range(num_res_blocks + 1):
                if balance_levels[index]:
                    balances.append(
                        FrequencyBalance(
                            width,
                            band_options(balance),
                            spatial_dims=spatial_dims,
                            norm_groups=norm_groups,
                            depth=depth,
                        )
                    )
                    depth += 1
                else:
                    balances.append(nn.Identity())
                layers.append(layer(width + skips.pop(), index, attends(index, turn)))
                width = channels[index]
            resample = Upsample(spatial_dims, width) if index > 0 else None
            self.up.append(UpLevel(layers, balances, resample))
        self.norm_out = group_norm(width, norm_groups)
        self.conv_out = zero(conv(spatial_dims, width, latent_channels * bands, 3))

    def forward(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        concat: Tensor | None = None,
        modality: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict from a noisy latent.

        Args:
            x_t: Noisy latent (b, latent_channels, *size), any size.
            timesteps: (b,) or (), whole or fractional.
            concat: The prior's condition (b, concat_channels, *size); None where there is none.
            modality: Target, (b,) int64 indices, or (b, num_modalities) weights that mix
                modalities.
            text: Tokens that describe the target (b, n, text_channels); None where there are none.
            text_mask: True for real tokens, (b, n) bool; None if all are.

        Returns:
            The prediction, (b, latent_channels, *size).

        Raises:
            ValueError: An argument does not fit the denoiser.
        """
        if not torch.jit.is_scripting():
            self.check(x_t, timesteps, concat, modality)
            check_text(text, text_mask, self.text_channels, x_t.shape[0])
        embedding, token = self.embed(x_t, timesteps, modality)
        h = x_t
        if concat is not None:
            h = torch.cat([x_t, concat] if self.noisy_first else [concat, x_t], dim=1)
        h = pad_to_multiple(h, self.multiple)
        for _ in range(self.stem_levels):
            h = haar_split(h, self.spatial_dims)
        h = self.unet(h, embedding, token, text, text_mask)
        for _ in range(self.stem_levels):
            h = haar_merge(h, self.spatial_dims)
        h = crop_like(h, x_t)
        if self.refine_concat and concat is not None:
            h = concat[:, -self.latent_channels :] + self.refine_scale * h
        return h

    def embed(
        self, x_t: Tensor, timesteps: Tensor, modality: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The vector that every residual block sees (b, e), and the modality's token (b, 1, m)."""
        batch = x_t.shape[0]
        sinusoids = timestep_embedding(timesteps.expand(batch), self.time_channels)
        embedding = self.time_mlp(sinusoids.to(self.conv_in.weight.dtype))
        if modality is None:
            return embedding, embedding.new_zeros([batch, 1, 0])
        if modality.dim() == 1:  # one-hot
            every = torch.arange(self.num_modalities, device=modality.device)
            modality = modality.unsqueeze(1) == every
        weights = modality.to(self.conv_in.weight.dtype)
        if self.modality_embedding is not None:
            embedding = embedding + weights @ self.modality_embedding.weight
        return embedding, weights.unsqueeze(1)

    def unet(
        self,
        h: Tensor,
        embedding: Tensor,
        token: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
    ) -> Tensor:
        """The U-Net at its own resolution; every size a multiple of 2 ** (levels - 1)."""
        skips: list[Tensor] = [self.conv_in(h)]
        for level in self.down:
            skips.extend(level(skips[-1], embedding, token))
        h = skips[-1]
        h = self.middle[0](h, embedding, token)
        if self.guidance is not None and text is not None:
            h = self.guidance(h, text, text_mask)
        h = self.middle[1](h, embedding, token)
        for level in self.up:
            h = level(h, skips, embedding, token)
        return self.conv_out(F.silu(self.norm_out(h)))

    def check(
        self, x_t: Tensor, timesteps: Tensor, concat: Tensor | None, modality: Tensor | None
    ) -> None:
        """Refuse arguments that do not fit; see ``forward``."""
        if x_t.dim() != self.spatial_dims + 2 or x_t.shape[1] != self.latent_channels:
            raise ValueError(
                f"x_t must have {self.latent_channels} channels and {self.spatial_dims} spatial "
                f"axes, got shape {tuple(x_t.shape)}"
            )
        if timesteps.shape not in ((), (x_t.shape[0],)):
            raise ValueError(
                f"timesteps must have shape {(x_t.shape[0],)} or (), got {tuple(timesteps.shape)}"
            )
        size = tuple(x_t.shape[2:])
        shape = None if concat is None else tuple(concat.shape)
        wanted = (x_t.shape[0], self.concat_channels, *size)
        if shape != wanted and (shape is not None or self.concat_channels > 0):
            raise ValueError(f"concat must have shape {wanted}, got {shape}")
        if modality is None or self.num_modalities == 0:
            if (modality is None) != (self.num_modalities == 0):
                raise ValueError(
                    f"this denoiser knows {self.num_modalities} modalities, got modality {modality}"
                )
        elif modality.dim() == 1:
            check_modality(modality, self.num_modalities, x_t.shape[0])
        elif modality.shape != (x_t.shape[0], self.num_modalities):
            raise ValueError(
                f"modality must have shape {(x_t.shape[0],)} or "
                f"{(x_t.shape[0], self.num_modalities)}, got {tuple(modality.shape)}"
            )
