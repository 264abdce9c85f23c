"""A certificate that clients refuse, or soon will, is warned of; the service starts with it."""

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from medfocus.serving.command import service
from medfocus.serving.config import checked
from medfocus.serving.server import uvicorn_config


def certify(folder: Path, begins: int, ends: int) -> ssl.SSLContext:
    """Write cert.pem and key.pem, valid for these days from now, and their authority's ca.pem."""
    authority, now = trustme.CA(), datetime.now(UTC)
    issued = authority.issue_cert(
        "localhost",
        "127.0.0.1",
        not_before=now + timedelta(begins),
        not_after=now + timedelta(ends),
    )
    (folder / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize(
    ("begins", "ends", "warnings"), [(-60, -30, 1), (30, 60, 1), (-30, 3, 1), (-30, 60, 0)]
)
def test_what_is_not_valid_or_soon_will_not_be_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, begins: int, ends: int, warnings: int
) -> None:
    certify(tmp_path, begins, ends)
    security = {"certificate": "cert.pem", "key": "key.pem"}
    config = checked({"engines": {}, "security": security}, tmp_path, "test")
    with caplog.at_level(logging.WARNING, "medfocus.serving"):
        uvicorn_config(service(config))
    assert len(caplog.records) == warnings
    assert all(str(tmp_path / "cert.pem") in record.getMessage() for record in caplog.records)
