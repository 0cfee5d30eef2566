"""A small lesion segmenter that the project trains itself, to ask what a prediction is good for.

It is no clinical tool and no benchmark entry: the same small U-Net sees the real set, the set with
the prediction and the set without the target, and only the differences between the three count.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from voxlate.data_prep import Case, NoInputError, UsageError, WeightsError

from .evaluation_pairs import LESION_MASK, read_truth
from .evaluation_truth import Truth

FEATURES = (16, 16, 32, 64, 128, 16)
MULTIPLE = 16  #: of voxels along an axis that the network halves four times
LEARNING_RATE, BATCH = 1e-3, 2


@dataclass(frozen=True)
class LesionSegmenter:
    """The network, and what it must be given.

    Attributes:
        network: Logits of the lesion from one channel for each modality.
        modalities: In the order of the channels.
        subjects: Patients that it was trained on.
    """

    network: nn.Module
    modalities: tuple[str, ...]
    subjects: tuple[str, ...]

    def __call__(self, volumes: Mapping[str, Float[Tensor, "x y z"]]) -> Bool[Tensor, "x y z"]:
        """Find the lesion.

        Args:
            volumes: On the scale of ``segmenter_scale``; a modality that is not there is zeros.
        """
        like = next(iter(volumes.values()))
        image = torch.stack([volumes.get(m, torch.zeros_like(like)) for m in self.modalities])
        pad = [n for size in reversed(like.shape) for n in (0, -size % MULTIPLE)]
        with torch.inference_mode():
            logits = self.network.eval()(F.pad(image[None].float(), pad))[0, 0]
        x, y, z = like.shape
        return logits[:x, :y, :z] > 0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and facts as safetensors."""
        facts = {"modalities": self.modalities, "subjects": self.subjects, "features": FEATURES}
        save_file(self.network.state_dict(), path, {"lesion_segmenter": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "LesionSegmenter":
        """Read what ``save`` wrote.

        Raises:
            WeightsError: It is no such file.
        """
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["lesion_segmenter"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            network = new_network(len(facts["modalities"]))
            network.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"no lesion segmenter ({type(error).__name__})",
                "make one with voxlate train-segmenter",
                code="E_SEGMENTER",
                file=path,
            ) from None
        return cls(network, tuple(facts["modalities"]), tuple(facts["subjects"]))


def new_network(modalities: int) -> nn.Module:
    """MONAI's BasicUNet with few features."""
    return BasicUNet(3, modalities, 1, features=FEATURES)


def segmenter_scale(truth: Truth, volume: Float[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
    """A volume in the unit of a real scan as the segmenter sees it: its [0, 1], clipped at 0, 2."""
    return truth.to_scale(volume).clamp(0, 2)


def train_segmenter(
    cases: Sequence[Case],
    modalities: Sequence[str],
    *,
    steps: int = 500,
    crop: int = 64,
    seed: int = 0,
) -> LesionSegmenter:
    """Train on cases with a drawn lesion, by Dice and cross-entropy on random crops.

    Half of the crops have a lesion voxel in the middle. Crops are flipped by chance.

    Args:
        cases: Those without a lesion mask, or without one of the modalities, are passed over.
        modalities: Channels.
        steps: Of Adam.
        crop: Voxels along each axis, a multiple of 16, at least 32.
        seed: Of weights, crops and flips.

    Raises:
        UsageError: There are no such crops.
        NoInputError: No case can be used.
        ScanError: A scan cannot be used.
    """
    if crop % MULTIPLE or crop < 2 * MULTIPLE:
        raise UsageError(
            f"no crops of {crop} voxels",
            f"give a multiple of {MULTIPLE} from 32 on",
            code="E_OPTION",
        )
    usable = [c for c in cases if LESION_MASK in c.masks and set(modalities) <= set(c.files)]
    if not usable:
        raise NoInputError(
            f"none of {len(cases)} case(s) has {', '.join(modalities)} and a lesion mask",
            "name masks lesion.nii.gz or *_seg.nii.gz",
            code="E_NO_INPUT",
        )
    data = [_volumes(case, modalities, crop) for case in usable]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = new_network(len(modalities)).train()
    generator = torch.Generator().manual_seed(seed)
    loss = DiceCELoss(sigmoid=True, batch=True)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for _ in range(steps):
        picks = torch.randint(len(data), (BATCH,), generator=generator).tolist()
        crops = torch.stack([_crop(data[i], crop, generator) for i in picks])
        optimizer.zero_grad()
        loss(network(crops[:, :-1]), crops[:, -1:]).backward()
        optimizer.step()
    subjects = tuple(sorted({case.subject for case in usable}))
    return LesionSegmenter(network.eval(), tuple(modalities), subjects)


def _volumes(case: Case, modalities: Sequence[str], crop: int) -> Float[Tensor, "c x y z"]:
    """The modalities, and the lesion as the last channel, no axis shorter than a crop."""
    truths = [read_truth(case, modality) for modality in modalities]
    lesion = truths[0].lesion
    assert lesion is not None
    volumes = torch.stack([*(segmenter_scale(t, t.volume) for t in truths), lesion.float()])
    pad = [n for size in reversed(lesion.shape) for n in (0, max(crop - size, 0))]
    return F.pad(volumes, pad)


def _crop(
    volumes: Float[Tensor, "c x y z"], size: int, generator: torch.Generator
) -> Float[Tensor, "c n n n"]:
    def draw(number: int) -> int:
        return int(torch.randint(number, (), generator=generator))

    where = volumes[-1].nonzero()
    on_lesion = draw(2) == 1 and len(where) > 0
    middle = where[draw(len(where))].tolist() if on_lesion else None
    for axis in range(3):
        most = volumes.shape[axis + 1] - size
        start = draw(most + 1) if middle is None else min(max(middle[axis] - size // 2, 0), most)
        volumes = volumes.narrow(axis + 1, start, size)
    return volumes.flip([axis + 1 for axis in range(3) if draw(2)])


def write_segmenter(segmenter: LesionSegmenter, path: Path) -> None:
    """Save, and say in one line what cannot be written.

    Raises:
        WeightsError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        segmenter.save(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot be written ({error})", "name another file", code="E_OUTPUT", file=path
        ) from None
