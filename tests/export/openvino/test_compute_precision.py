"""Which precision an export gives OpenVINO, from the seconds of one product."""

import pytest

from medfocus.export.openvino import compute_precision as openvino_arithmetic
from medfocus.export.openvino.compute_precision import bf16_is_faster


@pytest.fixture(autouse=True)
def _timed_anew() -> None:
    bf16_is_faster.cache_clear()


@pytest.mark.parametrize(
    ("known", "seconds", "expected"),
    [
        (True, {"fp32": 2.0, "bf16": 1.0}, "bf16"),
        (True, {"fp32": 1.0, "bf16": 2.0}, "fp32"),
        (True, {"fp32": 1.0, "bf16": 1.0}, "fp32"),
        (False, {}, "fp32"),
    ],
)
def test_bf16_only_where_it_is_known_and_faster(
    known: bool, seconds: dict[str, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_arithmetic, "has_bf16", lambda core: known)
    monkeypatch.setattr(
        openvino_arithmetic, "_product_seconds", lambda core, precision: seconds[precision]
    )
    for wanted in ("fp16", "bf16"):
        assert openvino_arithmetic.best_compute_precision(wanted) == expected
    assert openvino_arithmetic.best_compute_precision("fp32") == "fp32"


def test_a_product_is_really_run() -> None:
    core = openvino_arithmetic.openvino.Core()
    # 4.8 GFLOP: no processor does them in a tenth of a millisecond.
    assert openvino_arithmetic._product_seconds(core, "fp32") > 1e-4
