"""Parts of voxlate against the parts of MONAI that do the same, each in a process of its own.

    python benchmarks/blocks.py [--size 192,192,144] [--blocks ssim,attention] [--repeats 3]

Latents are 1/8 and 1/4 of the size. Times are multiples of ours. Only the CPU is used.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from side_by_side import numbers, report, run, table

Size = tuple[int, ...]
Work = Callable[[], dict[str, Any]]
NUM_CODES, CODE_DIM, CHANNELS, MODALITIES, STEPS = 8192, 4, 128, 4, 10


def pair(size: Size) -> Any:
    """A smooth volume with noise, and without it, (2, *size), the same in every process."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    coarse = torch.rand(1, 1, *[-(-n // 4) for n in size])
    reference = F.interpolate(coarse, size=size, mode="trilinear")[0, 0]
    return torch.stack([reference + 0.05 * torch.randn_like(reference), reference])


def latent(size: Size, parts: int, channels: int, batch: int = 1) -> Any:
    """A standard normal latent of 1 / parts of the size, the same in every process."""
    import torch

    torch.manual_seed(0)
    return torch.randn(batch, channels, *[n // parts for n in size])


def on_the_cpu(work: Work) -> Work:
    """The work, and the seconds of the processor in all its threads."""

    def timed() -> dict[str, Any]:
        began = time.process_time()
        notes = work()
        return {**notes, "CPU seconds": f"{time.process_time() - began:.2f}"}

    return timed


def quantizer(kind: str, parts: int) -> Callable[[Size], Work]:
    """Nearest of 8192 codes for every place of a latent."""

    def build(size: Size) -> Work:
        import torch

        tokens = latent(size, parts, CODE_DIM)
        codes = torch.randn(NUM_CODES, CODE_DIM, generator=torch.Generator().manual_seed(1))
        if kind == "voxlate":
            from voxlate.networks import VectorQuantizer

            ours = VectorQuantizer(NUM_CODES, CODE_DIM).eval()
            ours.codebook.data.copy_(codes)

            def quantize() -> Any:
                return ours(tokens).latent
        else:
            from monai.networks.layers.vector_quantizer import EMAQuantizer, VectorQuantizer

            theirs = VectorQuantizer(EMAQuantizer(3, NUM_CODES, CODE_DIM, ddp_sync=False)).eval()
            theirs.quantizer.embedding.weight.data.copy_(codes)

            def quantize() -> Any:
                return theirs(tokens)[1]

        def work() -> dict[str, Any]:
            with torch.inference_mode():
                error = (quantize() - tokens).square().mean().sqrt()
            return {"rms distance to the code": f"{float(error):.6f}"}

        return work

    return build


def attention(kind: str) -> Callable[[Size], Work]:
    """Self-attention over a latent of 1/8: 10,368 tokens at 192 x 192 x 144."""

    def build(size: Size) -> Work:
        import torch
        from monai.networks.blocks.spatialattention import SpatialAttentionBlock
        from torch import nn

        from voxlate.networks import SelfAttention

        features = latent(size, 8, CHANNELS)
        torch.manual_seed(1)
        theirs = SpatialAttentionBlock(
            3, CHANNELS, num_head_channels=32, use_flash_attention=kind == "MONAI, flash"
        ).eval()
        block: nn.Module = theirs
        if kind == "voxlate":
            block = SelfAttention(CHANNELS, head_channels=32).eval()
            names = ("to_q", "to_k", "to_v")
            for name in ("weight", "bias"):
                rows = [getattr(getattr(theirs.attn, part), name) for part in names]
                getattr(block.qkv, name).data.copy_(torch.cat(rows))
                getattr(block.out, name).data.copy_(getattr(theirs.attn.out_proj, name))

        def work() -> dict[str, Any]:
            with torch.inference_mode():
                out = block(features)
            tokens = features[0, 0].numel()
            return {
                "tokens": tokens,
                "rms of the answer": f"{float(out.square().mean().sqrt()):.6f}",
            }

        return work

    return build


def ms_spade(kind: str) -> Callable[[Size], Work]:
    """Normalize three samples' features, each for a target of its own, at 1/4."""

    def build(size: Size) -> Work:
        import torch
        from monai.networks.blocks.spade_norm import SPADE

        from voxlate.networks import MSSpade

        features = latent(size, 4, CHANNELS, batch=3)
        samples, target = features.split(1), torch.tensor([1, 2, 3])
        torch.manual_seed(1)
        ours = MSSpade(CHANNELS, MODALITIES).eval()
        theirs = [SPADE(CHANNELS, CHANNELS, spatial_dims=3).eval() for _ in range(MODALITIES)]

        def normalize() -> Any:
            if kind == "voxlate, mixed batch":
                return ours(features, target)
            pairs = list(zip(samples, target.split(1), strict=True))
            if kind == "voxlate, one by one":
                return torch.cat([ours(sample, index) for sample, index in pairs])
            return torch.cat([theirs[int(index)](sample, sample) for sample, index in pairs])

        def work() -> dict[str, Any]:
            with torch.inference_mode():
                out = normalize()
            return {"rms of the answer": f"{float(out.square().mean().sqrt()):.6f}"}

        return work

    return build


def ssim(kind: str) -> Callable[[Size], Work]:
    """3D SSIM of two volumes, Gaussian window 11, sigma 1.5."""

    def build(size: Size) -> Work:
        prediction, reference = pair(size)
        if kind == "voxlate":
            from voxlate.pipelines.ssim import ssim as ours

            return on_the_cpu(lambda: {"SSIM": f"{float(ours(prediction, reference)):.6f}"})
        from monai.metrics import SSIMMetric

        theirs = SSIMMetric(3, data_range=1.0)
        batches = prediction[None, None], reference[None, None]
        return on_the_cpu(lambda: {"SSIM": f"{float(theirs(*batches)):.6f}"})

    return build


def evaluation(kind: str) -> Callable[[Size], Work]:
    """Three targets of a case: all of the default set, or MONAI's SSIM alone."""

    def build(size: Size) -> Work:
        import numpy as np
        import torch

        prediction, reference = pair(size)
        if kind != "voxlate, default set":
            from monai.metrics import SSIMMetric

            theirs = SSIMMetric(3, data_range=1.0)
            batches = prediction[None, None], reference[None, None]

            def alone() -> dict[str, Any]:
                return {"values": sum(theirs(*batches).numel() for _ in range(3))}

            return on_the_cpu(alone)
        from voxlate.pipelines.evaluation_truth import Truth
        from voxlate.pipelines.metric_sets import METRIC_SETS

        axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
        radius = torch.stack(axes).square().sum(0)
        brain, lesion = radius < 0.7, radius < 0.01

        def work() -> dict[str, Any]:
            began = time.perf_counter()
            found = []
            for _ in range(3):
                truth = Truth("t2", reference * brain, brain, brain, 0.0, np.eye(4), lesion)
                found += METRIC_SETS["default"].measure(prediction * brain, truth)
            seconds = time.perf_counter() - began
            return {"values": len(found), "under 10 s": "yes" if seconds < 10 else "no"}

        return on_the_cpu(work)

    return build


def sampler(kind: str, std: float) -> Callable[[Size], Work]:
    """Ten steps with a perfect denoiser of Gaussian latents: what is left of their spread."""

    def build(size: Size) -> Work:
        x_t = latent(size, 8, 8)
        if kind == "MONAI DDIM":
            from monai.networks.schedulers import DDIMScheduler

            scheduler: Any = DDIMScheduler(
                1000, "scaled_linear_beta", beta_start=0.0015, beta_end=0.0195, clip_sample=False
            )
        else:
            from voxlate.networks.ddim import DDIMScheduler as OurDDIM
            from voxlate.networks.dpm_solver import DPMSolverScheduler

            scheduler = OurDDIM() if kind == "voxlate DDIM" else DPMSolverScheduler()
        scheduler.set_timesteps(STEPS)

        def work() -> dict[str, Any]:
            x = x_t
            for timestep in scheduler.timesteps:
                signal = float(scheduler.alphas_cumprod[int(timestep)])
                clean = signal**0.5 * std**2 / (signal * std**2 + 1 - signal) * x
                x, _ = scheduler.step((x - signal**0.5 * clean) / (1 - signal) ** 0.5, timestep, x)
            return {"std / true std": f"{float(x.std()) / std:.3f}"}

        return work

    return build


class Block(NamedTuple):
    """A table: contenders, ours first, what they show, and the memory (GiB) some need."""

    title: str
    contenders: dict[str, Callable[[Size], Work]]
    notes: tuple[str, ...]
    needs: Callable[[Size], dict[str, float]] = lambda size: {}
    timed: bool = True


def one_hot_gib(size: Size, parts: int) -> float:
    """MONAI's distances and one-hot codes: 16 bytes for every token and code, GiB."""
    tokens = 1
    for length in size:
        tokens *= length // parts
    return tokens * NUM_CODES * 16 / 2**30


def attention_gib(size: Size) -> float:
    """Two matrices of attention weights for 4 heads, float32, GiB."""
    tokens = 1
    for length in size:
        tokens *= length // 8
    return tokens**2 * CHANNELS / 32 * 2 * 4 / 2**30


DISTANCE, RMS = ("rms distance to the code",), ("rms of the answer",)
BLOCKS = {
    "quantizer": Block(
        f"Nearest of {NUM_CODES} codes, latent of 1/8",
        {kind: quantizer(kind, 8) for kind in ("voxlate", "MONAI")},
        DISTANCE,
        lambda size: {"MONAI": one_hot_gib(size, 8)},
    ),
    "quantizer4": Block(
        f"Nearest of {NUM_CODES} codes, latent of 1/4",
        {kind: quantizer(kind, 4) for kind in ("voxlate", "MONAI")},
        DISTANCE,
        lambda size: {"MONAI": one_hot_gib(size, 4)},
    ),
    "attention": Block(
        "Self-attention, latent of 1/8, 128 channels, 4 heads",
        {kind: attention(kind) for kind in ("voxlate", "MONAI, default", "MONAI, flash")},
        ("tokens", *RMS),
        lambda size: {"MONAI, default": attention_gib(size)},
    ),
    "ms_spade": Block(
        "MS-SPADE for three targets, latent of 1/4, 128 channels (MONAI: one SPADE a modality)",
        {
            kind: ms_spade(kind)
            for kind in ("voxlate, mixed batch", "voxlate, one by one", "MONAI, one by one")
        },
        RMS,
    ),
    "evaluation": Block(
        "A case of three targets: the default set of metrics, against SSIM alone",
        {kind: evaluation(kind) for kind in ("voxlate, default set", "MONAI, SSIM alone")},
        ("values", "under 10 s", "CPU seconds"),
    ),
    "ssim": Block(
        "3D SSIM", {kind: ssim(kind) for kind in ("voxlate", "MONAI")}, ("SSIM", "CPU seconds")
    ),
    **{
        f"sampler{std:g}": Block(
            f"{STEPS} steps with a perfect denoiser, true std {std:g}",
            {
                kind: sampler(kind, std)
                for kind in ("voxlate DPM-Solver++", "voxlate DDIM", "MONAI DDIM")
            },
            ("std / true std",),
            timed=False,
        )
        for std in (1.0, 0.1)
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="192,192,144", help="of the volume, divisible by 8")
    parser.add_argument("--blocks", default=",".join(BLOCKS), help="which, comma-separated")
    parser.add_argument("--repeats", type=int, default=3, help="the shortest of these counts")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = numbers(options.size)
    if options.contender:
        report(BLOCKS[options.blocks].contenders[options.contender](size), repeats=options.repeats)
        return
    for name in options.blocks.split(","):
        block, needs = BLOCKS[name], BLOCKS[name].needs(size)
        arguments = ["--size", options.size, "--blocks", name, "--repeats", str(options.repeats)]
        outcomes = [
            run(__file__, contender, arguments, needs_gib=needs.get(contender, 0.0))
            for contender in block.contenders
        ]
        print(table(block.title, outcomes, block.notes, timed=block.timed), flush=True)


if __name__ == "__main__":
    main()
