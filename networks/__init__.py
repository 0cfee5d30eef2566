"""What is learned and its mathematics: networks, losses, schedulers. Tensors in, tensors out."""

from .haar import haar_merge, haar_split
from .quantizer import Quantized, VectorQuantizer, nearest_code
from .translation import TranslationNetwork
from .vqgan import VQGAN, Encoding, vqgan

__all__ = [
    "VQGAN",
    "Encoding",
    "Quantized",
    "TranslationNetwork",
    "VectorQuantizer",
    "haar_merge",
    "haar_split",
    "nearest_code",
    "vqgan",
]
