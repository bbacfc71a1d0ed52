"""The model card that a checkpoint gets when its writer gives none: what it is and how it is used."""

from __future__ import annotations

from collections.abc import Mapping

KINDS = {
    "vlm": "A vision-language model",
    "vgt_ae": "An autoencoder on a vision encoder (VGT-AE)",
    "query_ar": "A text-to-image generator (QueryAR)",
    "mar": "A text-to-image generator (MAR)",
}
CLASSES = {
    "vlm": ("vlm.vlm", "VLM"),
    "vgt_ae": ("methods.vgt_ae", "VGTAE"),
    "query_ar": ("methods.visual_lm", "VisualLM"),
    "mar": ("methods.visual_lm", "VisualLM"),
}
GENERATORS = ("query_ar", "mar")


def checkpoint(name: str, system: str, config: Mapping, weights: int, storage: str) -> str:
    """The card of one checkpoint folder.  ``config``: the system's configuration; its parent is read from it;
    ``weights``: how many numbers; ``storage``: in which precision."""
    parent = ""
    if config.get("autoencoder"):
        parent = f"* autoencoder: {config.get('autoencoder_name') or 'unnamed'} (`{config['autoencoder'][:16]}`)\n"
    module, kind = CLASSES[system]
    return f"""{_front(system)}# {name}

{KINDS[system]} with {weights:,} weights.

* system: `{system}`
* weights: safetensors, {storage}
{parent}
```python
from vgt.{module} import {kind}

model = {kind}.from_pretrained("{name}")  # this folder
```
"""


def pipeline(name: str, system: str, parts: Mapping[str, int]) -> str:
    """The card of a pipeline folder.  ``parts``: component -> number of weights."""
    lines = "".join(f"* `{part}/`: {weights:,} weights\n" for part, weights in parts.items())
    return f"""{_front(system)}# {name}

{KINDS[system]} with the autoencoder that it was trained on.

{lines}
```python
from vgt.inference.pipeline import VGTPipeline

pipe = VGTPipeline.from_pretrained("{name}")  # this folder
pipe("a photo of a red star", generator=0).images[0].save("star.png")
```
"""


def _front(system: str) -> str:
    task = "pipeline_tag: text-to-image\n" if system in GENERATORS else ""
    return f"---\nlibrary_name: vgt\n{task}tags: [vgt, {system}]\n---\n"
