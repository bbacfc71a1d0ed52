"""Latent probes (docs/evaluators.md 5) and the comparison of two encoders.

A record carries these settings with those of its images; tests hold the code to them.
"""

from evals.engine.protocol import Protocol

_ALL = {"standardized": "per dimension"}
_LEFT_OUT = "jackknife over 20 blocks of images"
_EACH = "bootstrap over images"


def _probe(name: str, summary: str, interval: str, caution: str = "", used_by: tuple[str, ...] = (), **settings):
    about = _ALL | settings | {"interval": interval}
    return Protocol(f"probe-{name}", "probes", summary, about, used_by, "5", caution)


def _raw(name: str, summary: str, caution: str = "", **settings):
    about = {"standardized": "no"} | settings | {"interval": _LEFT_OUT}
    return Protocol(f"probe-{name}", "probes", summary, about, (), "5", caution)


def _agreement(name: str, summary: str, caution: str = ""):
    return _probe(
        name,
        summary,
        f"{_LEFT_OUT}, clusters held",
        caution,
        clusters="k-means, k = number of classes",
        starts=10,
        chance="labels shuffled",
    )


_ON_SPHERE = "images standardized, then of length 1"

PROTOCOLS: tuple[Protocol, ...] = (
    _probe(
        "tsne",
        "t-SNE map; the value is its trustworthiness",
        f"{_EACH}, image held",
        "distances between clusters, their sizes and densities carry no meaning",
        ("VGT, Figure 7",),
        perplexity=30,
        init="pca",
        max_iter=1000,
        pca_first=50,
        most_points=5000,
        neighbors=5,
        chance="points of the image shuffled",
    ),
    _probe("effective-rank", "exp of the entropy of the normalised singular values", _LEFT_OUT),
    _probe("participation-ratio", "(sum of eigenvalues)^2 / sum of their squares", _LEFT_OUT),
    _probe("pc1-share", "share of the variance in the first principal component", _LEFT_OUT),
    _probe("correlation", "mean absolute correlation between two dimensions", _LEFT_OUT),
    _raw("collapse", "share of dimensions with a deviation below 1 % of the median one"),
    _raw("channel-variance", "median variance of a channel; least and largest beside it", "in squared latent units"),
    _raw("skew", "mean absolute skewness of a dimension", gaussian=0),
    _raw("kurtosis", "mean absolute excess kurtosis of a dimension", gaussian=0),
    _raw(
        "kl-normal",
        "mean over dimensions of KL(N(mean, variance) || N(0, 1)), in nats",
        "of the moments of all tokens; blind to what skew and kurtosis see, and not the KL of a VAE's posterior",
        gaussian=0,
    ),
    _probe(
        "silhouette",
        "mean silhouette of the classes, cosine distance, all pairs of points",
        _LEFT_OUT,
        distance="cosine",
        chance="labels shuffled",
    ),
    _probe(
        "knn",
        "k-NN accuracy, leave one image out",
        "Wilson over images; cluster bootstrap where images vary together",
        k=20,
        similarity="cosine",
        weights="exp(similarity / 0.07)",
        split="leave one image out",
        plain_k=5,
        chance="labels shuffled",
    ),
    _probe(
        "linear",
        "multinomial logistic regression on frozen latents, top-1 on held-out images",
        "Wilson over images; cluster bootstrap where images vary together",
        folds=5,
        inner_folds=3,
        C=[0.01, 0.1, 1.0, 10.0],
        max_iter=1000,
        chance="labels shuffled, C = 1",
    ),
    _agreement("nmi", "normalised mutual information of clusters and labels", "not 0 at chance: read beside it"),
    _agreement("ari", "adjusted Rand index of clusters and labels"),
    _agreement("homogeneity", "share of the labels' entropy that the clusters tell", "not 0 at chance"),
    _agreement("completeness", "share of the clusters' entropy that the labels tell", "not 0 at chance"),
    _probe(
        "alignment",
        "mean |f(x) - f(x+)|^2 of an image and its positive",
        _EACH,
        "compare only with the same kind of positive, which the record names",
        sphere=_ON_SPHERE,
        most_pairs=256,
        chance="pairs of different images",
    ),
    _probe(
        "uniformity",
        "log of the mean of exp(-2 |f(x) - f(y)|^2) over pairs of images",
        _LEFT_OUT,
        sphere=_ON_SPHERE,
        chance="as many points drawn evenly on the sphere: the lowest to expect",
    ),
    _probe(
        "smoothness",
        "mean cosine of neighbouring tokens minus that of random pairs",
        _EACH,
        "grids of different sides are different questions",
        neighbors=4,
        random_pairs=20_000,
    ),
    _probe(
        "cluster-maps",
        "k-means over the tokens of images of one class; the value is the share of their variance that it explains",
        f"{_LEFT_OUT}, clusters held",
        "grids of different sides are different questions",
        ("VGT, Figure 3",),
        k=6,
        most_images=32,
        shown=8,
        tokens="of length 1",
        starts=10,
        mini_batch_above=100_000,
    ),
    _probe(
        "object-clusters",
        "homogeneity of the cluster maps: how much of 'is this token the object' its cluster tells",
        f"{_LEFT_OUT}, clusters held",
        "on synthetic scenes alone; grids of different sides are different questions",
        k=6,
        most_images=32,
        object_token="half covered or more, or the most covered one",
        chance="objects of the next image",
    ),
    Protocol(
        "cka-linear",
        "cka",
        "linear CKA of two encoders on the same images",
        _ALL | {"estimator": "plain", "interval": _LEFT_OUT, "chance": "images of one side shuffled"},
        section="5",
        caution="biased upwards where images are few for the dimensions",
    ),
    Protocol(
        "cka-linear-unbiased",
        "cka",
        "linear CKA from the unbiased estimator of HSIC, for fewer than 5 images a dimension",
        _ALL | {"estimator": "unbiased HSIC", "interval": _LEFT_OUT, "chance": "images of one side shuffled"},
        section="5",
    ),
)

# What a representation that serves better has more of, or less of; the other probes describe and do not rank.
_HIGHER = ("silhouette", "knn-accuracy", "linear-probe", "nmi", "ari", "homogeneity", "completeness")
_BETTER: dict[str, str | None] = {
    **dict.fromkeys((*_HIGHER, "spatial-smoothness", "object-clusters"), "higher"),
    "collapse": "lower",
    "cluster-maps": None,  # a share, but of a description
}


def direction(metric: str) -> str | None:
    """Which way is better, "higher" or "lower", None where neither is.  Raises KeyError for a metric that is not here;
    those with a label or of single tokens go by their probe."""
    base = metric.removeprefix("token-")
    name = next((name for name in _BETTER if base == name or base.startswith(f"{name}-")), None)
    if name is None:
        raise KeyError(metric)
    return _BETTER[name]
