"""Conversion of tables to records: pages of other origins (CORS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.config.problems import Problems
from budgateway.config.schema_cors import CorsConfig, RouteCorsConfig
from budgateway.records import METHODS, Cors

if TYPE_CHECKING:
    from budgateway.config.source import KeyPath


def cors_of(here: KeyPath, table: RouteCorsConfig | None, problems: Problems) -> Cors | None:
    """Return the CORS settings of a table; None when it names no origins."""
    if table is None or not table.origins:
        if table is not None and (unused := sorted(table.model_fields_set - {"origins"})):
            problems.add((*here, unused[0]), "has no effect without origins")
        return None
    if table.credentials:
        for index, origin in enumerate(table.origins):
            if origin in ("*", "null"):
                who = "any page" if origin == "*" else "any page in a sandboxed frame"
                problems.add(
                    (*here, "origins", index),
                    f"{origin!r} with credentials would let {who} act on behalf of its visitor",
                )
        if "*" in table.expose:
            problems.add((*here, "expose"), "'*' does not work with credentials: name the headers")
    methods = tuple(dict.fromkeys(table.methods)) if table.methods and "*" not in table.methods else METHODS[:-1]
    return Cors(
        origins=tuple(dict.fromkeys(table.origins)),
        methods=methods,
        headers=tuple(dict.fromkeys(table.headers)),
        credentials=table.credentials,
        max_age_s=table.max_age,
        expose=tuple(dict.fromkeys(table.expose)),
        private_network=table.private_network,
        admin=isinstance(table, CorsConfig) and table.admin,
    )


def route_cors(
    here: KeyPath, table: RouteCorsConfig | None, common: CorsConfig | None, problems: Problems
) -> Cors | None:
    """Return a route's CORS settings: its own keys, over those of `[cors]`."""
    given = {} if table is None else {name: getattr(table, name) for name in table.model_fields_set}
    base = {} if common is None else {name: getattr(common, name) for name in common.model_fields_set}
    if not given:
        if table is not None and not base.get("origins"):
            problems.add(here, "allows no page: neither it nor [cors] names origins")
        # Problems of [cors] are reported once, for that table.
        return None if common is None else cors_of(here, common, Problems({}, {}))
    if table is not None and table.origins == [] and set(given) == {"origins"}:
        return None
    base.pop("admin", None)
    return cors_of(here, RouteCorsConfig.model_construct(**{**base, **given}), problems)
