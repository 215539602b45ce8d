"""When and what: policy, levels, plan, cycle, catalog, spool, targets, retention, drills."""
