"""``vgt eval probes``: what the latent space of an autoencoder is like."""

from __future__ import annotations

from typing import Literal

from evals.engine import options
from evals.engine.images import which
from evals.engine.options import option, positive
from evals.engine.records import Outcome

EXAMPLE = "vgt eval probes --subject vgt:vgt_ae_internvl"
ANCHOR = "random_projection"  # of pixels: what nothing learned scores


class Latents(options.Count, options.Precision, options.Common):
    """Options of everything that looks at latents."""

    data: str | None = option(
        None, "scenes (default), photos, or a folder; sub-folders of an ImageFolder are its labels"
    )
    size: int | None = option(None, "image side for encoders that take any (default 64)", type=positive)
    partial_ok: bool = option(False, "give values even where images cannot be read")

    def encoder(self, subject: str | None):
        """The autoencoder that ``subject`` names, or the anchor.  Raises ValueError for an option that does nothing."""
        self.refuse("what is drawn has a seed of its own", "seed")
        if subject == ANCHOR:
            from evals.subjects.pca import random_projection

            return random_projection(size=self.size or 64)
        return options.tokenizer(subject, self.out, self.on, self.dtype)

    def images(self, side: int | None):
        """The images that --data names, at the encoder's own size.  Raises ValueError where --size is another."""
        from evals.probes import data

        if side and self.size and side != self.size:
            raise ValueError(f"--size {self.size}: this encoder takes {side} pixels; leave --size out")
        return data.named(which(self.data or "scenes", "--data"), self.n, side or self.size or data.SIZE)


class Options(Latents):
    subject: str | None = option(None, f"vgt:<checkpoint>, pca or {ANCHOR} (what nothing learned scores)")
    through: Literal["mean", "max", "class", "token"] | None = option(
        None,
        "how an image's tokens become points (default: class, a class token or other features that the encoder has for "
        "probes, where there are some, else mean)",
        flag="--view",
    )
    wanted: str | None = option(None, "class whose images are clustered into maps", flag="--class", metavar="NAME")
    clusters: int = option(6, "clusters of the maps (6 or 8 are usual)", metavar="K")


def evaluate(given: Options) -> Outcome:
    from evals.probes import run as probes

    if given.dtype is not None and given.subject == ANCHOR:
        raise ValueError(f"--dtype {given.dtype} is for vgt: subjects, not for {ANCHOR!r}; leave it out")
    subject = given.named(given.encoder(given.subject))
    return probes.run(subject, **given.passed_to(probes.run, n=None, images=given.images(subject.size)))
