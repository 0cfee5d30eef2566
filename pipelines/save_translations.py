"""Results of a folder on disk: the folder's tree kept, nothing overwritten, failures listed."""

import csv
import io
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from voxlate.data_prep import (
    UNIT,
    Preprocessing,
    VoxlateError,
    parse_output_scale,
    write_atomically,
)

from .bundle import Origin
from .bundle_inference import FAILURE, TranslationInferer
from .case_steps import Made, Request, StoredAs, Translation
from .checkpoint import sha256_of
from .device import autocast_dtype
from .finish_case import finish_case
from .layouts import tree_files
from .outputs import write_translation

logger = logging.getLogger(__name__)

SOME_FAILED, ALL_FAILED = 8, 9
FAILED = "failed.csv"


class SaveTranslations:
    """Handler that writes each case as the command line does, below ``output_dir``.

    ``<dataset_dir>/a/scan.nii.gz`` becomes ``<output_dir>/a/scan_<target>.nii.gz``, ``scan_qc.png``
    and ``scan.json``. A case that failed is logged and listed in ``failed.csv``; the others go on.

    Args:
        output_dir: Made if absent.
        inferer: That of the evaluator; says what was asked for.
        preprocessing: That of the data set; takes volumes back to the scan's grid.
        weights: File that the network's weights came from, for the record.
        bundle: Name of the bundle, for the record.
        version: Its version, likewise.
        intensity: ``unit``, ``percentile`` or ``match:REFERENCE``, see docs/intensity.md.
        stored_as: Voxel type of the files: ``float32`` or ``scan``, the scan's own.
        overwrite: Replace results that are there; else such a case fails.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        inferer: TranslationInferer,
        preprocessing: Preprocessing,
        weights: str | os.PathLike[str] | None = None,
        bundle: str = "unknown",
        version: str = "unknown",
        intensity: str = "unit",
        stored_as: StoredAs = "float32",
        overwrite: bool = False,
    ) -> None:
        self.output_dir, self.overwrite = Path(output_dir), overwrite
        self.inferer, self.preprocessing = inferer, preprocessing
        self.weights, self.bundle, self.version = weights, bundle, version
        self.intensity, self.stored_as = intensity, stored_as
        self.scale = UNIT
        self.origin: Origin | None = None
        self.written: list[Path] = []
        self.failures: list[tuple[str, str, str]] = []
        self._began = 0.0

    def attach(self, engine: Engine) -> None:
        """Save after each case, sum up at the end."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Forget an earlier run; read the references; note whose weights these are.

        Raises:
            VoxlateError: There is no such intensity scale, or a reference cannot be used.
        """
        self.written, self.failures = [], []
        if isinstance(self.inferer.source, str):
            made = self.inferer.wanted(engine.network)[1]
        else:
            made = list(self.inferer.targets or engine.network.modalities)
        self.scale = parse_output_scale(self.intensity, made)
        if self.weights is not None:
            self.origin = Origin(self.bundle, self.version, sha256_of(self.weights))

    def begin(self, engine: Engine) -> None:
        """Note when a case began."""
        self._began = time.perf_counter()

    def save(self, engine: Any) -> None:
        """Write one case, or note why not."""
        batch, output = engine.state.batch, engine.state.output
        try:
            if FAILURE in output:
                raise output[FAILURE]
            translation = self._translation(engine, batch, output["pred"][0])
            files = write_translation(
                translation,
                self.output_dir,
                tree_files(batch["case_id"], list(translation.volumes)),
                overwrite=self.overwrite,
            )
        except VoxlateError as error:
            self.failures.append((batch["case_id"], error.code, str(error)))
            logger.error("%s", error)
            return
        self.written += files
        logger.info("%s: written", batch["case_id"])

    def finish(self, engine: Engine) -> None:
        """List the failures.

        Raises:
            SystemExit: With 8 if some cases failed, with 9 if all did.
        """
        if not self.failures:
            return
        text = io.StringIO()
        csv.writer(text).writerows([("case", "code", "message"), *self.failures])
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with write_atomically(self.output_dir / FAILED) as file:
            file.write(text.getvalue().encode())
        logger.error("%d case(s) failed, see %s", len(self.failures), self.output_dir / FAILED)
        raise SystemExit(SOME_FAILED if self.written else ALL_FAILED)

    def _translation(self, engine: Any, batch: dict[str, Any], made: Any) -> Translation:
        """``made`` is (t, x, y, z) on the network's grid."""
        (source, *others), targets, notes = self.inferer.wanted(
            engine.network, list(batch.get("given", ()))
        )
        request = Request(
            batch["case_id"],
            source,
            tuple(targets),
            self.inferer.seed,
            self.inferer.steps,
            self.scale,
            self.stored_as,
            others=tuple(others),
            further=batch["further"],
        )
        volumes = Made(
            made[:, None],
            made.device,
            autocast_dtype(made.device),
            self.origin,
            {"translate": round(time.perf_counter() - self._began, 3)},
        )
        translation = finish_case(batch["ready"], volumes, request, self.preprocessing)
        return replace(translation, warnings=tuple(dict.fromkeys((*translation.warnings, *notes))))
