"""The OpenAPI document of the admin API."""

from __future__ import annotations

from typing import Any

from budgateway.admin.health import STATES

_OBJECT: dict[str, Any] = {"type": "object"}
_ERROR = {"$ref": "#/components/schemas/Error"}

_NO_KEYS = {"409": "This gateway has no key storage"}

# (path, method, operation id, summary, {status: meaning}, schema of the 200)
_OPERATIONS: tuple[tuple[str, str, str, str, dict[str, str], str], ...] = (
    ("/admin/routes", "get", "listRoutes", "The routes, in the order of the configuration", {}, "Routes"),
    ("/admin/stats", "get", "stats", "Current workers, connections, rates and upstreams", {}, "Stats"),
    (
        "/admin/usage",
        "get",
        "usage",
        "Usage by principal, model and route: `by`, `top`, and a value for any of these",
        {"400": "An unknown parameter"},
        "Usage",
    ),
    (
        "/admin/requests",
        "get",
        "listRequests",
        "The timelines of the last requests, newest first, with ENABLE_REQUEST_TRACING; `id` selects a request id",
        {"400": "An unknown parameter"},
        "Requests",
    ),
    ("/admin/providers/health", "get", "providersHealth", "The state of every upstream", {}, "Providers"),
    ("/admin/config", "get", "config", "The configuration in effect; secrets are ***", {}, "Config"),
    (
        "/admin/reload-config",
        "post",
        "reloadConfig",
        "Reload the configuration; all workers switch to it, or none",
        {"422": "All problems of the configuration"},
        "Difference",
    ),
    (
        "/admin/rollback-config",
        "post",
        "rollbackConfig",
        "Return to the previous configuration",
        {"422": "There is none, or it can no longer be served"},
        "Difference",
    ),
    (
        "/admin/restart-workers",
        "post",
        "restartWorkers",
        "Replace the workers one by one, without refusing a connection",
        {"202": "Begun"},
        "Restarting",
    ),
    (
        "/admin/upstreams/{name}/drain",
        "post",
        "drainUpstream",
        "Send an upstream no new exchanges; those in flight continue",
        {"404": "No such upstream"},
        "Upstreams",
    ),
    (
        "/admin/upstreams/{name}/undrain",
        "post",
        "undrainUpstream",
        "Send traffic to a drained upstream again",
        {"404": "No such upstream"},
        "Upstreams",
    ),
    ("/admin/keys", "get", "listKeys", "The API keys, without their secrets", _NO_KEYS, "Keys"),
    (
        "/admin/keys",
        "post",
        "createKey",
        "Create an API key; only this response contains its secret",
        {"201": "Made", "400": "An invalid field", "409": "The name is taken, or this gateway has no key storage"},
        "MadeKey",
    ),
    ("/admin/keys/{name}", "get", "showKey", "An API key", {"404": "No such key", **_NO_KEYS}, "Key"),
    (
        "/admin/keys/{name}",
        "patch",
        "updateKey",
        "Change a key's permissions",
        {"404": "No such key", **_NO_KEYS},
        "Key",
    ),
    ("/admin/keys/{name}", "delete", "deleteKey", "Delete an API key", {"404": "No such key", **_NO_KEYS}, "Key"),
    (
        "/admin/keys/{name}/rotate",
        "post",
        "rotateKey",
        "Replace the secret; the old one stays valid for `grace_s` seconds",
        {"404": "No such key", **_NO_KEYS},
        "MadeKey",
    ),
    (
        "/admin/keys/{name}/disable",
        "post",
        "disableKey",
        "Disable a key",
        {"404": "No such key", **_NO_KEYS},
        "Key",
    ),
    (
        "/admin/keys/{name}/enable",
        "post",
        "enableKey",
        "Enable a disabled key",
        {"404": "No such key", **_NO_KEYS},
        "Key",
    ),
    ("/admin/openapi.json", "get", "openapi", "This document", {}, "Document"),
)


_NAMES = {
    "keys": "The key's name",
    "upstreams": "An upstream's name (`vllm/0`, with its slash), or a provider's name for all of its upstreams",
}


