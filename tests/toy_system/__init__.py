"""A class-conditional system from outside the project: ``VGT_SYSTEMS=toy_system`` (ADDING_A_SYSTEM.md)."""

from vgt.methods.registry import System, register

register(
    System(
        name="toy_codebook",
        label="Codebook",
        kind="tokenizer",
        about="A codebook of image patches",
        latents="discrete",
        model="toy_system.codebook:Codebook",
        config="toy_system.codebook:CodebookConfig",
        job="toy_system.codebook:job",
    )
)
register(
    System(
        name="toy_prior",
        label="Prior",
        kind="generator",
        about="A class-to-image generator (one categorical distribution for each class and place)",
        condition="label",
        model="toy_system.prior:Prior",
        config="toy_system.prior:PriorConfig",
        job="toy_system.prior:job",
        sampling="toy_system.prior:PriorSampling",
        generator="toy_system.prior:LabelToImage",
    )
)
