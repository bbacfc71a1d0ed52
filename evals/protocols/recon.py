"""Reconstruction (spec evaluators 1)."""

from evals.protocols import Protocol

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol("default", "recon", "at the model's own size, all metrics from the same rounded uint8 images"),
    Protocol("ssim-wang", "recon", "SSIM, 11x11 Gaussian window sigma 1.5, data range 1 (Wang et al. 2004)"),
    Protocol("ssim-sk", "recon", "SSIM, 7x7 uniform window, sample covariance, data range 1"),
    Protocol(
        "ssim-taming",
        "recon",
        "SSIM, 7x7 uniform window, data range 2 on [0, 1] images: inflated",
    ),
    Protocol("ssim-tm", "recon", "SSIM, 11x11 Gaussian window, all channels, reflect padding (torchmetrics)"),
    Protocol("ssim-y", "recon", "SSIM, 11x11 Gaussian window, luma only"),
    Protocol("psnr-mean", "recon", "mean of per-image PSNR, capped at 100 dB"),
    Protocol("psnr-global", "recon", "PSNR of the pooled mean squared error"),
    Protocol("fd-efflite2", "recon", "Frechet distance of EfficientNet-Lite2 features; not FID"),
)
