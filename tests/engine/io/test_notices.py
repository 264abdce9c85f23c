"""A warning is its sentence wherever a text is wanted, and keeps its code across processes."""

import copy
import json
import pickle

from medfocus.engine.io.notices import MIN_MAX, Notice


def test_a_notice_is_its_sentence() -> None:
    notice = Notice("pixels.constant", "all is one")
    assert (str(notice), f"{notice}", "; ".join([notice])) == ("all is one",) * 3
    assert json.loads(json.dumps([notice])) == ["all is one"]


def test_the_code_is_kept_in_copies() -> None:
    for notice in (pickle.loads(pickle.dumps(MIN_MAX)), copy.deepcopy(MIN_MAX)):  # noqa: S301
        assert (notice, notice.code) == (MIN_MAX, "pixels.min_max_normalised")
