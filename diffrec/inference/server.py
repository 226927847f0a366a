"""The HTTP service: POST /recommend, GET /health, GET /models, /openapi.json. Needs the extra `serve`."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from diffrec import __version__
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import DiffrecError, NotFoundError, UsageError, check_sizes, near_match
from diffrec.inference.batch import vocabulary_of
from diffrec.inference.batching import Batcher, Question, TooManyWaiting
from diffrec.lists import Recommendations
from diffrec.recommender import Recommender, count_parameters

_LOG = logging.getLogger("diffrec.serve")
_LONGEST_TEXT = 1000  # of a title or an id
_SEEN = 80  # characters of what was seen in an answer
_PLACES = "POST /recommend, GET /health, GET /models, GET /openapi.json"
_FIELDS = ("history", "k", "seed", "include_seen", "num_inference_steps", "guidance_scale")
Message = MutableMapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may wait. body: bytes; seconds: in which a body has to come."""

    k: int = 100
    history: int = 1000
    steps: int = 1000
    body: int = 1 << 18
    batch: int = 64
    waiting: int = 256
    seconds: int = 10

    @property
    def under_way(self) -> int:
        """Requests at a time: the queue, the batch that the model has, and the one whose answers are being sent."""
        return self.waiting + 2 * self.batch


class Item(BaseModel):
    """An item as the source calls it."""

    id: str
    title: str | None


class Ranked(Item):
    """rank 1 is best; scores of different histories cannot be compared."""

    rank: int
    score: float


class Lists(BaseModel):
    """The history as it was understood, and the items."""

    model: str
    history: list[Item]
    recommendations: list[Ranked]


class Fault(BaseModel):
    """One thing that is wrong: where, what was seen, what is allowed."""

    where: str
    seen: str
    allowed: str


class Refusal(BaseModel):
    """Why there is no answer. faults: of a body that is not as the schema says."""

    detail: str
    faults: list[Fault] = []


class Health(BaseModel):
    """status: "ok" while requests are answered."""

    status: str
    waiting: int


class About(BaseModel):
    """A model that is served. settings: what a request may change; limits: what it may ask for."""

    name: str
    model: str
    version: str
    items: int
    parameters: int
    max_history_length: int | None
    denoiser_calls: int
    settings: list[str]
    limits: dict[str, int]


def request_model(limits: Limits) -> type[BaseModel]:
    """The body of /recommend; nothing is converted, and unknown keys are refused."""
    return create_model(
        "Recommend",
        __config__=ConfigDict(strict=True, extra="forbid"),
        history=(
            list[str],
            Field(max_length=limits.history, description="titles or ids, oldest first; 'id:7' is always an id"),
        ),
        k=(int, Field(10, ge=1, le=limits.k, description="length of the list; shorter where no more items are left")),
        seed=(int, Field(0, ge=0, lt=1 << 63, description="of the sampling noise")),
        include_seen=(bool, Field(False, description="items of the history may come again")),
        num_inference_steps=(int | None, Field(None, ge=1, le=limits.steps, description="of a diffusion model")),
        guidance_scale=(float | None, Field(None, allow_inf_nan=False, ge=-100, le=100, description="1 is none")),
    )


def build_app(model: Recommender, name: str, limits: Limits | None = None) -> FastAPI:
    """The service for one model. Its thread ends with `app.state.batcher.close()`."""
    limits = limits or Limits()
    check_sizes(**asdict(limits))
    vocabulary, batcher = vocabulary_of(model), Batcher(model, limits.batch, limits.waiting)
    vocabulary.known("")  # titles are read now, not in the first request
    suggesting = asyncio.Lock()
    body_model: Any = request_model(limits)
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": Refusal, "description": text}
        for code, text in ((408, "the body did not come in time"), (413, "the body is too large"),
                           (422, "the request cannot be answered"), (429, "too many requests are waiting"),
                           (500, "the model failed"))
    }  # fmt: skip
    app = FastAPI(title="diffrec", version=__version__, docs_url=None, redoc_url=None)
    app.state.batcher = batcher

    @app.post("/recommend", responses=refusals)
    async def recommend(body: body_model) -> Lists:  # pyright: ignore[reportInvalidTypeForm]
        """The best items for one history."""
        asked = body.model_dump()
        history = await _numbers(vocabulary, asked.pop("history"), suggesting)
        best = await asyncio.wrap_future(batcher.ask(Question(tuple(history), **asked)))
        return _lists(name, vocabulary, history, best)

    @app.get("/health")
    async def health() -> Health:
        """Whether requests are answered."""
        return Health(status="ok" if batcher.thread.is_alive() else "stopped", waiting=batcher.waiting.qsize())

    about = About(
        name=name, model=type(model).__name__, version=__version__, items=model.num_items,
        parameters=count_parameters(model), max_history_length=model.max_history_length,
        denoiser_calls=model.denoiser_calls, limits=asdict(limits),
        settings=[s for s in model.settings_that_may_change if s in _FIELDS],
    )  # fmt: skip

    @app.get("/models")
    async def models() -> list[About]:
        """The models that are served: one."""
        return [about]

    app.add_exception_handler(RequestValidationError, _unlike_the_schema)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(DiffrecError, _of_diffrec)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(LimitedRequests, limits=limits)
    return app


