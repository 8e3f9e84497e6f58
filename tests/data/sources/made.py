"""Small pictures and files that the tests of the sources share."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(picture: np.ndarray | Image.Image) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, "png")
    return file.getvalue()


def save(path: Path, picture: np.ndarray | Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
    return path


def medmnist(path: Path, **changes: Any) -> str:
    """Write a file as MedMNIST publishes them: three splits, labels of shape (N, 1)."""
    made = {}
    for seed, (split, count) in enumerate({"train": 6, "val": 3, "test": 4}.items()):
        made[f"{split}_images"] = random_pixels(count, 28, 28, seed=seed)
        made[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 3)[:, None]
    np.savez_compressed(path, **{key: value for key, value in {**made, **changes}.items() if value is not None})
    return str(path)


def class_folders(root: Path, count: int = 4, shape: tuple[int, ...] = (5, 6, 3)) -> Path:
    """Write ``root/{ant,bee}/N.png``; the pictures differ."""
    for seed, name in enumerate(("ant", "bee")):
        for i in range(count):
            save(root / name / f"{i}.png", random_pixels(*shape, seed=100 * seed + i))
    return root