def document(version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    for path, method, name, summary, statuses, schema in _OPERATIONS:
        responses: dict[str, Any] = {
            status: {"description": text, "content": _json(_ERROR if status[0] == "4" else _ref(schema))}
            for status, text in statuses.items()
        }
        if "202" not in statuses and "201" not in statuses:
            responses["200"] = {"description": summary, "content": _json(_ref(schema))}
        responses["401"] = {"description": "No valid token", "content": _json(_ERROR)}
        responses["403"] = {"description": "The token lacks the role admin", "content": _json(_ERROR)}
        operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
        if "{name}" in path:
            operation["parameters"] = [
                {
                    "name": "name",
                    "in": "path",
                    "required": True,
                    "description": _NAMES["keys" if path.startswith("/admin/keys") else "upstreams"],
                    "schema": {"type": "string"},
                }
            ]
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "budgateway admin API", "version": version},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": _schemas(),
        },
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _record(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _schemas() -> dict[str, Any]:
    text, whole, number, flag = ({"type": name} for name in ("string", "integer", "number", "boolean"))
    changes = _record(added=_list(text), removed=_list(text), changed=_list(_record(name=text, fields=_list(text))))
    upstream = _record(
        name=text,
        url=text,
        weight=whole,
        state={"type": "string", "enum": list(STATES)},
        reason=text,
        drained=flag,
        in_flight=whole,
        max_in_flight=whole,
        share=number,
        breaker=_record(state={"type": "string", "enum": ["closed", "open", "half_open"]}, calls=whole, failures=whole),
        ejections=_record(count=whole, failures_in_a_row=whole, out_for_s=number),
        probe=_or_null(
            _record(
                healthy=_or_null(flag),
                path=text,
                at=_or_null(number),
                status=_or_null(whole),
                ms=_or_null(number),
                reason=text,
                count=whole,
                failed=whole,
                suspicions=whole,
            )
        ),
        engine=_or_null(_record(running=whole, waiting=whole, kv_usage=number, age_s=number)),
        models=_or_null(_list(text)),
    )
    queue = _record(
        provider=text,
        waiting=whole,
        queued=whole,
        served=whole,
        timed_out=whole,
        left=whole,
        refused=whole,
        waited_s=number,
    )
    worker = _record(
        worker=whole,
        pid=whole,
        row=whole,
        state={"type": "string", "enum": ["starting", "ready", "draining"]},
        uptime_s=number,
        rss_bytes=whole,
        shedding=text,
        accepts=flag,
        restarts=whole,
        hung=whole,
        connections=whole,
        in_flight=whole,
    )
    key = _record(
        state={"type": "string", "enum": ["active", "disabled", "expired"]}, name=text, start=text, created=text
    )
    route = _record(requests=whole, errors=whole, tokens_in=whole, tokens_out=whole)
    return {
        "Routes": _record(routes=_list(_OBJECT)),
        "Stats": _record(
            version=text,
            pid=whole,
            uptime_s=number,
            rss_bytes=whole,
            connections=whole,
            in_flight=whole,
            workers=_list(worker),
            requests=whole,
            errors=whole,
            requests_per_s=_record(**{"10s": number, "60s": number}),
            routes={"type": "object", "additionalProperties": route},
            upstreams=_list(upstream),
            queues=_list(queue),
        ),
        "Providers": _record(
            providers=_list(
                _record(
                    name=text,
                    kind=text,
                    status={"type": "string", "enum": ["up", "degraded", "down"]},
                    panic=flag,
                    upstreams=_list(upstream),
                )
            )
        ),
        "Config": _record(config=_OBJECT, files_and_variables=_list(text), set_by=_OBJECT),
        "Difference": _record(
            status=text,
            changed=flag,
            routes=changes,
            providers=changes,
            upstreams=changes,
            settings=_list(_record(name=text, before={}, after={})),
        ),
        "Restarting": _record(status=text, workers=whole),
        "Upstreams": _record(upstreams=_list(upstream)),
        "Requests": _record(requests=_list(_OBJECT)),
        "Usage": _record(since=text, by=_list(text), usage=_list(_OBJECT), total=_OBJECT),
        "Document": _OBJECT,
        "Key": key,
        "Keys": _record(keys=_list(key)),
        "MadeKey": {"allOf": [key, _record(secret=text)]},
        "Error": _record(error=_record(message=text, type=text, code=text, request_id=text)),
    }
