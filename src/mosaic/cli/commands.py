"""Which function has the arguments of which command of ``mosaic``."""

FUNCTIONS = {
    "compare": "mosaic.comparison.command:compare_algorithms",
    "audit": "mosaic.cli.audit:audit",
    "report": "mosaic.report.html:report",
    "deploy": "mosaic.deployment.deploy:deploy",
    "export": "mosaic.report.export:export",
    "configs": "mosaic.cli.configs:configs",
    "schema": "mosaic.cli.schema:schema",
    "completion": "mosaic.cli.completion:completion",
}
"""Where they lie, as text, since importing one takes seconds; the other commands take a configuration."""
ALL_OPTIONS = ("deploy",)
"""Commands whose required arguments are options like all others; those of the rest are told by their places."""
