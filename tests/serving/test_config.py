"""Settings and tokens: what is wrong is named, and no secret is quoted."""

import ipaddress
from pathlib import Path

import pytest

from medfocus.errors import FileError, InputError
from medfocus.serving.command import config_of, parser, service
from medfocus.serving.config import ServeConfig, checked, read_config
from medfocus.serving.security.tokens import allows, read_tokens
from tests.errors import refuses

TOKEN, OTHER = "a" * 32, "b" * 40


def written(folder: Path, text: str, name: str = "serve.toml") -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = '[engines.brain]\npath = "brain"\n[security]\ntoken_file = "tokens"\n'
    config = read_config(written(tmp_path, text))
    assert config.engines["brain"].path == tmp_path / "brain"
    assert config.security.token_file == tmp_path / "tokens"
    assert config.limits == ServeConfig(engines={}).limits


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("port = 8000", "engines"),
        ("[engines.brain]", "engines.brain.path"),
        ("[engines.Brain]\npath = 'a'", "engines.Brain"),
        ("[engines]\n[limit]\n", "limit"),
        ("[engines]\n[limits]\nqueue = 0", "limits.queue"),
        ("port = 70000\n[engines]", "port"),
        ("[engines]\n[security]\nkey = 'k'", "security"),
        ("dicomweb_engine = 'brain'\n[engines]", "dicomweb_engine"),
        ("no toml", "the file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, item: str) -> None:
    with refuses(InputError, "serve.config", item):
        read_config(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with refuses(FileError, "file.unusable", "serve.toml"):
        read_config(tmp_path / "serve.toml")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "::1", "127.8.8.8", "0.0.0.0", "::", "10.0.0.1", "example"]
)
def test_others_machines_need_a_token_unless_it_is_said(tmp_path: Path, host: str) -> None:
    values = {"engines": {}, "host": host}
    local = host == "localhost" or (host != "example" and ipaddress.ip_address(host).is_loopback)
    if local:
        service(checked(values, tmp_path, "test"))
    else:
        with refuses(InputError, "serve.open", host):
            service(checked(values, tmp_path, "test"))
    service(checked(values | {"security": {"open": True}}, tmp_path, "test"))
    file = written(tmp_path, f"classify {TOKEN}\n", "tokens")
    service(checked(values | {"security": {"token_file": str(file)}}, tmp_path, "test"))


def test_roles_of_tokens(tmp_path: Path) -> None:
    text = f"# who\nclassify {TOKEN}\n\nadminister {OTHER}\n"
    tokens = read_tokens(written(tmp_path, text, "tokens"))
    assert tokens.role(f"Bearer {TOKEN}") == "classify"
    assert tokens.role(f"bearer {OTHER}") == "administer"
    for header in (
        None,
        "",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        f"Bearer {OTHER[:-1]}",
        "Bearer é",
    ):
        assert tokens.role(header) is None
    assert allows("administer", "classify")
    assert not allows("classify", "administer")
    assert TOKEN not in repr(vars(tokens))


@pytest.mark.parametrize(
    "text",
    [
        *("", "# none\n", f"owner {TOKEN}", "classify short", f"classify {TOKEN} more"),
        *(f"classify {TOKEN}é", f"classify {TOKEN}\nclassify {'c' * 31}"),
    ],
)
def test_token_files_that_are_wrong_are_refused_unquoted(tmp_path: Path, text: str) -> None:
    with refuses(InputError, "serve.token_file", "tokens") as caught:
        read_tokens(written(tmp_path, text, "tokens"))
    assert TOKEN not in str(caught.value)


def test_a_token_file_that_everyone_can_read_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, f"classify {TOKEN}\n", "tokens")
    file.chmod(0o644)
    with refuses(FileError, "serve.token_file"):
        read_tokens(file)


def test_engines_of_a_command_line_have_their_folders_names(tmp_path: Path) -> None:
    def parsed(*arguments: str) -> ServeConfig:
        return config_of(parser().parse_args([*arguments]))

    config = parsed(str(tmp_path / "Brain"), str(tmp_path / "b" / ".." / "lung"), "--port", "0")
    assert {name: each.path for name, each in config.engines.items()} == {
        "brain": tmp_path / "Brain",
        "lung": tmp_path / "lung",
    }
    assert config.port == 0
    for arguments in ([], ["a/x", "b/x"], ["a", "--config", "b"]):
        with pytest.raises(InputError):
            parsed(*arguments)
