"""A head and its split are written together."""

import errno
import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest
import torch
from rich.console import Console

from medfocus.errors import FileError, InputError
from medfocus.fewshot import fit_run
from medfocus.fewshot.data.folder import read_folder
from medfocus.fewshot.data.splitting import split_file
from medfocus.fewshot.data.splitting.splits import Shots, make_split
from medfocus.models.head import Head, uniform_strength
from tests.errors import refuses
from tests.fewshot.data.files import png


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_leaves_a_head_and_its_split_both_new_or_both_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Wherever the system fails; between the two renames, what is left is refused by `eval`."""
    for name in ("a", "b"):
        for each in range(6):
            png(tmp_path / "data" / name / f"{each}.png")
    dataset = read_folder(tmp_path / "data")
    split = make_split(dataset, Shots(1), 0)
    strength = uniform_strength(6)
    head = Head("clip", "0" * 64, "soft", ("a", "b"), torch.ones(2, 8), torch.tensor(9.0), strength)
    options = Namespace(out=tmp_path / "h.safetensors")
    path = tmp_path / "h.split.json"

    def save(temperature: float, seed: int) -> None:
        fitted = replace(head, temperature=temperature), replace(split, seed=seed)
        with monkeypatch.context() as patch:
            patch.setattr(fit_run, "_fit", lambda *_: fitted)
            fit_run.fit_and_save(options, Console())

    def tested() -> int:
        content = sha256(options.out.read_bytes()).hexdigest()
        return split_file.tested_split(path, dataset, content).seed

    save(1.0, 1)
    old = options.out.read_bytes(), path.read_bytes()
    assert tested() == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing_once(getattr(os, call), number))
        with refuses(FileError, "file.unwritable"):
            save(2.0, 2)
    if (call, number) == ("replace", 2):
        assert options.out.read_bytes() == old[0]
        with refuses(InputError, "split.other_head", str(path)):
            tested()
    else:
        assert (options.out.read_bytes(), path.read_bytes()) == old
    save(2.0, 2)
    assert tested() == 2
    assert Head.read(options.out).temperature == 2.0


def failing_once(real: Callable[..., object], number: int) -> Callable[..., object]:
    """A function of which the call of this number, from 1, fails as on a full disk."""
    numbers = count(1)

    def call(*arguments: object) -> object:
        if next(numbers) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    return call
