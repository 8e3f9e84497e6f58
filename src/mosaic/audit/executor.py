"""Run a simulated federation once more and audit every client on the way."""

from mosaic.audit.client import ClientAudit
from mosaic.audit.finding import Finding
from mosaic.executors.base import ClientExecutor
from mosaic.executors.injection import Fault
from mosaic.executors.serial import SerialExecutor
from mosaic.messages import Reply, Request


class AuditingExecutor(SerialExecutor):
    """Shows every client's audit what the client is asked and answers.

    Args:
        audits: by client.
        first: of the run that is audited; threads are as many, and the same requests meet faults on purpose.
    """

    def __init__(self, audits: dict[int, ClientAudit], first: ClientExecutor) -> None:
        super().__init__(first.threads)
        self._audits, self._injector = audits, first._injector

    def _reply(self, request: Request, deadline: float | None, fault: Fault) -> Reply:
        reply = super()._reply(request, deadline, fault)
        if fault in ("", "delay"):  # others are lost, or spoilt on purpose
            self._audits[request.client].see(request, reply)
        return reply

    def findings(self) -> list[Finding]:
        """Return what all attacks have found; other clients' generators say which images are easy to draw."""
        audits = self._audits.values()
        return [
            finding
            for audit in audits
            for finding in audit.findings([each.generator for each in audits if each.generator and each is not audit])
        ]
