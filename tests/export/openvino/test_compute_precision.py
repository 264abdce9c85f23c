"""Which compute precision an export chooses for OpenVINO, from the time of one product."""

import openvino
import pytest

from medfocus.export.openvino import compute_precision
from medfocus.export.openvino.compute_precision import bf16_is_faster


@pytest.fixture(autouse=True)
def _no_cached_timing() -> None:
    bf16_is_faster.cache_clear()


@pytest.mark.parametrize(
    ("supported", "seconds", "expected"),
    [
        (True, {"fp32": 2.0, "bf16": 1.0}, "bf16"),
        (True, {"fp32": 1.0, "bf16": 2.0}, "fp32"),
        (True, {"fp32": 1.0, "bf16": 1.0}, "fp32"),
        (False, {}, "fp32"),
    ],
)
def test_bf16_only_where_it_is_supported_and_faster(
    supported: bool, seconds: dict[str, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute_precision, "has_bf16", lambda core: supported)
    monkeypatch.setattr(
        compute_precision, "_product_seconds", lambda core, precision: seconds[precision]
    )
    assert compute_precision.best_compute_precision("fp16") == expected
    assert compute_precision.best_compute_precision("bf16") == expected
    assert compute_precision.best_compute_precision("fp32") == "fp32"


def test_a_product_is_really_run() -> None:
    # 4.8 GFLOP: no processor does them in a tenth of a millisecond.
    assert compute_precision._product_seconds(openvino.Core(), "fp32") > 1e-4
