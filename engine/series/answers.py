"""Files' answers to studies' answers, one study at a time."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from medfocus.engine.io.notices import Notice
from medfocus.engine.prediction import Prediction
from medfocus.engine.series.grouping import Study
from medfocus.engine.series.joining import joined
from medfocus.engine.series.prediction import SeriesPrediction


def reading_order(studies: Iterable[Study]) -> list[int]:
    """The files' numbers, each once, so that one study after the other is complete."""
    return list(dict.fromkeys(unit.file for study in studies for unit in study.units))


def series_predictions(
    studies: Iterable[Study], answers: Iterable[tuple[int, list[Prediction]]], rule: str
) -> Iterator[SeriesPrediction]:
    """Each study's prediction, as soon as its files are answered.

    Args:
        studies: in the order of the results.
        answers: a file's number, and the predictions of its images; in `reading_order`.
        rule: of `joining.joined`.
    """
    waiting = deque(studies)
    uses = Counter(file for study in waiting for file in {unit.file for unit in study.units})
    answered: dict[int, list[Prediction]] = {}
    for file, predictions in answers:
        answered[file] = predictions
        while waiting and all(unit.file in answered for unit in waiting[0].units):
            study = waiting.popleft()
            yield _joined(study, _slices(study, answered), rule)
            for number in {unit.file for unit in study.units}:
                uses[number] -= 1
                if not uses[number]:
                    del answered[number]


def _slices(study: Study, answered: Mapping[int, list[Prediction]]) -> list[Prediction]:
    """A study's slices in their order. What a cut file lacks is its last answer, an error, once."""
    found: dict[int, Prediction] = {}
    for file, part, end in study.units:
        predictions = answered[file]
        for each in predictions[part.first : end] or predictions[-1:]:
            found[id(each)] = each
    return list(found.values())


def _joined(study: Study, slices: Sequence[Prediction], rule: str) -> SeriesPrediction:
    good = [number for number, each in enumerate(slices) if each.error is None]
    of_slices = dict.fromkeys(notice for each in slices for notice in each.warnings)
    notices = (*study.notices, *of_slices)
    if not good:
        error = slices[0].error
        return SeriesPrediction(study.source, None, {}, tuple(slices), rule, None, notices, error)
    if len(good) < len(slices):
        text = f"{len(slices) - len(good)} of {len(slices)} slices have errors, and do not count"
        notices = (*notices, Notice("series.slices_failed", text))
    classes = list(slices[good[0]].probabilities)
    probabilities = [[slices[number].probabilities[name] for name in classes] for number in good]
    scores = [slices[number].focus_score if slices[number].focused else None for number in good]
    answer, evidence, said = joined(np.array(probabilities), scores, rule)
    return SeriesPrediction(
        source=study.source,
        label=classes[int(answer.argmax())],
        probabilities=dict(zip(classes, answer.tolist(), strict=True)),
        slices=tuple(slices),
        joined=rule,
        evidence=good[evidence],
        warnings=(*notices, *said),
    )
