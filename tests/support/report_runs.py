"""Help for tests of the report: records as the report reads them."""

from harness.report.run_folder import NESTED, PLAIN, Trial


def trial_of(record):
    """A record without the way over a disk."""
    values = {name: getattr(record, name) for name in PLAIN}
    values["marks"] = tuple(record.marks)
    nested = {name: getattr(record, name) for name in NESTED}
    return Trial(**values, dev=dict(record.dev), test=dict(record.test or {}), nested=nested)
