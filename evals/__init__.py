"""Evaluation of generators, autoencoders and vision-language models.

One package per evaluator, registered by one line in ``evals/engine/registry.py`` and run by ``vgt eval <name>``:

    geneval, dpg      does an image show what its prompt says (detector, question answering)?
    recon             reconstruction by an autoencoder: PSNR, SSIM, LPIPS, rFID, use of the codebook
    fidelity          two sets of images: FID, KID, precision and recall, inception score
    probes            the latent space of an autoencoder, and how alike two encoders are (``cka``)
    vqa               answers of a VLM about synthetic scenes;  understanding: benchmarks that other harnesses ran
    solvers           samplers of the flow head: score against evaluations
    calibration       how far the judge of the synthetic scenes can be trusted (``judge``);  agreement: of two judges
    training          the log of a training run as a record

They know what they evaluate only by the protocols in ``evals/engine/api.py``.  Shared parts:

    engine            protocols, per-sample results on disk, records, images of a suite, options, several processes
    subjects          what is evaluated: our checkpoints, diffusers pipelines, folders of images, baselines
    judges            who judges: rules for the synthetic scenes, Mask2Former with CLIP, VQA models, programs, tables
    features, metrics networks whose features are compared, and the numbers as pure functions
    compare           two models or two runs: paired contrasts, and the gate of a release

From Python the same evaluators take arrays or folders and give back records, whose ``value``, ``low``, ``high`` and
``n`` are the numbers (docs/python.md):

    evals.reconstruction(originals, rebuilt)     two stacks of images, or two folders
    evals.fid(generated, real, weights=...)      one record;  evals.fidelity: KID, precision and recall, ...
    evals.geneval("folder:images", ...)          and evals.dpg, of any subject
    evals.compare("runs/a", "runs/b")            paired, metric by metric
    evals.evaluate("probes", subject=...)        any evaluator, by the names of its flags
"""

import importlib

from evals.functions import evaluate, fid, reconstruction

PACKAGES = ("compare", "dpg", "fidelity", "geneval")  # those that can be called

__all__ = ["evaluate", "fid", "reconstruction", *PACKAGES]


def __getattr__(name: str):
    if name in PACKAGES:
        return importlib.import_module(f"evals.{name}")
    raise AttributeError(f"module 'evals' has no attribute {name!r}")