async def _numbers(vocabulary: Vocabulary, history: list[str], suggesting: asyncio.Lock) -> list[int]:
    """The item numbers; UsageError for a text that is too long or ambiguous, NotFoundError for the first unknown one.

    Its near match takes a while, so it is looked for in a thread, and left out while another one is looked for.
    """
    for text in history:
        if len(text) > _LONGEST_TEXT:
            raise UsageError(f"a title or id of {len(text)} characters; at most {_LONGEST_TEXT} are allowed")
    numbers = []
    for text in history:
        if (number := vocabulary.known(text)) is None:
            if suggesting.locked():
                raise vocabulary.unknown(text, suggest=False)
            async with suggesting:
                raise await run_in_threadpool(vocabulary.unknown, text)
        numbers.append(number)
    return numbers


def _lists(name: str, vocabulary: Vocabulary, history: list[int], best: Recommendations) -> Lists:
    there = [(item, score) for item, score in zip(best.items[0].tolist(), best.scores[0].tolist(), strict=True) if item]
    return Lists(
        model=name,
        history=[Item(**_item(vocabulary, number)) for number in history],
        recommendations=[
            Ranked(rank=rank, score=score, **_item(vocabulary, item)) for rank, (item, score) in enumerate(there, 1)
        ],
    )


def _item(vocabulary: Vocabulary, number: int) -> dict[str, Any]:
    titles = vocabulary.titles
    return {"id": vocabulary.item_ids[number - 1], "title": titles[number - 1] if titles else None}


def _refusal(code: int, detail: str, faults: list[Fault] | None = None, unread: bool = False) -> JSONResponse:
    """unread: the body has not come, and the connection ends rather than wait for it."""
    told = Refusal(detail=_plain(detail), faults=faults or [])
    headers = {"Retry-After": "1"} if code == 429 else {}
    return JSONResponse(told.model_dump(), code, headers | ({"Connection": "close"} if unread else {}))


def _plain(text: str) -> str:
    """Without what UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


async def _unlike_the_schema(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [_fault(fault) for fault in error.errors()[:10]]
    first = faults[0]
    return _refusal(422, f"{first.where}: {first.allowed}, got {first.seen}", faults)


def _fault(fault: Mapping[str, Any]) -> Fault:
    """One error of pydantic or of the JSON parser."""
    where, seen, allowed = ".".join(str(part) for part in fault["loc"][1:]) or "body", fault.get("input"), fault["msg"]
    if fault["type"] == "json_invalid":  # where: the character
        where, allowed = "body", f"Input should be JSON ({fault['ctx']['error']})"
        seen = f"other text at character {fault['loc'][-1]}"
    elif isinstance(seen, bytes):
        allowed = "Input should come with the header 'content-type: application/json'"
    elif fault["type"] == "extra_forbidden":
        allowed += near_match(where, _FIELDS)
    return Fault(where=_plain(where)[:_SEEN], seen=_plain(repr(seen))[:_SEEN], allowed=_plain(allowed)[:200])


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    """404 and 405 of the router; 400, which is a body that is not JSON, is 422 as any other body that is wrong."""
    assert isinstance(error, HTTPException)
    code = 422 if error.status_code == 400 else error.status_code
    there = f"; there are {_PLACES}" if code in (404, 405) else ""
    answer = _refusal(code, f"{error.detail}{there}")
    answer.headers.update(error.headers or {})
    return answer


async def _of_diffrec(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, TooManyWaiting):
        return _refusal(429, str(error))
    if isinstance(error, UsageError | NotFoundError):
        return _refusal(422, str(error))
    _LOG.error("%s", error)
    return _refusal(500, str(error))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _LOG.error("%s: %s", type(error).__name__, error, exc_info=error)
    return _refusal(500, "this was not expected; the log of the server says more")


class LimitedRequests:
    """Requests with a body, at most `limits.under_way` at a time: 429 for more, whose bodies are not read.

    413 for a body of more than `limits.body` bytes, whether its length is told or comes in pieces; 408 for one that has
    not come within `limits.seconds`.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], limits: Limits) -> None:
        self.app, self.limits, self.under_way = app, limits, 0

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        """Read the body up to the limits, then hand it on in one piece."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self.app(scope, receive, send)
        if self.under_way >= self.limits.under_way:
            detail = f"{self.under_way} requests are under way already; ask again later"
            return await _refusal(429, detail, unread=True)(scope, receive, send)
        self.under_way += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.under_way -= 1

    async def _answer(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        largest, seconds = self.limits.body, self.limits.seconds
        told = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = told.isdigit() and int(told[:20]) > largest
        try:
            async with asyncio.timeout(seconds):
                body = b"" if too_large else await _body(receive, largest)
        except TimeoutError:
            detail = f"the body did not come within {seconds} s"
            return await _refusal(408, detail, unread=True)(scope, receive, send)
        if body is None:
            return None
        if too_large or len(body) > largest:
            return await _refusal(413, f"the body has more than {largest:,} bytes")(scope, receive, send)
        pieces = [{"type": "http.request", "body": body, "more_body": False}]

        async def once() -> Message:
            return pieces.pop() if pieces else await receive()

        return await self.app(scope, once, send)


async def _body(receive: Callable[[], Awaitable[Message]], largest: int) -> bytes | None:
    """The body, or what has come of it when that is more than `largest` bytes; None where the caller is gone."""
    body, more = bytearray(), True
    while more and len(body) <= largest:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)
