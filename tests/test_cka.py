"""Comparison of encoders: pairs, estimators, reuse, bad input; and how reports show it and the cluster maps."""

import argparse
import io
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from evals.engine.registry import protocols
from evals.probes import cka
from evals.probes import run as probes
from evals.subjects.fake import Identity
from evals.subjects.pca import random_projection
from reports import tables
from reports.figures import images as image_grids
from reports.figures import latents
from reports.measured import Measured, label
from vgt.core import scenes
from vgt.core.record import Record

N = 80


@dataclass(frozen=True)
class Turned(Identity):
    """The identity's tokens, rotated."""

    name: str = "turned"
    fingerprint: str = "turned"

    def encode(self, images):
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(48, 48)))[0]
        return (super().encode(images) @ rotation).astype(np.float32)


def compare(where, *models, **how):
    outcome = cka.run(models, work=where, records=where / "records", n=N, **how)
    return outcome, {(r.subject, r.extra.get("other")): r for r in outcome.records}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple:
    """(folder, records of two probed encoders and of their comparison)."""
    where = tmp_path_factory.mktemp("cka")
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.metrics.latents.tsne", lambda points, seed: points[:, :2])
        for model in (random_projection(), Identity(size=64)):
            found += probes.run(model, work=where, records=where / "records", n=N).records
    outcome, _ = compare(where, Identity(size=64), random_projection(), Turned(size=64))
    return where, Measured([*found, *outcome.records]), outcome


def test_records_of_every_pair_once(measured):
    _, _, outcome = measured
    names = {(r.subject, r.metric) for r in outcome.records}
    assert names == {
        ("identity", "cka-random_projection"),
        ("identity", "cka-turned"),
        ("random_projection", "cka-turned"),
    }
    for record in outcome.records:
        assert record.suite == "scenes-cka" and record.partial and record.low <= record.value <= record.high
        assert record.protocol == "cka-linear-unbiased", "80 images for 48 and 64 dimensions"
        assert protocols()[record.protocol].settings.items() <= record.protocol_params.items()
        assert abs(record.extra["chance"]) < 0.2 < record.value


def test_the_order_of_subjects_does_not_matter_and_records_are_reused(measured):
    where, _, outcome = measured
    again, _ = compare(where, Turned(size=64), Identity(size=64), random_projection())
    assert (again.computed, again.reused) == (0, 3)
    assert {r.name: r.value for r in again.records} == {r.name: r.value for r in outcome.records}


def test_plain_estimator_where_images_are_enough():
    x = np.random.default_rng(0).normal(size=(60, 4))
    interval, chance = cka.compare(x, x @ np.diag([1, 1, 1, 0.0]), np.arange(60))
    assert 0.7 < interval.value < 1 and 0 <= chance < 0.3 and interval.low <= interval.value
    few, _ = cka.compare(x[:15], x[:15], np.arange(15))
    assert few.value == pytest.approx(1)


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="two or more"):
        compare(tmp_path, Identity(size=64))
    with pytest.raises(ValueError, match="names of their own"):
        compare(tmp_path, Identity(size=64), Identity(size=64))
    with pytest.raises(ValueError, match="view 'median'"):
        compare(tmp_path, Identity(size=64), random_projection(), through="median")


# ------------------------------------------------------------------------------------------------- in reports


def test_cka_table_and_figure_show_both_halves(measured):
    _, found, _ = measured
    table = tables.CKA.fill(found)
    value = found.get("identity", "scenes-cka", "cka-turned").value
    rows = {row.label: row.cells for row in table.rows}
    assert rows["turned"]["identity"].value == rows[label("identity")]["turned"].value == value
    assert rows["turned"]["turned"].value == "" and "3 of 3 pairs by the unbiased" in " ".join(table.notes)
    (figure,) = latents.similarity(found)
    assert f"{value:.2f}" in figure.svg and Image.open(io.BytesIO(figure.png)).width > 300
    assert latents.similarity(Measured([])) == [] and not tables.CKA.fill(Measured([])).rows


def test_probe_tables_share_out_all_metrics(measured):
    _, found, _ = measured
    stray = found.records[0].model_copy(update={"metric": "something-new"})
    found = Measured([*found.records, stray])
    made = [t.fill(found) for t in (tables.PROBES, tables.LATENT_SPACE, tables.LATENT_TOKENS, tables.LATENT_PARTS)]
    keys = [column.key for table in made for column in table.columns]
    assert sorted(keys) == sorted({r.metric for r in found.where("scenes-latents")})
    heads = [row.label for row in made[1].rows]
    assert heads[-1] == "Chance" and made[0].rows[-1].label == "Chance (shuffled labels)"
    assert not tables.LATENT_SPACE.fill(Measured([])).rows


