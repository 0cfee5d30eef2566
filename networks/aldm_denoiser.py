"""The denoiser at the sizes that ALDM publishes."""

from .denoiser import Denoiser

PRESETS: dict[str, dict[str, object]] = {
    "paper": {
        "latent_channels": 3,
        "concat_channels": 3,
        "channels": (128, 256, 512),
        "num_res_blocks": 2,
        "modality_conditioning": "cross_attention",
        "noisy_first": False,
    },
    "repo": {
        "latent_channels": 4,
        "concat_channels": 8,
        "channels": (128, 128, 256),
        "num_res_blocks": 1,
    },
}
"""ALDM's sizes: ``paper`` is Table C with eq. 2 and 3, ``repo`` the public code's configuration."""


def aldm_denoiser(preset: str, spatial_dims: int = 3) -> Denoiser:
    """A denoiser of one of the published sizes.

    Raises:
        ValueError: No such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"no denoiser preset {preset!r}; there are {', '.join(PRESETS)}")
    return Denoiser(spatial_dims, **PRESETS[preset])  # type: ignore[arg-type]
