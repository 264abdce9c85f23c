"""What is kept of an image on request: embeddings, compared with open_clip's, and masks."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from medfocus.engine import Engine, Prediction
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.torch.backend import TorchBackend
from medfocus.engine.backends.torch.batch_buffers import TorchBatchBuffers
from medfocus.engine.backends.torch.host_device_buffer import HostDeviceBuffer
from medfocus.engine.io.images import SourceImage
from medfocus.engine.runtime.image_request import ImageRequest, Kept
from medfocus.errors import ImageError, InputError
from medfocus.export.engine_directory import build
from medfocus.models.clip.architecture import build_vision_tower
from medfocus.models.loading import TINY
from medfocus.models.presets import CLIP_MEAN, CLIP_STD
from tests.conftest import random_bundle
from tests.engine.test_engine import pictures
from tests.errors import refuses


@pytest.fixture(scope="module")
def engine(engine_directory: Path) -> Engine:
    return Engine.load(engine_directory, backend="torch")


def upstream(shown: list[np.ndarray]) -> np.ndarray:
    """open_clip's own preprocessing and image encoder, with the weights of `random_bundle`."""
    torch.manual_seed(31)
    tower = build_vision_tower(TINY).eval()
    preprocess = open_clip.image_transform(112, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    with torch.inference_mode():
        batch = torch.stack([preprocess(Image.fromarray(pixels)) for pixels in shown])
        found: np.ndarray = tower(batch).numpy()
    return found


def test_without_focus_an_embedding_is_open_clips(tmp_path: Path) -> None:
    build(tmp_path / "none", random_bundle("none"))
    shown = pictures(7)  # of several sizes
    with Engine.load(tmp_path / "none") as plain:
        found = plain.encode_image(shown)
    expected = upstream(shown)
    assert found.dtype == np.float32
    assert found.shape == (7, 128)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(found[0] - found[1]).max() > 0.01 * np.abs(expected).max(), "or nothing is told"


def test_the_focus_steers_an_embedding(engine: Engine) -> None:
    shown, boxes = pictures(2), [(5, 5, 40, 40), None]
    plain, boxed = engine.encode_image(shown), engine.encode_image(shown, boxes=boxes)
    assert np.abs(plain - upstream(shown)).max() > 0.01 * np.abs(plain).max()
    assert np.abs(plain[0] - boxed[0]).max() > 1e-3 * np.abs(plain).max()
    np.testing.assert_allclose(plain[1], boxed[1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_embeddings_of_each_runtime_are_pytorchs(exported_engine: Path, backend: str) -> None:
    shown = pictures(5)
    with (
        Engine.load(exported_engine, "torch", "cpu") as reference,
        Engine.load(exported_engine, backend, "cpu") as other,
    ):
        expected = reference.encode_image(shown)
        assert np.abs(other.encode_image(shown) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_each_frame_has_a_row_and_an_unreadable_image_raises(
    engine: Engine, tmp_path: Path
) -> None:
    first, second, third = pictures(3)
    pages = [Image.fromarray(page) for page in (first, second)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    found = engine.encode_image([tmp_path / "pages.tif", third])
    np.testing.assert_allclose(found, engine.encode_image([first, second, third]), atol=1e-5)
    (tmp_path / "text.png").write_text("no picture")
    with refuses(ImageError, "image.not_an_image", str(tmp_path / "text.png")):
        engine.encode_image([third, tmp_path / "text.png"])
    with refuses(InputError, "input.empty", "batch"):
        engine.encode_image([])


def check_kept(found: Prediction, plain: Prediction, embedding: np.ndarray) -> None:
    """An embedding was asked for, and no masks; everything else is as ever."""
    assert found.embedding is not None
    np.testing.assert_allclose(found.embedding, embedding, atol=1e-5)
    assert (found.focus_logits, found.patch_focus, found.focus_mask) == (None, None, None)
    assert (found.label, found.focused) == (plain.label, plain.focused)
    assert found.focus_score == pytest.approx(plain.focus_score, abs=1e-5)
    assert found.to_dict().keys() == plain.to_dict().keys()


def test_every_call_keeps_what_its_caller_asked_for(engine: Engine) -> None:
    shown = pictures(3)
    plain, embeddings = engine.classify(shown), engine.encode_image(shown)
    assert plain[0].embedding is None
    assert plain[0].focus_logits is not None
    assert plain[0].patch_focus is not None
    calls = (
        engine.classify(shown, embeddings=True, keep_masks=False),
        [*engine.stream(shown, embeddings=True, keep_masks=False)],
        engine.submit(shown, embeddings=True, keep_masks=False).result(),
        asyncio.run(engine.aclassify(shown, embeddings=True, keep_masks=False)),
    )
    for call in calls:
        for found, expected, embedding in zip(call, plain, embeddings, strict=True):
            check_kept(found, expected, embedding)


def test_what_is_not_kept_is_not_copied_from_the_device(
    engine_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of callers who want different things; and one of callers who want little."""
    directory = read_engine_directory(engine_directory)
    backend = TorchBackend(directory, "cpu")
    buffers = TorchBatchBuffers(backend, directory.manifest, 2, "cpu")
    downloaded: list[HostDeviceBuffer] = []
    download = HostDeviceBuffer.down

    def watched(buffer: HostDeviceBuffer, count: int) -> None:
        downloaded.append(buffer)
        download(buffer, count)

    monkeypatch.setattr(HostDeviceBuffer, "down", watched)
    large = {id(buffers._logits), id(buffers._patch_focus), id(buffers._embedding)}
    for kept, copied in (
        ((Kept(), Kept(masks=False, embedding=True)), 3),
        ((Kept(masks=False), Kept(masks=False)), 0),
    ):
        downloaded.clear()
        image = SourceImage(pictures(1)[0], "image")
        prompts = directory.manifest.prompts
        buffers.begin([ImageRequest(image, prompts, wanted) for wanted in kept])
        for row in range(2):
            buffers.prepare(row)
        buffers.segment()
        buffers.classify()
        outputs = [buffers.outputs(row) for row in range(2)]
        assert len(large & {id(buffer) for buffer in downloaded}) == copied
        for output, wanted in zip(outputs, kept, strict=True):
            assert (output.focus_logits is not None) == wanted.masks
            assert (output.patch_focus is not None) == wanted.masks
            assert (output.embedding is not None) == wanted.embedding
        buffers.end()


def test_a_prompt_for_a_frame_that_is_not_there_is_an_error(engine: Engine) -> None:
    shown, box = pictures(2), (5, 5, 40, 40)
    found = engine.classify([*shown, b""], boxes=[{0: box, 1: box}, None, {1: box}])
    codes = [None if one.error is None else one.error.code for one in found]
    assert codes == [None, "input.prompt_unused", None, "image.empty"]
    assert found[1].source == "item 0#1"
    for number in ("0", -1):
        with refuses(InputError, "input.prompt_unused", f"points of item 0#{number}"):
            points: Any = [{number: [(9, 9)]}]
            engine.classify(shown[:1], points=points, strict=True)


def test_frames_have_prompts_of_their_own(engine: Engine) -> None:
    first, second = pictures(2)
    pages = [Image.fromarray(page) for page in (first, second)]
    content = io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    box = (5, 5, 40, 40)
    found = engine.encode_image([content.getvalue()], boxes=[{1: box}])
    expected = engine.encode_image([first, second], boxes=[None, box])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    points = [(9, 9), (30, 60, 0)]
    found = engine.encode_image([content.getvalue()], points=[{0: points}])
    expected = engine.encode_image([first, second], points=[points, None])
    np.testing.assert_allclose(found, expected, atol=1e-5)
