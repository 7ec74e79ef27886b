"""Pages from templates: autoescaped, strict about names, one environment for all."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from approval.explain import explain_capability, explain_end, explain_entry
from approval.foreign import oddities, show_foreign
from approval.times import field_value, show_instant
from broker.domain.capability import show_capabilities
from broker.domain.ids import show_duration


@cache
def environment() -> Environment:
    """The templates of this package."""
    made = Environment(
        loader=PackageLoader("approval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        instant=show_instant,
        foreign=show_foreign,
        oddities=oddities,
        duration=show_duration,
        capabilities=show_capabilities,
        field=field_value,
        explain=explain_capability,
        explain_end=explain_end,
        explain_entry=explain_entry,
    )
    return made


def page(template: str, *, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> HTMLResponse:
    """A page. template: a file of templates/."""
    text = environment().get_template(template).render(**values)
    return HTMLResponse(text, status_code=status, headers=headers)


def plain_page(status: HTTPStatus, line: str) -> Response:
    """A no in one line, the same for everybody: it knows nobody."""
    return page("plain.html", status=status.value, title=status.phrase, line=line)
