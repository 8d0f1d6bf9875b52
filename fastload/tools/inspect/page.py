"""What was found as one HTML page that needs nothing else, with thumbnails.

Runs in: consumer.
Takes: what was found.
Gives: the page, as text. Nothing of a file is in it as it is: names and texts are escaped, what is
not printable too (it may turn the direction of writing), and images are made anew of their pixels.
"""

from __future__ import annotations

import base64
import io

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from fastload.tools.inspect.inspection import Inspection, size_words
from fastload.tools.words import printable

_THUMBNAIL = 160
"""The longer side of a thumbnail, in pixels."""


def render_page(found: Inspection) -> str:
    """Return the page; without Pillow it has no thumbnails."""
    environment = Environment(
        loader=PackageLoader("fastload.tools.inspect"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if isinstance(value, str) else value,
    )
    thumbnails = [None if each.image is None else _thumbnail(each.image) for each in found.samples]
    return environment.get_template("inspect.html.j2").render(
        found=found,
        samples=list(zip(found.samples, thumbnails, strict=True)),
        size_words=size_words,
    )


def _thumbnail(image: torch.Tensor) -> str | None:
    """Return an image as a small PNG file in a data URI."""
    try:
        from PIL import Image
    except ImportError:
        return None
    small = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
