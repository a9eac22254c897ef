"""Run a command on the machine that has most to give: a daemon with warm connections, and what it decides by."""
