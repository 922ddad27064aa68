"""The handlers of images, with the names that TorchServe documents."""

import base64
import io
from typing import Any

import torch
from PIL import Image
from torchvision import transforms

from skysail_common.loaders.torchserve.handlers import BaseHandler, map_class_to_label


class VisionHandler(BaseHandler):
    """A handler of images: encoded ones as bytes or base64, or lists of numbers."""

    image_processing: Any = None

    def preprocess(self, data: Any) -> Any:
        """Return the processed images [batch, channels, height, width]."""
        return torch.stack([self._tensor(row.get("data") or row.get("body")) for row in data])

    def _tensor(self, image: Any) -> Any:
        if isinstance(image, str):
            image = base64.b64decode(image)
        if isinstance(image, (bytes, bytearray)):
            return self.image_processing(Image.open(io.BytesIO(image)).convert("RGB"))
        return torch.FloatTensor(image)


class ImageClassifier(VisionHandler):
    """The handler `image_classifier`: the likeliest classes of an image, by their labels."""

    topk = 5
    # The size and the statistics of ImageNet.
    image_processing = transforms.Compose([
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip

    def postprocess(self, data: Any) -> Any:
        """Return the probabilities of the likeliest classes of each image."""
        probabilities = torch.softmax(data, dim=1)
        values, classes = torch.topk(probabilities, min(self.topk, data.shape[1]), dim=1)
        return map_class_to_label(values.tolist(), self.mapping, classes.tolist())
