"""Records by name: what was measured, in the order and with the words that readers see."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vgt.core.record import SPEED, Record, one_form
from vgt.methods import registry

ACCELS = (1, 4, 16)  # tokens decoded per step in the head-to-head of QueryAR and MAR
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CATEGORIES = ("entity", "attribute", "relation", "global", "other")
GENEVAL, DPG = "scenes-geneval", "scenes-dpg"
QUERY_AR, MAR = registry.QUERY_AR.name, registry.MAR.name  # the two rivals, as names of models begin
METHODS = {system.name: system.label for system in (registry.QUERY_AR, registry.MAR)}
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
    "mar_internvl_compute": "MAR (InternVL), equal compute",
    "query_ar_qwen": "QueryAR (Qwen)",
    "mar_qwen": "MAR (Qwen)",
    "query_ar_pixel": "QueryAR (pixel AE)",
    "mar_pixel": "MAR (pixel AE)",
}
SHUFFLED, ORACLE, CEILING = "shuffled", "oracle", "oracle+"
OTHERS = {
    "vlm_internvl": "Tiny VLM (InternVL)",
    "vlm_qwen": "Tiny VLM (Qwen)",
    "judge-analytic": "Analytic judge",
    "random_projection": "Random projection",
    "identity": "Identity (no model)",
    "noise": "Noise",
    SHUFFLED: "Shuffled prompts (baseline)",
    ORACLE: "Oracle (true scenes)",
}
REFERENCES = ("random_projection", "identity", "noise", SHUFFLED, CEILING, ORACLE)  # in reading order
# Full-size networks with random weights, which are only timed.
SIZES = {"internvl3_1b": "0.6B", "internvl3_2b": "1.6B"}
RANDOM = "random-"
BATCH = 8  # whose speed stands beside the scores, where it was measured
# The autoencoder that a generator works on, where its records do not say.
AUTOENCODER_BY_SUFFIX = {"internvl": "vgt_ae_internvl", "qwen": "vgt_ae_qwen", "pixel": "pixel_ae"}


def label(subject: str) -> str:
    """What readers see for a subject, e.g. "QueryAR (InternVL)"; unknown subjects keep their name."""
    if subject.startswith(CEILING):
        return f"Ceiling on {label(subject.removeprefix(CEILING))}"
    if subject.startswith(RANDOM):
        return f"{_sized(subject.removeprefix(RANDOM))}, random weights"
    vlm, plus, encoder = subject.partition("+")
    if plus and vlm in OTHERS and encoder in AUTOENCODERS:
        return f"{label(vlm)} with the encoder of {label(encoder)}"
    return {**AUTOENCODERS, **GENERATORS, **OTHERS}.get(subject, subject)


def row_label(subject: str, accel: int | None = None) -> str:
    return label(subject) + (f" {accel}x" if accel is not None else "")


def method(subject: str) -> str | None:
    """The key in METHODS of the method that a generator's name begins with; None for others."""
    name = subject.removeprefix(RANDOM)
    return next((key for key in METHODS if name.startswith(f"{key}_")), None)


def _sized(preset: str) -> str:
    """What readers see for a preset, e.g. "QueryAR 0.6B"."""
    key = method(preset)
    for name, size in SIZES.items():
        if key and preset.startswith(f"{key}_{name}"):
            return f"{METHODS[key]} {size}{preset.removeprefix(f'{key}_{name}')}"
    return label(preset)


def is_reference(subject: str) -> bool:
    """True for baselines and ceilings, which stand beside the models and do not compete with them."""
    return subject in REFERENCES or subject.startswith(CEILING)


def _rank(subject: str) -> tuple:
    names = [*AUTOENCODERS, *GENERATORS]
    if is_reference(subject):
        return 2, REFERENCES.index(re.sub(r"\+.*", "+", subject)), subject
    return (0, names.index(subject), "") if subject in names else (1, 0, subject)


def basis(record: Record) -> tuple:
    """What two numbers of one column must share to be comparable: data, protocol and judge; a speed, the device."""
    if SPEED.fullmatch(record.suite):
        return ("device", record.device, record.protocol, record.suite)
    return ("score", record.suite_hash, record.protocol, record.judge)


FREE = {"acceleration", "batch", "images_per_prompt", "repeats", "warmup", "steps"}  # what rows show, or how often


def chosen(record: Record) -> dict[str, object]:
    """The settings of protocol and sampler that a number was measured with, where it tells them."""
    sampler = record.extra.get("settings")
    told = one_form(record.protocol_params) | one_form(sampler if isinstance(sampler, dict) else {})
    return {name: value for name, value in told.items() if name not in FREE}


