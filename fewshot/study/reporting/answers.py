"""A head's predictions as a table, one row per image."""

import csv
import io
from collections import Counter
from collections.abc import Sequence

from medfocus.fewshot.examples import Examples
from medfocus.fewshot.study.run import Run


def answers_csv(run: Run, examples: Examples, files: Sequence[str]) -> str:
    """CSV with the columns file, frame, truth, answer, focused, and one probability per class.

    The probabilities are those after temperature scaling, as an engine with the head returns them.

    Args:
        run: on the images of `examples`, in their order.
        examples: the classified images.
        files: item names, indexed by `examples.files`.

    Returns:
        the text, with Unix line ends.
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
