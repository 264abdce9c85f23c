"""Pooling, floor, log and strength in one launch, compared with the formula in float64.

Without a GPU the kernel runs in Triton's interpreter, on fewer shapes and without bfloat16.
"""

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from medfocus.engine.preprocess.geometry import Geometry, pooling_weights
from medfocus.errors import InputError
from medfocus.kernels import dispatch
from medfocus.kernels.focus_bias import FocusBias, focus_bias, launch, reference
from medfocus.models.focus import is_focused, pool_focus
from medfocus.settings import Focus
from tests.errors import refuses
from tests.kernels.accuracy import assert_as_accurate

# The interpreter's NumPy warns of exp(∞), which is intended, and of maxima of NaN.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|All-NaN|invalid):RuntimeWarning")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the whole sweep needs a GPU")
DTYPES = [torch.bfloat16] * torch.cuda.is_available() + [torch.float16, torch.float32]
FLOOR, VISIBLE = 0.02, 0.1
Arguments = tuple[Tensor, Tensor, Tensor, Tensor]


def by_the_formula(
    logits: Tensor, rows: Tensor, cols: Tensor, strength: Tensor, floor: float, visible: float
) -> tuple[Tensor, Tensor, list[bool]]:
    """Image by image, layer by layer; float64."""
    biases = torch.zeros(len(strength), len(logits), 1 + rows.shape[1] ** 2, dtype=torch.float64)
    pooled, focused = [], []
    for image, (mask, up, across) in enumerate(zip(logits, rows, cols, strict=True)):
        probability = 1 / (1 + torch.exp(-mask.double().cpu()))
        mean = torch.einsum("ih,hw,jw->ij", up.double().cpu(), probability, across.double().cpu())
        pooled.append(mean)
        focused.append(bool((mask > 0).any()) and float(mean.max()) > visible)
        for layer, pull in enumerate(strength.tolist()):
            if focused[-1]:
                biases[layer, image, 1:] = pull * mean.flatten().clamp(min=floor).log()
    return biases.to(logits.device), torch.stack(pooled).to(logits.device), focused


def weights_of(batch: int, grid: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pooling weights of images of different shapes, so that crops and padding differ."""
    modes = itertools.cycle(["shortest", "longest", "squash"])
    pairs = []
    for number in range(batch):
        geometry = Geometry.fit(200 + 90 * number, 320, 224, next(modes))  # type: ignore[arg-type]
        pairs.append(pooling_weights(geometry, grid, height, width))
    rows, cols = (torch.stack([torch.tensor(w) for w in side]) for side in zip(*pairs, strict=True))
    return rows, cols


def case(
    batch: int, grid: int, height: int, width: int, layers: int, dtype: torch.dtype, device: str
) -> Arguments:
    """A different blob in each mask; the second mask is empty, and CLIP's crop misses the third."""
    generator = torch.Generator().manual_seed(grid * height + width)
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)
    centres = torch.rand(batch, 2, 1, 1, generator=generator) * 0.6 - 0.3
    logits = 8 - 40 * ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2)
    logits += torch.randn(batch, height, width, generator=generator)
    rows, cols = weights_of(batch, grid, height, width)
    if batch > 1:
        logits[1] = -32
    if batch > 2:
        rows[2] = 0
    strength = torch.linspace(0, 1.5, layers)
    return (
        logits.to(device, dtype),
        rows.to(device),
        cols.to(device),
        strength.to(device),
    )


def check(arguments: Arguments, floor: float = FLOOR, visible: float = VISIBLE) -> FocusBias:
    with dispatch.using("require"):
        ours = focus_bias(*arguments, floor, visible)
    assert dispatch.last_path("focus_bias") == "triton"
    baseline = reference(*arguments, floor, visible)
    key_bias, patch_focus, focused = by_the_formula(*arguments, floor, visible)
    assert_as_accurate(ours.patch_focus, baseline.patch_focus, patch_focus)
    assert_as_accurate(ours.key_bias, baseline.key_bias, key_bias)
    assert ours.focused.tolist() == focused
    assert ours.focused.dtype == torch.bool
    return ours


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("grid", [14, 16, 24])
def test_the_grids_of_the_presets(grid: int, size: int, dtype: torch.dtype, device: str) -> None:
    ours = check(case(3, grid, size, size, 4, dtype, device))
    assert ours.focused.tolist() == [True, False, False]
    assert not ours.key_bias[:, 1:].any()
    assert ours.key_bias[1:, 0].any()


