"""What is learned and its mathematics: networks, losses, schedulers. Tensors in, tensors out."""

from .adversarial import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    modality_discriminator_loss,
    modality_generator_loss,
)
from .aldm_denoiser import aldm_denoiser
from .attention import CrossAttention, SelfAttention
from .band_attention import BandOptions
from .ddim import DDIMScheduler
from .ddpm import DDPMScheduler
from .denoiser import Denoiser
from .differential_attention import DifferentialAttention
from .discriminator import patch_discriminator
from .disentanglement import Disentanglement
from .dpm_solver import DPMSolverScheduler
from .ema import ExponentialMovingAverage
from .frequency_balance import FrequencyBalance
from .frequency_loss import StructureAwareLoss
from .haar import haar_merge, haar_split
from .knowledge_guidance import KnowledgeGuidance
from .ms_spade import MSSpade, MSSpadeGenerator, MSSpadeResBlock, TableBGenerator
from .noise_scheduler import NoiseScheduler
from .perceptual import PerceptualLoss
from .prior import MSSpadePrior, PriorOutput
from .quantizer import Quantized, VectorQuantizer, nearest_code
from .resshift import ResShiftScheduler
from .ridge import RidgePath
from .schedule import draw_noise
from .structure import SharedStructure
from .structure_losses import SegmentationLoss, StyleConsistencyLoss
from .structure_prior import StructurePrior
from .swin import SwinLayer
from .text_knowledge import TextKnowledge
from .translation import TranslationNetwork
from .vqgan import VQGAN, Encoding, aldm_vqgan
from .wavelets import Wavelet

__all__ = [
    "VQGAN",
    "BandOptions",
    "CrossAttention",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverScheduler",
    "Denoiser",
    "DifferentialAttention",
    "Disentanglement",
    "Encoding",
    "ExponentialMovingAverage",
    "FrequencyBalance",
    "KnowledgeGuidance",
    "MSSpade",
    "MSSpadeGenerator",
    "MSSpadePrior",
    "MSSpadeResBlock",
    "NoiseScheduler",
    "PerceptualLoss",
    "PriorOutput",
    "Quantized",
    "ResShiftScheduler",
    "RidgePath",
    "SegmentationLoss",
    "SelfAttention",
    "SharedStructure",
    "StructureAwareLoss",
    "StructurePrior",
    "StyleConsistencyLoss",
    "SwinLayer",
    "TableBGenerator",
    "TextKnowledge",
    "TranslationNetwork",
    "VectorQuantizer",
    "Wavelet",
    "adaptive_weight",
    "aldm_denoiser",
    "aldm_vqgan",
    "draw_noise",
    "haar_merge",
    "haar_split",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "modality_discriminator_loss",
    "modality_generator_loss",
    "nearest_code",
    "patch_discriminator",
]
