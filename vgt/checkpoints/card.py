"""The model card that a checkpoint gets when its writer gives none: what it is and how it is used."""

from __future__ import annotations

from collections.abc import Mapping

from vgt.methods import registry


def checkpoint(name: str, system: str, config: Mapping, weights: int, storage: str) -> str:
    """The card of one checkpoint folder.  ``config``: the system's configuration; its parent is read from it;
    ``weights``: how many numbers; ``storage``: in which precision."""
    parent = ""
    if config.get("autoencoder"):
        parent = f"* autoencoder: {config.get('autoencoder_name') or 'unnamed'} (`{config['autoencoder'][:16]}`)\n"
    entry = registry.get(system)
    module, _, kind = entry.model.partition(":")
    return f"""{_front(system)}# {name}

{entry.about} with {weights:,} weights.

* system: `{system}`
* weights: safetensors, {storage}
{parent}
```python
from {module} import {kind}

model = {kind}.from_pretrained("{name}")  # this folder
```
"""


def pipeline(name: str, system: str, parts: Mapping[str, int]) -> str:
    """The card of a pipeline folder.  ``parts``: component -> number of weights."""
    lines = "".join(f"* `{part}/`: {weights:,} weights\n" for part, weights in parts.items())
    return f"""{_front(system)}# {name}

{registry.get(system).about} with the autoencoder that it was trained on.

{lines}
```python
from vgt.inference.pipeline import VGTPipeline

pipe = VGTPipeline.from_pretrained("{name}")  # this folder
pipe("a photo of a red star", generator=0).images[0].save("star.png")
```
"""


def _front(system: str) -> str:
    task = "pipeline_tag: text-to-image\n" if registry.get(system).condition == "text" else ""
    return f"---\nlibrary_name: vgt\n{task}tags: [vgt, {system}]\n---\n"