@pytest.mark.parametrize(
    ("grid", "height", "width"),
    [(1, 1, 1), (2, 3, 65), (7, 100, 33), (15, 64, 1), (33, 70, 70), (49, 31, 97), (64, 64, 130)],
)
def test_odd_shapes(grid: int, height: int, width: int, device: str) -> None:
    check(case(1, grid, height, width, 1, torch.float32, device))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("grid", range(1, 65))
def test_the_whole_sweep(grid: int, dtype: torch.dtype, device: str) -> None:
    for height, width in [(64, 64), (256, 256), (128, 192), (37, 201), (1, 300)]:
        check(case(1 + grid % 8, grid, height, width, 24, dtype, device))


def test_pytorchs_path_equals_the_formula_and_the_models_functions() -> None:
    arguments = case(3, 14, 64, 48, 3, torch.float32, "cpu")
    with dispatch.using("off"):
        ours = focus_bias(*arguments, FLOOR, VISIBLE)
    assert dispatch.last_path("focus_bias") == "torch"
    key_bias, _, focused = by_the_formula(*arguments, FLOOR, VISIBLE)
    torch.testing.assert_close(ours.key_bias.double(), key_bias, atol=2e-6, rtol=1e-5)
    assert ours.focused.tolist() == focused
    pooled = pool_focus(*arguments[:3])
    assert torch.equal(ours.patch_focus, pooled)
    found = arguments[0].amax((-2, -1)) > 0
    seen = is_focused(pooled, Focus(floor=VISIBLE))
    assert torch.equal(ours.focused, found & seen)


def test_whole_masks_come_out_exactly(device: str) -> None:
    """Logits of ±infinity and weights that are powers of two: every sum is exact."""
    logits = torch.full((1, 64, 64), -math.inf, device=device)
    logits[0, 16:40, 8:24] = math.inf
    weights = torch.zeros(1, 16, 64, device=device)
    for cell in range(16):
        weights[0, cell, 4 * cell : 4 * cell + 4] = 0.25
    with dispatch.using("require"):
        ours = focus_bias(logits, weights, weights, torch.ones(2, device=device), 0.25, 0.5)
    expected = torch.zeros(16, 16)
    expected[4:10, 2:6] = 1
    assert torch.equal(ours.patch_focus[0].cpu(), expected)
    bias = torch.where(expected == 1, 0.0, math.log(0.25)).flatten()
    for layer in ours.key_bias[:, 0].cpu():
        assert layer[0] == 0
        torch.testing.assert_close(layer[1:], bias, atol=1e-7, rtol=0)


def both(
    logits: Tensor, rows: Tensor, cols: Tensor, strength: Tensor, visible: float = VISIBLE
) -> Iterator[FocusBias]:
    """The outputs of the kernel and of PyTorch's path."""
    for mode in ("require", "off"):
        with dispatch.using(mode):
            yield focus_bias(logits, rows, cols, strength, FLOOR, visible)


def test_focused_needs_a_region_and_one_that_clip_sees(device: str) -> None:
    """Both bounds are strict: a logit of exactly 0, a patch focus of exactly `visible`."""
    one = torch.ones(1, 1, 1, device=device)
    strength = torch.ones(1, device=device)
    for logit, visible, expected in [
        (0.0, 0.4, False),
        (1e-6, 0.4, True),
        (-3.0, 0.0, False),
        (math.inf, 0.999, True),
        (math.inf, 1.0, False),
    ]:
        for ours in both(logit * one, one, one, strength, visible):
            assert ours.focused.item() is expected
            assert bool(ours.key_bias.any()) is (expected and logit != math.inf)


@pytest.mark.parametrize("where", ["mask_logits", "rows"])
def test_nan_means_not_focused_and_stays_visible(where: str, device: str) -> None:
    """One NaN among confident logits: no bias for that image, and the others do not change."""
    logits, rows, cols, strength = case(2, 14, 64, 64, 2, torch.float32, device)
    logits[1] = logits[0]
    rows[1], cols[1] = rows[0], cols[0]
    {"mask_logits": logits, "rows": rows}[where][1, 3, 5] = float("nan")
    for ours in both(logits, rows, cols, strength):
        assert ours.focused.tolist() == [True, False]
        assert (ours.key_bias[:, 1] == 0).all()
        assert ours.patch_focus[1].isnan().any()
        assert ours.key_bias[1, 0].any()
        assert ours.patch_focus[0].isfinite().all()


