"""How long a test waits for what has to come. Nothing is timed by it: a wait ends as soon as the condition holds, so a
large limit costs a passing test nothing, and only a broken one waits so long."""

PATIENCE_S = 300.0  # beside compilers of a higher priority Python was seen to take over 120 s to start
