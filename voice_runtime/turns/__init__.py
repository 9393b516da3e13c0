"""Who may speak, what was heard, what counts as an answer. Pure: no threads, no loop, no clock."""
