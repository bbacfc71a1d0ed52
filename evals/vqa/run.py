"""``vgt eval vqa``: how well a VLM answers questions about held-out scenes.

The same code for any model that answers questions: our VLMs before and after their encoder was tuned, transformers
models from a folder, programs of their own."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evals import judges
from evals.engine import options
from evals.engine.api import origin
from evals.engine.options import option
from evals.engine.records import Measure, Outcome, stored, write
from evals.engine.store import WHOLE, Shard, collect, failures
from evals.judges.answering import label, replies
from vgt.core import captions, files, record, scenes
from vgt.core.text import Fields

SUITE, PROTOCOL = "scenes-vqa", "exact-match"
SCENES, QUESTIONS = 400, 5
SIDE = 64  # pixels of a scene for models that do not say what they take
INSTRUCTION = "Answer with one word."  # what chat models are told
VERSION = 2  # of the rules: raise it when a change to them can change a score


def same(reply: str, answer: str) -> bool:
    """Whether a reply is the answer: stripped, lower case, without trailing punctuation."""
    return reply.strip().lower().rstrip(".,;:!?").rstrip() == answer


def with_encoder(answerer: Any, autoencoder: Any) -> Any:
    """Our VLM with the vision encoder and projector of a tuned VGT-AE in the place of its own: what tuning did to
    understanding.  ``answerer``, ``autoencoder``: as made by evals.subjects.vgt; the answerer's model is changed.

    Raises ValueError for an autoencoder without a VLM's encoder and for one of another architecture."""
    tuned = getattr(autoencoder.model, "encoder", None)
    if not hasattr(tuned, "tower"):
        raise ValueError(f"{autoencoder.name} has no VLM's vision encoder; give a VGT-AE, not a pixel-only autoencoder")
    try:
        answerer.model.encoder.load_state_dict(tuned.state_dict(), strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ValueError(f"the encoder of {autoencoder.name} does not fit {answerer.name}: {first}") from error
    fingerprint = files.digest("encoder of", autoencoder.fingerprint, answerer.fingerprint)
    return replace(answerer, name=f"{answerer.name}+{autoencoder.name}", fingerprint=fingerprint)


def _asked(n: int) -> dict[int, list[tuple[str, str]]]:
    """Scene -> its (question, answer) pairs."""
    return {i: captions.questions(scenes.scene("test", i), scenes.Draws("vqa", i), QUESTIONS) for i in range(n)}


def _measure(asked: dict[int, list[tuple[str, str]]], evidence: dict[str, dict]) -> Measure:
    values, clusters, ids = [], [], []
    by_kind: dict[str, list[float]] = {}
    for scene, pairs in asked.items():
        entry = evidence[str(scene)]
        for number, (question, answer) in enumerate(pairs if "error" not in entry else ()):
            values.append(float(same(entry["asked"][number]["answer"], answer)))
            clusters.append(str(scene))
            ids.append(f"{scene}:{number}")
            by_kind.setdefault(" ".join(question.split()[:2]), []).append(values[-1])
    total = sum(map(len, asked.values()))
    return Measure(
        metric="accuracy",
        values=values,
        clusters=clusters,
        ids=ids,
        n=len(values),
        asked=total,
        n_expected=max(total, SCENES * QUESTIONS),
        n_failed=total - len(values),
        note=failures(evidence),
        extra={"by_kind": {kind: [float(np.mean(of)), len(of)] for kind, of in sorted(by_kind.items())}},
    )


def run(
    answerer: Any,
    *,
    work: str | Path,
    records: str | Path,
    n: int = SCENES,
    partial_ok: bool = False,
    shard: Shard = WHOLE,
) -> Outcome:
    """Share of right answers to ``QUESTIONS`` questions on each of ``n`` test scenes, drawn in the size that the model
    takes; interval clustered by scene.

    ``answerer``: an evals.engine.api.Answerer, or what else evals.judges.answering.replies can ask.  Answers are
    stored scene by scene; ``shard``: ask about this part of the scenes only, and record nothing."""
    asked = _asked(n)
    size = getattr(answerer, "size", None) or SIDE
    suite_hash = files.digest_json([scenes.WORLD, size, list(asked.items())])
    parts = {"rules": VERSION, "protocol": PROTOCOL, "partial_ok": partial_ok}
    keys = {"accuracy": record.make_key(fingerprint=answerer.fingerprint, suite=suite_hash, **parts)}
    kept = stored(records, answerer.name, SUITE, keys, work=work)
    if kept and shard.whole:
        return write(records, keys, kept)
    started = time.monotonic()

    def ask(name: str) -> dict:
        pairs = asked[int(name)]
        found = replies(answerer, scenes.item("test", int(name), size).image, [question for question, _ in pairs])
        rows = zip(pairs, found, strict=True)
        return {"asked": [{"question": q, "expected": a, "answer": reply.text} for (q, a), reply in rows]}

    def check(row: Fields) -> None:
        found = row.need("asked")
        for each in found if isinstance(found, list) and len(found) == len(asked[int(row["id"])]) else [found]:
            Fields.of(each, row.where).text("answer")

    path = Path(work) / "vqa" / f"{label(answerer.name)}.jsonl"
    stamp = {str(i): files.digest_json([answerer.fingerprint, scenes.WORLD, size, pairs]) for i, pairs in asked.items()}
    mine = {name: stamp[name] for name in shard.take(list(stamp))}
    evidence = collect(path, mine, ask, f"questions to {answerer.name}", shard, check)
    if not shard.whole:
        return Outcome.none()
    common = {
        "subject": answerer.name,
        "suite": SUITE,
        "protocol": PROTOCOL,
        "protocol_params": {"questions": QUESTIONS, "size": size, **getattr(answerer, "params", {})},
        "fingerprint": answerer.fingerprint,
        "origin": origin(answerer),
        "suite_hash": suite_hash,
        "evidence": path.relative_to(work).as_posix(),
        "seconds": round(time.monotonic() - started, 3),
    }
    return write(records, keys, kept, {"accuracy": _measure(asked, evidence)}, common, partial_ok, work)


# ------------------------------------------------------------------------------------------------ the command line

EXAMPLE = "vgt eval vqa --subject vgt:vlm_internvl --encoder vgt:vgt_ae_internvl"


class Options(options.Count, options.Coverage, options.Precision, options.Common):
    subject: str | None = option(None, "vgt:<checkpoint of a VLM>, vlm:<folder>, blip:<folder> or process:<command>")
    encoder: str | None = option(
        None, "with the vision encoder of this VGT-AE: understanding after tuning", metavar="AE"
    )


def evaluate(given: Options) -> Outcome:
    given.refuse("the scenes and their questions are fixed", "seed")
    spec = options.named_subject(given.subject, "vgt:vlm_internvl")
    if spec.partition(":")[0] not in ("vgt", "vlm", "blip", "process"):
        raise ValueError(f"subject {spec!r} is not a VLM; give vgt:<checkpoint>, vlm:<folder> or process:<command>")
    device = functools.cache(given.on)
    if not spec.startswith("vgt:"):
        given.refuse(f"{spec} is no vgt: checkpoint", "dtype")
    model = judges.load(spec, device, instruction=INSTRUCTION, dtype=given.dtype)
    answerer = model.answerer
    if given.encoder is not None:
        from evals.subjects import load_tokenizer

        if not spec.startswith("vgt:"):
            raise ValueError(f"--encoder is for our own VLMs, not for {spec!r}; give --subject vgt:<checkpoint>")
        answerer = with_encoder(answerer, load_tokenizer(given.encoder, device=device()))
    try:
        return run(given.named(answerer), **given.passed_to(run))
    finally:
        model.close()
