"""Reports on runs, tables of audits, and exported models; what is shown of a run comes from its folder alone."""
