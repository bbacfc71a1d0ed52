"""Records by name: what was measured, in the order and with the words that readers see."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vgt.core.record import Record

ACCELS = (1, 4, 16)  # tokens decoded per step in the head-to-head of QueryAR and MAR
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CATEGORIES = ("entity", "attribute", "relation", "global", "other")
AUTOENCODERS = {
    "vgt_ae_internvl": "VGT-AE (InternVL)",
    "vgt_ae_qwen": "VGT-AE (Qwen)",
    "vgt_ae_internvl_nodistill": "VGT-AE (InternVL) without self-distillation",
    "pixel_ae": "Pixel-only AE",
    "pca": "PCA on patches",
}
GENERATORS = {
    "query_ar_internvl": "QueryAR (InternVL)",
    "mar_internvl": "MAR (InternVL)",
    "query_ar_qwen": "QueryAR (Qwen)",
    "mar_qwen": "MAR (Qwen)",
    "query_ar_pixel": "QueryAR (pixel AE)",
    "mar_pixel": "MAR (pixel AE)",
}
OTHERS = {
    "vlm_internvl": "Tiny VLM (InternVL)",
    "vlm_qwen": "Tiny VLM (Qwen)",
    "judge-analytic": "Analytic judge",
    "random_projection": "Random projection",
    "identity": "Identity (no model)",
    "noise": "Noise",
    "shuffled": "Floor (shuffled prompts)",
    "oracle": "Oracle (as drawn)",
}
REFERENCES = ("random_projection", "identity", "noise", "shuffled", "oracle+", "oracle")  # in reading order
# The autoencoder that a generator works on, where its records do not say.
LATENTS = {"internvl": "vgt_ae_internvl", "qwen": "vgt_ae_qwen", "pixel": "pixel_ae"}


def label(subject: str) -> str:
    """What readers see for a subject, e.g. "QueryAR (InternVL)"; unknown subjects keep their name."""
    if subject.startswith("oracle+"):
        return f"Ceiling on {label(subject.removeprefix('oracle+'))}"
    vlm, plus, encoder = subject.partition("+")
    if plus and vlm in OTHERS and encoder in AUTOENCODERS:
        return f"{label(vlm)} with the encoder of {label(encoder)}"
    return {**AUTOENCODERS, **GENERATORS, **OTHERS}.get(subject, subject)


def is_reference(subject: str) -> bool:
    """True for floors, ceilings and dummies, which stand beside the models and do not compete with them."""
    return subject in REFERENCES or subject.startswith("oracle+")


def _rank(subject: str) -> tuple:
    names = [*AUTOENCODERS, *GENERATORS]
    if is_reference(subject):
        return 2, REFERENCES.index(re.sub(r"\+.*", "+", subject)), subject
    return (0, names.index(subject), "") if subject in names else (1, 0, subject)


class Measured:
    """All records of a report, looked up by subject, suite, metric and acceleration."""

    def __init__(self, records: Iterable[Record]):
        self.records = list(records)
        self._by_name = {(r.subject, r.accel, r.suite, r.metric): r for r in self.records}

    def get(self, subject: str, suite: str, metric: str, accel: int | None = None) -> Record | None:
        return self._by_name.get((subject, accel, suite, metric))

    def where(self, suite: str, metric: str | None = None) -> list[Record]:
        """Records of one suite (and metric), best-known subjects first, then by acceleration."""
        found = [r for r in self.records if r.suite == suite and metric in (None, r.metric)]
        return sorted(found, key=lambda r: (_rank(r.subject), r.accel or 0, r.metric))

    def subjects(self, *suites: str, metric: str | None = None) -> list[str]:
        """Subjects with a record in any of the suites, in reading order."""
        found = {r.subject for suite in suites for r in self.where(suite, metric)}
        return sorted(found, key=_rank)

    def autoencoders(self) -> list[str]:
        return self.subjects("scenes", "photos")

    def generators(self) -> list[str]:
        """Models (no floors or ceilings) with a score or a generation speed."""
        found = set(self.subjects("scenes-geneval", "scenes-dpg"))
        found |= {r.subject for r in self.where("bench") if r.accel is not None}
        return sorted((s for s in found if not is_reference(s)), key=_rank)

    def rivals(self) -> list[tuple[str, str]]:
        """(QueryAR, MAR) pairs on the same latents, e.g. ("query_ar_internvl", "mar_internvl")."""
        found = self.generators()
        pairs = [(s, s.replace("query_ar_", "mar_")) for s in found if s.startswith("query_ar_")]
        return [pair for pair in pairs if pair[1] in found]

    def accels(self, subject: str) -> list[int | None]:
        """Accelerations to show for a generator: those found, and all of ACCELS for the head-to-head pairs."""
        suites = ("scenes-geneval", "scenes-dpg", "bench")
        found = {r.accel for r in self.records if r.subject == subject and r.suite in suites}
        if any(subject in pair for pair in self.rivals()):
            found |= set(ACCELS)
        return sorted(found, key=lambda a: a or 0)

    def autoencoder_of(self, generator: str) -> str | None:
        """The autoencoder whose latents a generator draws: as its records say, else by its name."""
        for r in self.records:
            if r.subject == generator and isinstance(r.extra.get("autoencoder"), str):
                return r.extra["autoencoder"]
        return LATENTS.get(generator.rsplit("_", 1)[-1])


def row_label(subject: str, accel: int | None = None) -> str:
    return label(subject) + (f" {accel}x" if accel is not None else "")


def basis(record: Record) -> tuple:
    """What two numbers of one column must share to be comparable: data, protocol and judge; a speed, the device."""
    if record.suite == "bench":
        return ("device", record.device, record.protocol, record.protocol_params.get("batch"))
    return ("score", record.suite_hash, record.protocol, record.judge)
