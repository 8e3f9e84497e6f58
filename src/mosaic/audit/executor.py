"""Run a simulated federation once more and audit every client on the way."""

from collections.abc import Iterable, Iterator

from mosaic.audit.client import ClientAudit
from mosaic.audit.finding import Finding
from mosaic.executors.serial import SerialExecutor
from mosaic.messages import Reply, Request


class AuditingExecutor(SerialExecutor):
    """Shows every client's audit what the client is asked and answers.

    Args:
        audits: by client.
        threads: CPU threads, as those of the run.
    """

    def __init__(self, audits: dict[int, ClientAudit], threads: int | None) -> None:
        super().__init__(threads)
        self._audits = audits

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Answer each request, and show it to the audit of its client."""
        for request in requests:
            (reply,) = super().map([request], deadline)
            self._audits[request.client].see(request, reply)
            yield reply

    def findings(self) -> list[Finding]:
        """Return what all attacks have found; other clients' generators say which images are easy to draw."""
        audits = self._audits.values()
        return [
            finding
            for audit in audits
            for finding in audit.findings([each.generator for each in audits if each.generator and each is not audit])
        ]
