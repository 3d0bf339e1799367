"""Networks by name: from an image to the channels of all fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from embedseg_large.errors import UsageError
from embedseg_large.network.erfnet import MOST_CHANNELS, BranchedERFNet
from embedseg_large.network.forest import FOREST, Forest, forest_shapes
from embedseg_large.network.inference import InferenceNetwork
from embedseg_large.network.lanes import in_order
from embedseg_large.network.memory import Memory
from embedseg_large.network.settings import EMBEDSEG, ERFNET, ModelSettings
from embedseg_large.network.unet import UNet, UNetInference

Forward = Callable[[Tensor, Memory], Tensor]


def new_network(settings: ModelSettings) -> BranchedERFNet | UNet:
    """Return a network for the fields of a model, with random weights.

    Raises
    ------
    UsageError
        If the backbone cannot take that many image channels.
    """
    if settings.backbone == "unet":
        return UNet(settings.ndim, settings.channels, settings.heads)
    if settings.channels > MOST_CHANNELS:
        raise UsageError(
            f"the backbone {ERFNET} takes at most {MOST_CHANNELS} image channels, not "
            f"{settings.channels}; choose channels, or use the backbone unet"
        )
    heads = None if settings.method == EMBEDSEG else settings.heads
    return BranchedERFNet(settings.ndim, settings.channels, heads)


def shapes_of(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors by name, without creating the network."""
    if settings.backbone == FOREST:
        return forest_shapes(settings.ndim, settings.channels)
    return _shapes(lambda: new_network(settings))


def original_shapes(ndim: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the same for a checkpoint of the original program."""
    return _shapes(lambda: BranchedERFNet(ndim, channels))


def _shapes(make: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}


def inference_network(
    weights: Mapping[str, Tensor], settings: ModelSettings, device: str, dtype: torch.dtype
) -> Forward:
    """Return the network of a model in its inference form.

    Parameters
    ----------
    weights
        Weights of the network that `new_network` returns for these settings.
    settings
        Settings of the model.
    device
        ``cpu``, ``cuda`` or ``cuda:INDEX``.
    dtype
        Number format of all layers but the last ones.
    """
    if settings.backbone == FOREST:
        return Forest(weights)
    with torch.device("meta"):  # no random weights: slow, and they would change the state
        network = new_network(settings)
    network.load_state_dict(dict(weights), assign=True)

    def made(network: nn.Module) -> Forward:
        if isinstance(network, UNet):
            return UNetInference(network, device, dtype)
        assert isinstance(network, BranchedERFNet)
        return InferenceNetwork(network, device, dtype)

    # the tensors are small: on a busy machine threads would mostly wait for each other
    [found] = in_order(made, [network.eval()], lanes=1)
    return found