def test_cluster_grid_draws_the_scenes_again(measured):
    _, found, _ = measured
    (grid,) = image_grids.clusters(found)
    record = found.get("identity", "scenes-latents", "cluster-maps")
    index = record.extra["scenes"]["indices"][0]
    assert grid.name == "clusters_scenes" and [name for name, _ in grid.rows][0] == "Image"
    plain = np.asarray(Image.open(io.BytesIO(grid.rows[0][1][0].png)))
    assert np.array_equal(plain, scenes.item("test", index, 64, "colors").image)
    laid = np.asarray(Image.open(io.BytesIO(grid.rows[1][1][0].png))).astype(float)
    colors = 2 * laid - plain  # half and half
    assert len(np.unique(np.round(colors.reshape(-1, 3) / 6), axis=0)) <= 40
    assert np.abs(laid - plain).mean() > 5


def test_other_images_are_not_laid_beside_each_other(measured):
    _, found, _ = measured
    other = found.get("identity", "scenes-latents", "cluster-maps")
    moved = other.model_copy(
        update={"subject": "zzz", "extra": other.extra | {"ids": ["else"] * len(other.extra["ids"])}}
    )
    (grid,) = image_grids.clusters(Measured([*found.records, moved]))
    assert "zzz" not in [name for name, _ in grid.rows]
    assert image_grids.clusters(Measured([])) == []


def test_strips_are_read_from_the_run_alone(measured, tmp_path):
    where, found, _ = measured
    record = found.get("identity", "scenes-latents", "cluster-maps")
    extra = {k: v for k, v in record.extra.items() if k != "scenes"}
    images = np.random.default_rng(0).integers(0, 255, (32, 32 * len(extra["maps"]), 3), np.uint8)
    Image.fromarray(images).save(tmp_path / "strip.png")
    with_strip = record.model_copy(update={"extra": extra | {"image": "strip.png"}})
    (grid,) = image_grids.clusters(Measured([with_strip]), tmp_path)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(grid.rows[0][1][1].png))), images[:, 32:64])
    outside = record.model_copy(update={"extra": extra | {"image": "../strip.png"}})
    (tmp_path / "work").mkdir()
    assert image_grids.clusters(Measured([outside]), tmp_path / "work") == []


def test_matched_clusters_take_the_names_of_those_they_overlap():
    reference = np.array([[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2]]])
    renamed = np.array([2, 0, 1])[reference]
    np.testing.assert_array_equal(image_grids.matched(reference, renamed), reference)
    coarse = np.array([[[1, 0], [2, 2]]])
    np.testing.assert_array_equal(image_grids.matched(reference, coarse), [[[0, 1], [2, 2]]])
    more = np.where(reference == 2, [[[0, 1, 2, 3]]], 4)
    assert len(np.unique(image_grids.matched(reference, more))) == len(np.unique(more)), "names stay one to one"


def test_variance_figure_and_points_without_labels(measured):
    _, found, _ = measured
    (figure,) = latents.variances(found)
    assert "64 channels" in figure.svg and latents.variances(Measured([])) == []
    record: Record = found.get("identity", "scenes-latents", "tsne")
    bare = {k: v for k, v in record.extra.items() if k not in ("labels", "colors")}
    assert "objects" not in latents.panel(record.model_copy(update={"extra": bare})).alt
    assert "objects" in latents.panel(record).alt


def test_the_command_adds_the_anchor_and_refuses_what_it_cannot_compare(tmp_path):
    parser = argparse.ArgumentParser()
    cka.Options.add(parser)
    where = ["--out", str(tmp_path), "-n", "60"]
    with pytest.raises(ValueError, match="--subjects is missing"):
        cka.evaluate(cka.Options.read(parser.parse_args(where)))
    with pytest.raises(ValueError, match="two or more"):
        cka.evaluate(cka.Options.read(parser.parse_args(["--subjects", "random_projection", *where])))
    with pytest.raises(ValueError, match="--size 32: this encoder takes 64"):
        cka.Options.read(parser.parse_args(["--size", "32", *where])).images(64)
    outcome = cka.evaluate(cka.Options.read(parser.parse_args(["--subjects", "fake:identity", *where])))
    assert [r.name for r in outcome.records] == ["identity/scenes-cka/cka-random_projection"]
    assert outcome.records[0].n == 60 and outcome.records[0].partial
