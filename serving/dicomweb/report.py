"""The answer to a Store request: PS3.18's Store Instances Response Module (annex I).

An instance that was classified counts as stored, though nothing is kept: its Retrieve URL is empty.
Its predictions are in a private block (PS3.5, 7.8) of its item.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from medfocus.engine import Prediction
from medfocus.serving.answers.predictions import answer
from medfocus.serving.dicomweb.instances import Instance

CREATOR, GROUP = "MEDFOCUS", 0x0099
PREDICTIONS, ENGINE = 0x01, 0x02  # elements of the block
ELEMENTS_DISCARDED = 0xB006  # table I.2-1: some of its frames could not be read
# Table I.2-2.
OUT_OF_RESOURCES = 0xA700
OTHER_STUDY = 0xA901  # of the class A9xx
NOT_UNDERSTOOD = 0xC000
SYNTAX_NOT_SUPPORTED = 0xC122
FAILED = 0x0110
CLASS_NOT_SUPPORTED = 0x0122
_REASONS = {
    "dicom.transfer_syntax": SYNTAX_NOT_SUPPORTED,
    "image.too_large": OUT_OF_RESOURCES,
    "image.too_many_frames": OUT_OF_RESOURCES,
    "image.too_slow": OUT_OF_RESOURCES,
}


@dataclass(frozen=True)
class Outcome:
    """What became of one part of a request.

    Attributes:
        instance: what it is; None if that cannot be read.
        predictions: of its frames; none if it was not classified.
    """

    instance: Instance | None
    predictions: Sequence[Prediction]


def report(outcomes: Sequence[Outcome], engine: dict[str, str] | None) -> tuple[int, Dataset]:
    """The status (table 10.5.3-1) and the module.

    Args:
        outcomes: of each part.
        engine: name and version of what classified; None if nothing was.
    """
    module = Dataset()
    module.SpecificCharacterSet = "ISO_IR 192"
    module.RetrieveURL = None
    if engine is not None:
        _add_json(module, ENGINE, engine)
    items: dict[str, list[Dataset]] = {
        "FailedSOPSequence": [],
        "ReferencedSOPSequence": [],
        "OtherFailuresSequence": [],
    }
    complete = True
    for outcome in outcomes:
        reason = _failure(outcome)
        some_failed = any(each.error for each in outcome.predictions)
        complete = complete and not some_failed and reason is None
        item = Dataset()
        if outcome.instance is not None:
            item.ReferencedSOPClassUID = outcome.instance.sop_class
            item.ReferencedSOPInstanceUID = outcome.instance.sop_instance
        if reason is not None:
            item.FailureReason = reason
        else:
            item.RetrieveURL = None
            if some_failed:
                item.WarningReason = ELEMENTS_DISCARDED
        if outcome.predictions:
            _add_json(item, PREDICTIONS, [answer(p, None, False) for p in outcome.predictions])
        stored = "ReferencedSOPSequence" if reason is None else "FailedSOPSequence"
        items["OtherFailuresSequence" if outcome.instance is None else stored].append(item)
    for keyword, found in items.items():
        if found:  # they are of type 1C
            setattr(module, keyword, found)
    if not items["ReferencedSOPSequence"]:
        return 409, module
    return (200 if complete else 202), module


def _failure(outcome: Outcome) -> int | None:
    """Why an instance was not classified; None if one of its frames was."""
    if outcome.instance is None:
        return NOT_UNDERSTOOD
    if not outcome.predictions:
        return OTHER_STUDY
    errors = [each.error for each in outcome.predictions]
    error = errors[0]
    if error is None or None in errors:
        return None
    if error.code == "dicom.no_pixels" and "Image" not in UID(outcome.instance.sop_class).name:
        return CLASS_NOT_SUPPORTED  # where there should be none; an image's were cut off
    of_file = error.code.startswith(("image.", "dicom."))
    return _REASONS.get(error.code, NOT_UNDERSTOOD if of_file else FAILED)


def _add_json(dataset: Dataset, element: int, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    dataset.private_block(GROUP, CREATOR, create=True).add_new(element, "UT", text)
