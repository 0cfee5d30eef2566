"""DFBK in the default bundle, part by part: each variant trained alike, with several seeds.

    python benchmarks/ablation.py --dataset_dir DIR --weights PRIOR_MODEL --output_dir OUT
        [--steps 60] [--seeds 3] [--held patient07] [--variants none,balance_only,...]

PRIOR_MODEL is what train_prior.yaml left, trained without the patient held back. Every variant's
denoiser begins untrained, sees the same samples in the same order, and is then asked for the
held-back patient's other contrasts from its T1; a seed decides initial weights and all noise. Runs
that are done are not repeated. Writes rows.csv, table.md and bands.png to OUT. With one patient, an
interval says how much seeds matter, not how much patients do.
"""

import argparse
import csv
import math
import statistics
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).parents[1] / "bundles" / "brain_mri_translation"
VARIANTS = {
    "from_noise": ["ablation_from_noise.yaml"],
    "none": ["resshift.yaml"],
    "balance_only": ["resshift.yaml", "frequency_balance.yaml"],
    "guidance_only": ["resshift.yaml", "knowledge_guidance.yaml"],
    "both": ["resshift.yaml", "frequency_balance.yaml", "knowledge_guidance.yaml"],
}
STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # of the mean, by number of seeds
MEASURES = ("psnr", "sharpness", "low_band", "high_bands")
FIELDS = ("variant", "seed", "case", "target", *MEASURES)


def train(variant: str, seed: int, options: argparse.Namespace) -> Path:
    """Train one denoiser by the bundle's own configuration; the weights' file."""
    from monai.bundle import run

    folder = options.output_dir / f"{variant}_{seed}"
    if not (folder / "done").is_file():
        run(
            config_file=str(BUNDLE / "configs" / "train_denoiser.yaml"),
            bundle_root=str(BUNDLE),
            dataset_dir=str(options.dataset_dir),
            network_files=network_files(variant),
            initial_weights=str(options.weights),
            output_dir=str(folder),
            runs_dir=str(options.output_dir),
            validation_subjects=[options.held],
            max_steps=options.steps,
            steps_per_epoch=options.steps,
            val_interval=2,  # after the last epoch: this script looks itself
            checkpoint_every=options.steps,
            seed=seed,
            **{"train#pairs#seed": 0},  # the same views for all: they are encoded once
        )
        (folder / "done").touch()
    return folder / "model.pt"


def network_files(variant: str) -> list[str]:
    """The bundle's network file and the variant's overlays."""
    return [str(BUNDLE / "configs" / name) for name in ("network.yaml", *VARIANTS[variant])]


