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
"""
