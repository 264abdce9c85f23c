"""One exit code per kind of error, on every command."""

import pytest

from medfocus.errors import (
    DeviceError,
    EngineDirectoryError,
    FileError,
    ImageError,
    InputError,
    MedfocusError,
    OutputError,
    ParityError,
    WeightsError,
)
from medfocus.exit_codes import MEANINGS, ExitCode, exit_code_of

KINDS = {
    InputError: 2,
    ParityError: 3,
    FileError: 4,
    ImageError: 4,
    OutputError: 4,
    WeightsError: 4,
    EngineDirectoryError: 4,
    DeviceError: 4,
}


@pytest.mark.parametrize(("kind", "code"), KINDS.items())
def test_each_error_has_its_code(kind: type[MedfocusError], code: int) -> None:
    assert exit_code_of(kind("item", "problem", "hint")) == code


def test_no_error_is_without_one() -> None:
    defined = set(MedfocusError.__subclasses__()) | set(InputError.__subclasses__())
    assert {kind for kind in defined if kind.__module__ == "medfocus.errors"} == set(KINDS)


def test_the_systems_errors_have_codes() -> None:
    assert exit_code_of(OSError(28, "No space left on device")) == 4
    assert exit_code_of(ModuleNotFoundError("No module named 'torch'", name="torch")) == 2
    assert exit_code_of(KeyboardInterrupt()) == 130


def test_every_code_is_explained() -> None:
    assert list(MEANINGS) == list(ExitCode)
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 130]
