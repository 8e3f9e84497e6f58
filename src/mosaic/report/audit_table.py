"""Print what an audit has found: a table and a verdict."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mosaic.audit.finding import (
    CLASSIFIER,
    FALSE_POSITIVES,
    FEWEST_OTHERS,
    GENERATOR,
    PROTOTYPES,
    RELEASE,
    SEARCH,
    Finding,
)

ATTACKS = {GENERATOR: "draws", SEARCH: "search", PROTOTYPES: "prototypes", CLASSIFIER: "loss drop", RELEASE: "sums"}
"""Each attack, and the head of its column."""
MUCH, SOME = 0.7, 0.6
"""Areas under the ROC curve from which an upload is said to tell much, or something, of its members."""
MOST_ROWS = 30


def audit_head(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return the heads of the columns, of which each attack that was made has one."""
    return ("client", "images", *(ATTACKS[attack] for attack in _made(findings)), "null")


def _made(findings: Sequence[Finding]) -> list[str]:
    made = {finding.attack for finding in findings}
    return [attack for attack in ATTACKS if attack in made]


def audit_rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """Return a row for each client, the smallest first; the JSON file has all of them."""
    own = {client: [each for each in findings if each.client == client] for client in {f.client for f in findings}}
    sizes = {client: max(each.members for each in found) for client, found in own.items()}
    rows = []
    for client in sorted(own, key=lambda client: (sizes[client], client))[:MOST_ROWS]:
        by_attack = {finding.attack: finding for finding in own[client]}
        nulls = [finding.null_auc for finding in own[client]]
        cells = [_cell(by_attack.get(attack)) for attack in _made(findings)]
        rows.append((str(client), str(sizes[client]), *cells, f"{min(nulls):.2f}-{max(nulls):.2f}"))
    return rows


def audit_table(findings: Sequence[Finding]) -> Table:
    """Return the rows as a table for the terminal."""
    title = "Can a client's images be told from others? AUC, and share found at 1 % false positives"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))  # 80 columns have room for all
    for column in audit_head(findings):
        table.add_column(column, justify="right", no_wrap=True)
    for row in audit_rows(findings):
        table.add_row(*row)
    return table


def show(findings: Sequence[Finding]) -> None:
    """Print the rows, and what they mean."""
    console = Console()
    console.print(audit_table(findings))
    console.print(verdict(findings), highlight=False, soft_wrap=True)


def verdict(findings: Sequence[Finding]) -> str:
    """Say in words what was found."""
    lines = []
    for attack in ATTACKS:
        own = [finding for finding in findings if finding.attack == attack]
        much = sorted(finding.client for finding in own if finding.auc >= MUCH)
        some = sorted(finding.client for finding in own if SOME <= finding.auc < MUCH)
        told = [
            f"{what} of client{'s' * (len(clients) > 1)} {_list(clients)}"
            for what, clients in (("much", much), ("something", some))
            if clients
        ]
        if own:
            lines.append(f"{attack}: tells {' and '.join(told)}" if told else f"{attack}: hardly more than chance")
    lines.append(
        "Chance is 0.50. The null is the same attack on two halves of the others, where there is nothing to find: "
        "figures within its range mean nothing, and small clients have wide ones. A share found needs "
        f"{FEWEST_OTHERS} others or more; chance is {FALSE_POSITIVES:.0%}."
    )
    return "\n".join(lines)


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return "-"
    unknown = finding.rate is None or finding.others < FEWEST_OTHERS  # of which older files have rates
    return f"{finding.auc:.2f} {'-' if unknown else f'{100 * (finding.rate or 0):3.0f} %':>5}"


def _list(clients: Sequence[int]) -> str:
    return ", ".join(map(str, clients[:10])) + (", ..." if len(clients) > 10 else "")
