"""Judges that answer questions: transformers models, child processes, tables, and their canaries."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import vlm_values, widen

from evals import judges
from evals.dpg import run as dpg
from evals.judges import answering, canary, mask2former, mplug, transformers_vqa
from evals.judges.analytic import AnalyticJudge
from evals.subjects import fake
from evals.subjects.vgt import VLMSubject
from vgt.core import suites

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "is", "there", "a", "red", "star", "?", "or"]
CHAT_WORDS = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "user", "assistant"]
CHAT_WORDS += ["yes", "Yes", "no", "No", "Is", "there", "a", "red", "star", "?", "Answer", "or", ".", "circle", "blue"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {% for c in m.content %}{% if c.type == 'image' %}"
    "<|image_pad|> {% else %}{{ c.text }} {% endif %}{% endfor %}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
QUESTIONS = ["is there a red star ?", "is there a star ?", "is a red star there or is there a star ?"]


def word_tokenizer(words, **special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[1]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=words[0], unk_token=words[1], **special)


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory):
    """A random BLIP for question answering with its processor, saved as a checkpoint folder."""
    import torch
    from transformers import BertTokenizerFast, BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("judges") / "blip-tiny"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    ids = {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "vocab_size": len(WORDS)}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={**ids, **size, "encoder_hidden_size": 16, "max_position_embeddings": 32},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        model = widen(BlipForQuestionAnswering(config), 1)
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory):
    """A random Qwen2.5-VL with its processor and a chat template, saved as a checkpoint folder."""
    import torch
    from transformers import (
        AutoConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    folder = tmp_path_factory.mktemp("judges") / "qwen-tiny"
    values = vlm_values("qwen2_5_vl")
    ids = {"vocab_size": len(CHAT_WORDS), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3}
    values["text_config"] |= ids
    values |= {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        model = widen(Qwen2_5_VLForConditionalGeneration(AutoConfig.for_model(**values)), 2)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 3, 0
    model.save_pretrained(folder)
    marks = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    special = {"eos_token": "<|im_end|>", "additional_special_tokens": CHAT_WORDS[2:6]}
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**marks, size=sizes),
        word_tokenizer(CHAT_WORDS, **special),
        Qwen2VLVideoProcessor(**marks, size=sizes),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["blip", "vlm"])
def test_transformers_judges_answer_and_tell_their_probability(kind, blip_folder, qwen_folder, request):
    folder = {"blip": blip_folder, "vlm": qwen_folder}[kind]
    judge = judges.load(f"{kind}:{folder}").answerer
    alone = [judge.replies(IMAGE, [question])[0] for question in QUESTIONS]
    together = judge.replies(IMAGE, QUESTIONS)
    assert [r.text for r in alone] == [r.text for r in together] == [judge.answer(IMAGE, q) for q in QUESTIONS]
    assert [r.yes_share for r in alone] == pytest.approx([r.yes_share for r in together], abs=1e-4)
    shares = [r.yes_share for r in together]
    assert all(0 < share < 1 for share in shares) and len(set(shares)) == 3  # questions of other lengths, padded
    other = judge.replies(255 - IMAGE, QUESTIONS)
    assert other[0].yes_share != pytest.approx(shares[0], abs=1e-6)  # the image is looked at
    assert judge.name == f"{kind}-{folder.name}"
    again = judges.load(f"{kind}:{folder}").answerer
    assert again.fingerprint == judge.fingerprint and again.replies(IMAGE, QUESTIONS) == together


def test_the_share_of_yes_is_that_of_the_first_tokens_probabilities():
    import torch

    from evals.judges.transformers_vqa import yes_shares

    logits = torch.tensor([[0.3, 1.0, -2.0, 0.5], [5.0, 0.0, 0.0, 9.0]])
    p = logits.softmax(-1)
    expected = ((p[:, 0] + p[:, 1]) / (p[:, 0] + p[:, 1] + p[:, 3])).tolist()
    assert yes_shares(logits, [0, 1], [3]) == pytest.approx(expected, rel=1e-6)
    assert yes_shares(logits, [], [3]) == [None, None]


def test_an_instruction_is_part_of_a_chat_judges_identity(qwen_folder):
    first, second = (judges.load(f"vlm:{qwen_folder}", instruction=say).answerer for say in ("Yes or no.", ""))
    assert first.fingerprint != second.fingerprint


def test_a_random_model_fails_its_canary_and_a_wrong_folder_is_named(blip_folder, qwen_folder, tmp_path):
    judge = judges.load(f"blip:{blip_folder}")
    with pytest.raises(ValueError, match="'blip-blip-tiny' fails its canary: right on"):
        judge.check(judge.answerer)
    with pytest.raises(ValueError, match="no BlipForQuestionAnswering model|cannot be loaded"):
        judges.load(f"blip:{qwen_folder}")
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        with pytest.raises(ValueError, match=f"has no {name}; give the local folder"):
            judges.load(f"vlm:{tmp_path}")
        (tmp_path / name).write_text("{}")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def judge_folder(folder, config: str):
    """A folder that looks whole from outside."""
    folder.mkdir()
    tokenizer = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}}
    texts = {"config.json": config, "preprocessor_config.json": "{}", "tokenizer.json": json.dumps(tokenizer)}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def test_pickled_objects_of_a_judge_are_not_made(blip_folder, tmp_path):
    """A pytorch_model.bin that would run code, large enough to pass for weights."""
    shutil.copytree(blip_folder, tmp_path / "evil")
    (tmp_path / "evil/model.safetensors").unlink()
    table = {"a": torch.zeros(10**6), "b": Bomb(tmp_path / "was here")}
    torch.save(table, tmp_path / "evil/pytorch_model.bin")
    with pytest.raises(ValueError, match=r"\.bin file is torn or holds more than tensors \(nothing of it") as caught:
        judges.load(f"blip:{tmp_path / 'evil'}")
    assert not (tmp_path / "was here").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"model_type": "qwen2_5_vl"}', r"0.0 MiB of weights are too little for the [\d,]+ parameters of its"),
        ('{"model_type": "bert"}', "cannot be loaded as AutoModelForImageTextToText: Unrecognized"),
        ('{"model_type": "no such"}', "cannot be loaded as AutoConfig: "),
        ('{"model_type": ["qwen2_5_vl"]}', "cannot be loaded as AutoConfig: "),
        ("null", "cannot be loaded as AutoConfig: "),
        ("{", "cannot be loaded as AutoConfig: "),
        ('{"a":' * 20_000, "cannot be loaded as AutoConfig: "),
    ],
)
def test_a_configuration_that_says_too_little(config, words, tmp_path):
    """One line, before transformers takes memory for a model that nobody has the weights of."""
    folder = judge_folder(tmp_path / "j", config)
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(ValueError, match=words) as caught:
        judges.load(f"vlm:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_beside_a_judge_is_not_run_whatever_stdin_says(place, qwen_folder, tmp_path, monkeypatch):
    """A folder that names Python files of its own for every class: refused or not needed, and nobody is asked."""
    shutil.copytree(qwen_folder, tmp_path / "evil")
    path, mark = tmp_path / "evil" / place, tmp_path / "was here"
    (tmp_path / "evil/own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    values = json.loads(path.read_text()) if path.exists() else {}
    values["auto_map"] = {f"Auto{kind}": "own.Own" for kind in ("Config", "ModelForImageTextToText", "Processor")}
    values["auto_map"] |= {"AutoTokenizer": ["own.Own", "own.Own"], "AutoImageProcessor": "own.Own"}
    if place == "config.json":
        values["model_type"] = "own"
    path.write_text(json.dumps(values))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with contextlib.suppress(ValueError):
        judges.load(f"vlm:{tmp_path / 'evil'}")
    assert not mark.exists()


def test_a_model_judge_scores_a_suite_and_keeps_its_probabilities(qwen_folder, tmp_path):
    judge = judges.load(f"vlm:{qwen_folder}").answerer
    shared = {"work": tmp_path, "records": tmp_path / "r", "suite": "scenes-dpg", "prompts": suites.dpg_prompts(n=1)}
    one = dpg.run(fake.Oracle(), judge, images_per_prompt=1, check_judge=lambda j: None, batch=1, **shared).records[0]
    assert one.metric == "dpg[vlm-qwen-tiny]" and 0 < one.extra["yes_share"] < 1
    row = json.loads((tmp_path / one.evidence).read_text())
    assert row["yes_share"].keys() == row["answers"].keys() and one.extra["unparsed"] == row["unparsed"]


# -------------------------------------------------------------------------------------------------------- processes

CHILD = """
import json, sys
import numpy as np
from PIL import Image
limit, how = int(sys.argv[1]), sys.argv[2]
for count, line in enumerate(sys.stdin):
    asked = json.loads(line)
    shown = np.asarray(Image.open(asked["image"]))
    pixel = tuple(shown[len(shown) // 2, len(shown) // 2])
    if count == limit:
        if how == "die":
            print("out of memory", file=sys.stderr)
            sys.exit(3)
        if how == "chat":
            print("loading...", flush=True)
        if how == "error":
            print(json.dumps({"error": "odd image"}), flush=True)
            continue
    names = {(220, 20, 20): "red", (20, 160, 40): "green", (30, 60, 220): "blue", (0, 0, 0): "black"}
    word = asked["question"].rstrip("?").split()[-1]
    print(json.dumps({"answer": "yes" if names.get(pixel) == word else "no"}), flush=True)
"""


@pytest.fixture
def child(tmp_path):
    """Makes the judge of a program that fails after ``limit`` answers; ends it after the test."""
    (tmp_path / "judge.py").write_text(CHILD)
    made = []

    def make(limit: int = -1, how: str = "die"):
        made.append(answering.process(f"{sys.executable} {tmp_path / 'judge.py'} {limit} {how}"))
        return made[-1]

    yield make
    for judge in made:
        judge.close()


def test_a_process_judge_sees_the_image_and_passes_its_canary(child):
    judge = child()
    canary.check_plain(judge)
    assert judge.name == "process-judge" and judge.answer(canary.plain_image("red"), "Is it red?") == "yes"
    judge.close()
    judge.close()
    assert judge.answer(canary.plain_image("blue"), "Is it red?") == "no"  # starts anew


@pytest.mark.parametrize(
    ("how", "words"),
    [("die", r"ended with status 3 after 2 answers \(its last words: out of memory\)"), ("chat", "wrote 'loading...'")],
)
def test_a_process_that_fails_is_named(child, how, words):
    judge = child(2, how)
    image = canary.plain_image("red")
    for _ in range(2):
        judge.answer(image, "Is it red?")
    with pytest.raises(answering.JudgeLost, match=words):
        judge.answer(image, "Is it red?")


def colored_stars(questions: int) -> list[dict]:
    """One item a color, with as many questions about it."""
    return [
        {
            "id": color,
            "prompt": f"There is one object: a small {color} star. The background is mint and even.",
            "questions": [
                {"proposition_id": n, "dependency": [], "tuple": "entity - whole (x)", "question": f"Is it {color}?"}
                for n in range(questions)
            ],
        }
        for color in ("red", "green", "blue")
    ]


def run_on_stars(judge, tmp_path, questions):
    shared = {"work": tmp_path, "records": tmp_path / "r", "suite": "mine", "prompts": colored_stars(questions)}
    shared |= {"images_per_prompt": 1, "batch": 3, "check_judge": lambda judge: None}
    return dpg.run(fake.Oracle(), judge, **shared).records


def test_a_judge_that_dies_loses_nothing_that_was_answered(child, tmp_path):
    with pytest.raises(ValueError, match="ended with status 3 after 3 answers"):
        run_on_stars(child(3), tmp_path, 2)
    path = next(tmp_path.rglob("answers-process-judge.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert ["answers" in row for row in rows] == [True]
    assert not (tmp_path / "r").exists()


def test_an_error_of_one_image_is_that_images_own(child, tmp_path):
    record = run_on_stars(child(1, "error"), tmp_path, 1)[0]
    assert (record.n, record.n_failed, record.value) == (2, 1, None) and "odd image" in record.note


def test_mplug_runs_in_an_environment_that_has_modelscope(tmp_path, monkeypatch):
    """A package of modelscope's shape stands in for it; the child program is the real one."""
    package = tmp_path / "modelscope"
    (package / "pipelines").mkdir(parents=True)
    (package / "utils").mkdir()
    for init in (package, package / "utils"):
        (init / "__init__.py").write_text("")
    (package / "utils/constant.py").write_text("class Tasks:\n    visual_question_answering = 'vqa'\n")
    (package / "pipelines/__init__.py").write_text(
        "def pipeline(task, model):\n"
        "    print('loading', task, model)\n"  # modelscope talks as it loads
        "    return lambda asked: {'text': 'yes' if asked['question'].split()[-1][:-1] == 'red' else 'no'}\n"
    )
    with pytest.raises(ValueError, match="needs modelscope"):
        mplug.mplug(sys.executable, trusted=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(mplug, "_has_modelscope", lambda python: True)
    with pytest.raises(ValueError, match="has no configuration.json"):
        mplug.mplug(weights=str(tmp_path), trusted=True)
    (tmp_path / "configuration.json").write_text("{}")
    judge = mplug.mplug(weights=str(tmp_path), trusted=True)
    try:
        assert judge.answer(IMAGE, "Is it red?") == "yes" and judge.answer(IMAGE, "Is it blue?") == "no"
    finally:
        judge.close()
    assert judge.name == "mplug" and judge.fingerprint != mplug.mplug(trusted=True).fingerprint
    assert dpg.headline("mplug") == "DPG-Bench" and dpg.headline("blip-base") == "DPG[blip-base]"


# -------------------------------------------------------------------------------------------------- tables, canaries


def test_a_table_prefers_the_image_it_names(tmp_path):
    path = tmp_path / "table.jsonl"
    rows = [
        {"question": "A?", "answer": "no"},
        {"image": answering.image_hash(IMAGE), "question": "A?", "answer": "yes"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = judges.load(f"scripted:{path}").answerer
    assert judge.name == "table" and judge.answer(IMAGE, "A?") == "yes" and judge.answer(255 - IMAGE, "A?") == "no"
    with pytest.raises(ValueError, match="no answer to 'B\\?'"):
        judge.answer(IMAGE, "B?")
    path.write_text(path.read_text() + json.dumps({"question": "A?", "answer": "yes"}) + "\n")
    with pytest.raises(ValueError, match="line 3: 'A\\?' has two different answers"):
        answering.scripted(path)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1: the field 'question' is missing"):
        answering.scripted(path)


class Always:
    fingerprint = "always"

    def __init__(self, words):
        self.name, self.words = f"always-{words}", words

    def answer(self, image, question):
        return self.words


@pytest.mark.parametrize("words", ["yes", "no", "an image"])
def test_a_judge_that_says_one_thing_fails_both_canaries(words):
    for check in (canary.check_plain, canary.check_world):
        with pytest.raises(ValueError, match="fails its canary"):
            check(Always(words))


def test_the_analytic_judge_passes_the_worlds_canary():
    canary.check_world(AnalyticJudge())
    assert {truth for _, _, truth in canary.world_questions()} == {"yes", "no"}


def test_judges_by_name():
    assert judges.load("analytic").answerer.name == "judge-analytic"
    for wrong in ("blip", "vlm:", "oracle", "process:"):
        with pytest.raises(ValueError, match="is unknown; give analytic, mplug"):
            judges.load(wrong)
    assert answering.label("process-my judge:2/a") == "process-my-judge-2-a"


@pytest.fixture
def tf32_flags():
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    yield backends
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


def test_networks_that_score_run_without_tf32(tf32_flags):
    """torch's default lets float32 convolutions run in TF32; the process's own settings come back, whatever happens."""

    def flags() -> list[bool]:
        return [backend.allow_tf32 for backend in tf32_flags]

    seen = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def answer(self, images, questions):
            seen.append(flags())
            if len(seen) == 2:
                raise RuntimeError("out of memory")
            return ["yes"] * len(questions)

    for before in ([True, True], [True, False]):
        for backend, allowed in zip(tf32_flags, before, strict=True):
            backend.allow_tf32 = allowed
        judge = VLMSubject("tiny", "content", Model())
        with contextlib.suppress(RuntimeError):
            judge.answer(np.zeros((8, 8, 3), np.uint8), "Is it red?")
        assert flags() == before
    assert seen == [[False, False]] * 2 and judge.params == {"tf32": False}
    for scoring in (mask2former.Mask2FormerJudge, transformers_vqa.Transformers):
        assert scoring.params == {"tf32": False}