def test_reads_strides_and_writes_only_its_outputs(device: str) -> None:
    """Inputs are views surrounded by NaN, outputs are surrounded by poison."""
    arguments = case(3, 14, 50, 70, 2, torch.float32, device)
    views = []
    for tensor in arguments[:3]:
        padded = torch.full([n + 4 for n in tensor.shape], float("nan"), device=device)
        view = padded[2:-2, 2:-2, 2:-2]
        view.copy_(tensor)
        views.append(view)
    rows, cols = views[1][:1].expand(3, -1, -1), views[2].transpose(1, 2).contiguous().mT
    shared: Arguments = views[0], rows, cols, arguments[3]
    poison = 1e4
    around = torch.full((4, 3 * 197 * 2), poison, device=device)
    key_bias = around[1].view(2, 3, 197)
    patch_focus = around[2, : 3 * 196].view(3, 14, 14)
    flags = torch.full((5,), True, device=device)
    launch(*shared, FLOOR, VISIBLE, FocusBias(key_bias, patch_focus, flags[1:4]))
    exact = by_the_formula(*shared, FLOOR, VISIBLE)
    baseline = reference(*shared, FLOOR, VISIBLE)
    assert_as_accurate(key_bias, baseline.key_bias, exact[0])
    assert_as_accurate(patch_focus, baseline.patch_focus, exact[1])
    assert flags.tolist() == [True, *exact[2], True]
    key_bias.fill_(poison)
    patch_focus.fill_(poison)
    assert (around == poison).all()


def test_an_empty_batch(device: str) -> None:
    logits, rows, cols = (
        torch.zeros(0, *shape, device=device) for shape in [(8, 9), (4, 8), (4, 9)]
    )
    for ours in both(logits, rows, cols, torch.ones(3, device=device)):
        assert [t.shape for t in ours] == [(3, 0, 17), (0, 4, 4), (0,)]


def test_gradients_of_the_formula() -> None:
    logits, rows, cols, strength = case(2, 3, 5, 4, 2, torch.float64, "cpu")
    logits = (logits / 8).requires_grad_()
    strength = strength.double().requires_grad_()
    weights = rows.double(), cols.double()

    def function(logits: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        return focus_bias(logits, *weights, strength, FLOOR, VISIBLE)[:2]

    assert torch.autograd.gradcheck(function, (logits, strength))


@pytest.mark.parametrize(
    ("wanted", "used"),
    [
        ((True, True), (True, True)),
        ((True, True), (True, False)),
        ((True, False), (True, True)),
        ((True, False), (False, True)),
        ((False, True), (True, True)),
    ],
)
def test_gradients_of_the_kernel(
    wanted: tuple[bool, bool], used: tuple[bool, bool], device: str
) -> None:
    """Equal to PyTorch's, through one output or both, and only for inputs that need one."""
    logits, rows, cols, strength = case(2, 14, 30, 40, 3, torch.float32, device)
    generator = torch.Generator().manual_seed(4)
    bias_weights = torch.rand(3, 2, 197, generator=generator).to(device) * used[0]
    focus_weights = torch.rand(2, 14, 14, generator=generator).to(device) * used[1]
    found = []
    for mode in ("require", "off"):
        mask = logits.clone().requires_grad_(wanted[0])
        pull = strength.clone().requires_grad_(wanted[1])
        with dispatch.using(mode):
            ours = focus_bias(mask, rows, cols, pull, FLOOR, VISIBLE)
        assert not ours.focused.requires_grad
        loss = (ours.key_bias * bias_weights).sum() if used[0] else 0
        loss += (ours.patch_focus * focus_weights).sum() if used[1] else 0
        loss.backward()  # type: ignore[union-attr]
        found.append([mask.grad, pull.grad])
    for gradient, expected in zip(*found, strict=True):
        if expected is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, expected)


def test_torch_can_trace_the_operator(device: str) -> None:
    logits, rows, cols, strength = case(2, 4, 9, 10, 2, torch.float32, device)
    arguments = logits.requires_grad_(), rows, cols, strength.requires_grad_(), FLOOR, VISIBLE
    with dispatch.using("require"):
        torch.library.opcheck(torch.ops.medfocus.focus_bias, arguments)


