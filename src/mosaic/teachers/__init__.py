"""How experts become a teacher. A new one is one file here, or anywhere, and one line of YAML."""

from mosaic.teachers.base import GatedTeacher, TeacherFactory
from mosaic.teachers.controls import Labels, Mean, Owner, Prototypes
from mosaic.teachers.evidence import Evidence
from mosaic.teachers.fitting import FitSettings
from mosaic.teachers.fusion import Fusion
from mosaic.teachers.prior import Prior
from mosaic.teachers.trained import Residual, TrainedTeacher, Transformer

__all__ = [
    "Evidence", "FitSettings", "Fusion", "GatedTeacher", "Labels", "Mean", "Owner", "Prior", "Prototypes", "Residual",
    "TeacherFactory", "TrainedTeacher", "Transformer",
]  # fmt: skip