def unlike(a: dict[str, object], b: dict[str, object]) -> list[str]:
    """The settings that two numbers both tell and that differ, in words, e.g. "guidance 3.0 and 1.0"."""
    return [f"{name} {a[name]} and {b[name]}" for name in sorted(a.keys() & b.keys()) if a[name] != b[name]]


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

    def speed_suites(self) -> list[tuple[int, bool, str]]:
        """(batch, whether without waiting, suite) of the speeds of whole images, in that order."""
        found = {r.suite: SPEED.fullmatch(r.suite) for r in self.records}
        whole = [(int(m["batch"]), bool(m["throughput"]), s) for s, m in found.items() if m and not m["steps"]]
        return sorted(whole)

    def latency_suites(self) -> list[tuple[int, str]]:
        """(batch, suite) of the speeds of whole images whose every batch was waited for."""
        return [(batch, suite) for batch, throughput, suite in self.speed_suites() if not throughput]

    @property
    def speed_suite(self) -> str:
        """The suite of the speeds that stand beside scores: of ``BATCH`` images, else of the fewest."""
        suites = [suite for _, suite in self.latency_suites()]
        return f"bench-b{BATCH}" if f"bench-b{BATCH}" in suites else next(iter(suites), f"bench-b{BATCH}")

    def speed(self, subject: str, metric: str, accel: int | None = None) -> Record | None:
        """A speed to show beside scores."""
        return self.get(subject, self.speed_suite, metric, accel)

    def autoencoders(self) -> list[str]:
        return self.subjects("scenes", "photos")

    def generators(self) -> list[str]:
        """Models (no baselines or ceilings) with a score or a generation speed."""
        found = set(self.subjects(GENEVAL, DPG))
        found |= {s for s in self.timed() if not s.startswith(RANDOM)}
        return sorted((s for s in found if not is_reference(s)), key=_rank)

    def timed(self) -> list[str]:
        """Generators with a speed of whole images, those with random weights too."""
        return self.subjects(*(suite for *_, suite in self.speed_suites()), metric="ms-per-image")

    def rivals(self, among: list[str] | None = None) -> list[tuple[str, str]]:
        """(QueryAR, MAR) pairs on the same latents, e.g. ("query_ar_internvl", "mar_internvl"); ``among`` these, by
        default the generators."""
        found = self.generators() if among is None else among
        pairs = [(s, s.replace(QUERY_AR, MAR, 1)) for s in found if method(s) == QUERY_AR]
        return [pair for pair in pairs if pair[1] in found]

    def timed_pairs(self) -> list[dict[str, str | None]]:
        """The timed generators of both methods as pairs of rivals by method; one without its rival stands alone."""
        timed = self.timed()
        both = dict(self.rivals(timed))
        pairs = []
        for s in timed:
            if method(s) is not None and s not in both.values():
                pairs.append(dict.fromkeys(METHODS) | {method(s): s} | ({MAR: both[s]} if s in both else {}))
        return pairs

    def accels(self, subject: str) -> list[int | None]:
        """Accelerations to show for a generator: those found, and all of ACCELS for the head-to-head pairs."""
        suites = (GENEVAL, DPG, self.speed_suite)
        found = {r.accel for r in self.records if r.subject == subject and r.suite in suites}
        if any(subject in pair for pair in self.rivals()):
            found |= set(ACCELS)
        return sorted(found, key=lambda a: a or 0)

    def autoencoder_of(self, generator: str) -> str | None:
        """The autoencoder whose latents a generator makes: as its records say, else by its name."""
        for r in self.records:
            if r.subject == generator and isinstance(r.extra.get("autoencoder"), str):
                return r.extra["autoencoder"]
        return AUTOENCODER_BY_SUFFIX.get(generator.removesuffix("_compute").rsplit("_", 1)[-1])

    def cka_pairs(self) -> tuple[list[str], dict[tuple[str, str], Record]]:
        """(encoders in reading order, {(a, b): record of their linear CKA} in both orders)."""
        found = {}
        for record in self.where("scenes-cka"):
            other = record.extra.get("other") or record.protocol_params.get("other")
            if isinstance(other, str):
                found[record.subject, other] = found[other, record.subject] = record
        known = list(AUTOENCODERS)
        names = sorted({name for pair in found for name in pair})
        names.sort(key=lambda n: (is_reference(n), known.index(n) if n in known else len(known)))
        return names, found
