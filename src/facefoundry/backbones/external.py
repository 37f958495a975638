"""Any network of `timm` (an extra) as a face embedder: VGG, Inception, DenseNet, ResNet, ..."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from facefoundry.errors import FoundryError


class TimmBackbone(nn.Module):
    """model_name: a name of `timm.list_models()`, with random weights. image_size: give 112 to
    families with position embeddings (enlarged: the size that comes of it); convolutional networks
    take any size and refuse it. enlarge: times by which the crop is enlarged first; with 2 the
    network sees the 224 px that most were made for, and VGG cannot be exported with less.

    Only listed names are taken: with `hf-hub:` or `local-dir:` a stranger's model.json would make
    us read the network or the disk. Raises FoundryError without timm.
    """

    def __init__(
        self,
        model_name: str,
        image_size: int | None = None,
        enlarge: int = 1,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        self.enlarge = enlarge
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch raises
            raise FoundryError(
                f"backbone.architecture: 'timm' needs a working timm and torchvision ({error});"
                " pip install timm"
            ) from error
        if model_name not in timm.list_models():
            raise FoundryError(
                f"backbone.model_name: '{model_name}' is not in timm {timm.__version__};"
                " see timm.list_models()"
            )
        sizes = {} if image_size is None else {"img_size": image_size}
        self.model = timm.create_model(
            model_name, pretrained=False, num_classes=embedding_size, **sizes
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.enlarge != 1:
            images = functional.interpolate(images, scale_factor=self.enlarge, mode="bilinear")
        return self.model(images)