def band_energy(volume: Any, mask: Any) -> tuple[float, float]:
    """Energy of (1, x, y, z) in a mask: in the low band of two Haar levels, and in all others."""
    from voxlate.networks.haar import haar_split

    inside = ((volume + 1) / 2 * mask)[None]
    for axis in (2, 3, 4):
        inside = inside.narrow(axis, 0, inside.shape[axis] // 4 * 4)
    low = haar_split(haar_split(inside, 3)[:, :1], 3)[:, :1]
    total, kept = float(inside.double().square().sum()), float(low.double().square().sum())
    return kept, total - kept


def look(variant: str, seed: int, weights: Path, options: argparse.Namespace) -> list[dict]:
    """Rows of the held-back patient, T1 to every other contrast."""
    import torch

    from voxlate.data_prep.cases import find_cases
    from voxlate.pipelines.bundle import parts_from_files
    from voxlate.pipelines.device import inference_context
    from voxlate.pipelines.metrics import sharpness_ratio
    from voxlate.pipelines.quality_gate import in_brain_psnr
    from voxlate.pipelines.train_denoiser import TranslateBySampling
    from voxlate.pipelines.training_data import ValidationPairs, prepare_cases
    from voxlate.pipelines.training_setup import load_network

    parts = parts_from_files(network_files(variant))
    network = load_network(parts.network, weights).eval()
    names = network.modalities
    found = [case for case in find_cases(options.dataset_dir, names) if options.held in case.id]
    cases = prepare_cases(found, parts.preprocessing, options.output_dir / "cache")
    pairs = ValidationPairs(cases, names, multiple=network.autoencoder.downsampling, sources=["t1"])
    ask = TranslateBySampling(parts.scheduler, steps=parts.steps, seed=seed)
    rows = []
    for sample in pairs:
        batch = {
            name: torch.as_tensor(value)[None] if name != "case" else [value]
            for name, value in sample.items()
        }
        with inference_context(torch.device("cpu")):
            made = ask(batch, network)["prediction"][0].float().clamp(-1, 1)
        truth, mask = sample["target"], sample["mask"]
        ours, theirs = band_energy(made, mask), band_energy(truth, mask)
        rows.append(
            {
                "variant": variant,
                "seed": seed,
                "case": sample["case"],
                "target": names[sample["target_index"]],
                "psnr": in_brain_psnr(made, truth, mask),
                "sharpness": float(sharpness_ratio(made[0], truth[0], mask=mask[0])),
                "low_band": ours[0] / theirs[0],
                "high_bands": ours[1] / theirs[1],
            }
        )
    return rows


def mean_over_targets(rows: list[dict], variant: str, seed: int, measure: str) -> float:
    """A run's mean of a measure."""
    chosen = [r[measure] for r in rows if (r["variant"], int(r["seed"])) == (variant, seed)]
    return statistics.fmean(float(value) for value in chosen)


def interval(values: list[float], digits: int = 3) -> str:
    """Mean and 95 % interval by Student's t, over seeds."""
    mean = statistics.fmean(values)
    if len(values) not in STUDENT_95:
        return f"{mean:.{digits}f}"
    half = STUDENT_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} [{mean - half:.{digits}f}, {mean + half:.{digits}f}]"


def table(rows: list[dict], variants: list[str], seeds: range) -> str:
    """Markdown: each variant's means over targets and seeds, and its paired gain over none."""
    lines = [
        "| variant | in-brain PSNR, dB | gain over none, dB, paired by seed | sharpness "
        "| low band | high bands |",
        "|---|---|---|---|---|---|",
    ]
    for variant in variants:
        cells = [variant]
        runs = {m: [mean_over_targets(rows, variant, s, m) for s in seeds] for m in MEASURES}
        cells.append(interval(runs["psnr"]))
        if variant == "none" or "none" not in variants:
            cells.append("")
        else:
            plain = [mean_over_targets(rows, "none", seed, "psnr") for seed in seeds]
            gains = [ours - theirs for ours, theirs in zip(runs["psnr"], plain, strict=True)]
            cells.append(interval(gains))
        cells += [interval(runs[measure]) for measure in MEASURES[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict], variants: list[str], file: Path) -> None:
    """Energy of the low band and of the high bands over the truth's, for each target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = sorted({row["target"] for row in rows})
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, measure in zip(axes, ("low_band", "high_bands"), strict=True):
        for place, variant in enumerate(variants):
            for at, target in enumerate(targets):
                values = [
                    float(row[measure])
                    for row in rows
                    if (row["variant"], row["target"]) == (variant, target)
                ]
                x = [at + (place - len(variants) / 2 + 0.5) * 0.15] * len(values)
                label = variant.replace("_", " ") if at == 0 else None
                axis.scatter(x, values, s=16, color=f"C{place}", label=label)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(targets)), targets)
        axis.set_ylabel("energy over the truth's")
        axis.set_title(measure.replace("_", " "))
    axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("dataset_dir", "weights", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held", default="patient07")
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS))
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    file = options.output_dir / "rows.csv"
    rows: list[dict] = []
    if file.is_file():
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
    for seed in range(options.seeds):
        for variant in options.variants:
            if any((row["variant"], int(row["seed"])) == (variant, seed) for row in rows):
                continue
            found = look(variant, seed, train(variant, seed, options), options)
            rows += found
            with file.open("w", newline="") as opened:
                writer = csv.DictWriter(opened, FIELDS)
                writer.writeheader()
                writer.writerows(rows)
            print(found, flush=True)
    text = table(rows, options.variants, range(options.seeds))
    (options.output_dir / "table.md").write_text(text)
    draw(rows, options.variants, options.output_dir / "bands.png")
    print(text)


if __name__ == "__main__":
    main()
