"""An engine's sources to studies' predictions: headers first, then the pixels study by study."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.io.volumes.parts import Part
from medfocus.engine.prediction import Prediction
from medfocus.engine.runtime.pipeline import Pipeline
from medfocus.engine.runtime.read_ahead import PromptedSource, source_name
from medfocus.engine.series.answers import reading_order, series_predictions
from medfocus.engine.series.grouping import group_parts
from medfocus.engine.series.prediction import SeriesPrediction
from medfocus.engine.series.reading import parts_of, rereadable

_AT_ONCE = 64  # headers: what others read waits for no more
Classify = Callable[[Sequence[PromptedSource]], Iterator[tuple[int, list[Prediction]]]]


def answer_series(
    prompted: Iterable[PromptedSource], pipeline: Pipeline, classify: Classify, rule: str
) -> Iterator[SeriesPrediction]:
    """Group all sources, and classify one study after the other.

    Args:
        prompted: the sources; all are pulled before the first is classified.
        pipeline: in whose threads headers are read.
        classify: yields each source's number, from 0, and the predictions of its images.
        rule: of `joining.joined`.

    Raises:
        InputError: an array or a picture in memory (`input.no_series`); the pipeline is closed.
    """
    items: list[PromptedSource] = []
    for number, item in enumerate(prompted):
        name = source_name(item.source, number)
        items.append(replace(item, source=rereadable(item.source, name), name=name))
    parts: list[list[Part]] = []
    for start in range(0, len(items), _AT_ONCE):
        some = items[start : start + _AT_ONCE]
        headers = [pipeline.read(partial(_parts, item, pipeline.reader)) for item in some]
        parts += [header.result() for header in headers]
    names = [str(item.name) for item in items]
    studies = group_parts(names, parts)
    order = reading_order(studies)
    answers = classify([items[number] for number in order])
    yield from series_predictions(
        studies, ((order[place], predictions) for place, predictions in answers), rule
    )


def _parts(item: PromptedSource, reader: FileReader, _: Callable[[int], None]) -> list[Part]:
    return parts_of(item.source, str(item.name), reader)
