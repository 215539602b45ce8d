"""Decide what is backed up, when, at which level, and what may be removed. Pure: nothing here reads or writes."""
