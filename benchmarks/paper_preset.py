"""ALDM at the paper's size on one GPU: encode, 10 steps and decode a whole volume under 40 GB.

    python benchmarks/paper_preset.py [--size 192,192,144] [--steps 10] [--rows 16]

VQGAN, MS-SPADE generator and denoiser of the paper's Tables A, B and C with random weights (they
change no time), bfloat16. ``in slabs`` runs the autoencoder by ``voxlate.networks.slabs``,
``whole`` as plain modules under autocast, for comparison; it may meet the cap, or a kernel's limit
of 2^31 elements. The cap is set by ``torch.cuda.set_per_process_memory_fraction``: it counts all
that the process allocates for tensors and workspaces.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from side_by_side import numbers, report, run, table

SLABS, WHOLE = "in slabs", "whole"
CAP = 40e9  # bytes
STAGES = ("encode", "denoise", "decode")


def paper_network() -> Any:
    """The network of ALDM's Tables A to C."""
    import torch

    from voxlate.networks import (
        MSSpadePrior,
        TableBGenerator,
        TranslationNetwork,
        aldm_denoiser,
        aldm_vqgan,
    )

    torch.manual_seed(0)
    return TranslationNetwork(
        aldm_vqgan("paper"),
        MSSpadePrior(TableBGenerator(3, 4), concat=["target_like"]),
        aldm_denoiser("paper"),
        modalities=("t1", "t1ce", "t2", "flair"),
        quantized=True,
        normalization={},
        schedule={
            "num_train_timesteps": 1000,
            "beta_start": 0.0015,
            "beta_end": 0.0195,
            "prediction_type": "epsilon",
        },
    ).eval()


def translate(
    network: Any, volume: Any, *, steps: int, encode: Callable[..., Any], decode: Callable[..., Any]
) -> dict[str, float]:
    """One source to one target; seconds by stage."""
    import torch

    from voxlate.networks.dpm_solver import DPMSolverScheduler
    from voxlate.pipelines import sample

    clock = [now(volume)]
    latent = network.autoencoder.quantizer(encode(volume)).latent * network.scale_factor
    clock.append(now(volume))
    target = torch.tensor([2], device=volume.device)
    slots = latent[:, None].expand(-1, 4, *latent.shape[1:])
    available = torch.arange(4, device=volume.device)[None] == 0
    concat, _ = network.prior(slots, available, target)
    scheduler = DPMSolverScheduler()
    scheduler.set_timesteps(steps, device=volume.device)
    made = sample(
        network.denoiser,
        scheduler,
        concat=concat,
        modality=target,
        noise=torch.randn(latent.shape).to(volume.device),
    )
    clock.append(now(volume))
    decoded = decode(made / network.scale_factor)
    clock.append(now(volume))
    assert decoded.shape == volume.shape
    return {stage: clock[i + 1] - clock[i] for i, stage in enumerate(STAGES)}


def now(like: Any) -> float:
    """Seconds, when the device has done all it was asked."""
    import torch

    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()


def contend(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run twice, the first time to warm up; time and device memory of the second."""
    import torch

    from voxlate.networks.slabs import decode_in_slabs, encode_in_slabs
    from voxlate.pipelines import inference_context

    device = torch.device(options.device)
    cuda = device.type == "cuda"
    if cuda:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP / total), device)
    network = paper_network().to(device)
    autoencoder = network.autoencoder
    volume = torch.rand(1, 1, *numbers(options.size), device=device) * 2 - 1
    if kind == SLABS:

        def encode(x: Any) -> Any:
            return encode_in_slabs(autoencoder, x, rows=options.rows)

        def decode(x: Any) -> Any:
            return decode_in_slabs(autoencoder, x, rows=options.rows)
    else:
        encode, decode = autoencoder.encode_continuous, autoencoder.decode
    with inference_context(device, torch.bfloat16):
        for _ in range(2):
            if cuda:
                torch.cuda.reset_peak_memory_stats(device)
            seconds = translate(network, volume, steps=options.steps, encode=encode, decode=decode)
    every = sum(seconds.values())
    notes: dict[str, Any] = {stage: f"{part / every:.0%}" for stage, part in seconds.items()}
    if cuda:
        notes["GPU tensors"] = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
        notes["GPU reserved"] = f"{torch.cuda.max_memory_reserved(device) / 1e9:.1f} GB"
        notes["GPU"] = torch.cuda.get_device_name(device)
    return {"seconds": every, **notes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="192,192,144", help="of the volume, divisible by 16")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rows", type=int, default=16, help="of a slab")
    parser.add_argument("--device", default="cuda", help="cuda; cpu to try it at a small size")
    parser.add_argument("--seconds", action="store_true", help="print seconds too")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender == "look":
        import torch

        there = options.device == "cpu" or torch.cuda.is_available()
        report(lambda: {"there": there})
        return
    if options.contender:
        report(lambda: contend(options.contender, options))
        return
    arguments = ["--size", options.size, "--steps", str(options.steps)]
    arguments += ["--rows", str(options.rows), "--device", options.device]
    if not run(__file__, "look", arguments).notes.get("there"):
        raise SystemExit("paper_preset.py needs a CUDA GPU, and torch sees none on this machine")
    outcomes = [run(__file__, kind, arguments) for kind in (SLABS, WHOLE)]
    notes = [*STAGES]
    notes += ["GPU tensors", "GPU reserved", "GPU"] if options.device != "cpu" else []
    title = f"Paper size, {options.size}, {options.steps} steps, cap {CAP / 1e9:.0f} GB"
    print(table(title, outcomes, notes))
    if options.seconds:
        print("seconds:", {o.name: round(o.seconds, 2) for o in outcomes if not o.failed})
    held = not outcomes[0].failed
    print(f"{'pass' if held else 'FAIL'}: whole volume {SLABS} under {CAP / 1e9:.0f} GB")
    raise SystemExit(not held)


if __name__ == "__main__":
    main()
