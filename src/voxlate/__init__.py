"""voxlate: translate one brain MR contrast into the others, in 3D. Research use only."""

__version__ = "0.1.0"
