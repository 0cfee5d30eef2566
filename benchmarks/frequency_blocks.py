"""The cost of frequency balance and knowledge guidance to a denoiser; differential attention alone.

    python benchmarks/frequency_blocks.py [--size 48,48,36] [--tables step,attention] [--repeats 3]

The denoiser is the default bundle's. Times are multiples of the first row's. Only the CPU is used.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from side_by_side import numbers, report, run, table

Size = tuple[int, ...]
Work = Callable[[], dict[str, Any]]
LATENT, TEXT, TOKENS = 32, 768, 64
BALANCE = {"frequency_balance": {"levels": [False, True, True]}}
GUIDANCE = {"knowledge_guidance": {"text_channels": TEXT}}
STEPS: dict[str, dict[str, Any]] = {
    "plain denoiser": {},
    "with frequency balance": BALANCE,
    "with knowledge guidance": GUIDANCE,
    "with both": BALANCE | GUIDANCE,
}
CHANNELS, HEADS = 96, 3


def step(kind: str, size: Size) -> Work:
    """One call of the default bundle's denoiser on a latent, float32."""
    import torch

    from voxlate.networks import Denoiser

    torch.manual_seed(0)
    net = Denoiser(
        3,
        LATENT,
        2 * LATENT,
        channels=(48, 96, 96),
        attention_levels=(False, False, True),
        norm_groups=8,
        refine_concat=True,
        **STEPS[kind],
    ).eval()
    given = {
        "x_t": torch.randn(1, LATENT, *size),
        "timesteps": torch.tensor([150]),
        "concat": torch.randn(1, 2 * LATENT, *size),
        "modality": torch.tensor([2]),
    }
    if net.text_channels:
        given["text"] = torch.randn(1, TOKENS, TEXT)
        given["text_mask"] = torch.arange(TOKENS)[None] < TOKENS // 2
    parameters = sum(p.numel() for p in net.parameters())

    def work() -> dict[str, Any]:
        with torch.inference_mode():
            net(**given)
        return {"parameters": f"{parameters / 1e6:.2f} M"}

    return work


def attention(kind: str, size: Size) -> Work:
    """Differential self-attention over as many tokens as a band of the latent has places."""
    import torch

    from voxlate.networks import DifferentialAttention

    torch.manual_seed(0)
    ours = DifferentialAttention(CHANNELS, CHANNELS, HEADS).eval()
    tokens = torch.randn(1, count(size), CHANNELS)

    def written_out() -> Any:
        q = ours.q(tokens).unflatten(2, [HEADS, 2, -1]).permute(3, 0, 2, 1, 4)
        k = ours.k(tokens).unflatten(2, [HEADS, 2, -1]).permute(3, 0, 2, 1, 4)
        v = ours.v(tokens).unflatten(2, [HEADS, -1]).transpose(1, 2)
        maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        mixed = (maps[0] - ours.weight() * maps[1]) @ v
        assert ours.norm is not None
        return ours.out((ours.norm(mixed) * (1 - ours.lambda_init)).transpose(1, 2).flatten(2))

    def work() -> dict[str, Any]:
        with torch.inference_mode():
            out = ours(tokens, tokens) if kind == "voxlate" else written_out()
        rms = float(out.square().mean().sqrt())
        return {"tokens": tokens.shape[1], "rms of the answer": f"{rms:.6f}"}

    return work


def count(size: Size) -> int:
    """Tokens: places of the latent's low band."""
    return size[0] * size[1] * size[2] // 8


class Table(NamedTuple):
    """Contenders, the first to compare with, what they show, and the memory (GiB) some need."""

    title: str
    prepare: Callable[[str, Size], Work]
    contenders: tuple[str, ...]
    notes: tuple[str, ...]
    needs: Callable[[Size], dict[str, float]] = lambda size: {}


TABLES = {
    "step": Table("A step of the default denoiser", step, tuple(STEPS), ("parameters",)),
    "attention": Table(
        f"Differential self-attention, {CHANNELS} channels, {HEADS} heads",
        attention,
        ("voxlate", "maps written out"),
        ("tokens", "rms of the answer"),
        lambda size: {"maps written out": count(size) ** 2 * 2 * HEADS * 2.5 * 4 / 2**30},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="48,48,36", help="of the latent, even")
    parser.add_argument("--tables", default=",".join(TABLES), help="which, comma-separated")
    parser.add_argument("--repeats", type=int, default=3, help="the shortest of these counts")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = numbers(options.size)
    if options.contender:
        report(TABLES[options.tables].prepare(options.contender, size), repeats=options.repeats)
        return
    for name in options.tables.split(","):
        needs = TABLES[name].needs(size)
        arguments = ["--size", options.size, "--tables", name, "--repeats", str(options.repeats)]
        outcomes = [
            run(__file__, kind, arguments, needs_gib=needs.get(kind, 0.0))
            for kind in TABLES[name].contenders
        ]
        title = f"{TABLES[name].title}, latent of {' x '.join(map(str, size))}"
        print(table(title, outcomes, TABLES[name].notes), flush=True)


if __name__ == "__main__":
    main()
