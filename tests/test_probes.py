"""The run of the latent probes over planted latents: what is found, what is kept, what is refused."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from evals.engine.registry import protocols
from evals.probes import catalogue, data
from evals.probes import run as probes
from evals.subjects.fake import Identity
from vgt.core import samples, scenes

N = 160


def colors_of(images: np.ndarray) -> np.ndarray:
    """Which of the ten colors the object of each image has: the one nearest to any pixel's."""
    palette = np.array(list(scenes.COLORS.values()), float)
    distance = np.abs(images[:, ::2, ::2, None, :].astype(float) - palette).sum(-1)
    return distance.reshape(len(images), -1, len(palette)).min(1).argmin(1)


@dataclass
class Planted:
    """Latents that hold the color of an image, or nothing at all (evals.engine.api.Tokenizer)."""

    informed: bool
    size: int | None = 64
    calls: int = 0

    @property
    def name(self) -> str:
        return "informed" if self.informed else "blind"

    fingerprint = name

    def reconstruct(self, images):
        return images

    def encode(self, images):
        self.calls += 1
        rng = np.random.default_rng(len(images) + self.calls)
        tokens = rng.normal(size=(len(images), 16, 6)).astype(np.float32)
        if self.informed:
            tokens += 4 * np.stack([np.sin(colors_of(images) * k) for k in range(1, 7)], 1)[:, None]
        return tokens


class WithClass(Identity):
    """An encoder whose class token is the mean token."""

    def encode_with_class(self, images):
        tokens = self.encode(images)
        return tokens, tokens.mean(1)


def score(model, where, n=N, **how):
    outcome = probes.run(model, work=where, records=where / "records", n=n, **how)
    return outcome, {r.metric: r for r in outcome.records}


@pytest.fixture(scope="module")
def informed(tmp_path_factory):
    """(model, folder, records by metric) of a run over latents that hold the color."""
    where, model = tmp_path_factory.mktemp("informed"), Planted(True)
    return model, where, score(model, where)[1]


