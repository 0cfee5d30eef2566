"""The bar for the default bundle: a plain regression U-Net, some minutes on the same patients.

    python benchmarks/regression_unet.py --dataset_dir DIR --output_dir OUT --held patient07
        [--source t1] [--weights MODEL] [--steps 600]

MONAI's BasicUNet learns every other contrast from the source, on crops of 64 voxels with L1, from
all patients but the one held back. It is then asked for that patient, and so is the bundle, as the
product asks it, with MODEL: weights trained without that patient; with its own regression's share
and without. All are compared with the truth in brain, after clipping, on the grid they were trained
on. Writes rows.csv to OUT. With --steps 0 there is no U-Net.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BUNDLE = Path(__file__).parents[1] / "bundles" / "brain_mri_translation"
CROP = 64
FIELDS = ("contender", "case", "target", "psnr", "sharpness")


def train(
    cases: Sequence[Any], source: str, targets: Sequence[str], weight: Callable, steps: int
) -> nn.Module:
    """A U-Net from (1, 1, *size) to (1, targets, *size), intensities in [-1, 1]."""
    from monai.networks.nets import BasicUNet

    from voxlate.pipelines.crops import Augmentation, random_view, read_view

    torch.manual_seed(0)
    widths = (24, 24, 48, 96, 96, 24)
    norm = ("group", {"num_groups": 8})
    net = BasicUNet(3, 1, len(targets), features=widths, norm=norm, upsample="nontrainable")
    net = net.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / steps) ** 0.5
    )
    varied = Augmentation(flip_probability=[0.5, 0.0, 0.0], jitter_probability=0.5)
    share = np.array([weight(case.case_id) for case in cases])
    rng = np.random.default_rng(0)
    for step in range(steps):
        case = cases[rng.choice(len(cases), p=share / share.sum())]
        view = varied.turn(random_view(case.foreground(), [CROP] * 3, 0.3, rng), rng)
        there = [index for index, name in enumerate(targets) if name in case.volumes]
        volumes = read_view([case.volume(n) for n in (source, *(targets[i] for i in there))], view)
        given = varied.jitter(volumes[:1].clone(), rng)[None]
        with torch.autocast("cpu", torch.bfloat16):
            made = net(given.contiguous(memory_format=torch.channels_last_3d))[0]
        loss = F.l1_loss(made[there].float(), volumes[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}  l1 {loss.item():.4f}", flush=True)
    return net.eval()


@torch.no_grad()
def by_unet(net: nn.Module, volume: Tensor) -> Tensor:
    """(1, *size) to (targets, *size)."""
    sides = volume.shape[1:]
    pads = [amount for side in reversed(sides) for amount in (0, -side % 16)]
    with torch.autocast("cpu", torch.bfloat16):
        made = net(F.pad(volume, pads, value=-1.0)[None])[0].float()
    return made[:, : sides[0], : sides[1], : sides[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--held", required=True, help="patient that nothing was trained on")
    parser.add_argument("--source", default="t1")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()

    from voxlate.data_prep.cases import find_cases, split_by_subject
    from voxlate.pipelines.bundle import parts_from_files
    from voxlate.pipelines.device import inference_context
    from voxlate.pipelines.metrics import sharpness_ratio
    from voxlate.pipelines.one_to_many import OneToMany
    from voxlate.pipelines.quality_gate import in_brain_psnr
    from voxlate.pipelines.training_data import PairDataset, ValidationPairs, prepare_cases
    from voxlate.pipelines.training_setup import load_network

    parts = parts_from_files([str(BUNDLE / "configs" / "network.yaml")])
    names = parts.network.modalities
    source = options.source
    targets = [name for name in names if name != source]
    found = split_by_subject(find_cases(options.dataset_dir, names), validation=[options.held])
    cache = options.output_dir / "cache"
    training, held = (prepare_cases(part, parts.preprocessing, cache) for part in found)
    shares = {"open_ms/*": 4.0, "upenn_gbm/*": 1.0, "open_ms_longitudinal/*": 0.2}
    weight = PairDataset(training, names, crop_size=CROP, case_weights=shares).case_weight

    contenders: dict[str, Callable[[Tensor], Tensor]] = {}
    if options.steps:
        having = [case for case in training if source in case.volumes]
        net = train(having, source, targets, weight, options.steps)
        contenders["U-Net"] = lambda volume: by_unet(net, volume)
    if options.weights:
        network = load_network(parts.network, options.weights).eval()
        translate = OneToMany(network, parts.scheduler, steps=parts.steps)

        share = float(network.regression.share)

        def by_bundle(volume: Tensor, share: float) -> Tensor:
            network.regression.share.fill_(share)
            with inference_context(torch.device("cpu")):
                return translate(volume[None], source=source, targets=targets)[:, 0].float()

        contenders["voxlate"] = partial(by_bundle, share=share)
        if share:
            contenders["voxlate, without its regression"] = partial(by_bundle, share=0.0)

    rows = []
    for name, make in contenders.items():
        answers: dict[str, Tensor] = {}
        for sample in ValidationPairs(held, names, multiple=8, sources=[source]):
            case, target = sample["case"], names[sample["target_index"]]
            if case not in answers:
                answers[case] = make(sample["source"]).clamp(-1, 1)
            made, mask = answers[case][targets.index(target)][None], sample["mask"]
            quality = in_brain_psnr(made, sample["target"], mask)
            sharp = float(sharpness_ratio(made[0], sample["target"][0], mask=mask[0]))
            rows.append(dict(zip(FIELDS, (name, case, target, quality, sharp), strict=True)))
            print(f"{name:8} {case} {target:5} {quality:.2f} dB, sharpness {sharp:.2f}", flush=True)
    with (options.output_dir / "rows.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
