"""The mPLUG-large VQA judge as a program of its own: JSON lines in, JSON lines out (see evals/judges/answering.py).

Runs in an environment that has modelscope and its dependencies, whose code it trusts; imports nothing of this project:

    <python> mplug_child.py <model id or local folder>
"""

import json
import os
import sys


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # kept for answers alone: modelscope prints as it loads
    os.dup2(2, 1)
    here = os.path.dirname(os.path.abspath(__file__))  # its neighbours must not hide modules of that environment
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != here]
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks
    from PIL import Image

    ask = pipeline(Tasks.visual_question_answering, model=sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        with Image.open(asked["image"]) as image:
            found = ask({"image": image.convert("RGB"), "question": asked["question"]})
        answers.write(json.dumps({"answer": found["text"]}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
