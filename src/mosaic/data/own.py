"""Make a federation's data from the user's own datasets."""

from collections.abc import Sequence
from typing import Any

from mosaic.data.device_cache import Policy
from mosaic.data.module import FederatedDataModule
from mosaic.data.partitions import NaturalPartition, Partition
from mosaic.data.sources.map_style import OWNER, DatasetsSource
from mosaic.errors import MosaicError
from mosaic.nets.augmentation import Augmentation


def from_datasets(
    datasets: Sequence[Any],
    test: Any,
    *,
    partition: Partition | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    validation_share: float = 0.1,
    batch_size: int = 64,
    augmentation: Augmentation = Augmentation(),
    mean: list[float] | None = None,
    std: list[float] | None = None,
    device_cache: Policy = "auto",
) -> FederatedDataModule:
    """Make the data of a federation out of map-style datasets, one for each client.

    An item is a pair of an image and its label. An image is a tensor of shape ``(channels, H, W)`` or ``(H, W)``, an
    array of shape ``(H, W)`` or ``(H, W, channels)``, or a PIL image; all have one size, 1 or 3 channels, and pixels of
    8 bits, of uint16 or in ``[0, 1]``, which become 8 bits. Items are read once, so random transforms of a dataset act
    once: ``augmentation`` is what acts anew in every step.

    Args:
        datasets: the images of client 0, 1, and so on, such as ``torch.utils.data.Dataset``.
        test: dataset to test the global model on; no client sees it.
        partition: deals the images of all datasets out instead, for example of a single one.
        class_names: names of the classes. Labels of datasets with ``classes`` among them are matched by name, unless
            a ``target_transform`` changes them; all others are places in the names.
        seed: of the validation split, and of the partition.
        validation_share: share of each client's images that is held out to validate models.
        batch_size: of local training.
        augmentation: what local training does to images.
        mean: pixel mean per channel in ``[0, 1]``; measured when not given.
        std: pixel standard deviation per channel; measured when not given.
        device_cache: whether training images are copied to the GPU, see :class:`FederatedDataModule`.

    Raises:
        MosaicError: there is no dataset, or one is of another kind or empty; images are read, and refused, when a run
            begins.
    """
    if not isinstance(datasets, list | tuple) or not datasets:
        raise MosaicError(
            f"datasets: expected a list with the dataset of each client, got {type(datasets).__name__}"
            f"{' without any' if isinstance(datasets, list | tuple) else ''}"
        )
    source = DatasetsSource(datasets, test, class_names)
    dealt = partition if partition is not None else NaturalPartition(OWNER)
    return FederatedDataModule(source, dealt, seed, validation_share, batch_size, augmentation, mean, std, device_cache)
