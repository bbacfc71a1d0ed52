"""The images that a run draws of itself as it trains: ``samples/<step>.png``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vgt.checkpoints import checkpoint
from vgt.core import photos, scenes, suites
from vgt.inference.generator import generate
from vgt.inference.images import grid, write_png
from vgt.inference.load import load
from vgt.inference.tokenizer import reconstruct
from vgt.methods.sampling import Sampling
from vgt.methods.vgt_ae import VGTAE, VGTAEConfig
from vgt.methods.visual_lm import VisualLM, VisualLMConfig


def reconstructions(config: VGTAEConfig, state, path: Path) -> None:
    """Originals above reconstructions: eight validation scenes, four training photo crops."""
    with torch.random.fork_rng(devices=[]):
        ae = VGTAE(config)
    checkpoint.load_into(ae, state, "the running model")
    size = config.image_size
    originals = np.concatenate([scenes.images("val", range(8), size), photos.images("train", range(4), size)])
    write_png(path, grid([*originals, *reconstruct(ae.eval(), originals)], 12))


def samples(config: VisualLMConfig, state, words, autoencoder: Path, path: Path) -> None:
    """Twelve fixed prompts, one image each, at 1x (first row) and 4x."""
    with torch.random.fork_rng(devices=[]):
        model = VisualLM(config)
    checkpoint.load_into(model, state, "the running model")
    ae = load(autoencoder)
    prompts = [r["prompt"] for r in suites.geneval_prompts(seed=7, per_task=2)]
    rows = []
    for acceleration in (1, 4):
        settings = Sampling(acceleration=acceleration, **Sampling.usual(model.tokens))
        rows += list(generate(model.eval(), ae.model, words, prompts, list(range(len(prompts))), settings))
    write_png(path, grid(rows, len(prompts)))
