"""`medfocus classify --server` writes what `medfocus classify ENGINE_DIR` does, to the byte."""

import io
import json
import subprocess
import sys
import zipfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medfocus.classify.command import main
from medfocus.engine.io.results.journal import FileKey, Journal, ResultRow
from medfocus.serving.client.connection import AT_ONCE
from medfocus.serving.command import service
from medfocus.serving.config import checked
from medfocus.serving.engines import ServedEngine
from medfocus.serving.state import Service
from tests.serving.api.test_classify import png
from tests.serving.conftest import Serve, running


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures, DICOM of one frame and of several, a NIfTI volume, what is broken, an archive."""
    import nibabel as nib

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(png(seed))
    for name in ("CT_small.dcm", "rtdose.dcm"):
        (folder / name).write_bytes(Path(str(get_testdata_file(name))).read_bytes())
    volume = np.random.default_rng(1).normal(size=(20, 24, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / "brain.nii.gz")
    pages = [Image.open(io.BytesIO(png(seed))) for seed in (7, 8)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.writestr("a/b.png", png(9))
        archive.write(folder / "CT_small.dcm", "a/c.dcm")
        archive.writestr("a/broken.png", b"x" * 99)
    return folder


@pytest.fixture
def broken(scans: Path) -> None:
    (scans / "broken.png").write_bytes(b"no image")
    (scans / "cut.dcm").write_bytes((scans / "CT_small.dcm").read_bytes()[:9000])


def written(folder: Path) -> dict[str, bytes]:
    """What a run wrote below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def runs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    local: list[str],
    remote: list[str],
    options: list[str],
) -> tuple[int, dict[str, bytes]]:
    """Run the command by both, which must do the same; its exit code and what it wrote."""
    found = []
    for first, *last in (local, remote):
        Path("out").mkdir()
        code = main([first, "scans", "study.zip", *last, *options])
        output = capsys.readouterr()
        found.append((code, written(Path("out")), output.out, output.err.splitlines()))
        Path("out").rename(f"out-{len(found)}")
    assert found[0] == found[1]
    return found[0][:2]


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    "options",
    [
        ["-o", "out/results.csv", "--overlays", "out/pictures", "--masks", "out/masks"],
        ["-o", "out/results.json", "--group", "series", "--overlays", "out/pictures",
         "--masks", "out/masks", "--mask-format", "npy"],
        ["--format", "jsonl", "--boxes", "boxes.csv", "--top-k", "2"],
    ],
)  # fmt: skip
def test_results_are_those_of_the_engine_to_the_byte(
    serve: Serve,
    engine_directory: Path,
    scans: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    Path("boxes.csv").write_text(
        "file,left,top,right,bottom\n"
        "scans/0.png,10,10,60,50\n"
        "scans/rtdose.dcm#2,1,1,5,5\n"
        "scans/pages.tif#9,1,1,5,5\n"
        "scans/1.png,10,10,600,500\n"
        "study.zip/a/b.png,3,3,40,40\n"
    )
    # As the service has it: an image's bits then do not depend on those around it.
    local = [str(engine_directory), "--batch-size", "1"]
    remote = [f"--server={serve().base_url}"]
    code, files = runs(monkeypatch, capsys, local, remote, options)
    assert code == 1
    if "-o" in options:
        assert len(files) > 20
        assert b"broken.png" in files[Path(options[1]).name]


def test_a_run_whose_service_ends_resumes_at_another(
    engine_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    for seed in range(3 * AT_ONCE):
        Path("scans", f"{seed}.png").write_bytes(png(seed, 8, 8))
    engines = {"tiny": {"path": str(engine_directory), "deterministic": True}}
    config = checked({"engines": engines, "port": 0}, Path(), "test")
    add = Journal.add
    with ExitStack() as first:

        def add_and_end(journal: Journal, key: FileKey, rows: list[ResultRow]) -> None:
            add(journal, key, rows)
            first.close()

        url = url_of(first, service(config))
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", add_and_end)
            assert main(["--server", url, "scans", "-o", "out.json"]) == 4
    done = Path("out.json.partial").read_bytes().splitlines()[1:]
    assert 0 < len(done) < 3 * AT_ONCE
    asked: list[str] = []
    with ExitStack() as second:
        made = service(config)
        url = url_of(second, made)
        admitted = made.engines.admitted

        def counted(name: str, images: int) -> AbstractContextManager[ServedEngine]:
            asked.append(name)
            return admitted(name, images)

        monkeypatch.setattr(made.engines, "admitted", counted)
        assert main(["--server", url, "scans", "-o", "out.json"]) == 0
    assert len(asked) == 3 * AT_ONCE - len(done)
    assert main([str(engine_directory), "scans", "-o", "local.json", "--batch-size", "1"]) == 0
    assert Path("out.json").read_bytes() == Path("local.json").read_bytes()


def url_of(stack: ExitStack, made: Service) -> str:
    made.engines.load("tiny", made.config.engines["tiny"])
    return str(stack.enter_context(running(made)).base_url)


def test_what_ends_a_run_before_its_first_image(
    serve: Serve, scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens, token, rest = Path("tokens"), Path("token"), ["scans/0.png", "-q", "-o", "out.csv"]
    tokens.write_text(f"classify {'a' * 32}\n")
    tokens.chmod(0o600)
    token.write_text("a" * 32 + "\n")
    Path("wrong").write_text("b" * 32)
    Path("empty").touch()
    monkeypatch.delenv("MEDFOCUS_TOKEN", raising=False)
    url = str(serve(security={"token_file": str(tokens.absolute())}).base_url)
    for options, code in (
        (["--server", url], 2),
        (["--server", url, "--token-file", "wrong"], 2),
        (["--server", url, "--token-file", "empty"], 2),
        (["--server", url, "--token-file", "absent"], 4),
        (["--server", url, "--token-file", "token", "--engine", "other"], 2),
        (["--server", "http://127.0.0.1:9"], 4),
        (["--server", "127.0.0.1:8000"], 2),
    ):
        assert main([*options, *rest]) == code
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "a" * 32 not in error
        assert "b" * 32 not in error
    assert not Path("out.csv").exists()
    assert main(["--server", url, "--token-file", "token", "--engine", "tiny", *rest]) == 0


def test_without_a_server_no_http_is_imported(engine_directory: Path, scans: Path) -> None:
    program = (
        "import sys\n"
        "from medfocus.classify.command import main\n"
        "status = main(sys.argv[1:])\n"
        "assert not {'httpx', 'fastapi', 'medfocus.serving'} & {*sys.modules}\n"
        "sys.exit(status)\n"
    )
    arguments = [str(engine_directory), "scans/0.png", "-o", "out.json"]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=300)
    assert json.loads(Path("out.json").read_text())[0]["error"] is None
