"""`report.html` of an evaluation: one page without scripts and without external resources.

Texts of models and environments are not trusted. The template escapes all texts, control characters are shown as
escapes, and the page's Content-Security-Policy forbids scripts and requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from arlarena.proto.atomic_files import write_text
from arlarena.proto.text.page_style import page_style
from arlarena.proto.text.redaction import redact
from arlarena.proto.text.wording import counted, duration, interval, percent, printable
from arlarena.rollout.evaluation.directory import EvaluationResults
from arlarena.rollout.evaluation.report.cost import money
from arlarena.rollout.evaluation.report.page_data import OUTCOMES, PageBudget, outcome
from arlarena.rollout.evaluation.report.prices import ModelPrice
from arlarena.rollout.evaluation.report.rows import attempt_dollars
from arlarena.rollout.evaluation.report.summary_view import GroupFigures, Summarise, figures_of
from arlarena.rollout.evaluation.report.terminal import errors_text, tokens_text
from arlarena.rollout.evaluation.totals import total_dollars, total_usage

# Maximum size of all attempts together, in bytes. A browser opens a page of 16 MB without delay.
BUDGET = 16_000_000


def _safe(text: object) -> str:
    return printable(redact(str(text)))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("arlarena.rollout.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup | int | float) else _safe(value),
    )
    environment.filters |= {"percent": percent, "duration": duration, "counted": counted, "interval": interval}
    environment.filters |= {"money": money}
    return environment


def render(
    results: EvaluationResults, summarise: Summarise, price: ModelPrice | None = None, budget: int = BUDGET
) -> str:
    """Returns the page as text.

    Args:
        results: the evaluation.
        summarise: computes the figures of a group of attempts.
        price: price of the model; None: costs are shown as unknown.
        budget: maximum size of all attempts together, in bytes. The largest attempts are truncated.
    """
    records = results.records
    kept = PageBudget(results.path, records, budget)
    figures = figures_of(results, summarise)
    counts = {key: sum(outcome(one) == key for one in records) for key in OUTCOMES}
    planned = sum(len(one.indices) for one in results.plan.environments) * results.plan.attempts
    return (
        _environment()
        .get_template("evaluation.html.j2")
        .render(
            style=Markup(page_style()),  # a file of arlarena-proto, which needs no escaping
            plan=results.plan,
            identity=results.plan.identity(),
            environments=figures,
            behaviour=behaviour_names([one.all for one in figures]),
            passes=sorted({k for one in figures for k in one.all.pass_at if k > 1}),
            attempts=kept.attempts(),
            total=len(records),
            with_images=any(turn.images for one in records for turn in one.turns),
            planned=planned,
            outcomes=OUTCOMES,
            counts=counts,
            errors=errors_text({key: counts[key] for key in ("infra_error", "model_error")}),
            requests=sum(one.requests for one in records),
            tokens=tokens_text(total_usage(records)),
            cost=total_dollars(attempt_dollars(one, price) for one in records),
            price=price,
            seconds=sum(one.seconds for one in records),
        )
    )


def behaviour_names(groups: Sequence[GroupFigures]) -> list[str]:
    """Returns the names of all behaviour figures, in the order of their first appearance."""
    return list(dict.fromkeys(name for group in groups for name in group.behaviour))


def write_page(
    results: EvaluationResults, path: Path, summarise: Summarise, price: ModelPrice | None = None, budget: int = BUDGET
) -> None:
    """Write the page to `path`. An existing file is replaced. The other arguments are those of `render`."""
    write_text(path, render(results, summarise, price, budget))
