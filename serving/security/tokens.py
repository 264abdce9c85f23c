"""Bearer tokens: who may classify, and who may administer."""

import hashlib
import hmac
import re
import stat
from pathlib import Path
from typing import Literal, get_args

from medfocus.errors import FileError, InputError
from medfocus.files.file_errors import reason

Role = Literal["classify", "administer"]
ROLES: tuple[Role, ...] = get_args(Role)
LEAST_LENGTH = 32  # characters: 128 bits in hexadecimal
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1


class Tokens:
    """The tokens of a file; only their SHA-256 is kept.

    Args:
        roles: role of each token.
    """

    def __init__(self, roles: dict[str, Role]) -> None:
        self._roles = {_digest(token): role for token, role in roles.items()}

    def role(self, authorization: str | None) -> Role | None:
        """The role of whoever sent this header; None for none.

        Every token is compared, each in constant time, so that how long it takes tells nothing.
        """
        scheme, _, token = (authorization or "").partition(" ")
        digest, found = _digest(token.strip()), None
        for known, role in self._roles.items():
            if hmac.compare_digest(digest, known):
                found = role
        return found if scheme.lower() == "bearer" else None


def allows(role: Role, wanted: Role) -> bool:
    """Whether a role may do what `wanted` may: an administrator may also classify."""
    return ROLES.index(role) >= ROLES.index(wanted)


def read_tokens(path: Path) -> Tokens:
    """Read a file of lines `ROLE TOKEN`; empty lines and those that begin with # are skipped.

    Raises:
        FileError: it cannot be read, or others than its owner and group may (`serve.token_file`).
        InputError: a line that is none, an unknown role, a token too short to be secret, or no
            token at all (`serve.token_file`). Tokens are not quoted.
    """
    try:
        text, mode = path.read_text("ascii"), path.stat().st_mode
    except OSError as error:
        problem, hint = f"cannot be read ({reason(error)})", "check its path and its permissions"
        raise FileError(str(path), problem, hint, code="serve.token_file") from error
    except UnicodeDecodeError:
        raise _refused(str(path), "is not ASCII") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        hint = f"chmod 600 {path}"
        raise FileError(str(path), "can be read by everyone", hint, code="serve.token_file")
    roles: dict[str, Role] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        item = f"{path}, line {number}"
        if len(words) != 2 or words[0] not in ROLES:
            raise _refused(item, f"is not ROLE TOKEN, with role {' or '.join(ROLES)}")
        role, token = words
        if len(token) < LEAST_LENGTH or not _TOKEN.fullmatch(token):
            raise _refused(
                item, f"has a token of fewer than {LEAST_LENGTH} characters, or of others"
            )
        roles[token] = "administer" if role == "administer" else "classify"
    if not roles:
        raise _refused(str(path), "has no token")
    return Tokens(roles)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _refused(item: str, problem: str) -> InputError:
    hint = "write lines like: classify $(openssl rand -hex 32)"
    return InputError(item, problem, hint, code="serve.token_file")
