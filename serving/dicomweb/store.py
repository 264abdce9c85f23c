"""The Store transaction (PS3.18, 10.5): instances in, their predictions in its answer."""

import json
from collections.abc import Sequence
from itertools import compress, groupby
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from medfocus.serving.api.patience import seconds_of, unless_gone
from medfocus.serving.dicomweb.instances import instance_of
from medfocus.serving.dicomweb.payload import DICOM, RELATED, File, sent_instances
from medfocus.serving.dicomweb.report import Outcome, report
from medfocus.serving.errors import RequestError
from medfocus.serving.inference import classified, within
from medfocus.serving.security.access import needs
from medfocus.serving.state import Service, service_of

JSON = "application/dicom+json"
_ACCEPTED = {JSON, "application/json", "application/*", "*/*"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_DESCRIBED: dict[str, Any] = {
    "dependencies": [Depends(needs("classify"))],
    "response_class": Response,
    "responses": {
        status: {"content": {JSON: {"schema": {"type": "object"}}}, "description": text}
        for status, text in (
            (200, "all instances were classified"),
            (202, "some were; FailureReason and WarningReason say what became of the others"),
            (409, "none was"),
        )
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {f'{RELATED}; type="{DICOM}"': _BINARY, DICOM: _BINARY},
        }
    },
}

router = APIRouter(prefix="/dicom-web", tags=["DICOMweb"])


@router.post("/studies", **_DESCRIBED)
async def store(request: Request) -> Response:
    """Classify instances of any studies; none of them is kept."""
    return await _answer(request, None)


@router.post("/studies/{study}", **_DESCRIBED)
async def store_in_study(request: Request, study: str) -> Response:
    """Classify instances of one study; those of others fail."""
    return await _answer(request, study)


async def _answer(request: Request, study: str | None) -> Response:
    _refuse_unless_accepted(request)
    service = service_of(request)
    name, limits = _engine(service), service.config.limits
    request.path_params["name"] = name  # where the access log looks for it
    seconds = seconds_of(request, limits.seconds)
    async with sent_instances(request, limits) as files:
        work = _classified(service, name, files, study, seconds)
        outcomes, engine = await unless_gone(request, within(seconds, work))
    return await run_in_threadpool(_response, outcomes, engine)


async def _classified(
    service: Service, name: str, files: Sequence[File], study: str | None, seconds: float
) -> tuple[list[Outcome], dict[str, str] | None]:
    """What became of each file, and which engine classified them; None if none was to be."""
    instances = [await run_in_threadpool(instance_of, file) for file in files]
    belongs = [each is not None and study in (None, each.study) for each in instances]
    wanted = list(compress(files, belongs))
    if not wanted:
        return [Outcome(each, ()) for each in instances], None
    answered = await classified(service, name, wanted, seconds, keep_masks=False)
    # Predictions are in the order of their files, and a file's frames have its name and "#number".
    by_file = groupby(answered.predictions, key=lambda each: each.source.partition("#")[0])
    outcomes = [
        Outcome(each, list(next(by_file)[1]) if sent else ())
        for each, sent in zip(instances, belongs, strict=True)
    ]
    return outcomes, {"name": name, "version": answered.version}


def _response(outcomes: Sequence[Outcome], engine: dict[str, str] | None) -> Response:
    status, module = report(outcomes, engine)
    content = json.dumps(
        module.to_json_dict(),
        ensure_ascii=False,
        separators=(",", ":"),
        sort_keys=True,  # PS3.18 F.2.2
    )
    return Response(content.encode(), status, media_type=JSON)


def _engine(service: Service) -> str:
    """The engine that answers.

    Raises:
        RequestError: there are several, and the configuration does not say which.
    """
    name = service.config.dicomweb_engine
    if name is None and len(service.config.engines) == 1:
        (name,) = service.config.engines
    if name is None:
        problem, hint = "has several engines", "set dicomweb_engine in its configuration"
        raise RequestError("service", problem, hint, code="serve.dicomweb_engine")
    return name


def _refuse_unless_accepted(request: Request) -> None:
    accepted = ",".join(request.headers.getlist("accept")) or "*/*"
    kinds = {each.partition(";")[0].strip().lower() for each in accepted.split(",")}
    if not kinds & _ACCEPTED:
        problem, hint = "accepts no media type of the answer", f"accept {JSON}"
        raise RequestError("request", problem, hint, code="serve.not_acceptable")