@pytest.fixture
def flat(monkeypatch):
    """No t-SNE, whose thousand steps most tests need not wait for: the first two dimensions instead."""
    monkeypatch.setattr("evals.metrics.latents.tsne", lambda points, seed: points[:, :2])


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    """An ImageFolder of two classes, drawn scenes with a red and with a blue object."""
    root = tmp_path_factory.mktemp("images") / "classes"
    for i in range(70):
        item = scenes.item("test", i, 64, "colors")
        (root / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        tint = item.image // 2 + np.array([96, 0, 0] if i % 2 else [0, 0, 96], np.uint8)
        Image.fromarray(tint.astype(np.uint8)).save(root / f"class{i % 2}" / f"{i:03d}.png")
    return root


def test_planted_color_is_found_and_noise_is_at_chance(informed, tmp_path, flat):
    found = informed[2]
    _, blind = score(Planted(False), tmp_path)
    for metric in ("knn-accuracy-color", "linear-probe-color"):
        assert found[metric].value > 0.9
        assert found[metric].extra["chance"] < 0.3
        assert blind[metric].value < 0.25
    assert found["silhouette-color"].value > 0.3 > blind["silhouette-color"].value
    assert found["knn-accuracy"].value < 0.35  # shape was not planted
    assert found["nmi-color"].value > 0.7 > found["nmi-color"].extra["chance"] + 0.4
    assert abs(blind["ari-color"].value) < 0.1
    assert found["alignment"].value < 0.3 * found["alignment"].extra["chance"]
    assert blind["alignment"].value == pytest.approx(blind["alignment"].extra["chance"], abs=0.2)
    assert blind["effective-rank"].value > 5.5 and blind["token-effective-rank"].value > 5.9
    assert blind["uniformity"].value == pytest.approx(blind["uniformity"].extra["chance"], abs=0.1)
    assert blind["collapse"].value == 0 and blind["correlation"].value < 0.15
    assert blind["kl-normal"].value < 0.01 and blind["kurtosis"].value < 0.2


def test_every_record_has_an_interval_a_protocol_and_its_coverage(informed):
    for one in informed[2].values():
        assert one.suite == "scenes-latents" and one.partial, one.name
        assert one.n == (N if one.metric not in ("cluster-maps", "object-clusters") else one.n)
        assert one.low <= one.value <= one.high, one.name
        settings = protocols()[one.protocol].settings
        assert one.protocol in protocols() and settings.items() <= one.protocol_params.items()
    assert informed[2]["knn-accuracy-color"].protocol_params["labels"] == "color"
    assert "background of the next" in informed[2]["alignment"].protocol_params["positive"]


def test_samples_stand_beside_what_is_a_mean_over_images(informed):
    _, where, found = informed
    for metric in ("knn-accuracy", "linear-probe-color", "spatial-smoothness", "alignment", "tsne"):
        kept = samples.read(where / "records", found[metric])
        assert len(kept.values) == found[metric].n and kept.ids[0] == "test-00000"
        assert np.mean(kept.values) == pytest.approx(found[metric].value)
    assert samples.read(where / "records", found["effective-rank"]) is None


def test_tsne_record_holds_the_image(informed):
    tsne = informed[2]["tsne"]
    assert tsne.extra["chance"] < tsne.value <= 1 and "no meaning" in tsne.note
    assert len(tsne.extra["points"]) == len(tsne.extra["labels"]) == len(tsne.extra["colors"]) == N
    assert set(tsne.extra["labels"]) <= set(scenes.SHAPES) and set(tsne.extra["colors"]) <= set(scenes.COLORS)
    assert len(tsne.extra["points"][0]) == 2


def test_cluster_maps_name_the_scenes_that_they_lie_on(informed):
    extra = informed[2]["cluster-maps"].extra
    drawn = extra["scenes"]
    assert extra["grid"] == [4, 4] and np.array(extra["maps"]).shape == (len(drawn["indices"]), 16)
    assert set(np.unique(extra["maps"])) <= set(range(6))
    for i in drawn["indices"]:
        assert scenes.scene(drawn["split"], i, drawn["task"]).objects[0].shape == "star" == extra["class"]


def test_channel_variances_are_listed(informed):
    record = informed[2]["channel-variance"]
    assert len(record.extra["channels"]) == 6
    assert record.extra["least"] <= record.value <= record.extra["largest"]


def test_one_deleted_record_is_made_again_from_stored_latents(informed):
    model, where, before = informed
    calls = model.calls
    (where / "records" / before["effective-rank"].path).unlink()
    again, after = score(model, where)
    assert (again.computed, again.reused) == (1, len(before) - 1) and model.calls == calls
    assert after["effective-rank"].score() == before["effective-rank"].score()
    assert (where / after["effective-rank"].evidence).is_file()


def test_intervals_from_blocks_are_those_of_leaving_images_out(informed):
    """The merged sums against the plain jackknife over the stored latents."""
    _, where, found = informed
    with np.load(where / found["effective-rank"].evidence) as kept:
        points = kept["tokens"].mean(1).astype(np.float64)
    measure = lambda keep: float(np.linalg.eigvalsh(np.corrcoef(points[keep], rowvar=False))[-1] / 6)  # noqa: E731
    plain = catalogue.jackknife(measure, np.arange(N))
    record = found["pc1-share"]
    assert (record.value, record.low, record.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_token_view_never_tells_a_token_from_its_own_image(tmp_path, monkeypatch, flat):
    """Tokens that say which image they are from, and nothing else: only their siblings could tell the label."""

    class Marked(Planted):
        def encode(self, images):
            marks = [np.random.default_rng(int(image.sum())).normal(size=(1, 6)) for image in images]
            return (super().encode(images) + 9 * np.stack(marks)).astype(np.float32)

    monkeypatch.setattr(data, "TOKENS", 400)
    _, found = score(Marked(False), tmp_path, n=80, through="token")
    assert found["knn-accuracy"].suite == "scenes-latents-token"
    assert len(found["tsne"].extra["points"]) == 400
    assert "cluster bootstrap" in found["knn-accuracy"].interval
    for metric in ("knn-accuracy", "knn-accuracy-color", "linear-probe-color"):
        assert found[metric].value is None or found[metric].value < 0.4
    assert "effective-rank" not in found and "cluster-maps" not in found


def test_max_view_and_class_token(tmp_path, flat):
    _, largest = score(Identity(), tmp_path, n=60, through="max")
    assert largest["effective-rank"].suite == "scenes-latents-max" and "spatial-smoothness" not in largest
    _, token = score(WithClass(), tmp_path / "class", n=60, through="class")
    _, mean = score(WithClass(), tmp_path / "class", n=60, through="mean")
    assert token["uniformity"].value == mean["uniformity"].value != largest["uniformity"].value
    _, own = score(WithClass(), tmp_path / "class", n=60)
    assert own["uniformity"].key == token["uniformity"].key and own["uniformity"].suite == "scenes-latents"
    assert mean["uniformity"].suite == "scenes-latents-mean" and "spatial-smoothness" not in mean
    assert own["spatial-smoothness"].protocol_params["view"] == "every token"
    with pytest.raises(ValueError, match="no class token"):
        score(Identity(), tmp_path, n=60, through="class")


def test_an_image_folder_gives_labels_and_images(photo_folder, tmp_path, flat):
    images = data.folder(photo_folder)
    assert set(images.labels) == {"class"} and len(images) == 70
    outcome = probes.run(Identity(), work=tmp_path, records=tmp_path / "records", images=images)
    found = {r.metric: r for r in outcome.records}
    assert found["linear-probe-class"].value == 1 and found["knn-accuracy"].value > 0.9
    assert found["linear-probe-class"].suite == "folder-classes-latents" and not found["knn-accuracy"].partial
    assert found["cluster-maps"].extra["class"] == "class0"
    with Image.open(tmp_path / found["cluster-maps"].extra["image"]) as strip:
        assert strip.size == (8 * 64, 64)
    assert found["alignment"].protocol_params["positive"] == "mirrored left to right"
    assert "object-clusters" not in found
    spread = data.folder(photo_folder, 10)
    assert list(spread.labels["class"]).count("class1") == 5, "a part is spread over the folder"


def test_a_folder_without_labels_gives_what_needs_none(photo_folder, tmp_path, flat):
    images = data.folder(photo_folder / "class0", size=32)
    assert images.labels == {}
    with pytest.raises(ValueError, match="n = 35"):
        probes.run(Identity(), work=tmp_path, records=tmp_path / "records", images=images)
    everything = data.folder(photo_folder)
    bare = data.ProbeSet(**{**vars(everything), "labels": {}, "map_class": None})
    outcome = probes.run(Identity(), work=tmp_path, records=tmp_path / "records", images=bare)
    metrics = {r.metric for r in outcome.records}
    assert {"tsne", "effective-rank", "cluster-maps"} <= metrics and not metrics & {"knn-accuracy", "nmi"}
    assert "labels" not in next(r for r in outcome.records if r.metric == "tsne").extra


def test_an_unreadable_image_withholds_the_values(photo_folder, tmp_path, flat):
    broken = photo_folder / "class0" / "broken.png"
    broken.write_bytes(b"no image")
    try:
        images = data.folder(photo_folder, size=32)
        run = {"work": tmp_path, "records": tmp_path / "records", "images": images}
        outcome = probes.run(Identity(), **run)
        assert all(r.value is None and "broken.png" in r.note and r.partial for r in outcome.records)
        allowed = probes.run(Identity(), **run, partial_ok=True)
        assert allowed.computed == len(allowed.records)
        rank = next(r for r in allowed.records if r.metric == "effective-rank")
        assert rank.value is not None and rank.partial and (rank.n, rank.n_failed) == (70, 1)
    finally:
        broken.unlink()


def test_bad_input(tmp_path, flat):
    for wrong, words in (
        ({"n": 20}, "n = 20"),
        ({"through": "median"}, "'median'"),
        ({"clusters": 1}, "1 clusters"),
        ({"wanted": "cube"}, "'cube'"),
    ):
        with pytest.raises(ValueError, match=words):
            score(Planted(False), tmp_path, **{"n": 60, **wrong})
    with pytest.raises(ValueError, match="not 256"):
        score(Planted(False, size=256), tmp_path)
    _, found = score(Planted(False), tmp_path, n=60)
    assert found["linear-probe-color"].value is None and "raise n" in found["linear-probe-color"].note
    assert found["cluster-maps"].n < found["cluster-maps"].n_expected


def test_latents_that_are_no_square_grid_have_no_maps(tmp_path, flat):
    class Strip(Planted):
        def encode(self, images):
            return super().encode(images)[:, :15]

    _, found = score(Strip(False), tmp_path, n=60)
    for metric in ("cluster-maps", "spatial-smoothness"):
        assert found[metric].value is None and "15 tokens are no square grid" in found[metric].note
    assert found["effective-rank"].value > 5


def test_object_cells():
    mask = np.zeros((8, 8), bool)
    mask[:4, :5] = True
    assert data.object_cells(mask, 2).tolist() == [[True, False], [False, False]]
    mask[:] = False
    mask[7, 7] = True
    assert data.object_cells(mask, 2).tolist() == [[False, False], [False, True]], "a small object is in one cell"
    with pytest.raises(ValueError, match="3 cells"):
        data.object_cells(mask, 3)


def test_the_positive_of_a_scene_is_its_object_elsewhere():
    images = data.scenes(3)
    inside = scenes.item("test", 1, 64, "colors").masks[0]
    before, after = images.load(1).astype(int), images.positive(1).astype(int)
    assert np.median(np.abs(before - after)[inside]) == 0
    assert (np.abs(before - after)[~inside].max(-1) > 2).mean() > 0.9


@pytest.mark.parametrize("argv", [["probes", "--subject", "pca"], ["cka", "--subjects", "pca"], ["training"]])
def test_a_seed_that_would_do_nothing_is_refused(capsys, tmp_path, argv):
    from vgt.__main__ import main

    assert main(["eval", *argv, "--seed", "3", "-o", str(tmp_path / "out")]) == 2
    assert "--seed 3 would do nothing" in capsys.readouterr().err and not (tmp_path / "out").exists()
