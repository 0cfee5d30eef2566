"""N4: the slow brightening towards the coil, estimated coarsely and divided out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from .intensity import foreground
from .reading import Scan
from .rigid_transform import one_thread, to_array, to_image

WORKING_MM = 4.0  #: voxel size at which the field, which is smooth, is estimated
ITERATIONS = (50, 50, 30)


def correct_bias_field(scan: Scan) -> Scan:
    """Divide a scan by its bias field (Tustison 2010), estimated inside the head.

    The field is made to have a geometric mean of 1 inside the head, so intensities keep their size.

    Args:
        scan: Intensities of 0 and more; what is below counts as background.
    """
    inside = foreground(scan.data, scan.spacing) & (scan.data > 0)
    image, mask = to_image(scan.data, scan.affine), to_image(inside, scan.affine) > 0.5
    factors = [max(1, round(WORKING_MM / s)) for s in scan.spacing]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    with one_thread():
        n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    field = to_array(n4.GetLogBiasFieldAsImage(image))
    field -= field[inside].mean()
    data = np.where(inside, scan.data * np.exp(-field), scan.data)
    return replace(scan, data=data.astype(np.float32))
