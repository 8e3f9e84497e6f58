"""Configurations accept what benchmarks ask of ``mosaic fit``."""

from pathlib import Path

from mosaic.cli.main import check


def test_precision() -> None:
    from precision import CONFIG, FEDAVG, MOSAIC, SWITCHES

    for flags in (FEDAVG, MOSAIC, *SWITCHES.values()):
        check(["fit", f"--config={CONFIG}", *flags])


def test_memory(tmp_path: Path) -> None:
    from memory import ALGORITHMS, arguments, write_images

    write_images(tmp_path / "images.npz", 4)
    for name in ALGORITHMS:
        check(arguments(tmp_path, name, clients=4, rounds=1))


def test_profile_digits() -> None:
    from profile_digits import DEMO

    check(["fit", *DEMO])