def refused() -> Iterator[tuple[str, dict[str, object]]]:
    for shape in [(8, 9), (2, 0, 9), (2, 8, 0), (1, 2, 8, 9)]:
        yield "mask_logits", {"mask_logits": torch.zeros(shape)}
    yield "mask_logits", {"mask_logits": torch.zeros(2, 8, 9, dtype=torch.int32)}
    for shape in [(2, 4, 9), (3, 4, 8), (4, 8), (2, 0, 8)]:
        yield "rows", {"rows": torch.zeros(shape)}
    yield "rows", {"rows": torch.zeros(2, 4, 8, dtype=torch.float16)}
    for shape in [(2, 4, 8), (1, 4, 9), (2, 3, 9)]:
        yield "cols", {"cols": torch.zeros(shape)}
    yield "cols", {"cols": torch.zeros(2, 4, 9, device="meta")}
    yield "strength", {"strength": torch.zeros(2, 1)}
    yield "strength", {"strength": torch.zeros(0)}
    yield "strength", {"strength": torch.zeros(2, dtype=torch.float64)}
    for floor in (0.0, -1.0, math.nan, math.inf):
        yield "floor", {"floor": floor}
    yield "visible", {"visible": math.nan}


@pytest.mark.parametrize(("argument", "wrong"), list(refused()))
def test_arguments_that_do_not_fit(argument: str, wrong: dict[str, object]) -> None:
    fitting = {
        "mask_logits": torch.zeros(2, 8, 9),
        "rows": torch.zeros(2, 4, 8),
        "cols": torch.zeros(2, 4, 9),
        "strength": torch.zeros(2),
        "floor": FLOOR,
        "visible": VISIBLE,
    }
    focus_bias(**fitting)  # type: ignore[arg-type]
    with refuses(InputError, "input.invalid", argument):
        focus_bias(**fitting | wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("kernel_required")
@pytest.mark.parametrize(
    ("logits", "grid", "reason"),
    [
        (torch.zeros(1, 8, 8, dtype=torch.float64), 4, "float64"),
        (torch.zeros(1, 8, 8), 65, "g = 65"),
        (torch.empty_strided((1, 2, 8), (0, 2**30, 1), device="meta"), 4, "2^31"),
    ],
)
def test_a_required_kernel_refuses_what_it_does_not_support(
    logits: Tensor, grid: int, reason: str
) -> None:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    rows = torch.zeros(1, grid, logits.shape[1], dtype=dtype, device=logits.device)
    cols = torch.zeros(1, grid, 8, dtype=dtype, device=logits.device)
    strength = torch.zeros(2, dtype=dtype, device=logits.device)
    with refuses(InputError, "kernel.unsupported", "focus_bias") as caught:
        focus_bias(logits, rows, cols, strength, FLOOR, VISIBLE)
    assert reason in caught.value.problem


def test_nan_in_the_logits_is_refused_where_values_are_checked() -> None:
    arguments = case(1, 4, 8, 8, 1, torch.float32, "cpu")
    arguments[0][0, 2, 2] = float("nan")
    focus_bias(*arguments, FLOOR, VISIBLE)
    with dispatch.using("on", checks=True), refuses(InputError, "input.not_finite", "mask_logits"):
        focus_bias(*arguments, FLOOR, VISIBLE)


COMPILE = """
import importlib, json
from medfocus.kernels.compiler import compile_for
module = importlib.import_module("medfocus.kernels.focus_bias")
types = dict.fromkeys(module.kernel.arg_names, "i32") | dict.fromkeys(("floor", "visible"), "fp32")
types |= dict.fromkeys(("rows", "cols", "strength", "key_bias", "patch_focus"), "*fp32")
types |= {"focused": "*i1", "mask_logits": "*fp32"}
for architecture in (80, 89, 90, 100):
    for grid in (14, 24, 64):
        found = compile_for(architecture, module.kernel, types, module.specialise(grid),
                            module.WARPS, module.STAGES)
        print(json.dumps({"arch": architecture, "grid": grid, "mma": found.mma,
                          "spills": found.spills + found.stack_bytes,
                          "shared": found.shared_bytes,
                          "off": found.products_off_tensor_cores}))
"""


@pytest.mark.slow
def test_compiles_without_spills_onto_tensor_cores() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 12
    for row in found:
        assert row["spills"] == 0, row
        assert row["off"] == 0, row
        assert row["shared"] < 99 * 1024, row
        wide = {90: "HGMMA", 100: "UTCHMMA"}.get(row["arch"], "HMMA")
        assert row["mma"][wide] > 0, row
