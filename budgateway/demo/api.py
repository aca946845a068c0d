"""The demo server's endpoints: OpenAI's paths, an echo for tests, and OpenAI's errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from budgateway.demo import chat, model, responses
from budgateway.demo.http import Request, Response
from budgateway.demo.multipart import fields_of

MODELS = ("demo", "demo-embed")
CREATED = 1_700_000_000  # constant, so that answers can be compared byte by byte


class ApiError(Exception):
    """A client error, in OpenAI's format."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}


class Api:
    """The demo's endpoints. Stateless: the same request always gets the same bytes."""

    def __init__(self, token_delay_s: float) -> None:
        self._token_delay_s = token_delay_s
        self._endpoints: dict[tuple[str, str], Callable[[Request], Response]] = {
            ("GET", "/"): self._health,
            ("GET", "/health"): self._health,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/responses"): self._responses,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", "/v1/rerank"): self._rerank,
            ("POST", "/v1/audio/transcriptions"): self._transcriptions,
            ("POST", "/v1/images/generations"): self._images,
            ("POST", "/v1/files"): self._files,
        }

    async def handle(self, request: Request) -> Response:
        """Answer one request; an invalid one gets an error response, never an exception."""
        try:
            response = self._find(request)(request)
        except ApiError as error:
            response = _json({"error": error.error}, error.status)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            response = _json({"error": ApiError(400, f"the request does not fit the schema: {error!r}").error}, 400)
        if request_id := request.header("x-request-id"):
            response.headers.append(("x-request-id", request_id))
        return response

    def _find(self, request: Request) -> Callable[[Request], Response]:
        path = request.path
        if path == "/debug/echo":
            return _echo
        method = "GET" if request.method == "HEAD" else request.method
        endpoint = self._endpoints.get((method, path))
        if endpoint is not None:
            return endpoint
        if method == "GET" and path.startswith("/v1/models/"):
            return self._model
        if any(known == path for _, known in self._endpoints):
            raise ApiError(405, f"method {request.method} is not allowed for {path}", code="method_not_allowed")
        raise ApiError(404, f"unknown request URL: {request.method} {path}", code="unknown_url")

    def _health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [_model_object(name) for name in MODELS]})

    def _model(self, request: Request) -> Response:
        return _json(_model_object(_known(request.path.removeprefix("/v1/models/"))))

    def _chat(self, request: Request) -> Response:
        wish = _wish(request)
        answer = chat.ChatAnswer(wish, model.identity("chatcmpl-", request.body), CREATED)
        if wish.get("stream"):
            return _events(answer.events(self._token_delay_s))
        return _json(answer.whole())

    def _completions(self, request: Request) -> Response:
        wish = _wish(request)
        answer = chat.TextAnswer(wish, model.identity("cmpl-", request.body), CREATED)
        if wish.get("stream"):
            return _events(answer.events(self._token_delay_s))
        return _json(answer.whole())

    def _responses(self, request: Request) -> Response:
        wish = _wish(request)
        answer = responses.ResponsesAnswer(wish, model.identity("", request.body), CREATED)
        if wish.get("stream"):
            return _events(answer.events(self._token_delay_s))
        return _json(answer.whole())

    def _embeddings(self, request: Request) -> Response:
        wish = _wish(request)
        given = wish["input"]
        # One text, many texts, one text as token ids, or many of those.
        texts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        vectors = [
            model.embedding(str(text), int(wish.get("dimensions") or model.EMBEDDING_DIMENSIONS)) for text in texts
        ]
        in_base64 = wish.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": model.embedding_base64(vector) if in_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ]
        tokens = sum(len(text) if isinstance(text, list) else len(model.tokens_of(text)) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _json({"object": "list", "data": data, "model": wish["model"], "usage": usage})

    def _rerank(self, request: Request) -> Response:
        wish = _wish(request)
        documents = [text if isinstance(text, str) else str(text["text"]) for text in wish["documents"]]
        ranked = sorted(enumerate(documents), key=lambda pair: -model.relevance(wish["query"], pair[1]))
        results = [
            {"index": index, "relevance_score": model.relevance(wish["query"], text), "document": {"text": text}}
            for index, text in ranked[: wish.get("top_n")]
        ]
        tokens = sum(len(model.tokens_of(text)) for text in [wish["query"], *documents])
        return _json(
            {"id": model.identity("rerank-", request.body), "model": wish["model"], "results": results}
            | {"usage": {"total_tokens": tokens}}
        )

    def _transcriptions(self, request: Request) -> Response:
        fields = fields_of(request.header("content-type"), request.body)
        _known(fields["model"].text)
        file = fields["file"]
        text = f"I heard {len(file.data)} bytes of {file.filename or 'nothing'}."
        if "response_format" in fields and fields["response_format"].text == "text":
            return Response(body=f"{text}\n".encode(), content_type="text/plain; charset=utf-8")
        return _json({"text": text})

    def _images(self, request: Request) -> Response:
        wish = _wish(request, model_required=False)
        data = [
            {"b64_json": model.picture(f"{wish['prompt']}{index or ''}")} for index in range(model.choices_of(wish))
        ]
        return _json({"created": CREATED, "data": data})

    def _files(self, request: Request) -> Response:
        fields = fields_of(request.header("content-type"), request.body)
        file = fields["file"]
        return _json(
            {
                "id": model.identity("file-", file.data),
                "object": "file",
                "bytes": len(file.data),
                "created_at": CREATED,
                "filename": file.filename,
                "purpose": fields["purpose"].text,
                "status": "processed",
            }
        )


def _echo(request: Request) -> Response:
    """Return the request as it arrived: method, target, headers in order as sent, and the body with its digest."""
    return _json(
        {
            "method": request.method,
            "target": request.target,
            "version": request.version,
            "headers": request.headers,
            "body": request.body.decode("utf-8", "backslashreplace"),
            "body_bytes": len(request.body),
            "body_sha256": hashlib.sha256(request.body).hexdigest(),
        }
    )


def _wish(request: Request, *, model_required: bool = True) -> dict[str, Any]:
    """Return the request's JSON object. Raises ApiError when it is not one, or names no model of ours."""
    try:
        wish = json.loads(request.body)
    except ValueError as error:
        raise ApiError(400, f"could not parse the JSON body of your request: {error}") from None
    if not isinstance(wish, dict):
        raise ApiError(400, "the body must be a JSON object")
    name = wish.get("model")
    if name is not None or model_required:
        _known(name)
    return wish


def _known(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ApiError(400, "you must provide a model parameter", param="model")
    if name not in MODELS:
        raise ApiError(404, f"the model '{name}' does not exist", param="model", code="model_not_found")
    return name


def _model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "budgateway"}


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(
        status, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
    )


def _events(events: AsyncGenerator[bytes, None]) -> Response:
    return Response(
        body=events, content_type="text/event-stream; charset=utf-8", headers=[("cache-control", "no-cache")]
    )
