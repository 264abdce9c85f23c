"""An expired certificate and wrong tokens: what clients see, and that the others are answered."""

from pathlib import Path

import httpx
import pytest

from medfocus.serving import Client
from medfocus.serving.errors import ServiceError
from tests.errors import refuses
from tests.serving.api.test_classify import png
from tests.serving.process import serving
from tests.serving.security.test_certificates import certify
from tests.serving.test_config import OTHER, TOKEN, written

CONFIG = """
[security]
certificate = "cert.pem"
key = "key.pem"
token_file = "tokens"
"""


def test_an_expired_certificate_and_wrong_tokens(tmp_path: Path, engine_directory: Path) -> None:
    trusted = certify(tmp_path, -60, -30)
    written(tmp_path, f"classify {TOKEN}\n", "tokens")
    config = f'{CONFIG}[engines.tiny]\npath = "{engine_directory}"\n'
    with serving(tmp_path, config) as service:
        assert "certificate" in service.log
        with pytest.raises(httpx.ConnectError, match="expired"):
            httpx.get(str(service.client.base_url), verify=trusted)
        with (
            refuses(ServiceError, "serve.untrusted") as refused,
            Client(str(service.client.base_url), verify=tmp_path / "ca.pem") as client,
        ):
            client.classify([png(1)])
        assert "expired" in refused.value.problem  # not that its authority is unknown

        for token, status in ((OTHER, 401), (TOKEN[:-1], 401), ("a", 401), (TOKEN, 200)):
            for content in (png(1), bytes(2 * 2**20)):
                response = service.client.post(
                    "/v1/engines/tiny/classify",
                    content=content,
                    headers={"authorization": f"Bearer {token}", "content-type": "image/png"},
                )
                assert response.status_code == status
                assert status == 200 or response.json()["code"] == "serve.no_token"
        assert not any(token in service.log + "".join(service.accesses) for token in (TOKEN, OTHER))
        assert service.end() == 0
