"""What is learned and its mathematics: networks, losses, schedulers. Tensors in, tensors out."""

from .attention import CrossAttention, SelfAttention
from .denoiser import Denoiser, aldm_denoiser
from .haar import haar_merge, haar_split
from .ms_spade import MSSpade, MSSpadeGenerator, MSSpadeResBlock, TableBGenerator
from .prior import MSSpadePrior, PriorOutput
from .quantizer import Quantized, VectorQuantizer, nearest_code
from .translation import TranslationNetwork
from .vqgan import VQGAN, Encoding, vqgan

__all__ = [
    "VQGAN",
    "CrossAttention",
    "Denoiser",
    "Encoding",
    "MSSpade",
    "MSSpadeGenerator",
    "MSSpadePrior",
    "MSSpadeResBlock",
    "PriorOutput",
    "Quantized",
    "SelfAttention",
    "TableBGenerator",
    "TranslationNetwork",
    "VectorQuantizer",
    "aldm_denoiser",
    "haar_merge",
    "haar_split",
    "nearest_code",
    "vqgan",
]
