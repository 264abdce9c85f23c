"""A head's answers as a table: what an engine with this head answers, image by image."""

import csv
import io
from collections import Counter
from collections.abc import Sequence

from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.run import Run


def answers_csv(run: Run, examples: Examples, files: Sequence[str]) -> str:
    """Columns: file, frame, truth, answer, focused, and each class' probability by its name.

    The probabilities are those after temperature scaling, which the head holds.

    Args:
        run: on the images of `examples`, in their order.
        examples: what was answered.
        files: names of the items that `examples.files` counts.

    Returns:
        the text, its lines ended as on Unix.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "frame", "truth", "answer", "focused", *run.classes))
    frames: Counter[int] = Counter()
    answered = zip(examples.files.tolist(), run.labels, run.calibrated, run.focused, strict=True)
    for file, label, probabilities, focused in answered:
        answer = run.classes[int(probabilities.argmax())]
        about = files[file], frames[file], run.classes[label], answer, int(focused)
        writer.writerow((*about, *(f"{value:.9g}" for value in probabilities)))
        frames[file] += 1
    return text.getvalue()
