"""For how long the service's own certificate is valid, said where operators look."""

import logging
import ssl
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

SOON_DAYS = 14
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h


def warn_of_validity(certificate: Path, context: ssl.SSLContext) -> None:
    """Log a warning if a certificate is not valid now, or soon will not be.

    The service starts all the same: a client may trust just this certificate, and a restart is not
    to end what works for it.

    Args:
        certificate: a PEM file.
        context: of a server, which has loaded it.
    """
    begins, ends = _validity(certificate, context)
    now = time.time()
    if now < ssl.cert_time_to_seconds(begins):
        log.warning("certificate %s: is valid from %s on; clients refuse it", certificate, begins)
    elif now > ssl.cert_time_to_seconds(ends):
        log.warning("certificate %s: has expired on %s; clients refuse it", certificate, ends)
    elif now > ssl.cert_time_to_seconds(ends) - SOON_DAYS * 86400:
        log.warning("certificate %s: expires on %s", certificate, ends)


def _validity(certificate: Path, context: ssl.SSLContext) -> tuple[str, str]:
    """When it begins and ends, as a client learns it: ssl reads no certificates by itself."""
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.load_verify_locations(certificate)
    asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = asking.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)
    for side in (client, server, client):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    found = client.getpeercert() or {}
    return str(found["notBefore"]), str(found["notAfter"])
